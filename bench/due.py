"""
Everything is due at once: `python -m bench.due` (10,000 connections, two workers on two hosts, a fast provider).

Reports the token requests, connections refreshed twice, and a worker's CPU per refresh.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.stage import Actor, Stage, staged


def _watch(stage: Stage, count: int, over: threading.Event) -> None:
    while not over.wait(5):
        print(f"  {stage.control('stats')['asked']} of {count}", file=sys.stderr, flush=True)


def due(count: int, *, quiet: bool = False) -> dict[str, Any]:
    """The figures of one run."""
    with staged() as stage, stage.actor("a") as first, stage.actor("b") as second:
        for actor in (first, second):
            actor.does("work")  # both have started when there is something to do
        ids = list(stage.connections("strict", count))
        stage.sql("update gateway.connection set refresh_at = clock_timestamp() - random() * interval '1 hour'")
        over = threading.Event()
        if not quiet:
            threading.Thread(target=_watch, args=(stage, count, over), daemon=True).start()
        began = time.monotonic()
        for actor in (first, second):
            actor.begin("work", idle=3, pause=0.2)
        with ThreadPoolExecutor() as readers:  # at the same time: a worker whose log is not read would stop
            said = list(readers.map(Actor.end, (first, second)))
        took = time.monotonic() - began - 0.6
        over.set()
        seen = stage.control("stats")
        return {
            "due": count, "load": os.getloadavg()[0], "token_requests": seen["asked"], "most_for_one": seen["most"],
            "connections_asked_for": seen["families_asked"], "revoked": len(seen["revoked"]),
            "generations": sorted({generation for generation, _, _ in stage.states(ids)}),
            "seconds": round(took, 1), "refreshes_by_worker": [each["units"] for each in said],
            "worker_cpu_ms_per_refresh": round(1000 * sum(each["cpu_seconds"] for each in said) / count, 2),
        }  # fmt: skip


def main() -> None:
    """Refresh everything, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.due", description=__doc__.splitlines()[1])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told = due(given.connections, quiet=given.json)
    print(json.dumps(told, indent=1) if given.json else "\n".join(f"{name:34}{value}" for name, value in told.items()))
    sys.exit(0 if told["token_requests"] == given.connections and told["most_for_one"] == 1 else 1)


if __name__ == "__main__":
    main()
