"""
Sealed answers on disk until they stand in the database.

Between a provider's answer and its commit lies the one moment in which a rotated refresh token can be lost. So an answer is
sealed, written and synced here before anything else happens to it, and taken away when it stands. One folder a host, shared by
its processes; the name of a file says which connection and which generation asked. Beside them, notes: what a host must not forget
when it is restarted, and nobody with the database alone may change.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gateway.crypto.vault import Vault
from gateway.errors import SecretUnreadable, SettingsRefused

log = structlog.get_logger(__name__)

_COLUMN = "journal"
_NOTE = "note"
_LEFTOVER_SECONDS = 3600.0


def _place(row: str, generation: int, column: str = _COLUMN) -> dict[str, Any]:
    """What an entry is sealed for."""
    return {"row": row, "column": column, "generation": generation}


class NoJournal:
    """
    For GATEWAY_JOURNAL=0: in this process's memory alone.

    An outage of the database loses nothing then either; a crash at the wrong moment may lose a rotated token.
    """

    def __init__(self) -> None:
        self.host = str(uuid.uuid4())
        self._kept: dict[tuple[uuid.UUID, int], tuple[float, Mapping[str, Any]]] = {}
        self._notes: dict[str, list[Any]] = {}

    def write(self, connection_id: uuid.UUID, generation: int, answer: Mapping[str, Any]) -> None:
        """Keeps an answer while the process lives."""
        self._kept[connection_id, generation] = time.time(), answer

    def read(self, connection_id: uuid.UUID, generation: int) -> Mapping[str, Any] | None:
        """The answer to that generation's request, or None."""
        return self._kept.get((connection_id, generation), (0.0, None))[1]

    def forget(self, connection_id: uuid.UUID, generation: int) -> None:
        """The answer stands in the database, or is of no use to anybody any more."""
        self._kept.pop((connection_id, generation), None)

    def pending(self, older_than_seconds: float = 0.0) -> Iterator[tuple[uuid.UUID, int]]:
        """Every answer that waits, for that long already, oldest first."""
        until = time.time() - older_than_seconds
        for key, (at, _) in sorted(self._kept.copy().items(), key=lambda item: item[1][0]):
            if at <= until:
                yield key

    def reseal(self, *, check: bool = False) -> tuple[int, int]:  # noqa: ARG002 - as Journal's
        """Nothing is sealed here."""
        return 0, 0

    def keep_note(self, name: str, value: Sequence[Any]) -> None:
        """Keeps a note; of several under one name, the greatest."""
        self._notes[name] = max(self._notes.get(name, []), list(value))

    def note(self, name: str) -> list[Any] | None:
        """The note of that name, or None."""
        return self._notes.get(name)


