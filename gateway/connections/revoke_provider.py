"""
Revoke all connections of one provider: for a provider, or a registration there, that is compromised.

Its tokens are frozen first, so that they can no longer be read. Then all connections are erased in short transactions, and several threads
revoke the grants. A run may be interrupted and repeated: it continues where the last one ended. The proof comes from the events, over
all runs since the freeze.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Literal, TypeVar

import structlog

from gateway.connections.revoke import finish_revocation
from gateway.database.queries import events
from gateway.database.queries import partners as queries
from gateway.database.queries.operator import ErasedConnection, erase, provider_holdings
from gateway.database.queries.revocations import claim_revocations
from gateway.errors import DatabaseUnavailable
from gateway.events.chain import assign_positions, seal_events
from gateway.services import Runtime

log = structlog.get_logger(__name__)

BATCH = 100
"""Connections erased in one transaction. A transaction has to end within the time limit of a database call."""
THREADS = 8
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.2
_SEALING_SECONDS = 15.0
_R = TypeVar("_R")

Stage = Literal["erasing", "revoking", "finished"]


@dataclass
class Report:
    """The progress of a run. `outcomes`: of the grants that this run revoked. `left`: connections that still exist."""

    provider: str
    since: datetime
    stage: Stage = "erasing"
    total: int = 0
    erased: int = 0
    pending: int = 0
    attempts: int = 0
    grants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    left: int = 0
    interrupted: bool = False


class RevokeAll:
    """One run. It ends early, between two steps, when `stopped` is set."""

    def __init__(self, rt: Runtime, provider: str, *, stopped: threading.Event, threads: int = THREADS) -> None:
        """Freeze the provider's tokens. Raises DatabaseUnavailable."""
        self._rt = rt
        self._stopped = stopped
        self._threads = threads
        queries.freeze(rt.database, provider=provider)
        holdings = provider_holdings(rt.database, provider)
        if holdings.frozen_at is None:
            raise DatabaseUnavailable("the freeze was lifted again just now")
        self.report = Report(provider, holdings.frozen_at, total=holdings.connections)

    def __iter__(self) -> Iterator[Report]:
        """Run, with the progress after each step. Raises DatabaseUnavailable when the database stays away."""
        report = self.report
        for _ in chain(self._erase(), self._revoke()):
            yield report
            if self._stopped.is_set():
                report.interrupted = True
                break
        report.left = self._repeat(lambda: provider_holdings(self._rt.database, report.provider)).connections
        report.stage = "finished"
        yield report

    def _erase(self) -> Iterator[None]:
        report, more = self.report, True
        while more:
            step = self._repeat(lambda: erase(self._rt.database, provider=report.provider, most=BATCH))
            report.erased += len(step.erased)
            report.pending += step.pending or 0
            report.attempts += step.attempts or 0
            more = step.more
            yield
            if more and not step.erased:
                self._stopped.wait(_PAUSE_SECONDS)  # other transactions hold the rest, for seconds at most

    def _revoke(self) -> Iterator[None]:
        report, after = self.report, None
        report.stage = "revoking"
        report.grants = provider_holdings(self._rt.database, report.provider).queued
        most = self._threads * 4  # as many as are revoked before their claim expires
        claim = partial(claim_revocations, self._rt.database, provider=report.provider, most=most)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="revoking") as pool:
            while page := self._repeat(partial(claim, after=after)):
                report.outcomes.update(pool.map(partial(finish_revocation, self._rt), page))
                after = page[-1].seal_id
                yield

    def _repeat(self, call: Callable[[], _R]) -> _R:
        """Repeat a call while the database is unavailable or a lock is held. Every call here may be repeated."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return call()
            except DatabaseUnavailable as error:
                log.warning("revoke_provider.retried", reason=str(error))
                self._stopped.wait(1)
        return call()


@dataclass(frozen=True)
class Summary:
    """All runs since the freeze: erased connections, outcomes of their grants, and the end of the event chain that proves it."""

    provider: str
    frozen_since: datetime
    erased: int
    outcomes: dict[str, int]
    left: int
    position: int
    hash: str


def proof(rt: Runtime, report: Report) -> Iterator[ErasedConnection]:
    """Each connection that was erased since the freeze, in order, from its event."""
    page_of = partial(provider_holdings, rt.database, report.provider, since=report.since, most=500)
    page = page_of().erased
    while page:
        yield from page
        page = page_of(after_at=page[-1].erased_at, after_id=page[-1].event_id).erased


def summary(rt: Runtime, report: Report, on_row: Callable[[ErasedConnection], None] = lambda _: None) -> Summary:
    """Wait until all these events are sealed, then pass each erased connection to `on_row` and count."""
    _await_seals(rt, report)
    outcomes: Counter[str] = Counter()
    for row in proof(rt, report):
        outcomes[row.revocation] += 1
        on_row(row)
    end = events.read_chain(rt.database).end
    return Summary(
        provider=report.provider,
        frozen_since=report.since,
        erased=outcomes.total(),
        outcomes={name: outcomes[name] for name in ("done", "queued", "unsupported", "abandoned")},
        left=report.left,
        position=end.position,
        hash=end.hash,
    )


def _await_seals(rt: Runtime, report: Report) -> None:
    pause = threading.Event()
    for _ in range(int(_SEALING_SECONDS / _PAUSE_SECONDS)):
        assign_positions(rt)
        seal_events(rt)
        end = events.read_chain(rt.database).end.position
        if all(row.position is not None and row.position <= end for row in proof(rt, report)):
            return
        pause.wait(_PAUSE_SECONDS)  # another process assigns or seals
    raise DatabaseUnavailable(
        "the events are not sealed: run `python -m gateway doctor`, then repeat this command for the proof"
    )
