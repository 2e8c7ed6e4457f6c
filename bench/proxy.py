"""
`python -m bench.proxy`: what a call through the proxy costs, against a direct call and a hand-written Flask proxy.

One client with one kept connection asks for 1 KB, 100 KB and 100 MB; p50 of the call, and CPU of the server for one call (of the
server's processes, without Postgres). `--streams` instead sends 1 GB up and down in four parallel streams, and prints the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import psutil
from cryptography.fernet import Fernet

from bench.connect import folder_for_a_database, free_port
from bench.contenders import ROOT, Contender, GatewayServer, Place, waitress
from bench.machine import Cores, cpu_seconds, describe
from bench.stage import save
from gateway.crypto.vault import Vault
from gateway.database import open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.queries.connect import open_session
from gateway.embedded.postgres import start_or_join

SIZES = {"1 KB": 1000, "100 KB": 100_000, "100 MB": 100_000_000}
CALLS = {"1 KB": 200, "100 KB": 100, "100 MB": 2}
"""Of one round."""
STREAM_BYTES, STREAMS = 1_000_000_000, 4
TOKEN = "ya29.bench-" + "0123456789" * 10
_READ = 256 * 1024
_PARTNER = ("partners", "add", "bench", "--scope", "proxy", "--reach", "all", "--json")


class ByHand(Contender):
    """The hand-written proxy."""

    name = "Flask proxy by hand"
    path = "/proxy/{}"
    headers: Mapping[str, str] = MappingProxyType({})

    def command(self) -> list[str]:
        """A module for waitress."""
        return waitress("bench.apps.proxy_route:app", self.place.port)

    def settings(self) -> dict[str, str]:
        """Where the API is."""
        return {"BENCH_UPSTREAM": self.place.provider}


class Proxied(GatewayServer):
    """The gateway's proxy, without a worker in its process."""

    def __init__(self, place: Place, key: str) -> None:
        self.place, self._key = place, key
        environ = {"PATH": os.environ["PATH"], **self.settings()}
        added = subprocess.run(
            [sys.executable, "-m", "gateway", *_PARTNER], cwd=ROOT, env=environ, check=True, capture_output=True
        )
        self.headers = {"Authorization": f"Bearer {json.loads(added.stdout)['key']}"}
        self.path = f"/v1/connections/{_connection(place.dsn, key)}/proxy/{{}}"
        super().__init__(place)

    def command(self) -> list[str]:
        """One process."""
        return [*super().command(), "--no-worker"]

    def settings(self) -> dict[str, str]:
        """An operator's settings, with the API's address."""
        settings = super().settings()
        with (self.place.folder / "catalog" / "bench.toml").open("a", encoding="utf-8") as catalog:
            catalog.write(f'api_base_url = "{self.place.provider}"\n')
        del settings["GATEWAY_CA_BUNDLE"]
        return settings | {"GATEWAY_KEYS": self._key}


def _connection(dsn: str, key: str) -> uuid.UUID:
    """One connection with a valid token."""
    store, user = open_postgres(dsn), uuid.uuid4()
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
    open_session(store, session_hash=uuid.uuid4().hex, user_id=user, label="Alice", expires_at=soon)  # type: ignore[arg-type]
    row = save(store, Vault([key]), user_id=user, provider="bench", account="0", access=TOKEN, refresh=None)
    store.close()
    return row


