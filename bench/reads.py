"""
`python -m bench.reads`: the cost of a partner's token read, compared with a hand-written route.

As `bench.connect`: CPU per request, rounds interleaved, medians, disturbed rounds dropped; beside the server's CPU that of Postgres, and what
a read writes. Both read the same thousand connections, if `--connections` says no other number. The gateway's read is one database call, which checks key, reach, freezes and limits
and records the read.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import psycopg
from cryptography.fernet import Fernet

from bench.browsers import Browser, FlowLost
from bench.certificates import make_certificates
from bench.connect import BROWSERS, Bench, folder_for_a_database, free_port, summary, table
from bench.contenders import ROOT, Contender, GatewayServer, Place, waitress
from bench.machine import Cores, cpu_seconds, describe
from bench.provider import Provider, running_provider
from bench.stage import save
from gateway.crypto.vault import Vault
from gateway.database import open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.queries.connect import open_session
from gateway.embedded.postgres import start_or_join

CONNECTIONS = 1000
BY_HAND = "by-hand"
_OF_ONE_USER = 100
_READS_PER_FLOW = 8
"""One read costs that much less than one flow."""
_COUNTED = 8
"""Flows of each browser in the round whose statements are counted."""
_COUNTS = (
    "select sum(calls) filter (where toplevel), coalesce(sum(rows) filter (where query ~* '^\\s*(insert|update|delete)'), 0),"
    " sum(wal_bytes) filter (where toplevel) from public.pg_stat_statements where query not like '%pg_stat_statements%'"
)
_PARTNER = (
    *("partners", "add", "bench", "--scope", "tokens:read", "--reach", "all", "--json"),
    *("--reads-per-hour", "100000000", "--connections-per-hour", "1000000"),
)


class _Reads:
    """The calls to both: one token after another, each checked."""

    ids: list[str]
    bearer: str
    path: str
    name: str
    _number = 0

    async def read(self, browser: Browser) -> None:
        """One token; FlowLost for any other answer."""
        self._number += 1
        number = self._number * 7 % len(self.ids)
        answer = await browser.get(self.path.format(self.ids[number]), bearer=self.bearer)
        if answer.status != 200 or json.loads(answer.body)["access_token"] != f"at-{number}":
            raise FlowLost(f"{self.name}: a read ended with {answer.status}")


class ByHand(_Reads, Contender):
    """The hand-written route."""

    name = "Flask route by hand"
    bearer = BY_HAND
    path = "/token/{}"

    def __init__(self, place: Place, ids: list[str], key: str) -> None:
        self.ids, self._key = ids, key
        super().__init__(place)

    def command(self) -> list[str]:
        """A module for waitress."""
        return waitress("bench.apps.read_route:app", self.place.port)

    def settings(self) -> dict[str, str]:
        """The key and the database."""
        return {"BENCH_DSN": self.place.dsn, "BENCH_KEY": self._key}


class GatewayReads(_Reads, GatewayServer):
    """The gateway without its worker."""

    path = "/v1/connections/{}/token"

    def __init__(self, place: Place, ids: list[str], key: str) -> None:
        self.ids, self._key = ids, key
        self.place = place
        self.bearer = self._partner()
        super().__init__(place)

    def command(self) -> list[str]:
        """One process with its default number of threads."""
        return [*super().command(), "--no-worker"]

    def settings(self) -> dict[str, str]:
        """An operator's settings, with the key of the rows."""
        return super().settings() | {"GATEWAY_KEYS": self._key}

    def _partner(self) -> str:
        """The key of a partner that reads everything, added as an operator would."""
        environ = {"PATH": os.environ["PATH"], **self.settings()}
        told = subprocess.run(
            [sys.executable, "-m", "gateway", *_PARTNER], cwd=ROOT, env=environ, check=True, capture_output=True
        )
        return str(json.loads(told.stdout)["key"])

    async def welcome(self, browser: Browser) -> None:
        """Nobody has to sign in."""


class Reads(Bench):
    """
    The bench, of reads alone, with what they cost Postgres.

    `postgres_us`: CPU of Postgres by round, writers included. `written`: of one read, the client's statements, rows and bytes of WAL.
    """

    def __init__(self, cores: Cores, provider: Provider, contenders: list[Contender], dsn: str) -> None:
        super().__init__(cores, provider, contenders)
        self._database = psycopg.connect(dsn, autocommit=True)
        self._postmaster = psutil.Process(self._database.info.backend_pid).ppid()
        self.postgres_us: dict[str, list[float]] = defaultdict(list)
        self.written: dict[str, dict[str, float]] = {}

    async def run(self, rounds: int, flows: int) -> None:
        """As every bench, then a round in which statements are counted."""
        await super().run(rounds, flows)
        self._database.execute("alter system set pg_stat_statements.track = 'all'")
        self._database.execute("select pg_reload_conf()")
        for who in self.contenders:
            if isinstance(who, _Reads):
                await self._round(who, 1)  # the sessions have read the new setting
                self._database.execute("select public.pg_stat_statements_reset()")
                await self._round(who, _COUNTED)
                row = self._database.execute(_COUNTS).fetchone()
                reads = _COUNTED * _READS_PER_FLOW * BROWSERS
                names = ("statements", "rows_written", "wal_bytes")
                self.written[who.name] = {
                    name: round(float(count) / reads, 2) for name, count in zip(names, row, strict=True)
                }
        for browsers in self.browsers.values():
            await asyncio.gather(*(browser.close() for browser in browsers))
        self._database.close()

    async def _round(self, who: Contender, each: int) -> None:
        each *= _READS_PER_FLOW
        ask, step = (who.read, "read") if isinstance(who, _Reads) else (who.ask, "bare")

        async def work(browser: Browser) -> list[Any]:
            return [await ask(browser) for _ in range(each)]

        before = cpu_seconds(self._postmaster)
        await self._measured(who, step, each, work)
        spent = cpu_seconds(self._postmaster) - before
        self.postgres_us[who.name].append(spent / each / BROWSERS * 1e6)


