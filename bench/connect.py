"""
`python -m bench.connect`: the cost of connect and callback, compared with a hand-written route.

CPU of the server's processes per request, with the provider over https. Rounds are interleaved, medians are reported, and rounds in which
other processes used the server's core are dropped. See README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.browsers import Browser
from bench.certificates import make_certificates
from bench.contenders import AuthlibRoute, Contender, GatewayServer, Place
from bench.machine import Cores, Spent, describe
from bench.provider import Provider, running_provider
from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import start_or_join

BROWSERS = 16
WARM_UP_FLOWS = 3
"""A browser. Connections, prepared statements and caches are in place afterwards."""
_CHEAPER = 8
"""So many bare requests stand against one flow: a round of them has to last long enough to be measured."""
MOST_FOREIGN = 0.06
"""The share of a round in which others may have had the server's core."""


@dataclass(frozen=True)
class Sample:
    """One step of one round."""

    cpu_us: float
    tls_connections: float
    foreign: float

    @property
    def quiet(self) -> bool:
        """Whether only the server used the core."""
        return self.foreign <= MOST_FOREIGN


class Bench:
    """The contenders, and the CPU they used, by contender and step."""

    def __init__(self, cores: Cores, provider: Provider, contenders: list[Contender]) -> None:
        self.cores = cores
        self.provider = provider
        self.contenders = contenders
        self.browsers = {who: [Browser(who.place.port, number) for number in range(BROWSERS)] for who in contenders}
        self.samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)

    async def run(self, rounds: int, flows: int) -> None:
        """`rounds` after one to warm up, of `flows` flows each."""
        for who, browsers in self.browsers.items():
            await who.ready()
            await asyncio.gather(*map(who.welcome, browsers))
            await self._round(who, WARM_UP_FLOWS)
        self.samples.clear()
        for _ in range(rounds):
            for who in self.contenders:
                await self._round(who, max(1, flows // BROWSERS))
        for browsers in self.browsers.values():
            await asyncio.gather(*(browser.close() for browser in browsers))

    async def _round(self, who: Contender, each: int) -> None:
        """`each` flows a browser: first their beginnings, all of them, then their ends."""
        if not isinstance(who, AuthlibRoute | GatewayServer):
            each *= _CHEAPER
            await self._measured(who, "bare", each, lambda browser: _repeat(each, lambda: who.ask(browser)))
            return
        begun = await self._measured(who, "connect", each, lambda browser: _repeat(each, lambda: who.connect(browser)))
        ends = dict(zip(self.browsers[who], begun, strict=True))
        await self._measured(
            who,
            "callback",
            each,
            lambda browser: _repeat(each, lambda: who.callback(browser, ends[browser].pop())),
        )

    async def _measured(
        self, who: Contender, step: str, each: int, work: Callable[[Browser], Awaitable[list[Any]]]
    ) -> list[list[Any]]:
        """What `work` gave for each browser, all of them at once; what it cost becomes a sample."""
        browsers, pid, core = self.browsers[who], who.process.pid, self.cores.server
        before, connections = Spent.now(pid, core), self.provider.connections
        results = await asyncio.gather(*map(work, browsers))
        spent, requests = Spent.now(pid, core).since(before), each * len(browsers)
        opened = self.provider.connections - connections
        self.samples[who.name, step].append(Sample(spent.cpu / requests * 1e6, opened / requests, spent.foreign))
        return results


async def _repeat(times: int, step: Callable[[], Awaitable[Any]]) -> list[Any]:
    return [await step() for _ in range(times)]


@contextmanager
def folder_for_a_database() -> Iterator[Path]:
    """A folder that the database's account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _run(cores: Cores, folder: Path, dsn: str, rounds: int, flows: int) -> Bench:
    authority, certificate = make_certificates(folder)
    async with running_provider(certificate) as provider:
        started: list[Contender] = []
        try:
            for kind in (Contender, AuthlibRoute, GatewayServer):
                with cores.for_a_server():
                    started.append(kind(Place(folder, free_port(), provider.origin, authority, dsn)))
            bench = Bench(cores, provider, started)
            await bench.run(rounds, flows)
        finally:
            for contender in started:
                contender.stop()
    return bench


def measure(rounds: int, flows: int) -> dict[str, Any]:
    """The figures of a run: `rows` with µs of CPU, multiples of the bare route and TLS connections, and `ratios`."""
    cores = Cores.of_this_machine()
    cores.settle()
    with folder_for_a_database() as folder, start_or_join(folder) as server:
        dsn = server.dsn
        apply_schema(dsn)
        bench = asyncio.run(_run(cores, folder, dsn, rounds, flows))
    rows = summary(bench)
    by_step = {(row["who"], row["step"]): row["cpu_us"] for row in rows}
    ratios = {
        step: round(by_step[AuthlibRoute.name, step] / by_step[GatewayServer.name, step], 2)
        for step in ("connect", "callback")
    }
    return {"machine": describe(), "rounds": rounds, "flows": flows, "rows": rows, "ratios": ratios}


def summary(bench: Bench) -> list[dict[str, Any]]:
    """A row for each contender and step."""
    rows = [_row(who, step, samples) for (who, step), samples in bench.samples.items()]
    bare = next(row["cpu_us"] for row in rows if row["step"] == "bare")
    for row in rows:
        row["times_bare"] = round(row["cpu_us"] / bare, 1)
    return rows


def _row(who: str, step: str, samples: list[Sample]) -> dict[str, Any]:
    """The median of the quiet rounds. If none was quiet (`quiet_rounds` is 0 then), the cheapest: what disturbs a round only adds to it."""
    quiet = [sample.cpu_us for sample in samples if sample.quiet]
    least = min(sample.cpu_us for sample in samples)
    return {
        "who": who,
        "step": step,
        "cpu_us": round(median(quiet) if quiet else least),
        "least_us": round(least),
        "tls_per_request": round(sum(sample.tls_connections for sample in samples) / len(samples), 3),
        "quiet_rounds": len(quiet),
    }


def table(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['machine']}; {result['rounds']} rounds of {result['flows']} flows\n")
    print(f"{'':26}{'step':10}{'CPU, µs':>9}{'× bare':>9}{'TLS opened':>12}{'quiet rounds':>14}")
    for row in result["rows"]:
        print(
            f"{row['who']:26}{row['step']:10}{row['cpu_us']:>9}{row['times_bare']:>9}"
            f"{row['tls_per_request']:>12}{row['quiet_rounds']:>14}"
        )
    print()
    for step, ratio in result["ratios"].items():
        print(f"{step}: by hand costs {ratio} times what the gateway does")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.connect", description="CPU per connect and callback.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flows", type=int, default=400, help="in each round, for each contender")
    parser.add_argument("--json", action="store_true", help="the figures for a program")
    given = parser.parse_args()
    result = measure(given.rounds, given.flows)
    print(json.dumps(result, indent=1)) if given.json else table(result)


if __name__ == "__main__":
    main()
