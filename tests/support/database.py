"""
People and roles for the tests of the database.

Alice and Bob sign in and connect through the store; `acting` does what PostgREST does before it runs a client's query: it takes
the role and says who is asking.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from typing import Any

import psycopg

from gateway.catalog import load_catalog
from gateway.crypto.vault import Vault
from gateway.database import Database, open_postgres
from gateway.database.queries import connections, tokens
from gateway.database.queries.connect import (
    AuthorizationRequest,
    Choice,
    Decided,
    EarlierVisit,
    PendingGrant,
    decide_pending_grant,
    open_session,
    pending_grant,
    start_authorization,
    take_authorization,
)
from gateway.database.queries.connections import (
    NewGrant,
    Revocation,
    list_connections,
    queue_revocation,
    save_connection,
)
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.models import Connection
from tests.support.forked import CONTEXT

SOON = datetime(2030, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
ROW_NAMES = load_catalog().entries["ghl"].row_names
"""Also: processes that are forked from one that has read the catalogue do not read its files again."""


@dataclass(frozen=True)
class Person:
    """A user who can sign in."""

    label: str
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    session: str = field(default_factory=lambda: f"session-{uuid.uuid4()}")

    def signs_in(self, store: Database, **changes: Any) -> uuid.UUID | None:
        """A session for an hour, under `session`."""
        given = {"session_hash": self.session, "user_id": self.id, "label": self.label, "expires_at": in_an_hour()}
        return open_session(store, **(given | changes))

    def grant(self, **changes: Any) -> NewGrant:
        """A grant as a callback saves it, with changes."""
        given: dict[str, Any] = {
            "seal_id": uuid.uuid4(),
            "user_id": self.id,
            "provider": "ghl",
            "type": 1,
            "many_accounts": False,
            "account_id": f"{self.label}-location",
            "account_label": f"{self.label}'s agency",
            "scope": ("contacts.readonly",),
            "facts": {"locationId": f"{self.label}-location"},
            "row_names": ROW_NAMES,
            "client_id": None,
            "token": f"gAAAA-token-of-{self.label}",
            "refresh": f"gAAAA-refresh-of-{self.label}",
            "browser_hash": "browser",
            "return_to": None,
            "display": "page",
            "connect_session_id": None,
        }
        return NewGrant(**given | changes)

    def encrypted(
        self, vault: Vault, *, access_token: str = "secret", refresh_token: str | None = "refresh", **changes: Any
    ) -> NewGrant:
        """A grant of these tokens, encrypted as a callback does it."""
        new = self.grant(**changes)
        context = {"user_id": new.user_id, "provider": new.provider, "seal_id": new.seal_id}
        return replace(
            new,
            token=vault.encrypt(access_token, column="token", **context),
            refresh=refresh_token and vault.encrypt(refresh_token, column="refresh", **context),
        )

    def saves(
        self,
        store: Database,
        grant: NewGrant | None = None,
        *,
        requested_scope: Sequence[str] = (),
        required_scope: Sequence[str] = (),
        add_account: bool = False,
        expires_at: datetime | None = SOON,
        not_after: datetime | None = None,
        **changes: Any,
    ) -> Connection | None:
        """What a callback's save answers: the connection, or None where the grant is pending."""
        return save_connection(
            store,
            grant or self.grant(**changes),
            requested_scope=requested_scope,
            required_scope=required_scope,
            add_account=add_account,
            expires_seconds=expires_at and (expires_at - datetime.now(UTC)).total_seconds(),
            refresh_expires_seconds=None,
            not_after=not_after,
        )

    def connects(self, store: Database, grant: NewGrant | None = None, **changes: Any) -> Connection:
        """A connection of theirs."""
        saved = self.saves(store, grant, **changes)
        assert saved is not None
        return saved

    def waits(self, store: Database, **changes: Any) -> PendingGrant:
        """A grant of another account than the one that is connected: pending."""
        changes = {"account_id": "other-location", "account_label": "Other agency"} | changes
        assert self.saves(store, **changes) is None
        waiting = self.pending(store, **{"provider": changes["provider"]} if "provider" in changes else {})
        assert waiting is not None
        return waiting

    def pending(self, store: Database, *, browser_hash: str = "browser", provider: str = "ghl") -> PendingGrant | None:
        """What waits for their decision."""
        return pending_grant(store, session_hash=self.session, browser_hash=browser_hash, provider=provider)

    def decides(self, store: Database, waiting: PendingGrant, choice: Choice, **changes: Any) -> Decided:
        """Their decision about it."""
        given = {"pending_id": waiting.id, "user_id": self.id, "call_id": uuid.uuid4(), "not_after": None}
        return decide_pending_grant(store, choice=choice, **given | changes)

    def starts(self, store: Database, state: str = "state", **changes: Any) -> tuple[str, ...] | None:
        """An attempt of theirs; what is asked for."""
        given = {
            "session_hash": self.session,
            "state_hash": state,
            "browser_hash": "browser",
            "provider": "ghl",
            "encrypted": "encrypted",
            "scope": (),
            "return_to": None,
            "display": "page",
            "add_account": False,
        }
        return start_authorization(store, **given | changes)

    def returns(
        self, store: Database, state: str = "state", **changes: Any
    ) -> AuthorizationRequest | EarlierVisit | None:
        """Their browser, back from the provider."""
        given = {"provider": "ghl", "browser_hash": "browser", "session_hash": self.session}
        return take_authorization(store, state_hash=state, **given | changes)

    def listed(self, store: Database) -> tuple[Connection, ...]:
        """Their connections."""
        found = list_connections(store, self.session)
        assert found is not None
        return found.connections


