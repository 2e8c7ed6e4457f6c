"""
All connections of one provider, erased and given back: what is done when a provider, or our registration there, is broken into.

Its tokens are frozen first, so that nobody reads one meanwhile; then everything of it is erased, in short transactions; then every
grant is given back to it, by several threads. May be ended anywhere and begun again: what is done is done, and the proof is made from
the ledger in the end, over all runs since the freeze.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeVar

import structlog

from gateway.connections.revoke import finish_revocation
from gateway.database.operating import Revoked
from gateway.errors import DatabaseUnavailable, GatewayError
from gateway.events import seal_all
from gateway.models import Revocation
from gateway.services import Runtime

log = structlog.get_logger(__name__)

BATCH = 100
"""Connections erased in one transaction: none may take longer than the database is waited for."""
THREADS = 8
_TRIES = 5
_PAUSE_SECONDS = 0.2
_SEALING_SECONDS = 15.0
_R = TypeVar("_R")

Stage = Literal["erasing", "giving_back", "over"]


@dataclass
class Report:
    """How far it is. `outcomes`: of the grants that this run gave back. `left`: connections that stand still."""

    provider: str
    since: datetime
    stage: Stage = "erasing"
    total: int = 0
    erased: int = 0
    parked: int = 0
    attempts: int = 0
    grants: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    left: int = 0
    interrupted: bool = False


class RevokeAll:
    """One run. Ends early, between two steps, when `stopped` is set."""

    def __init__(self, rt: Runtime, provider: str, *, stopped: threading.Event, threads: int = THREADS) -> None:
        """Freezes the provider's tokens. Raises DatabaseUnavailable."""
        self._rt = rt
        self._stopped = stopped
        self._threads = threads
        rt.store.freeze(provider=provider)
        holds = rt.store.provider_holdings(provider)
        if holds.frozen_at is None:
            raise DatabaseUnavailable("the freeze was taken off again just now")
        self.report = Report(provider, holds.frozen_at, total=holds.connections)

    def __iter__(self) -> Iterator[Report]:
        """Says how far it is after each step. Raises DatabaseUnavailable where it stays away."""
        report = self.report
        for step in (self._erase, self._give_back):
            for _ in step():
                yield report
                if self._stopped.is_set():
                    report.interrupted = True
                    break
            if report.interrupted:
                break
        report.left = self._patiently(lambda: self._rt.store.provider_holdings(report.provider)).connections
        report.stage = "over"
        yield report

    def _erase(self) -> Iterator[None]:
        report, more = self.report, True
        while more:
            gone = self._patiently(lambda: self._rt.store.erase_provider(report.provider, most=BATCH))
            report.erased += gone.erased
            report.parked += gone.parked
            report.attempts += gone.attempts
            more = gone.more
            yield
            if more and not gone.erased:
                self._stopped.wait(_PAUSE_SECONDS)  # somebody is at those that are left, for seconds at most

    def _give_back(self) -> Iterator[None]:
        report, after = self.report, None
        report.stage = "giving_back"
        report.grants = self._rt.store.provider_holdings(report.provider).queued
        with ThreadPoolExecutor(self._threads, thread_name_prefix="giving-back") as pool:
            while page := self._claimed(after):
                report.outcomes.update(pool.map(self._settled, page))
                after = page[-1]
                yield

    def _claimed(self, after: Revocation | None) -> tuple[Revocation, ...]:
        """The next few, no more than are given back well before others may claim them."""
        most = self._threads * 4
        return self._patiently(lambda: self._rt.store.claim_revocations(self.report.provider, after=after, most=most))

    def _settled(self, queued: Revocation) -> str:
        try:
            return finish_revocation(self._rt, queued)
        except GatewayError as error:  # it stands in the queue, and is tried again
            log.warning("revocation.unsettled", provider=queued.provider, error=error.slug)
            return "queued"

    def _patiently(self, call: Callable[[], _R]) -> _R:
        """Again after a moment, where the database was away or a lock was not to be had: every call may be repeated."""
        for _ in range(_TRIES - 1):
            try:
                return call()
            except DatabaseUnavailable as error:
                log.warning("erasing.again", reason=str(error))
                self._stopped.wait(1)
        return call()


# -- the proof -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Over all runs since the freeze: how many were erased, what became of their grants, and where the ledger ends that says so."""

    provider: str
    frozen_since: datetime
    erased: int
    outcomes: dict[str, int]
    left: int
    position: int
    hash: str


def proof(rt: Runtime, report: Report) -> Iterator[Revoked]:
    """Each connection that was erased since the freeze, in order, from the ledger's own events."""
    after: Revoked | None = None
    while page := rt.store.revoked(report.provider, since=report.since, after=after, most=500):
        yield from page
        after = page[-1]


def summary(rt: Runtime, report: Report, tell: Callable[[Revoked], None] = lambda _: None) -> Summary:
    """Waits until the ledger has sealed every event of it, tells of each connection, and counts."""
    _await_seals(rt, report)
    outcomes: Counter[str] = Counter()
    for row in proof(rt, report):
        outcomes[row.revocation] += 1
        tell(row)
    ledger = rt.store.ledger()
    return Summary(
        provider=report.provider,
        frozen_since=report.since,
        erased=outcomes.total(),
        outcomes={name: outcomes[name] for name in ("done", "queued", "unsupported", "abandoned")},
        left=report.left,
        position=ledger.position,
        hash=ledger.hash,
    )


def _await_seals(rt: Runtime, report: Report) -> None:
    pause = threading.Event()
    for _ in range(int(_SEALING_SECONDS / _PAUSE_SECONDS)):
        seal_all(rt)
        if all(row.position is not None for row in proof(rt, report)):
            return
        pause.wait(_PAUSE_SECONDS)  # another sealer is at it
    raise DatabaseUnavailable("the ledger is not sealed: run `python -m gateway doctor`, and this again for the proof")
