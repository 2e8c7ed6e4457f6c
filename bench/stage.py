"""
The setup of the reliability proofs: a Postgres, a strict provider, actors, and connections that can be made to expire.

`staged()` creates it in a temporary folder and removes it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.request import urlopen

import psycopg
from cryptography.fernet import Fernet

from bench.strict import CLIENT_ID, CLIENT_SECRET
from gateway.crypto.vault import Vault
from gateway.database import Database, open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.queries.connect import open_session
from gateway.database.queries.connections import NewGrant, save_connection
from gateway.embedded.postgres import EmbeddedPostgres, start_or_join

ROOT = Path(__file__).resolve().parents[1]
JWT_SECRET = "a shared secret of the bench, long enough for HS256"
_OF_ONE_USER = 500
"""A profile lists its connections: with thousands, each save would write them all."""
PROJECT = "https://bench.supabase.example"

_CATALOG = """
[strict]
name = "Strict"
type = 3
authorization_endpoint = "{origin}/strict/authorize"
token_endpoint = "{origin}/strict/token"
revocation_endpoint = "{origin}/strict/revoke"
token_endpoint_auth_method = "client_secret_basic"
userinfo_endpoint = "{origin}/strict/me"
scope = "read"
account = {{ id = "id" }}
accounts = "many"

[forgiving]
like = "strict"
name = "Forgiving"
authorization_endpoint = "{origin}/forgiving/authorize"
token_endpoint = "{origin}/forgiving/token"
revocation_endpoint = "{origin}/forgiving/revoke"
userinfo_endpoint = "{origin}/forgiving/me"
slug = "forgiving"
replay_seconds = 30
"""


@dataclass
class Actor:
    """A process that runs tasks one after another, each in a fork."""

    environ: dict[str, str]
    _child: int = 0

    def start(self) -> Self:
        """Starts the process."""
        environ = {"PATH": os.environ["PATH"], **self.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "bench.worker_process"],
            cwd=ROOT, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        return self

    @property
    def is_busy(self) -> bool:
        """Whether a task has not ended."""
        return bool(self._child)

    def stop(self) -> None:
        """Ends the process and its task."""
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
        self._process.kill()
        self._process.communicate()

    def begin(self, do: str, **task: object) -> int:
        """Starts a task; the process that does it."""
        self._process.stdin.write(json.dumps({"do": do, **task}) + "\n")
        self._process.stdin.flush()
        self._child = int(self.until("PID"))
        return self._child

    def until(self, word: str) -> str:
        """Read until a line begins with `word`; the rest of that line."""
        for line in self._process.stdout:
            if line.startswith(f"{word} "):
                return line.removeprefix(f"{word} ").strip()
            if word == "POINT" and line.startswith("SAID "):
                raise RuntimeError(f"the task was over before its crash point: {line.strip()}")
        raise RuntimeError(f"the actor ended before it said {word}")

    def end(self) -> Any:
        """The output of the task."""
        said = json.loads(self.until("SAID"))
        self.gone()
        return said

    def gone(self) -> None:
        """Wait until the task's process has ended."""
        self.until("GONE")
        self._child = 0

    def does(self, do: str, **task: object) -> Any:
        """Run a whole task."""
        self.begin(do, **task)
        return self.end()


