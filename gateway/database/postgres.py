"""
The database over a direct connection: psycopg and a pool.

One method, `call`, for every SQL function. Owns connections, how long anything may wait, and the translation of psycopg's errors;
knows no function by name. No error contains a value that was passed.

Every wait is bounded. For a connection: the pool's timeout. For an answer: `BoundedConnection`, which closes the socket after
ANSWER_SECONDS, also where the server hangs and where neither a statement timeout nor a session may be set (transaction poolers).
For locks: the functions set `lock_timeout`, so that no statement keeps waiting in the server.
"""

import json
import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import conninfo, errors
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed

from gateway.database.unreachable import explain
from gateway.database_url import read_dsn
from gateway.errors import DatabaseUnavailable, GatewayError, Unexpected
from gateway.models import Clock

log = structlog.get_logger(__name__)

CONNECTION_SECONDS = 3.0
"""How long a caller waits for a free connection, and the pool for the server to return before it lets a caller try."""
ANSWER_SECONDS = 5.0
"""How long a caller with a connection waits for the result; over REST, for the whole call."""
_CONNECT_SECONDS = 3
_YOUNG_SECONDS = 1.0
"""A pool of this age is not replaced: the server itself is read-only."""
_NOTHING_DONE = (errors.DeadlockDetected, errors.SerializationFailure, errors.ReadOnlySqlTransaction, PoolClosed)
"""The server undid the whole call, or did not get it: it is sent a second time."""
_UNDEFINED = {"42883", "3F000"}
_RV = TypeVar("_RV")
_C = TypeVar("_C", bound=psycopg.Connection[Any])

KEPT_ALIVE: dict[str, str | int] = {
    "application_name": "gateway",
    "client_encoding": "utf8",
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": int(ANSWER_SECONDS * 1000),
}


def answered_by(clock: Clock, seconds: float = ANSWER_SECONDS) -> datetime:
    """That many seconds from now, in the database's time; early by the travel time of the response that read the clock, never late."""
    return clock.at + timedelta(seconds=time.monotonic() - clock.read + seconds)


class FunctionMissing(Unexpected):
    """The database does not know the function: the schema was not applied, or an older one."""


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for no statement longer than ANSWER_SECONDS, and is closed when it gives one up."""

    def wait(self, gen: PQGen[_RV], interval: float = 0.1, timeout: float | None = None) -> _RV:
        """As psycopg's, with a bound where the caller names none."""
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.info.transaction_status is TransactionStatus.ACTIVE:
                self.close()  # the result may still arrive, and would be taken for the next call's
            raise


