"""
Token responses on disk, from their arrival until a day after they were saved in the database.

A provider that rotates refresh tokens has already dropped the old one when its response arrives. The response is therefore encrypted,
written and synced here before it is parsed. After the commit it stays for a day, for a database that comes back without its last
changes. One SQLite file per host, shared by all processes of the host. Entries stay under the key they were encrypted with, so an old
key has to stay in GATEWAY_KEYS for a day after a rotation.
"""

import json
import os
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from gateway.crypto.vault import Vault
from gateway.errors import SettingsRefused

log = structlog.get_logger(__name__)

KEPT_SECONDS = 86_400.0
_CHECK_BYTES = 64 * 1024
_BUSY_SECONDS = 5.0
_COLUMN, _FILE, _FAILURES = "response_journal", "responses.sqlite3", (OSError, sqlite3.Error)
_SCHEMA = """
pragma journal_mode = wal;
pragma synchronous = full;
create table if not exists host (id text not null);
create table if not exists response (
  connection_id text not null, generation integer not null, due_at real not null, committed_at real,
  encrypted text not null, primary key (connection_id, generation)) without rowid;
create index if not exists response_committed_at on response (committed_at);
"""


def _unwritable(folder: Path | None, error: OSError | sqlite3.Error) -> str:
    reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
    fix = "let GATEWAY_DATA name a persistent folder that this account may write, on a disk with free space"
    if type(error) is sqlite3.DatabaseError:
        fix = f"{_FILE} is damaged: move it elsewhere, and keep it until every connection has been refreshed once"
    return f"the refresh journal in {folder} cannot be written ({reason}): {fix}."


class ResponseJournal:
    """The journal of this host."""

    def __init__(self, vault: Vault, folder: Path | None) -> None:
        """`folder` None keeps entries in this process's memory. SettingsRefused when the folder cannot be written."""
        self._vault, self._folder = vault, folder
        self._unwritten: dict[tuple[UUID, int], Mapping[str, Any]] = {}
        try:
            self._process, self._lock, self._database = os.getpid(), threading.Lock(), self._open()
            self._sql("insert into host select ? where not exists (select 1 from host)", str(uuid4()))
            [(self._host,)] = self._sql("select id from host")
            # Opened again when first used: SQLite's locks do not survive a fork, and without them the file is damaged.
            self._process = 0
            self._database.close()
        except _FAILURES as error:
            raise SettingsRefused(_unwritable(folder, error)) from None

    @property
    def host(self) -> str:
        """The name for the database, which leaves a host's interrupted refreshes to it for a while. No process reads another's memory."""
        return self._host if self._folder else f"{self._host}/{os.getpid()}"

    def check(self) -> None:
        """Write as many bytes as a large response has, and remove them. Raises SettingsRefused when there is no space for them."""
        try:
            self._sql("insert or replace into response values ('check', 0, 0, 0, hex(zeroblob(?)))", _CHECK_BYTES)
            self._sql("delete from response where connection_id = 'check'")
        except _FAILURES as error:
            raise SettingsRefused(_unwritable(self._folder, error)) from None

    def close(self) -> None:
        self._database.close()

    def put(self, connection_id: UUID, generation: int, response: Mapping[str, Any]) -> None:
        """Keep a response; it survives a power failure. On a disk error it is kept in memory, and the error is logged."""
        text = json.dumps(response, ensure_ascii=False)
        encrypted = self._vault.encrypt(text, column=_COLUMN, seal_id=f"{connection_id}/{generation}")
        try:
            self._sql(
                "insert or replace into response values (?, ?, ?, null, ?)",
                *(str(connection_id), generation, time.time(), encrypted),
            )
        except _FAILURES as error:
            log.error("journal.write_failed", connection=str(connection_id), reason=str(error))  # noqa: TRY400
            self._unwritten[connection_id, generation] = response

    def get(self, connection_id: UUID, generation: int) -> Mapping[str, Any] | None:
        """The response to the refresh request of that generation, or None. SecretUnreadable when its key is missing."""
        key = connection_id, generation
        query = "select encrypted from response where (connection_id, generation) = (?, ?)"
        rows = [] if key in self._unwritten else self._try(query, str(connection_id), generation)
        if not rows:
            return self._unwritten.get(key)
        text = self._vault.decrypt(rows[0][0], column=_COLUMN, seal_id=f"{connection_id}/{generation}")
        response: Mapping[str, Any] = json.loads(text)
        return response

    def mark_committed(self, connection_id: UUID, generation: int) -> None:
        """The response is in the database. Drops what was committed more than a day ago."""
        self._unwritten.pop((connection_id, generation), None)
        now = time.time()
        update = "update response set committed_at = ? where (connection_id, generation) = (?, ?)"
        self._try(update, now, str(connection_id), generation)
        self._try("delete from response where committed_at < ?", now - KEPT_SECONDS)

    def delete(self, connection_id: UUID, generation: int) -> None:
        """The response holds nothing that could be saved."""
        self._unwritten.pop((connection_id, generation), None)
        delete = "delete from response where (connection_id, generation) = (?, ?)"
        self._try(delete, str(connection_id), generation)

    def postpone(self, connection_id: UUID, generation: int, seconds: float) -> None:
        """The response cannot be used now: `pending` leaves it out for a while."""
        update = "update response set due_at = ? where (connection_id, generation) = (?, ?)"
        self._try(update, time.time() + seconds, str(connection_id), generation)

    def pending(self, older_than_seconds: float = 0.0) -> list[tuple[UUID, int]]:
        """The connections and generations of responses that are not in the database yet, oldest first."""
        query = (
            "select connection_id, generation from response where committed_at is null and due_at <= ? order by due_at"
        )
        rows = self._try(query, time.time() - older_than_seconds)
        return [*self._unwritten, *((UUID(connection_id), generation) for connection_id, generation in rows)]

    def _try(self, statement: str, *values: object) -> list[Any]:
        """As `_sql`, but a disk error is only logged. An entry that could not be updated is offered again, which changes nothing."""
        try:
            return self._sql(statement, *values)
        except _FAILURES as error:
            log.error("journal.failed", reason=str(error))  # noqa: TRY400
            return []

    def _sql(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            # SQLite forbids a connection to be used in a forked child, and writes on to a file that was deleted.
            if self._process != os.getpid() or (self._folder and not (self._folder / _FILE).is_file()):
                self._database, self._process = self._open(), os.getpid()
            return self._database.execute(statement, values).fetchall()

    def _open(self) -> sqlite3.Connection:
        file = ":memory:"
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = str(self._folder / _FILE)
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        database = sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        database.executescript(_SCHEMA)
        return database
