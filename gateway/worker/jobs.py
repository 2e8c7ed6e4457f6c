"""
The jobs of a worker.

Several workers may run, in any number of processes and on any number of hosts: each unit of work is claimed in the database.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.connections import import_existing, revoke
from gateway.database.queries import housekeeping
from gateway.database.queries.events import Seal
from gateway.events import chain, record
from gateway.services import Runtime
from gateway.tokens import refresh_request


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of work. `run` does one unit and returns whether there was any; with `every_seconds` it runs no more often than that."""

    name: str
    run: Callable[[Runtime], object]
    every_seconds: float = 0.0


def unit_jobs() -> list[Job]:
    """Work that is done unit by unit, by several threads. The journal comes first: only this host can replay it."""
    return [
        Job("journal", _replay),
        Job("refresh", refresh_request.work_once),
        Job("revocation", revoke.revoke_next),
        Job("import", import_existing.import_next),
    ]


def event_jobs() -> list[Job]:
    """Positions first, since readers wait for them; the hash chain follows, and its failures do not stop positions."""
    last: Seal | None = None

    def checkpoint(rt: Runtime) -> None:
        nonlocal last
        last = chain.log_checkpoint(rt, last)

    return [
        Job("positions", record.assign_positions, 1.0),
        Job("seals", chain.seal_events, 1.0),
        Job("checkpoint", checkpoint, 60.0),
    ]


def housekeeping_jobs() -> list[Job]:
    """Remove what has expired, announce grants that will expire soon, and drop old events."""
    return [Job("housekeeping", lambda rt: housekeeping.run(rt.database, events_days=rt.settings.events_days), 60.0)]


def _replay(rt: Runtime) -> bool:
    refresh_request.replay(rt)
    return False
