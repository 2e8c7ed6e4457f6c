"""
The database over a direct connection: psycopg and a pool.

One method, `call`, for every function of schema.sql. Owns connections, how long anything may wait, and the translation of
psycopg's errors; knows no function by name. No value that was passed ever stands in an error. Calls go through psycopg's own
libpq wrapper, without a cursor: texts there, one JSON value back, a quarter of the CPU (bench/README.md).

Every wait is bounded. For a connection: the pool's timeout. For an answer: `BoundedConnection`, which gives the socket up after
ANSWER_SECONDS, also where the server hangs and where neither a statement timeout nor a session may be set (transaction poolers).
For locks: the functions themselves say `set lock_timeout`, so that nothing goes on waiting in the server afterwards.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg import conninfo, errors
from psycopg.abc import PQGen
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult
from psycopg_pool import ConnectionPool

from gateway.errors import DatabaseUnavailable, GatewayError, Unexpected

log = structlog.get_logger(__name__)

CONNECTION_SECONDS = 3.0
"""How long a caller waits for a free connection, and the pool for the server to come back before it lets a caller try."""
ANSWER_SECONDS = 5.0
"""How long a caller waits for an answer, once there is a connection; over REST, for the whole of a call."""
_CONNECT_SECONDS = 3
_WARMED = 4
"""Connections that a process opens when it starts; small databases allow few, and others want some too."""
_LOOK_SECONDS = 0.1
_TRANSACTION_POOLER_PORT = "6543"
_TRANSACTION_POOLER_WORD = "pgbouncer="
_UNDEFINED = {"42883", "3F000"}
_NOT_PREPARED = b"26000"
_RV = TypeVar("_RV")

UNREACHABLE = {
    "": "the database does not answer: check host and port in DATABASE_URL, and whether Postgres, or the project, is running",
    "28P01": "the database refuses the password in DATABASE_URL",
    "28000": "the database refuses the role in DATABASE_URL",
    "3D000": "there is no database of the name in DATABASE_URL",
}
KEPT_ALIVE: dict[str, str | int] = {
    "application_name": "gateway",
    "client_encoding": "utf8",
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": int(ANSWER_SECONDS * 1000),
}


class FunctionMissing(Unexpected):
    """The database does not know the function: schema.sql was not applied, or an older one."""


class BoundedConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection on which no statement is waited for longer than ANSWER_SECONDS."""

    def wait(self, gen: PQGen[_RV], interval: float = _LOOK_SECONDS, timeout: float | None = None) -> _RV:
        """As psycopg's, with a bound where the caller names none. A connection given up is closed: it may yet be answered."""
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except errors._WaitTimeout:  # noqa: SLF001 -- the documented answer to `timeout`, without a public name
            self.close()
            raise psycopg.OperationalError("no answer in time") from None

    def ask(self, statement: bytes, values: list[bytes | None], *, prepares: bool) -> Any:
        """
        The one JSON value that `statement` answers, None for null; prepared on this connection before its first use, if it may be.

        Raises psycopg.Error. A statement that the server does not know any more (a pooler emptied the session) was not executed, so
        that it is prepared and sent again.
        """
        if not prepares:
            self.pgconn.send_query_params(statement, values)
            return _value(self._answer())
        for _ in range(2):
            name = self._known.get(statement)
            if name is None:
                name = b"gateway_%d" % next(self._numbers)
                self.pgconn.send_prepare(name, statement)
                _judge(self._answer())
                self._known[statement] = name
            self.pgconn.send_query_prepared(name, values)
            answer = self._answer()
            if answer.error_field(DiagnosticField.SQLSTATE) != _NOT_PREPARED:
                break
            del self._known[statement]
        return _value(answer)

    @cached_property
    def _known(self) -> dict[bytes, bytes]:
        return {}

    @cached_property
    def _numbers(self) -> Iterator[int]:
        return count()

    def _answer(self) -> PGresult:
        """The result of what was sent, waited for no longer than ANSWER_SECONDS; a connection given up is closed."""
        pg, last, end = self.pgconn, None, time.monotonic() + ANSWER_SECONDS
        poll = select.poll()
        while True:
            # psycopg's connections do not block: what did not fit the socket's buffer is sent on while waiting (libpq, section 32.4).
            poll.register(pg.socket, select.POLLIN | select.POLLOUT if pg.flush() else select.POLLIN)
            if not poll.poll(max(0.0, (end - time.monotonic()) * 1000)):
                self.close()
                raise psycopg.OperationalError("no answer in time")
            pg.consume_input()
            while not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    if last is None:
                        raise psycopg.OperationalError("no answer")
                    return last
                last = result


def _judge(answer: PGresult) -> None:
    if answer.status not in (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK):
        raise errors.error_from_result(answer)


def _value(answer: PGresult) -> Any:
    _judge(answer)
    text = answer.get_value(0, 0)
    return None if text is None else json.loads(text)