@dataclass
class Stage:
    """The whole setup. `user_id` is Alice's, who owns every connection."""

    folder: Path
    server: EmbeddedPostgres
    origin: str
    dsn: str
    key: str = field(default_factory=lambda: Fernet.generate_key().decode())
    user_id: uuid.UUID = field(default_factory=uuid.uuid4)
    idle: dict[str, list[Actor]] = field(default_factory=dict)

    def environ(self, host: str = "a", **more: str) -> dict[str, str]:
        """The settings of a gateway on a separate host."""
        catalog = self.folder / "catalog"
        catalog.mkdir(exist_ok=True)
        (catalog / "strict.toml").write_text(_CATALOG.format(origin=self.origin), encoding="utf-8")
        registrations = {
            f"{name}_CLIENT_{what}": value
            for name in ("STRICT", "FORGIVING")
            for what, value in (("ID", CLIENT_ID), ("SECRET", CLIENT_SECRET))
        }
        return (
            {
                "GATEWAY_KEYS": self.key,
                "GATEWAY_DATA": str(self.folder / f"host-{host}"),
                "GATEWAY_CATALOG": str(catalog),
                "GATEWAY_ALLOW_PRIVATE_HOSTS": "1",
                "DATABASE_URL": self.dsn,
                "SUPABASE_URL": PROJECT,
                "SUPABASE_JWT_SECRET": JWT_SECRET,
            }
            | registrations
            | more
        )

    @contextmanager
    def actor(self, host: str = "a", **more: str) -> Iterator[Actor]:
        """A gateway process that runs tasks. An idle one is reused for the same settings."""
        environ = self.environ(host, **more)
        idle = self.idle.setdefault(json.dumps(environ, sort_keys=True), [])
        actor = idle.pop() if idle else Actor(environ).start()
        is_idle = False
        try:
            yield actor
            is_idle = not actor.is_busy
        finally:
            if is_idle:
                idle.append(actor)
            else:
                actor.stop()

    def control(self, what: str, **query: object) -> Any:
        """Control the provider, and read its records."""
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        with urlopen(f"{self.origin}/control/{what}?{asked}", timeout=10) as answer:  # noqa: S310 - our own on loopback
            return json.load(answer)

    def connections(self, provider: str, count: int) -> dict[str, str]:
        """That many new connections, of Alice's while they are few: id to account."""
        vault, store = Vault([self.key]), open_postgres(self.dsn)
        soon, made, owner = _moment(self.dsn, "1 hour"), {}, self.user_id
        for account, access, refresh in self.control("mint", name=f"{provider}-{uuid.uuid4().hex[:6]}", count=count):
            if len(made) % _OF_ONE_USER == 0:
                owner = uuid.uuid4() if made else self.user_id
                open_session(store, session_hash=uuid.uuid4().hex, user_id=owner, label="Alice", expires_at=soon)
            row = save(store, vault, user_id=owner, provider=provider, account=account, access=access, refresh=refresh)
            made[str(row)] = account
        store.close()
        return made

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """One statement, directly in the database."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def expire(self, ids: Sequence[str]) -> None:
        """Expire tokens, and delay workers."""
        self.sql(
            "update gateway.connection set expires_at = clock_timestamp() - interval '1 second', not_before = null,"
            " refresh_at = clock_timestamp() + interval '1 day' where id = any (%s::uuid[])",
            list(ids),
        )

    def looks_long_up(self) -> None:
        """Make the database look as if it had started long ago, so that hosts do not wait for crashed ones."""
        [(function,)] = self.sql(
            "select pg_get_functiondef(oid) from pg_proc where prosrc like '%pg_postmaster_start_time()%'"
        ) or [("",)]
        if function:
            self.sql(function.replace("pg_postmaster_start_time()", "'-infinity'::timestamptz"))

    def states(self, ids: Sequence[str]) -> list[tuple[Any, ...]]:
        """Generation, status, and whether a refresh is unfinished, of each."""
        return self.sql(
            "select generation, status, intent_at is not null from gateway.connection where id = any (%s::uuid[])",
            list(ids),
        )

    def works(self, token: str, provider: str = "strict") -> bool:
        """Whether the provider accepts the token."""
        from urllib.error import HTTPError
        from urllib.request import Request

        asked = Request(f"{self.origin}/{provider}/me", headers={"Authorization": f"Bearer {token}"})  # noqa: S310
        try:
            return bool(urlopen(asked, timeout=10).status == 200)  # noqa: S310
        except HTTPError:
            return False


Staged = TypeVar("Staged", bound=Stage)


def _moment(dsn: str, ahead: str) -> Any:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select clock_timestamp() + %s::interval", [ahead]).fetchone()[0]


@contextmanager
def provider(module: str = "bench.strict") -> Iterator[str]:
    """The provider's origin, while it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", module], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


@contextmanager
def staged(make: type[Staged] = Stage, module: str = "bench.strict") -> Iterator[Staged]:  # type: ignore[assignment]
    """Everything, with the provider in `module`, in a folder that the database's account may enter."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="gateway-proof-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        server = start_or_join(folder / "database")
        stage = make(folder, server, stack.enter_context(provider(module)), server.dsn)
        stack.callback(lambda: stage.server.stop())  # noqa: PLW0108 - of the server that runs then
        stack.callback(lambda: [actor.stop() for actor in itertools.chain.from_iterable(stage.idle.values())])
        apply_schema(stage.dsn)
        yield stage


def save(
    store: Database, vault: Vault, *, user_id: uuid.UUID, provider: str, account: str, access: str, refresh: str | None
) -> uuid.UUID:
    """A connection of one of the user's accounts for an hour; its id."""
    seal_id = uuid.uuid4()
    encrypt = partial(vault.encrypt, user_id=user_id, provider=provider, seal_id=seal_id)
    grant = NewGrant(
        seal_id=seal_id, user_id=user_id, provider=provider, type=3, many_accounts=True, account_id=account,
        account_label=account,
        scope=("read",), facts={}, row_names=(), token=encrypt(access, column="token"), refresh=refresh and encrypt(refresh, column="refresh"),
        browser_hash="", return_to=None, display="page", connect_session_id=None, client_id=CLIENT_ID,
    )  # fmt: skip
    saved = save_connection(
        store,
        grant,
        requested_scope=(),
        required_scope=(),
        add_account=True,
        expires_seconds=3600,
        refresh_expires_seconds=None,
        not_after=None,
    )
    if saved is None:
        raise RuntimeError("the connection was not saved")
    return saved.id
