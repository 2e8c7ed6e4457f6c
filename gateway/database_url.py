"""
DATABASE_URL: the form that libpq understands, and one sentence for each mistake in it.

Forms of other programs are accepted: `postgres://`, SQLAlchemy's `postgresql+psycopg://`, and parameters that only they know. No sentence
repeats a part of the URL other than the name of a parameter.
"""

import re
from difflib import get_close_matches
from urllib.parse import unquote

import psycopg
from psycopg import conninfo

_EXAMPLE = "write it like postgresql://user:password@host:5432/name"
_BAD_PERCENT = r"%(?![0-9A-Fa-f]{2})|%00"
_PERCENT = "that is not followed by two hexadecimal digits: write % as %25."
_PLACEHOLDER = (
    r"(?i:(\[|<|\{|\(|%5B|%3C|%7B)[A-Z0-9 _-]*PASS(WORD)?(\]|>|\}|\)|%5D|%3E|%7D)|YOUR[-_ ]?PASSWORD|\$\{\w+\})"
)
PORT = r"0*(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5])"
"""1 to 65535."""
_PARAMETER = r"^[^?]*\?(.*&)?"
_HOST = r"(?:\[[0-9A-Fa-f:.%]+\]|[^:\[\],/?]*)"

_MISTAKES = (
    (r"^[\"']", "is in quotation marks: remove them."),
    (r"^(?!postgres(ql)?(\+[a-z0-9_]+)?://)", f"is not a Postgres address: {_EXAMPLE}."),
    (r"[\s\x00-\x1f\x7f-\xa0]", "holds a space or a control character: write a space in the password as %20, and remove all others."),
    (r"#", "holds a #: write it as %23 in the password."),
    (r"://[^/?]*(?=[/?])(/[^?]*)?(\?[^=]*)?@", "holds a / or ? in the user or password: write / as %2F and ? as %3F."),
    (r"@[^/?]*@", "holds an @ in the user or password: write it as %40."),
    (rf"://[^:@/?]*({_BAD_PERCENT})[^/?]*@", f"holds a % in its user {_PERCENT}"),
    (rf"://[^@/?]*({_BAD_PERCENT})[^/?]*@", f"holds a % in its password {_PERCENT}"),
    (rf"://[^/?]*({_BAD_PERCENT})", f"holds a % in its host {_PERCENT}"),
    (rf"://[^?]*({_BAD_PERCENT})", f"holds a % in its database name {_PERCENT}"),
    (rf"://[^@/?]*:[^@/?]*{_PLACEHOLDER}", "still holds the placeholder for the password: put the password of the database in its place."),
    (r"://[^/?]*/[^?]*&", "has a parameter in the database name: write ?name=value, further ones with &."),
    (r"://[^/?]*/?(\?|$)", f"names no database: {_EXAMPLE}."),
    (rf"://([^/?]*@)?+(?!{_HOST}(:[^:/?,]*)?(,{_HOST}(:[^:/?,]*)?)*/)", "has a host that cannot be read: write a name, an IPv4 address, or an IPv6 address in brackets."),
    (rf"://([^/?]*@)?+(?!{_HOST}(:{PORT})?(,{_HOST}(:{PORT})?)*/)", "has a port that is not a number from 1 to 65535."),
    (rf"{_PARAMETER}(?!(\w+=[^&]*)?(&|$))|\?.*({_BAD_PERCENT})", "has a parameter that cannot be read: write ?name=value, further ones with &."),
    (rf"{_PARAMETER}ssl=(?!true(&|$))", "has the parameter ssl of another driver: write sslmode=require, or another mode of libpq."),
    (rf"{_PARAMETER}sslmode=(?!(disable|allow|prefer|require|verify-ca|verify-full)(&|$))", "has an sslmode that does not exist: choose one of disable, allow, prefer, require, verify-ca, verify-full."),
)  # fmt: skip
"""What a mistake looks like, and its sentence. The first one that is found counts."""
_KEYWORDS = frozenset(option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()) | {"ssl"}


def read_dsn(text: str) -> tuple[str, tuple[str, ...]]:
    """
    The form of `text` that libpq understands, and the names of the parameters that are left out because only other programs know them.

    libpq's own form, `host=… dbname=…`, is returned as it is. Raises ValueError with one sentence.
    """
    if "://" not in text and "=" in text:
        return text, ()
    problem = next((sentence for pattern, sentence in _MISTAKES if re.search(pattern, text)), None)
    address, _, query = text.partition("?")
    parameters = {each.partition("=")[0]: each for each in filter(None, query.split("&"))}
    ignored = tuple(name for name in parameters if name not in _KEYWORDS)
    for name in () if problem else ignored:
        if near := get_close_matches(
            name, sorted(_KEYWORDS), n=1, cutoff=0.8
        ):  # a typo in sslmode must not switch it off
            problem = f"has a parameter {name[:40]} that does not exist: did you mean {near[0]}?"
    kept = "&".join(each for name, each in parameters.items() if name in _KEYWORDS)
    dsn = f"postgresql://{address.partition('://')[2]}" + (f"?{kept}" if kept else "")
    if problem is None and not _is_readable(dsn):
        problem = f"cannot be read: {_EXAMPLE}, with special characters of user and password as %XX in UTF-8."
    if problem:
        raise ValueError(problem)
    return dsn, ignored


def _is_readable(dsn: str) -> bool:
    """Whether libpq reads it. Its own messages quote the URL."""
    try:
        unquote(dsn, errors="strict")
        conninfo.conninfo_to_dict(dsn)
    except (psycopg.Error, UnicodeError):
        return False
    return True
