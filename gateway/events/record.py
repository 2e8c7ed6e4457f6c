"""Assign positions to committed events. Delivery depends on this step and on nothing else."""

from __future__ import annotations

from gateway.database.queries import events
from gateway.services import Runtime

BATCH = 1000


def assign_positions(rt: Runtime) -> int:
    """Assign positions to all events that are committed now; how many. An event that commits later gets a later position."""
    total = 0
    while assigned := events.assign_positions(rt.database, limit=BATCH):
        total += assigned
        if assigned < BATCH:
            break
    return total
