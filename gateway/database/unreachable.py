"""
Why a connection to Postgres failed: one sentence that names the part of DATABASE_URL that is wrong.

A failed connection has no SQLSTATE, so the reason is taken from the message of libpq or of the server. The message itself is never shown.
"""

from __future__ import annotations

import re
import socket

import psycopg
from psycopg import conninfo

NOT_RELOADED = (
    "the API has not reloaded its schema, or `db apply` was never run: run `notify pgrst, 'reload schema';` in the project's SQL editor, "
    "and if that does not help `python -m gateway db apply`"
)
"""For a function that PostgREST does not find (PGRST202)."""

_REASONS: tuple[tuple[str, str], ...] = (
    (
        r"tenant or user not found|ENOTFOUND|no such user",
        "the pooler does not know the user in DATABASE_URL: Supabase's is called postgres.<project ref>, and the host names its region",
    ),
    (r"password authentication failed|SASL|wrong password|EAUTH|auth(entication)? failed", "the database refuses the password in DATABASE_URL"),
    (r"no password supplied", "DATABASE_URL has no password, and the database wants one"),
    (r"role .* does not exist|not permitted to log ?in", "the role (user) in DATABASE_URL does not exist, or may not log in"),
    (r"database .* does not exist|no such database", "the database named in DATABASE_URL does not exist: check what follows the last /"),
    (r"permission denied for database|not currently accepting connections", "the database named in DATABASE_URL does not admit this role"),
    (r"no encryption|SSL off", "the database accepts only encrypted connections from here: add ?sslmode=require to DATABASE_URL"),
    (r"pg_hba", "the database does not admit this role from this address: allow the address there (pg_hba.conf, network restrictions)"),
    (r"does not support SSL", "the database offers no TLS, and sslmode in DATABASE_URL demands it: remove it, or switch TLS on there"),
    (
        r"root certificate file",
        "sslmode in DATABASE_URL needs the certificate of the database's authority: add sslrootcert=<file>, or sslrootcert=system",
    ),
    (
        r"certificate",
        "the certificate of the database is not accepted: check sslrootcert, sslcert, sslkey and the host name in DATABASE_URL",
    ),
    (r"connection slots|too many (clients|connections)|max(_| )client|no more connections|MaxClients", "the database has no free connection: raise its limit, or connect through a pooler"),
    (r"starting up|shutting down|recovery|not yet accepting", "the database is starting or stopping: try again in a minute"),
    (r"read-only|read-write|hot standby|primary", "no host in DATABASE_URL is a primary that can be written: see target_session_attrs"),
    (r"local user with ID", "DATABASE_URL names no user, and the account of this process has no name: write postgresql://user:password@…"),
    (r"invalid \w+ value|connection option|invalid .*port", "DATABASE_URL has a parameter with a value that libpq does not know"),
    (r"unsupported startup parameter", "the pooler refuses a parameter of DATABASE_URL: remove `options`, and what is not needed"),
    (r"on socket .*(No such file|refused)", "no Postgres listens on the socket in DATABASE_URL: check the folder after host=, and whether it runs"),
    (r"on socket .*Permission denied", "this account may not use the socket in DATABASE_URL: check the rights of the folder after host="),
    (r"refused", "nothing listens at the port in DATABASE_URL: check host and port, and whether Postgres, or the project, is running"),
    (r"resolve|translate host", "the host in DATABASE_URL has no address: check its spelling; a paused or deleted Supabase project has none"),
    (r"time|expired", "the host in DATABASE_URL does not answer: check host and port, a firewall, and whether the project is paused"),
    (r"invalid response|expected authentication|closed the connection", "what answers at the port in DATABASE_URL is not Postgres, or it hung up: check host and port"),
    (r"FATAL|ERROR", "the database refuses the connection: its log has the reason; check user, password and database name in DATABASE_URL"),
)  # fmt: skip
_REASONS_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), sentence) for pattern, sentence in _REASONS)
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
    return next((sentence for pattern, sentence in _REASONS_COMPILED if pattern.search(message)), _OTHERWISE)


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
