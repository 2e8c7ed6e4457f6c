"""
The database fails during refreshes: `python -m bench.outage` (50 refreshes, 30 seconds).

The provider has received every request when Postgres stops, and responds while it is down. A second host also needs the same tokens and
must not request them itself. Told are the token requests, what was revoked, and how long after the return everybody had a token again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from typing import Any

from bench.stage import Stage, staged
from gateway.embedded.postgres import start_or_join

_SHARE = 25
"""Refreshes in one process: fewer than may be led there at once."""
_PATIENCE_SECONDS = 120.0


def outage(count: int, seconds: float, *, journal: str = "1") -> dict[str, Any]:
    """The figures of one outage."""
    with staged() as stage, ExitStack() as stack:
        ids = list(stage.connections("strict", count))
        stage.expire(ids)
        shares = [ids[start : start + _SHARE] for start in range(0, count, _SHARE)]
        first = [stack.enter_context(stage.actor("a", GATEWAY_JOURNAL=journal)) for _ in shares]
        other = stack.enter_context(stage.actor("b"))
        stage.control("delay", seconds=1.5)
        for actor, share in zip(first, shares, strict=True):
            # Asks, and goes on as a worker: what it could not save waits in its journal.
            actor.begin("read_and_work", ids=share, seconds=seconds + 60)
        while stage.control("stats")["asked"] < count:
            time.sleep(0.02)
        stage.server.stop()
        stopped = time.monotonic()
        other.begin("insist", ids=ids, seconds=seconds + 60)
        time.sleep(seconds)
        stage.control("delay", seconds=0)
        stage.server = start_or_join(stage.folder / "database")
        back = time.monotonic()
        served = _until_all_stand(stage, ids)
        insisted = other.end()
        seen = stage.control("stats")
        return {
            "refreshes": count, "away_seconds": round(back - stopped, 1), "journal": journal, "token_requests": seen["asked"],
            "most_for_one": seen["most"], "revoked": len(seen["revoked"]), "states": _counted(stage, ids),
            "all_stand_after_seconds": round(served - back, 1),
            "tokens_the_other_host_got": sum("token" in said for said in insisted),
        }  # fmt: skip


def _until_all_stand(stage: Stage, ids: list[str]) -> float:
    end = time.monotonic() + _PATIENCE_SECONDS
    while {(2, "active", False)} != set(stage.states(ids)) and time.monotonic() < end:
        time.sleep(0.1)
    return time.monotonic()


def _counted(stage: Stage, ids: list[str]) -> dict[str, int]:
    states = [f"{status}, generation {generation}" for generation, status, _ in stage.states(ids)]
    return {state: states.count(state) for state in sorted(set(states))}


def main() -> None:
    """Stop the database, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.outage", description=__doc__.splitlines()[1])
    parser.add_argument("--refreshes", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--without-journal", action="store_true", help="GATEWAY_JOURNAL=0")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told = outage(given.refreshes, given.seconds, journal="0" if given.without_journal else "1")
    print(json.dumps(told, indent=1) if given.json else "\n".join(f"{name:34}{value}" for name, value in told.items()))
    sys.exit(0 if told["token_requests"] == given.refreshes and not told["revoked"] else 1)


if __name__ == "__main__":
    main()
