"""
Revoke all connections of one provider: for a provider, or a registration there, that is compromised.

Its tokens are frozen first, so that they can no longer be read. Then all connections are erased in short transactions, and several threads
revoke the grants. A run may be interrupted and repeated: it continues where the last one ended. The proof comes from the events, over
all runs since the freeze.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog

from gateway.connections.revoke import finish_revocation
from gateway.database.queries import events
from gateway.database.queries import partners as queries
from gateway.database.queries.connections import claim_revocations
from gateway.database.queries.operator import ErasedConnection, erase, provider_holdings
from gateway.errors import DatabaseUnavailable
from gateway.events.chain import assign_positions, seal_events
from gateway.services import Runtime

log = structlog.get_logger(__name__)

BATCH = 100
"""Connections erased in one transaction. A transaction has to end within the time limit of a database call."""
THREADS = 8
_ATTEMPTS = 5
_RETRY_SECONDS = 1.0
_PAUSE_SECONDS = 0.2
_SEALING_SECONDS = 15.0
_R = TypeVar("_R")


@dataclass
class Report:
    """The progress of a run. `outcomes`: of the `grants` that this run revoked; None while it erases."""

    provider: str
    since: datetime
    total: int
    erased: int = 0
    pending: int = 0
    attempts: int = 0
    grants: int | None = None
    outcomes: Counter[str] = field(default_factory=Counter)


def revoke_all(rt: Runtime, provider: str, threads: int = THREADS) -> Iterator[Report]:
    """
    Freeze the provider's tokens, erase its connections, revoke their grants; the progress after each step. It may end between two steps.

    Raises DatabaseUnavailable when the database stays away.
    """
    queries.freeze(rt.database, provider=provider)
    holdings = provider_holdings(rt.database, provider)
    if holdings.frozen_at is None:
        raise DatabaseUnavailable("the freeze was lifted again just now")
    report, more = Report(provider, holdings.frozen_at, holdings.connections), True
    while more:
        step = _repeat(lambda: erase(rt.database, provider=provider, most=BATCH))
        report.erased += len(step.erased)
        report.pending += step.pending or 0
        report.attempts += step.attempts or 0
        more = step.more
        yield report
        if more and not step.erased:
            time.sleep(_PAUSE_SECONDS)  # other transactions hold the rest, for seconds at most
    report.grants = provider_holdings(rt.database, provider).queued
    # As many as are revoked before their claim expires.
    claim, after = partial(claim_revocations, rt.database, provider=provider, most=threads * 4), None
    with ThreadPoolExecutor(threads, thread_name_prefix="revoking") as pool:
        while page := _repeat(partial(claim, after=after)):
            report.outcomes.update(pool.map(partial(finish_revocation, rt), page))
            after = page[-1].seal_id
            yield report


def _repeat(call: Callable[[], _R]) -> _R:
    """Repeat a call while the database is unavailable or a lock is held. Every call here may be repeated."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return call()
        except DatabaseUnavailable as error:
            log.warning("revoke_provider.retried", reason=str(error))
            time.sleep(_RETRY_SECONDS)
    return call()


def prove(rt: Runtime, report: Report) -> tuple[list[ErasedConnection], dict[str, Any]]:
    """
    Each connection that was erased since the freeze, in order, from its event; and all of it in figures, with the end of the event chain
    that proves it. Waits until these events are sealed.
    """
    for _ in range(int(_SEALING_SECONDS / _PAUSE_SECONDS)):
        assign_positions(rt)
        seal_events(rt)
        end, rows = events.read_chain(rt.database).end, list(_erased(rt, report))
        if all(row.position is not None and row.position <= end.position for row in rows):
            break
        time.sleep(_PAUSE_SECONDS)  # another process assigns or seals
    else:
        raise DatabaseUnavailable(
            "the events are not sealed: run `python -m gateway doctor`, then repeat this command for the proof"
        )
    outcomes = Counter(row.revocation for row in rows)
    left = _repeat(lambda: provider_holdings(rt.database, report.provider)).connections
    whole = {"provider": report.provider, "frozen_since": report.since, "erased": len(rows), "left": left}
    counted = {name: outcomes[name] for name in ("done", "queued", "unsupported", "abandoned")}
    return rows, whole | end._asdict() | counted


def _erased(rt: Runtime, report: Report) -> Iterator[ErasedConnection]:
    page_of = partial(provider_holdings, rt.database, report.provider, since=report.since, most=500)
    page = page_of().erased
    while page:
        yield from page
        page = page_of(after_at=page[-1].erased_at, after_id=page[-1].event_id).erased