class PostgresBackend:
    """Calls functions through a pool that opens at the first call, in each process anew."""

    def __init__(self, dsn: str, *, pool_size: int = 16) -> None:
        """`dsn`: URL or key-value string. Behind a transaction pooler (see `read_dsn`) nothing is prepared."""
        dsn, self._prepares = read_dsn(dsn)
        given = conninfo.conninfo_to_dict(dsn)
        self._conninfo = conninfo.make_conninfo(dsn, **{k: v for k, v in KEPT_ALIVE.items() if k not in given})
        self._pool_size = pool_size
        self._opening = threading.Lock()
        self._pool: ConnectionPool[BoundedConnection] | None = None
        self._pid = 0
        self._inherited: list[ConnectionPool[BoundedConnection]] = []
        self._statements: dict[tuple[str, ...], bytes] = {}

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        """
        What `public.<function>` answers, as JSON values. Dicts go as jsonb, everything else as Postgres reads it.

        Raises DatabaseUnavailable when there was no answer (a write may then have happened or not), FunctionMissing, and
        Unexpected for every other refusal.
        """
        statement = self._statement(function, tuple(arguments))
        try:
            values = [_passed(value) for value in arguments.values()]
            pool = self._pool if self._pid == os.getpid() and self._pool is not None else self._open()
            connection = pool.getconn()
            try:
                return connection.ask(statement, values, prepares=self._prepares)
            finally:
                pool.putconn(connection)
        except psycopg.Error as error:
            problem = _translated(function, error)
        except UnicodeError:
            problem = Unexpected(f"{function}: an argument is no text")
        # Outside of the handler: psycopg's own error may quote what was passed, and would be remembered as the context.
        raise problem

    def warm(self, calls: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        """
        Opens a few connections, and calls each function with its arguments on all of them: a session's first call of a function costs
        ten times a later one. Raises as `call`.
        """
        pool, taken = self._open(), []
        asked = [
            (self._statement(name, tuple(given)), [_passed(value) for value in given.values()]) for name, given in calls
        ]
        try:
            for _ in range(min(_WARMED, self._pool_size)):
                taken.append(pool.getconn())
                for statement, values in asked:
                    taken[-1].ask(statement, values, prepares=self._prepares)
        except psycopg.Error as error:
            problem = _translated("warm", error)
        else:
            return
        finally:
            for connection in taken:
                pool.putconn(connection)
        raise problem

    def close(self) -> None:
        """Closes the pool; a later call opens another."""
        with self._opening:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.close()
            self._pool = None

    def _open(self) -> ConnectionPool[BoundedConnection]:
        with self._opening:
            if self._pool is not None and self._pid == os.getpid():
                return self._pool
            if self._pool is not None:
                # A fork's copy: its sockets belong to the parent, its threads do not exist here. Kept and never touched.
                self._inherited.append(self._pool)
            self._pool = ConnectionPool(
                self._conninfo,
                connection_class=BoundedConnection,
                kwargs={"autocommit": True, "prepare_threshold": 0 if self._prepares else None},
                min_size=0,
                max_size=self._pool_size,
                timeout=CONNECTION_SECONDS,
                reconnect_timeout=CONNECTION_SECONDS,
                check=_check,
                name="gateway",
                open=True,
            )
            self._pid = os.getpid()
            return self._pool

    def _statement(self, function: str, names: tuple[str, ...]) -> bytes:
        key = (function, *names)
        statement = self._statements.get(key)
        if statement is None:
            if not all(name.isidentifier() and name.isascii() for name in key):
                raise Unexpected("a function or an argument of it is not a name")
            passed = ", ".join(f"{name} => ${number}" for number, name in enumerate(names, 1))
            statement = self._statements[key] = f"select public.{function}({passed})".encode("ascii")
        return statement


def read_dsn(dsn: str) -> tuple[str, bool]:
    """
    What libpq understands of `dsn`, and whether statements may be prepared there.

    Not on port 6543, Supabase's transaction pooler, and not with `?pgbouncer=true`, as other programs are told of any other.
    libpq refuses that parameter.
    """
    address, _, query = dsn.rpartition("?")
    parameters = query.split("&")
    kept = [each for each in parameters if not each.startswith(_TRANSACTION_POOLER_WORD)]
    pooled = f"{_TRANSACTION_POOLER_WORD}true" in parameters
    if address and len(kept) < len(parameters):
        dsn = f"{address}?{'&'.join(kept)}" if kept else address
    ports = str(conninfo.conninfo_to_dict(dsn).get("port", "")).split(",")
    return dsn, not pooled and _TRANSACTION_POOLER_PORT not in ports


def _passed(value: object) -> bytes | None:
    """As text, which Postgres reads by the argument's type. psycopg.DataError for a NUL, at which libpq would stop reading."""
    if value is None:
        return None
    if isinstance(value, list):
        value = "{" + ",".join(_quoted(str(item)) for item in value) + "}"
    elif isinstance(value, dict):
        value = json.dumps(value)
    text = str(value).encode()
    if b"\0" in text:
        raise psycopg.DataError("text with a NUL in it")
    return text


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


def _translated(function: str, error: psycopg.Error) -> GatewayError:
    """Our error for psycopg's, with its name and SQLSTATE: neither its message nor its detail, which may quote values."""
    told = f"{function}: {type(error).__name__} {error.sqlstate or ''}".rstrip()
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return DatabaseUnavailable(told)
    if error.sqlstate in _UNDEFINED:
        return FunctionMissing(told)
    return Unexpected(told)
