"""
A project as the gateway finds it: Supabase's tables with plaintext in them, and the providers that gave those tokens out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from gateway.database.migrate import apply_schema
from gateway.sandbox import google, highlevel, ringcentral
from gateway.sandbox.clients import CLIENTS
from gateway.sandbox.state import Account, Pair, Session, State, fresh
from gateway.services import Runtime, build_runtime
from gateway.settings import read_settings
from tests.support.commands import run_command
from tests.support.database import administer, database_dsn, fresh_database, rows
from tests.support.gateway_process import ROOT, Gateway
from tests.support.old_databases import OLD_TABLES, SUPABASE
from tests.support.postgrest_stand_in import SECRET_KEY, PostgRest

BERLIN, LISBON, AGENCY = highlevel.ACCOUNTS
ALICE_MAIL, DESK_MAIL, _ = google.ACCOUNTS
ALICE_PHONE = ringcentral.ACCOUNTS[0]
PLAIN = "select count(*) from public.provider_data where token !~ '^(gAAAA|$)' or refresh !~ '^(gAAAA|$)'"


def granted(state: State, provider: str, account: Account) -> Pair:
    """A pair of tokens as the provider gave it to whatever the product used before."""
    client = CLIENTS[provider][0]
    if provider == "ghl":
        scope = "locations.readonly contacts.readonly companies.readonly"
        return highlevel.issue(state, Session(provider, client, account, scope, {}, {"refreshTokenId": "before"}))
    session = Session(provider, client, account, "openid email profile", {}, {"endpoint_id": "before"})
    return state.issue(session, fresh("access-"), 3600, fresh("refresh-"), 604_800)


@dataclass
class Project:
    """A database from before, with schema.sql over it, a sandbox, and a gateway that is configured but not running."""

    gateway: Gateway
    rt: Runtime
    users: list[uuid.UUID] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.gateway.sandbox.state

    def user(self) -> uuid.UUID:
        """A user of the project."""
        made = uuid.uuid4()
        self.execute("insert into auth.users (id) values (%s)", made)
        return made

    def row(self, owner: uuid.UUID | None, name: str, type: int, token: str | None, **more: Any) -> str:  # noqa: A002
        """A row as the product wrote it; its id."""
        given = {
            "id": str(uuid.uuid4()),
            "refresh": None,
            "expires": None,
            "data": None,
            "created_at": "2024-05-01",
        } | more
        made = given["id"]
        self.execute(
            "insert into public.provider_data (id, auth_provider_id, name, type, token, refresh, expires, data, created_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
            made, owner, name, type, token, given["refresh"], given["expires"],
            None if given["data"] is None else Jsonb(given["data"]), given["created_at"],
        )  # fmt: skip
        return made

    def location(self, owner: uuid.UUID, account: Account = BERLIN, **more: Any) -> tuple[str, Pair]:
        """A HighLevel row of the owner's, and what the provider knows of its tokens."""
        pair = granted(self.state, "ghl", account)
        facts = {"userType": "Location", "locationId": account.id, "note": "the product's own"}
        given = {"refresh": pair.refresh_token, "data": facts, "name": "GHL"} | more
        return self.row(owner, given.pop("name"), 1, given.pop("token", pair.access_token), **given), pair

    def execute(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.gateway.dsn, autocommit=True) as connection:
            connection.execute(statement, values)

    def writes(self, owner: uuid.UUID, row: str, **columns: Any) -> None:
        """The documented TypeScript update, as the owner's own role."""
        with psycopg.connect(self.gateway.dsn) as client:
            claims = json.dumps({"role": "authenticated", "sub": str(owner)})
            client.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            client.execute("set local role authenticated")
            assigned = ", ".join(f"{name} = %s" for name in columns)
            done = client.execute(
                f"update public.provider_data set {assigned} where id = %s",  # noqa: S608 - our own names
                [*columns.values(), row],
            )
            assert 1 == done.rowcount

    def of(self, row: str) -> dict[str, Any]:
        """The stored state: the public row, and the gateway's row."""
        (found,) = rows(
            self.gateway.dsn,
            "select to_jsonb(d) || jsonb_build_object('connection', to_jsonb(c))"
            "  from public.provider_data d left join gateway.connection c on c.id = d.id where d.id = %s",
            row,
        )
        return found

    def opened(self, row: str, column: str) -> str:
        """The secret in it."""
        found = self.of(row)
        connection = found["connection"]
        return self.rt.vault.decrypt(
            found[column],
            column=column,
            user_id=uuid.UUID(connection["user_id"]),
            provider=connection["provider"],
            seal_id=connection["seal_id" if column == "token" else "refresh_seal_id"],
        )

    def plain(self) -> int:
        """How many rows hold plaintext."""
        return rows(self.gateway.dsn, PLAIN)[0]

    def refreshes(self, provider: str = "ghl") -> int:
        """How many token requests with a refresh token the provider saw."""
        seen = self.state.requests(provider, "token")
        return sum("refresh_token" == request["form"].get("grant_type") for request in seen)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        """`python -m gateway connections import`, in a process of its own."""
        command = [sys.executable, "-m", "gateway", "connections", "import", "--json", *arguments]
        environment = {"PATH": "/usr/bin:/bin"} | self.gateway.environ
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=-1, stderr=-1, text=True)

    def thread(self, work: Callable[[], Any]) -> threading.Thread:
        """That work, beside the test."""
        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def imports(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The same in this process, to its end: exit code and report."""
        done = run_command(self.gateway.environ, "connections", "import", "--json", *arguments)
        assert done.stdout, done.stderr
        return done.exit_code, json.loads(done.stdout)


def ended(process: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    said, complained = process.communicate(timeout=90)
    assert said, complained
    return process.returncode, json.loads(said)


def _apply(dsn: str, before: str = "") -> None:
    rows(dsn, SUPABASE + OLD_TABLES + before)
    apply_schema(dsn)


@lru_cache(maxsize=1)
def _template(cluster: Any) -> str:
    """The name of such a database without rows, to copy."""
    administer(cluster, "create database project_template")
    _apply(database_dsn(cluster, "project_template"))
    return "project_template"


@contextmanager
def project_from_before(cluster: Any, *, rest: bool = False, before: str = "") -> Iterator[Project]:
    """The owner's tables as they grew, then schema.sql. `rest`: reached by the project's REST API alone."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-before-"))
    with fresh_database(cluster, "template1" if before else _template(cluster)) as dsn:
        if before:
            _apply(dsn, before)
        gateway = Gateway(folder, dsn)
        api = PostgRest(dsn, auth=gateway.sandbox.origin) if rest else None
        if api:
            del gateway.environ["DATABASE_URL"]
            gateway.environ |= {"SUPABASE_URL": api.url, "SUPABASE_SECRET_KEY": SECRET_KEY}
        rt = build_runtime(read_settings(gateway.environ))
        try:
            yield Project(gateway, rt)
        finally:
            rt.database.close()
            rt.http.close()
            if api:
                api.stop()
            gateway.stop()
            shutil.rmtree(folder)
