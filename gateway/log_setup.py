"""
The log: one line an event, JSON unless stderr is a terminal. Each field of a line is chosen by hand; this module is the
second line of defence: names that sound like secrets are masked, and libraries that would print requests stay quiet.
"""

import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache
from typing import Any

import structlog
from pydantic_core import to_json

_SECRET_NAMES = ("token", "secret", "code", "verifier", "state", "password", "authorization", "cookie", "key")
_TALKATIVE = ("urllib3", "requests", "authlib", "httpx", "httpcore", "hpack", "psycopg", "psycopg.pool", "werkzeug")


def start_log() -> None:
    """Sets structlog up for this process; call it once, before anything logs."""
    for name in _TALKATIVE:
        # At DEBUG they print URLs, headers and, in Authlib's case, code verifiers.
        logging.getLogger(name).setLevel(logging.WARNING)
    # The gateway itself logs an unavailable database.
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    shown: list[Any] = (
        [structlog.dev.ConsoleRenderer()] if sys.stderr.isatty() else [structlog.processors.JSONRenderer(_json)]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _masked,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *shown,
        ],
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )


def _json(event: object, **_: object) -> str:
    return to_json(event, fallback=repr).decode()


class _Stderr:
    """Writes lines to stderr. A full disk or a closed pipe must not fail the request that logs."""

    def __init__(self, *_: object) -> None:
        """Structlog passes the name of a logger, which no line shows."""

    def _write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = msg = _write


def _masked(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if _sounds_secret(name):
            event[name] = "***"
    return event


@cache
def _sounds_secret(name: str) -> bool:
    return any(part in name.lower() for part in _SECRET_NAMES)
