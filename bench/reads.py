"""
`python -m bench.reads`: the cost of a partner's token read, compared with a hand-written route.

As `bench.connect`: CPU of the server's processes per request, rounds interleaved, medians, loud rounds dropped. Both read the same
thousand connections; the gateway's read is one call of the database that judges key, reach, freeze and quota and writes the ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import psycopg
from cryptography.fernet import Fernet

from bench.browsers import Browser, FlowLost
from bench.certificates import make_certificates
from bench.connect import Bench, folder_for_a_database, free_port, summary, table
from bench.contenders import ROOT, Contender, GatewayServer, Place, waitress
from bench.machine import Cores, describe
from bench.provider import running_provider
from bench.stage import save
from gateway.crypto.vault import Vault
from gateway.database import apply_schema, open_postgres
from gateway.database.queries.sessions import open_session
from gateway.embedded.postgres import embedded_postgres
from gateway.server import python_module

CONNECTIONS = 1000
BY_HAND = "by-hand"
_OF_ONE_USER = 100
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
            python_module("gateway", *_PARTNER), cwd=ROOT, env=environ, check=True, capture_output=True
        )
        return str(json.loads(told.stdout)["key"])

    async def welcome(self, browser: Browser) -> None:
        """Nobody has to sign in."""


class Reads(Bench):
    """The bench of reads."""

    async def _round(self, who: Contender, each: int) -> None:
        each *= 8  # one read is that much less than one flow
        ask, step = (who.read, "read") if isinstance(who, _Reads) else (who.ask, "bare")

        async def work(browser: Browser) -> list[Any]:
            return [await ask(browser) for _ in range(each)]

        await self._measured(who, step, each, work)


def _stock(dsn: str, key: str) -> list[str]:
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
        for number in range(CONNECTIONS):
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


async def _run(cores: Cores, folder: Path, dsn: str, rounds: int, flows: int) -> Bench:
    key = Fernet.generate_key().decode()
    ids = _stock(dsn, key)
    authority, certificate = make_certificates(folder)
    async with running_provider(certificate) as provider:
        started: list[Contender] = []
        try:
            for kind in (Contender, ByHand, GatewayReads):
                place = Place(folder, free_port(), provider.origin, authority, dsn)
                with cores.for_a_server():
                    started.append(kind(place) if kind is Contender else kind(place, ids, key))
            bench = Reads(cores, provider, started)
            await bench.run(rounds, flows)
        finally:
            for contender in started:
                contender.stop()
    return bench


def measure(rounds: int, flows: int) -> dict[str, Any]:
    """The figures of a run: `rows` with µs of CPU and multiples of the bare route, and the ratio."""
    cores = Cores.of_this_machine()
    cores.settle()
    with folder_for_a_database() as folder, embedded_postgres(folder) as dsn:
        apply_schema(dsn)
        bench = asyncio.run(_run(cores, folder, dsn, rounds, flows))
    rows = summary(bench)
    spent = {row["who"]: row["cpu_us"] for row in rows}
    ratios = {"read": round(spent[ByHand.name] / spent[GatewayReads.name], 2)}
    return {"machine": describe(), "rounds": rounds, "flows": flows, "rows": rows, "ratios": ratios}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.reads", description="CPU per token read.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", type=int, default=400, help="in each round, for each contender; of eight reads each")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    given = parser.parse_args()
    result = measure(given.rounds, given.flows)
    print(json.dumps(result, indent=1)) if given.json else table(result)


if __name__ == "__main__":
    main()