class PostgresBackend:
    """Calls functions through a pool that opens at the first call, in each process anew."""

    def __init__(self, dsn: str, *, pool_size: int = 16) -> None:
        """
        `dsn`: URL or key-value string.

        Nothing is prepared: behind a transaction pooler, prepared statements of several clients take each other's names. It saves 20 µs.
        """
        self._conninfo = _conninfo(dsn)
        self._pool_size = pool_size
        self._opening = threading.Lock()
        self._pool: ConnectionPool[BoundedConnection] | None = None
        self._pid = 0
        self._opened_at = 0.0
        self._inherited: list[ConnectionPool[BoundedConnection]] = []

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        """
        What `public.<function>` answers, as JSON values. Dicts go as jsonb, everything else as Postgres reads it.

        Raises DatabaseUnavailable when there was no answer (a write may then have happened or not), FunctionMissing, and
        Unexpected for every other refusal.
        """
        statement = _statement(function, tuple(arguments))
        try:
            values = [_passed(value) for value in arguments.values()]
            try:
                return self._answer(statement, values)
            except _NOTHING_DONE as error:
                log.warning("database.call_repeated", function=function, reason=type(error).__name__)
                return self._answer(statement, values)
        except psycopg.Error as error:
            problem = translated(function, error)
        except UnicodeError:
            problem = Unexpected(f"{function}: an argument is no text")
        # Outside of the handler: psycopg's own error may quote what was passed, and would be remembered as the context.
        raise problem

    def _answer(self, statement: bytes, values: Sequence[str | None]) -> Any:
        pool = self._open()
        connection = pool.getconn()
        try:
            row = connection.execute(statement, values).fetchone()
            return row and row[0]
        except errors.ReadOnlySqlTransaction:
            self._replace(pool)
            raise
        finally:
            pool.putconn(connection)

    def _replace(self, pool: ConnectionPool[BoundedConnection]) -> None:
        """Drop all connections: after a failover they still lead to the old server, which is read-only now."""
        with self._opening:
            if self._pool is not pool or time.monotonic() - self._opened_at < _YOUNG_SECONDS:
                return
            self._pool = None
        pool.close(timeout=0)  # connections in use are closed when they are returned

    def probe(self) -> None:
        """Connects once. Raises DatabaseUnavailable with what is wrong with DATABASE_URL, or with its role."""
        with connect(self._conninfo, BoundedConnection) as connection:
            row = connection.execute(
                "select has_function_privilege(to_regprocedure('public.gateway_schema_v1()'), 'execute')"
            ).fetchone()
        if row == (False,):
            raise DatabaseUnavailable(
                "the role in DATABASE_URL may not call the gateway's functions: use `gateway_app`, or the role that owns the tables"
            )

    def close(self) -> None:
        with self._opening:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None

    def _open(self) -> ConnectionPool[BoundedConnection]:
        if self._pool is not None and self._pid == os.getpid():
            return self._pool
        with self._opening:
            if self._pool is not None and self._pid == os.getpid():
                return self._pool
            if self._pool is not None:
                # A fork's copy: its sockets belong to the parent, its threads do not exist here. Keep it and do not use it.
                self._inherited.append(self._pool)
            self._pool = ConnectionPool(
                self._conninfo,
                connection_class=BoundedConnection,
                kwargs={
                    "autocommit": True,
                    "prepare_threshold": None,
                    "cursor_factory": psycopg.RawCursor,
                },
                min_size=0,
                max_size=self._pool_size,
                timeout=CONNECTION_SECONDS,
                reconnect_timeout=CONNECTION_SECONDS,
                check=_check,
                name="gateway",
                open=True,
            )
            self._pid, self._opened_at = os.getpid(), time.monotonic()
            return self._pool


def connect(dsn: str, kind: type[_C]) -> _C:
    """One connection outside of a pool, in autocommit mode. Raises DatabaseUnavailable with the part of `dsn` that is wrong."""
    complete = _conninfo(dsn)
    try:
        return kind.connect(complete, autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        problem = explain(error, complete)
    raise DatabaseUnavailable(problem)


def _conninfo(dsn: str) -> str:
    """What libpq understands of `dsn`, with our bounds where it has none."""
    dsn, _ = read_dsn(dsn)
    given = conninfo.conninfo_to_dict(dsn)
    return conninfo.make_conninfo(dsn, **{name: value for name, value in KEPT_ALIVE.items() if name not in given})


@lru_cache(maxsize=256)
def _statement(function: str, names: tuple[str, ...]) -> bytes:
    if not all(name.isidentifier() and name.isascii() for name in (function, *names)):
        raise Unexpected("a function or an argument of it is not a name")
    passed = ", ".join(f"{name} => ${number}" for number, name in enumerate(names, 1))
    return f"select public.{function}({passed})".encode("ascii")


def _passed(value: object) -> str | None:
    """As text, which Postgres reads by the argument's type."""
    if value is None:
        return None
    if isinstance(value, list) and not any(isinstance(item, dict) for item in value):
        return "{" + ",".join(_quoted(str(item)) for item in value) + "}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _quoted(item: str) -> str:
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check(connection: BoundedConnection) -> None:
    """
    Refuses a pooled connection that the server has closed: an idle one has nothing to say.

    One poll of the socket instead of a round trip. Only before anything was sent, so that nothing is ever done twice.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        connection.execute("")


def translated(function: str, error: psycopg.Error) -> GatewayError:
    """Our error for psycopg's, with its name and SQLSTATE: neither its message nor its detail, which may quote values."""
    message = f"{function}: {type(error).__name__.lstrip('_')} {error.sqlstate or ''}".rstrip()
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | errors.ReadOnlySqlTransaction):
        return DatabaseUnavailable(message)
    if error.sqlstate in _UNDEFINED:
        return FunctionMissing(message)
    return Unexpected(message)