@dataclass
class Target:
    """What is called, and what its server has cost."""

    name: str
    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_us: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def measure(self, size: str, calls: int) -> None:
        """Some calls, one after another."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.call(connection, 1000)  # opened and warm
        before = cpu_seconds(self.pid) if self.pid else 0.0
        for _ in range(calls):
            began = time.perf_counter()
            self.call(connection, SIZES[size])
            self.seconds[size].append(time.perf_counter() - began)
        if self.pid:
            self.cpu_us[size].append((cpu_seconds(self.pid) - before) / calls * 1e6)
        connection.close()

    def call(self, connection: http.client.HTTPConnection, size: int) -> None:
        """One GET of that many bytes, read to its end."""
        connection.request("GET", self.path.format(size), headers=dict(self.headers))
        answer, received = connection.getresponse(), 0
        while piece := answer.read(_READ):
            received += len(piece)
        if (answer.status, received) != (200, size):
            raise RuntimeError(f"{self.name}: {answer.status}, {received} of {size} bytes")

    def row(self) -> dict[str, Any]:
        """The figures of each size."""
        row: dict[str, Any] = {"who": self.name}
        for size in SIZES:
            row[size] = {"p50_ms": round(median(self.seconds[size]) * 1000, 2)}
            if self.pid:
                row[size]["cpu_us"] = round(median(self.cpu_us[size]))
        return row


@contextmanager
def _api() -> Iterator[int]:
    """The port of the API, while it runs."""
    with subprocess.Popen([sys.executable, "-m", "bench.apps.files"], cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def _targets(cores: Cores) -> Iterator[list[Target]]:
    """All three, running."""
    with ExitStack() as stack:
        folder: Path = stack.enter_context(folder_for_a_database())
        dsn = stack.enter_context(start_or_join(folder)).dsn
        apply_schema(dsn)
        port = stack.enter_context(_api())
        targets = [Target("direct", port, "/{}")]
        for make in (ByHand, lambda place: Proxied(place, Fernet.generate_key().decode())):
            place = Place(folder, free_port(), f"http://127.0.0.1:{port}", folder, dsn)
            with cores.for_a_server():
                server = make(place)
            stack.callback(server.stop)
            if isinstance(server, Proxied):
                asyncio.run(server.ready())
            else:
                asyncio.run(server.ready("/proxy/1"))
            targets.append(Target(server.name, place.port, server.path, server.headers, server.process.pid))
        yield targets


def measure(rounds: int, *, share: float = 1.0) -> dict[str, Any]:
    """The figures: `rows` with p50 and CPU, and the ratios gateway / by hand. `share`: of the usual number of calls."""
    cores = Cores.of_this_machine()
    cores.settle()
    with _targets(cores) as targets:
        for _ in range(rounds):
            for size, calls in CALLS.items():
                for target in targets:
                    target.measure(size, max(1, round(calls * share)))
    _, hand, ours = rows = [target.row() for target in targets]
    ratios = {
        size: {name: round(ours[size][name] / hand[size][name], 2) for name in ("p50_ms", "cpu_us")} for size in SIZES
    }
    return {"machine": describe(), "rounds": rounds, "rows": rows, "ratios": ratios}


def streams(size: int = STREAM_BYTES, count: int = STREAMS) -> dict[str, Any]:
    """Send `size` bytes up and down in `count` parallel streams; how long it took and how much memory the gateway took more."""
    cores = Cores.of_this_machine()
    with _targets(cores) as targets:
        ours = targets[-1]
        process = psutil.Process(ours.pid)
        ours.measure("1 KB", 1)
        before, most, began = process.memory_info().rss, 0, time.monotonic()
        threads = [threading.Thread(target=_up_and_down, args=(ours, size)) for _ in range(count)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, process.memory_info().rss)
            time.sleep(0.2)
        return {
            "bytes": size,
            "streams": count,
            "seconds": round(time.monotonic() - began, 1),
            "more_mb": round((most - before) / 1e6, 1),
        }


def _up_and_down(target: Target, size: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=600)
    pieces = (bytes(min(_READ, size - at)) for at in range(0, size, _READ))
    connection.request(
        "POST", target.path.format("up"), body=pieces, headers={**target.headers, "Content-Length": str(size)}
    )
    answer = connection.getresponse()
    if answer.read() != str(size).encode():
        raise RuntimeError(f"up: {answer.status}")
    target.call(connection, size)
    connection.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.proxy", description="The cost of a proxied call.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", action="store_true", help="1 GB up and down in four streams, and the memory")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    given = parser.parse_args()
    result = streams() if given.streams else measure(given.rounds)
    if given.json or given.streams:
        print(json.dumps(result, indent=1))
        return
    print(result["machine"])
    for row in result["rows"]:
        cells = (
            f"{size}: {row[size]['p50_ms']} ms" + (f", {row[size]['cpu_us']:,} µs CPU" if "cpu_us" in row[size] else "")
            for size in SIZES
        )
        print(f"{row['who']:22}", "  ".join(cells))


if __name__ == "__main__":
    main()
