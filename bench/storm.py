"""
Many readers of expired tokens: `python -m bench.storm` (200 expiries, 100 readers, 4 processes).

The provider revokes the whole family when a refresh token is used twice. Told are the token requests it saw, who went without a token,
and by how much the slowest reader of each expiry exceeded the provider's own time; once more without those expiries in which other virtual
machines had more than a twentieth of the cores. `--other` instead reads a healthy connection
while another's refresh takes two seconds with fifty waiting for it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.machine import stolen_seconds
from bench.readers import Read, gateway, percentile, readers
from bench.stage import Stage, staged

_STOLEN = 0.05
"""Of all cores, in an expiry that still counts as this machine's own."""


async def _storm(stage: Stage, port: int, ids: list[str], count: int, delay: float, *, quiet: bool) -> dict[str, Any]:
    crowd = await readers(stage, port, count)
    statuses: Counter[int] = Counter()
    slowest, own, torn = [], [], 0
    for number, row in enumerate(ids, 1):
        stage.expire([row])
        began, stolen = time.monotonic(), stolen_seconds()
        answers: list[Read] = await asyncio.gather(*(reader.read(row) for reader in crowd))
        statuses.update(answer.status for answer in answers)
        slowest.append(max(answer.seconds for answer in answers) - delay)
        if stolen_seconds() - stolen <= _STOLEN * (time.monotonic() - began) * (os.cpu_count() or 1):
            own.append(slowest[-1])
        torn += len({answer.body for answer in answers}) != 1
        if not quiet and number % 20 == 0:
            print(f"  {number} of {len(ids)} expiries", file=sys.stderr, flush=True)
    for reader in crowd:
        await reader.close()
    return {
        "statuses": dict(statuses),
        "expiries_with_two_answers": torn,
        "slowest_beyond_the_provider_ms": _told(slowest) | {"of_the_first": round(slowest[0] * 1000)},
        "where_less_than_a_twentieth_was_stolen": {"expiries": len(own)} | (_told(own) if own else {}),
    }


def _told(slowest: Sequence[float]) -> dict[str, int]:
    """Seconds in milliseconds."""
    return {
        "median": round(median(slowest) * 1000), "p95": round(percentile(slowest, 0.95) * 1000), "max": round(max(slowest) * 1000),
        "over_150": sum(each > 0.15 for each in slowest),
    }  # fmt: skip


def storm(expiries: int, count: int, workers: int, delay: float, *, quiet: bool = False) -> dict[str, Any]:
    """The figures of one run; times in milliseconds."""
    with staged() as stage:
        ids = list(stage.connections("strict", expiries))
        stage.expire(ids)
        stage.sql("update gateway.connection set expires_at = clock_timestamp() + interval '1 hour'")
        with gateway(stage, workers) as port:
            stage.control("delay", seconds=delay)
            told = asyncio.run(_storm(stage, port, ids, count, delay, quiet=quiet))
        seen = stage.control("stats")
        generations = {generation for generation, _, _ in stage.states(ids)}
    return {
        "expiries": expiries, "readers": count, "processes": workers, "provider_seconds": delay, "load": os.getloadavg()[0],
        "token_requests": seen["asked"], "most_for_one": seen["most"], "revoked": len(seen["revoked"]),
        "generations": sorted(generations), **told,
    }  # fmt: skip


async def _timed(reader: Any, row: str, seconds: float) -> list[float]:
    """Reads one after another for so long; how long each took."""
    end, taken = time.perf_counter() + seconds, []
    while time.perf_counter() < end:
        answer = await reader.read(row)
        if answer.status != 200:
            raise RuntimeError(f"a healthy connection answered {answer.status}")
        taken.append(answer.seconds)
        await asyncio.sleep(0.002)
    return taken


async def _read_beside(stage: Stage, port: int, sick: str, healthy: str, count: int, seconds: float) -> dict[str, Any]:
    [reader, *crowd] = await readers(stage, port, count + 1)
    await _timed(reader, healthy, 0.5)
    before = await _timed(reader, healthy, seconds)
    stage.expire([sick])
    waiting = [asyncio.ensure_future(each.read(sick)) for each in crowd]
    await asyncio.sleep(0.2)
    during = await _timed(reader, healthy, 0.6 * seconds)  # long before the provider responds
    still = sum(not each.done() for each in waiting)
    answers = await asyncio.gather(*waiting)
    for each in (reader, *crowd):
        await each.close()
    return {
        "p99_before_ms": round(percentile(before, 0.99) * 1000, 2),
        "p99_during_ms": round(percentile(during, 0.99) * 1000, 2),
        "median_before_ms": round(median(before) * 1000, 2),
        "median_during_ms": round(median(during) * 1000, 2),
        "reads_during": len(during),
        "still_waiting_at_the_end": still,
        "statuses_of_the_waiting": dict(Counter(answer.status for answer in answers)),
    }


def read_beside(rounds: int, count: int = 50, seconds: float = 2.0) -> list[dict[str, Any]]:
    """One process; each round with a new connection."""
    with staged() as stage:
        ids = list(stage.connections("strict", rounds + 1))
        stage.sql("update gateway.connection set refresh_at = clock_timestamp() + interval '1 day'")
        with gateway(stage, 1) as port:
            stage.control("delay", seconds=seconds)
            return [asyncio.run(_read_beside(stage, port, row, ids[-1], count, seconds)) for row in ids[:-1]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.storm", description=__doc__.splitlines()[1])
    parser.add_argument("--expiries", type=int, default=200)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.3, help="seconds that the provider takes for a token request")
    parser.add_argument("--other", type=int, metavar="ROUNDS", default=0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.other:
        print(json.dumps(read_beside(given.other), indent=1))
        return
    told = storm(given.expiries, given.readers, given.processes, given.delay, quiet=given.json)
    print(json.dumps(told, indent=1) if given.json else "\n".join(f"{name:34}{value}" for name, value in told.items()))


if __name__ == "__main__":
    main()
