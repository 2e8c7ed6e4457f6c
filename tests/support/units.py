"""The worker's units of work, done one at a time in the test's own thread."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.connections import import_existing
from gateway.models import Unit
from gateway.services import Runtime
from gateway.tokens import refresh_request


def _done(units: Sequence[Unit]) -> bool:
    for unit in units:
        unit.run()
    return bool(units)


def import_next(rt: Runtime) -> bool:
    """Import one row that is due; whether there was one."""
    return _done(import_existing.claim_next(rt, ()))


def refresh_next(rt: Runtime) -> bool:
    """Refresh one connection that is due; whether there was one."""
    return _done(refresh_request.claim_next(rt, ()))
