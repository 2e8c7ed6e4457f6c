"""
Sealed answers on disk until they stand in the database.

Between a provider's answer and its commit lies the one moment in which a rotated refresh token can be lost. So an answer is
sealed, written and synced here before anything else happens to it, and taken away when it stands. One folder a host, shared by
its processes; the name of a file says which connection and which generation asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.vault import Vault

_COLUMN = "journal"


class NoJournal:
    """For GATEWAY_JOURNAL=0: keeps nothing, so that a crash at the wrong moment may lose a rotated token."""

    def __init__(self) -> None:
        self.host = str(uuid.uuid4())

    def write(self, connection_id: uuid.UUID, generation: int, answer: Mapping[str, Any]) -> None:
        """Keeps nothing."""

    def read(self, connection_id: uuid.UUID, generation: int) -> None:  # noqa: ARG002 - as Journal's
        """Has nothing."""
        return

    def forget(self, connection_id: uuid.UUID, generation: int) -> None:
        """Has nothing to forget."""

    def pending(self) -> Iterator[tuple[uuid.UUID, int]]:
        """Nothing waits."""
        return iter(())

    def reseal(self) -> tuple[int, int]:
        """Nothing to seal again."""
        return 0, 0


class Journal:
    """The journal of this host. `host` names it to the database, so that others leave its intents to it."""

    def __init__(self, folder: Path, vault: Vault) -> None:
        """Makes the folder. Raises SettingsRefused when it cannot be written: better no start than a lost token."""
        self._folder = folder
        self._vault = vault
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.host = self._host()
            self._put(folder / f".probe-{os.getpid()}", b"")
            (folder / f".probe-{os.getpid()}").unlink()
        except OSError as error:
            raise SettingsRefused(
                [f"GATEWAY_DATA: the refresh journal in {folder} cannot be written ({error.strerror})."]
            ) from None

    def write(self, connection_id: uuid.UUID, generation: int, answer: Mapping[str, Any]) -> None:
        """Keeps an answer; it survives a power cut when this returns. Raises OSError."""
        sealed = self._vault.seal(json.dumps(answer), row=str(connection_id), column=_COLUMN, generation=generation)
        self._put(self._file(connection_id, generation), sealed.encode("ascii"))

    def read(self, connection_id: uuid.UUID, generation: int) -> Mapping[str, Any] | None:
        """The answer to that generation's request, or None. Raises SecretUnreadable when a key is missing."""
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
        with contextlib.suppress(FileNotFoundError):
            self._file(connection_id, generation).unlink()

    def pending(self) -> Iterator[tuple[uuid.UUID, int]]:
        """Every answer that waits, oldest first; what is no entry of ours is passed over."""
        with contextlib.suppress(FileNotFoundError):
            for file in sorted(self._folder.glob("*.sealed"), key=lambda file: file.stat().st_mtime):
                name, _, generation = file.stem.rpartition(".")
                with contextlib.suppress(ValueError):
                    yield uuid.UUID(name), int(generation)

    def reseal(self) -> tuple[int, int]:
        """Every waiting answer under the newest key; how many were sealed again, and how many do not open."""
        done = unreadable = 0
        for connection_id, generation in self.pending():
            try:
                answer = self.read(connection_id, generation)
            except SecretUnreadable:
                unreadable += 1
                continue
            if answer is not None:
                self.write(connection_id, generation, answer)
                done += 1
        return done, unreadable

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

    def _put(self, file: Path, content: bytes) -> None:
        """Under another name until it is whole and synced, then renamed, then the folder synced (rename is not durable alone)."""
        unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}.part")
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        unfinished.rename(file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