class Journal:
    """The journal of this host. `host` names it to the database, so that others leave its intents to it."""

    def __init__(self, folder: Path, vault: Vault) -> None:
        """Makes the folder. Raises SettingsRefused when it cannot be written: better no start than a lost token."""
        self._folder = folder
        self._vault = vault
        self._memory = NoJournal()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.host = self._host()
            probe = folder / f".probe-{uuid.uuid4().hex}"
            self._put(probe, b"")
            probe.unlink()
            self._sweep()
        except OSError as error:
            raise SettingsRefused(
                [f"GATEWAY_DATA: the refresh journal in {folder} cannot be written ({error.strerror})."]
            ) from None

    def write(self, connection_id: uuid.UUID, generation: int, answer: Mapping[str, Any]) -> None:
        """
        Keeps an answer; it survives a power cut when this returns.

        A disk that fails now is no reason to lose what is in hand: then it is kept in memory, and told.
        """
        sealed = self._vault.seal(
            json.dumps(answer, ensure_ascii=False), row=str(connection_id), column=_COLUMN, generation=generation
        )
        try:
            with self._held(fcntl.LOCK_SH):
                self._put(self._file(connection_id, generation), sealed.encode("ascii"))
        except OSError as error:
            log.error("journal.unwritten", connection=str(connection_id), reason=error.strerror)  # noqa: TRY400
            self._memory.write(connection_id, generation, answer)

    def read(self, connection_id: uuid.UUID, generation: int) -> Mapping[str, Any] | None:
        """The answer to that generation's request, or None. Raises SecretUnreadable when a key is missing."""
        remembered = self._memory.read(connection_id, generation)
        if remembered is not None:
            return remembered
        try:
            sealed = self._file(connection_id, generation).read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        opened: Mapping[str, Any] = json.loads(
            self._vault.open(sealed, row=str(connection_id), column=_COLUMN, generation=generation)
        )
        return opened

    def forget(self, connection_id: uuid.UUID, generation: int) -> None:
        """The answer stands in the database, or is of no use to anybody any more."""
        self._memory.forget(connection_id, generation)
        # What cannot be taken away is brought again one day, and does no harm.
        with contextlib.suppress(OSError), self._held(fcntl.LOCK_SH):
            self._file(connection_id, generation).unlink()

    def pending(self, older_than_seconds: float = 0.0) -> Iterator[tuple[uuid.UUID, int]]:
        """Every answer that waits, for that long already, oldest first; what is no entry of ours is passed over."""
        yield from self._memory.pending(older_than_seconds)
        found = []
        for file in self._folder.glob("*.sealed"):
            with contextlib.suppress(FileNotFoundError):  # somebody just brought it home
                found.append((file.stat().st_mtime, file))
        for at, file in sorted(found):
            name, _, generation = file.stem.rpartition(".")
            if at <= time.time() - older_than_seconds:
                with contextlib.suppress(ValueError):
                    yield uuid.UUID(name), int(generation)

    def keep_note(self, name: str, value: Sequence[Any]) -> None:
        """Keeps a note, synced; of several under one name, by whichever process, the greatest. A disk that fails is told of."""
        self._memory.keep_note(name, value)
        try:
            with self._held(fcntl.LOCK_EX, "lock.notes"):
                kept = self._note(name)
                if kept is None or kept < list(value):
                    sealed = self._vault.seal(json.dumps(list(value)), **_place(name, 0, _NOTE))
                    self._put(self._folder / f"{name}.note", sealed.encode("ascii"))
        except OSError as error:
            log.error("journal.unwritten", note=name, reason=error.strerror)  # noqa: TRY400

    def note(self, name: str) -> list[Any] | None:
        """The note of that name, or None; also after a restart."""
        kept = max(self._memory.note(name) or [], self._note(name) or [])
        return kept or None

    def _note(self, name: str) -> list[Any] | None:
        try:
            sealed = (self._folder / f"{name}.note").read_text(encoding="ascii")
            kept: list[Any] = json.loads(self._vault.open(sealed, **_place(name, 0, _NOTE)))
        except FileNotFoundError:
            return None
        except (OSError, SecretUnreadable, ValueError):
            log.warning("journal.note_unreadable", note=name)
            return None
        return kept

    def reseal(self, *, check: bool = False) -> tuple[int, int]:
        """
        Every waiting answer and note under the newest key; how many were sealed again, and how many do not open. `check`: only counts.

        Nobody writes or takes away an entry meanwhile: one that was saved and forgotten must not come back.
        """
        older = unreadable = 0
        held: list[tuple[Path, str, dict[str, Any]]] = [
            (self._file(row, generation), "lock", _place(str(row), generation)) for row, generation in self.pending()
        ]
        held += [(file, "lock.notes", _place(file.stem, 0, _NOTE)) for file in self._folder.glob("*.note")]
        for file, lock, place in held:
            with self._held(fcntl.LOCK_EX, lock), contextlib.suppress(FileNotFoundError):
                sealed = file.read_text(encoding="ascii")
                try:
                    if not self._vault.stale(sealed, **place):
                        continue
                except SecretUnreadable:
                    unreadable += 1
                    continue
                older += 1
                if not check:
                    new = self._vault.seal(self._vault.open(sealed, **place), **place)
                    self._put(file, new.encode("ascii"))
        return older, unreadable

    @contextlib.contextmanager
    def _held(self, how: int, lock: str = "lock") -> Iterator[None]:
        """The folder, among all processes of this host: shared to change one entry, exclusive to seal entries again."""
        descriptor = os.open(self._folder / lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def _file(self, connection_id: uuid.UUID, generation: int) -> Path:
        return self._folder / f"{connection_id}.{generation}.sealed"

    def _host(self) -> str:
        """Made once and kept: a restarted process is still the host whose intents these are."""
        file = self._folder / "host"
        if not file.exists():
            made = file.with_name(f"host.{uuid.uuid4().hex[:8]}.part")
            self._put(made, str(uuid.uuid4()).encode("ascii"))
            with contextlib.suppress(FileExistsError):
                os.link(made, file)  # whole at once, and the first of several starters wins
            made.unlink()
        return file.read_text(encoding="ascii").strip()

    def _sweep(self) -> None:
        """What a process that was killed while it wrote has left; never complete, so of no use."""
        for file in [*self._folder.glob("*.part"), *self._folder.glob(".probe-*")]:
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
                    file.unlink()

    def _put(self, file: Path, content: bytes) -> None:
        """Under another name until it is whole and synced, then renamed, then the folder synced (rename is not durable alone)."""
        unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.part")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb", closefd=False) as whole:
                whole.write(content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.rename(file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