def _stock(dsn: str, key: str, count: int) -> list[str]:
    """The same connections for both. Their ids."""
    vault, fernet, store, user = Vault([key]), Fernet(key), open_postgres(dsn), uuid.uuid4()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "create table bench_key (hash text primary key, partner_id int not null);"
            "create table bench_connection (id uuid primary key, partner_id int not null, token text, expires_at timestamptz)"
        )
        connection.execute("insert into bench_key values (%s, 1)", [hashlib.sha256(BY_HAND.encode()).hexdigest()])
        [soon] = connection.execute("select clock_timestamp() + interval '10 hours'").fetchone()
        ids = []
        for number in range(count):
            if number % _OF_ONE_USER == 0:
                user = uuid.uuid4()
                open_session(store, session_hash=uuid.uuid4().hex, user_id=user, label="Alice", expires_at=soon)
            row = save(
                store, vault, user_id=user, provider="bench", account=str(number), access=f"at-{number}", refresh=None
            )
            encrypted = fernet.encrypt(f"at-{number}".encode()).decode()
            connection.execute("insert into bench_connection values (%s, 1, %s, %s)", [row, encrypted, soon])
            ids.append(row)
        connection.execute("analyze")
    store.close()
    return [str(row) for row in ids]


async def _run(cores: Cores, folder: Path, dsn: str, rounds: int, flows: int, connections: int) -> Reads:
    key = Fernet.generate_key().decode()
    ids = _stock(dsn, key, connections)
    authority, certificate = make_certificates(folder)
    async with running_provider(certificate) as provider:
        started: list[Contender] = []
        try:
            for kind in (Contender, ByHand, GatewayReads):
                place = Place(folder, free_port(), provider.origin, authority, dsn)
                with cores.for_a_server():
                    started.append(kind(place) if kind is Contender else kind(place, ids, key))
            bench = Reads(cores, provider, started, dsn)
            await bench.run(rounds, flows)
        finally:
            for contender in started:
                contender.stop()
    return bench


def measure(rounds: int, flows: int, connections: int = CONNECTIONS) -> dict[str, Any]:
    """The figures of a run: `rows` with µs of CPU, statements, rows and bytes of one read, and the ratios by hand / gateway."""
    cores = Cores.of_this_machine()
    cores.settle()
    with folder_for_a_database() as folder:
        with start_or_join(folder) as server, psycopg.connect(server.dsn, autocommit=True) as database:
            dsn = server.dsn
            database.execute("alter system set shared_preload_libraries = 'pg_stat_statements'")
            database.execute("create extension pg_stat_statements schema public")
        with start_or_join(folder) as server:
            dsn = server.dsn
            with psycopg.connect(dsn, autocommit=True) as database:
                database.execute("alter system set pg_stat_statements.track = 'none'")
                database.execute("select pg_reload_conf()")
            apply_schema(dsn)
            bench = asyncio.run(_run(cores, folder, dsn, rounds, flows, connections))
    rows = summary(bench)
    for row in rows:
        row["postgres_us"] = round(median(bench.postgres_us[row["who"]][1 : rounds + 1]))
        row.update(bench.written.get(row["who"], {}))
    by_hand, ours = (next(row for row in rows if row["who"] == name) for name in (ByHand.name, GatewayReads.name))
    spent = {
        "read": (by_hand["cpu_us"], ours["cpu_us"]),
        "postgres": (by_hand["postgres_us"], ours["postgres_us"]),
        "together": (by_hand["cpu_us"] + by_hand["postgres_us"], ours["cpu_us"] + ours["postgres_us"]),
    }
    ratios = {name: round(hand / gateway, 2) for name, (hand, gateway) in spent.items()}
    return {"machine": describe(), "rounds": rounds, "flows": flows, "rows": rows, "ratios": ratios}


def _print(result: dict[str, Any]) -> None:
    table(result)
    for row in result["rows"]:
        written = (
            f"; {row['statements']} statements, {row['rows_written']} rows, {row['wal_bytes']:.0f} bytes of WAL"
            if "statements" in row
            else ""
        )
        print(f"{row['who']}: Postgres {row['postgres_us']} µs{written}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description="CPU per token read.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", type=int, default=400, help="in each round, for each contender; of eight reads each")
    parser.add_argument("--connections", type=int, default=CONNECTIONS)
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    given = parser.parse_args()
    result = measure(given.rounds, given.flows, given.connections)
    print(json.dumps(result, indent=1)) if given.json else _print(result)


if __name__ == "__main__":
    main()
