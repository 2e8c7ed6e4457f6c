"""
A provider was compromised: `python -m bench.revoke_all` (10,000 connections of 20 users, erased and revoked, with a proof).

Reports the duration of each part, whether every grant was revoked, and whether tokens could be read meanwhile: a reader asks all the
time, and must get none after the freeze.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
import uuid
from collections import Counter
from typing import Any

from bench.stage import Stage, staged
from gateway.connections import revoke_provider
from gateway.database.queries.partners import freeze
from gateway.errors import Frozen, NotFound
from gateway.events.verify import verify
from gateway.models import Caller
from gateway.services import Runtime, build_runtime
from gateway.settings import read_settings
from gateway.tokens.read import fresh_grant

_SHOWN = ("erased", "left", "done", "queued", "unsupported", "abandoned")


class Reader:
    """Reads tokens of the provider's connections all the time. `served_at`: the time of the last success."""

    def __init__(self, rt: Runtime, ids: list[str], owner: uuid.UUID) -> None:
        self.outcomes: Counter[str] = Counter()
        self.served_at = time.monotonic()
        self._rt, self._ids, self._caller = rt, ids, Caller(user_id=owner)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.over.wait(0.01):
            try:
                fresh_grant(self._rt, uuid.UUID(self._ids[0]), caller=self._caller)
                self.served_at = time.monotonic()
                self.outcomes["served"] += 1
            except (Frozen, NotFound) as error:
                self.outcomes[error.slug] += 1


def revoke_all(count: int, threads: int, *, quiet: bool = False) -> dict[str, Any]:
    """The figures of one run."""
    with staged() as stage:
        ids = list(stage.connections("strict", count))
        rt = build_runtime(read_settings(stage.environ()))
        reader = Reader(rt, ids, stage.user_id)
        reader.thread.start()
        time.sleep(0.3)
        try:
            return _run(stage, rt, reader, threads, quiet=quiet) | {"connections": count}
        finally:
            reader.over.set()
            reader.thread.join()
            rt.database.close()
            rt.http.close()


def _run(stage: Stage, rt: Runtime, reader: Reader, threads: int, *, quiet: bool) -> dict[str, Any]:
    began = time.monotonic()
    freeze(rt.database, provider="strict")
    frozen, erased = time.monotonic(), began
    for report in revoke_provider.revoke_all(rt, "strict", threads):
        if report.grants is None:
            erased = time.monotonic()
        if not quiet:
            print(
                f"\r  {report.erased} erased, {report.outcomes.total()} given back", end="", file=sys.stderr, flush=True
            )
    given = time.monotonic()
    lines, said = revoke_provider.prove(rt, report)
    *_, verified = verify(rt)
    return {
        "load": os.getloadavg()[0], "proof_lines": len(lines), **{name: said[name] for name in _SHOWN},
        "revoked_at_provider": len(stage.control("stats")["revoked"]), "threads": threads,
        "seconds_until_frozen": round(frozen - began, 3), "seconds_erasing": round(erased - frozen, 1),
        "seconds_giving_back": round(given - erased, 1), "seconds_until_proof": round(time.monotonic() - began, 1),
        "last_token_served_after_freeze": round(max(0.0, reader.served_at - frozen), 3), "reads": dict(reader.outcomes),
        "ledger_position": said["position"], "ledger_verifies": not verified.problems,
    }  # fmt: skip


def main() -> None:
    """Revoke everything, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.revoke_all", description=__doc__.splitlines()[1])
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    told = revoke_all(given.connections, given.threads, quiet=given.json)
    print(
        json.dumps(told, indent=1)
        if given.json
        else "\n" + "\n".join(f"{name:34}{value}" for name, value in told.items())
    )
    sys.exit(0 if told["left"] == 0 and told["done"] == given.connections and told["ledger_verifies"] else 1)


if __name__ == "__main__":
    main()