def queue(store: Database, token: str | None, **changes: Any) -> Revocation:
    """A grant that was never saved, in the queue of revocations."""
    given = {
        "seal_id": uuid.uuid4(),
        "user_id": uuid.UUID(int=7),
        "provider": "ghl",
        "account_id": None,
        "facts": {},
        "token": token,
        "refresh": None,
        "reason": "not_stored",
    }
    return queue_revocation(store, **given | changes)


@dataclass(frozen=True)
class Two:
    """Alice and Bob, each with one GHL connection, and where they are."""

    database: str
    alice: Person
    bob: Person
    rows: dict[Person, uuid.UUID]
    profiles: dict[Person, uuid.UUID]

    def seen(self, client: psycopg.Connection, column: str, table: str) -> list[object]:
        """That column for Alice, then for Bob, as stored now."""
        key = {"user_profile": "user_id_auth", "provider_data": "auth_provider_id"}[table]
        asked = (
            f"select (select {column} from {table} where {key} = %s), (select {column} from {table} where {key} = %s)"  # noqa: S608
        )
        role = client.execute("select current_user").fetchone()[0]
        found = client.execute("reset role").execute(asked, [self.alice.id, self.bob.id]).fetchone()
        client.execute(f"set local role {role}")
        return list(found)


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def database_dsn(server: EmbeddedPostgres, name: str, user: str = "postgres") -> str:
    """That database on the server, for a role that may log in."""
    return server.dsn.replace("postgres@/postgres?", f"{user}@/{name}?")


def administer(server: EmbeddedPostgres, statement: str) -> None:
    """One statement, as superuser, outside of every test's database."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def fresh_database(server: EmbeddedPostgres, template: str = "template1") -> Iterator[str]:
    """The DSN of a copy of `template`, as superuser."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    administer(server, f"create database {name} template {template} strategy file_copy")
    yield database_dsn(server, name)
    administer(server, f"drop database {name} with (force)")


