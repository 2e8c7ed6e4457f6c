"""
DATABASE_URL: what libpq understands of it, and one sentence for each thing that is wrong with it.

Other programs' forms are accepted: `postgres://`, SQLAlchemy's `postgresql+psycopg://`, and parameters that only they know. No sentence
repeats a part of the URL other than the name of a parameter.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from urllib.parse import unquote

import psycopg
from psycopg import conninfo

_EXAMPLE = "write it like postgresql://user:password@host:5432/name"
_URL = re.compile(r"(postgres|postgresql)(\+[a-z0-9_]+)?://([^/?]*)(/[^?]*)?(?:\?(.*))?")
_BROKEN_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")
_PLACEHOLDER = re.compile(r"[\[<{(][A-Z0-9 _-]*PASS(WORD)?[\]>})]|YOUR[-_ ]?PASSWORD|\$\{\w+\}", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(.*))?")
_LARGEST_PORT = 65_535
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_KEYWORDS = frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults())


def read_dsn(text: str) -> tuple[str, tuple[str, ...]]:
    """
    What libpq understands of `text`, and the names of the parameters that are left out because only other programs know them.

    libpq's own form, `host=… dbname=…`, is returned as it is. Raises ValueError with one sentence.
    """
    if "://" not in text and "=" in text:
        return text, ()
    found = _URL.fullmatch(text)
    problem = _written_wrong(text) or _problem(found)
    if problem or found is None:
        raise ValueError(problem)
    kept: list[str] = []
    ignored: list[str] = []
    for parameter in filter(None, (found[5] or "").split("&")):
        name, equals, value = parameter.partition("=")
        problem = _parameter_problem(name, equals, unquote(value))
        if problem:
            raise ValueError(problem)
        (kept if name in _KEYWORDS or name == "ssl" else ignored).append(parameter)
    dsn = f"postgresql://{found[3]}{found[4]}" + ("?" + "&".join(kept) if kept else "")
    try:
        conninfo.conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):  # whose messages quote the URL
        dsn = ""
    if not dsn:
        raise ValueError(f"cannot be read: {_EXAMPLE}, with special characters of user and password as %XX in UTF-8.")
    return dsn, tuple(parameter.partition("=")[0] for parameter in ignored)


def _written_wrong(text: str) -> str | None:
    """What is wrong before the parts can be told apart."""
    if text[:1] in "\"'" and text:
        return "is in quotation marks: remove them."
    if not text.startswith("postgres"):
        return f"is not a Postgres address: {_EXAMPLE}."
    if any(not letter.isprintable() or letter.isspace() for letter in text):
        return "holds a space or a control character: write a space in the password as %20, and remove all others."
    if "#" in text:
        return "holds a #: write it as %23 in the password."
    return None


def _problem(found: re.Match[str] | None) -> str | None:  # noqa: PLR0911 - one line a rule
    """The first part that is wrong."""
    if found is None:
        return f"is not a Postgres address: {_EXAMPLE}."
    authority, path = found[3], found[4] or ""
    if "@" in path or "@" in (found[5] or "").partition("=")[0]:
        return "holds a / or ? in the user or password: write / as %2F and ? as %3F."
    user, _, hosts = authority.rpartition("@")
    if "@" in user:
        return "holds an @ in the user or password: write it as %40."
    name, _, password = user.partition(":")
    for part, value in (("user", name), ("password", password), ("host", hosts), ("database name", path)):
        if _BROKEN_PERCENT.search(value):
            return f"holds a % in its {part} that is not followed by two hexadecimal digits: write % as %25."
    if _PLACEHOLDER.search(unquote(password)):
        return "still holds the placeholder for the password: put the password of the database in its place."
    if "&" in path:
        return "has a parameter in the database name: write ?name=value, further ones with &."
    if len(path) <= 1:
        return f"names no database: {_EXAMPLE}."
    return next(filter(None, map(_host_problem, hosts.split(","))), None)


def _host_problem(host: str) -> str | None:
    found = _HOST.fullmatch(host)
    if found is None or (host.count(":") > 1 and not found[1].startswith("[")):
        return "has a host that cannot be read: write a name, an IPv4 address, or an IPv6 address in brackets."
    port = found[2]
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _LARGEST_PORT):
        return "has a port that is not a number from 1 to 65535."
    return None


def _parameter_problem(name: str, equals: str, value: str) -> str | None:
    if not equals or _BROKEN_PERCENT.search(value) or not name.isidentifier():
        return "has a parameter that cannot be read: write ?name=value, further ones with &."
    if name == "ssl" and value != "true":  # libpq reads only `ssl=true`
        return "has the parameter ssl of another driver: write sslmode=require, or another mode of libpq."
    if name == "sslmode" and value not in _SSL_MODES:
        return f"has an sslmode that does not exist: choose one of {', '.join(_SSL_MODES)}."
    if name in _KEYWORDS or name == "ssl":
        return None
    near = get_close_matches(name, sorted(_KEYWORDS), n=1, cutoff=0.8)  # a typo in sslmode must not switch it off
    return f"has a parameter {name[:40]} that does not exist: did you mean {near[0]}?" if near else None
