"""
Why a connection to Postgres failed: one sentence that names the part of DATABASE_URL that is wrong.

A failed connection has no SQLSTATE, so the reason is taken from the message of libpq or of the server. The message itself is never shown.
"""

import re
import socket
import tomllib
from functools import cache
from pathlib import Path

import psycopg
from psycopg import conninfo

NOT_RELOADED = (
    "the API has not reloaded its schema, or `db apply` was never run: run `notify pgrst, 'reload schema';` in the project's SQL editor, "
    "and if that does not help `python -m gateway db apply`"
)
"""For a function that PostgREST does not find (PGRST202)."""

_OTHERWISE = "the database does not answer: check host and port in DATABASE_URL, and whether Postgres, or the project, is running"
_DIRECT_HOST = re.compile(r"db\.([a-z0-9]{20})\.supabase\.(co|com|red)")
_NOT_REACHED = re.compile(
    r"unreachable|cannot assign|address family|resolve|translate host|time|expired", re.IGNORECASE
)


def explain(error: psycopg.Error, dsn: str) -> str:
    """One sentence about a connection to `dsn` that failed with `error`, without a password, address or text from the server."""
    message = str(error)
    if _NOT_REACHED.search(message) and (host := _ipv6_only(dsn)):
        direct = _DIRECT_HOST.fullmatch(host)
        project = direct[1] if direct else "<project ref>"
        return (
            "the host in DATABASE_URL has only an IPv6 address, and this machine cannot reach it: use the string of the session pooler"
            f" (Supabase: Connect), postgresql://postgres.{project}:<password>@aws-0-<region>.pooler.supabase.com:5432/postgres"
        )
    return next((sentence for pattern, sentence in _reasons() if pattern.search(message)), _OTHERWISE)


@cache
def _reasons() -> list[tuple[re.Pattern[str], str]]:
    tables = tomllib.loads(Path(__file__).with_name("unreachable.toml").read_text(encoding="utf-8"))["reason"]
    return [(re.compile(each["pattern"], re.IGNORECASE), each["sentence"]) for each in tables]


def _ipv6_only(dsn: str) -> str | None:
    """The first host that has only IPv6 addresses. Supabase's direct hosts are such ones, even where the resolver hides it."""
    for host in str(conninfo.conninfo_to_dict(dsn).get("host") or "").split(","):
        if not host or host.startswith("/"):
            continue
        try:
            families = {entry[0] for entry in socket.getaddrinfo(host, None)}
        except OSError:
            families = {socket.AF_INET6} if _DIRECT_HOST.fullmatch(host) else set()
        if families == {socket.AF_INET6}:
            return host
    return None