class ReusedDatabase:
    """
    One database for many tests: emptied after each, and copied anew from the template after a test that changed the schema.

    Emptying takes a tenth of the time of a copy. Rows of the template stay, as they were.
    """

    NAME = "reused"
    MOST_BYTES = 1024**2
    """Of a table; above it, a copy is faster than dead rows."""

    def __init__(self, server: EmbeddedPostgres, template: str) -> None:
        self._server, self._template = server, template
        self.dsn = database_dsn(server, self.NAME)
        self._client = self._copy()
        tables = self._client.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables"
            " where schemaname not in ('pg_catalog', 'information_schema')"
        )
        self._tables = [name for (name,) in tables.fetchall()]
        self._fingerprint = self._read_fingerprint()
        self._rows = {table: rows for table in self._tables if (rows := self._copy_out(table))}

    def reset(self) -> None:
        """As the template, with no connections but this one."""
        if not self._emptied():
            self._client.close()
            self._client = self._copy()

    def close(self) -> None:
        self._client.close()

    def _copy(self) -> psycopg.Connection:
        administer(self._server, f"drop database if exists {self.NAME} with (force)")
        administer(self._server, f"create database {self.NAME} template {self._template} strategy file_copy")
        return psycopg.connect(self.dsn, autocommit=True)

    def _emptied(self) -> bool:
        """Whether that was possible: a test may have changed the schema, or ended this connection with all others."""
        try:
            self._client.execute(
                "select pg_terminate_backend(pid, case when state = 'idle' then 0 else 5000 end) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
            if self._read_fingerprint() != self._fingerprint:
                return False
            self._empty()
        except psycopg.Error:
            return False
        return True

    def _empty(self) -> None:
        deletes = [f"delete from {table}" for table in self._tables]  # noqa: S608
        # As a replica, so that neither triggers nor foreign keys ask.
        self._client.execute("; ".join(["begin; set local session_replication_role = replica", *deletes]))
        for table, rows in self._rows.items():
            with self._client.cursor().copy(f"copy {table} from stdin") as copy:
                copy.write(rows)
        self._client.execute("commit")

    def _read_fingerprint(self) -> list[Any]:
        """Number and newest transaction of the rows of each catalogue that DDL writes to; how many tables are large."""
        counts = [f"select count(*), max(xmin::text::bigint) from {catalogue}" for catalogue in _CATALOGUES]  # noqa: S608
        counts.append("select count(*), 0 from pg_db_role_setting where setdatabase <> 0")
        large = f"relkind = 'r' and oid > 16384 and pg_relation_size(oid) > {self.MOST_BYTES}"
        counts.append(f"select count(*), 0 from pg_class where {large}")  # noqa: S608
        return self._client.execute(" union all ".join(counts), prepare=True).fetchall()

    def _copy_out(self, table: str) -> bytes:
        with self._client.cursor().copy(f"copy {table} to stdout") as copy:
            return b"".join(bytes(block) for block in copy)


_CATALOGUES = [
    f"pg_catalog.pg_{name}"
    for name in (
        "attrdef",
        "attribute",
        "class",
        "constraint",
        "default_acl",
        "description",
        "event_trigger",
        "extension",
        "namespace",
        "policy",
        "proc",
        "publication",
        "rewrite",
        "trigger",
        "type",
    )
]


def rows(dsn: str, statement: str, *values: Any) -> list[Any]:
    """What the owner of the database sees: tuples, or bare values where there is one column."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, values or None)
        found = cursor.fetchall() if cursor.description else []
    return [row[0] if len(row) == 1 else row for row in found]


@contextmanager
def acting(dsn: str, role: str, user_id: uuid.UUID | None = None, *, before: str = "") -> Iterator[psycopg.Connection]:
    """
    A transaction as PostgREST opens it for a request; nothing of it stays.

    The owner of the database runs `before`. After `reset role` the owner sees every row.
    """
    claims = {"role": role} | ({"sub": str(user_id)} if user_id else {})
    with psycopg.connect(dsn) as connection, connection.transaction(force_rollback=True):
        if before:
            connection.execute(before)
        connection.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(claims)])
        connection.execute(f"set local role {role}")
        yield connection


def find_connection(store: Database, *, session_hash: str, connection_id: uuid.UUID) -> Connection | None:
    """A connection of the signed-in user; None for any other."""
    listing = list_connections(store, session_hash)
    return next((row for row in listing.connections if row.id == connection_id), None) if listing else None


def race(dsn: str, script: str, runners: list[list[str]]) -> list[Any]:
    """
    Runs `script` in as many processes as there are argument lists, all let go at once; what each said, as JSON.

    The script finds `store`, connected, and `argv`, and assigns `said`. The processes are forks of one that has imported everything.
    """
    start = CONTEXT.Barrier(len(runners))
    pipes = [CONTEXT.Pipe(duplex=False) for _ in runners]
    processes = [
        CONTEXT.Process(target=_run, args=(dsn, script, arguments, start, sender))
        for arguments, (_, sender) in zip(runners, pipes, strict=True)
    ]
    for process in processes:
        process.start()
    said = []
    for receiver, sender in pipes:
        sender.close()
        assert receiver.poll(60)
        said.append(json.loads(receiver.recv()))
        receiver.close()
    for process in processes:
        process.join(60)
    assert [0] * len(processes) == [process.exitcode for process in processes]
    return said


def _run(dsn: str, script: str, argv: list[str], start: Barrier, sender: Pipe) -> None:
    store = open_postgres(dsn)
    store.schema()
    names = {
        "store": store,
        "argv": argv,
        "json": json,
        "uuid": uuid,
        "Person": Person,
        **vars(tokens),
        **vars(connections),
    }
    start.wait(60)
    exec(script, names)  # noqa: S102 - the test's own
    sender.send(json.dumps(names["said"], default=str))
    store.close()
