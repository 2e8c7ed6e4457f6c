"""
Work that nobody waits for: one unit at a time, and whether there was any.

Several workers may run, in as many processes: each unit is claimed in the database. What the journal of this host still holds
comes first, since nobody else can bring it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from gateway import adopt, renewal, revocation
from gateway.errors import GatewayError
from gateway.runtime import Runtime

log = structlog.get_logger(__name__)

IDLE_SECONDS = renewal.LOOK_SECONDS
ANNOUNCE_SECONDS = 60.0


class Worker:
    """One worker: what is due, unit by unit, until it is stopped."""

    def __init__(self, rt: Runtime, clock: Callable[[], float] = time.monotonic) -> None:
        self._rt = rt
        self._clock = clock
        self._announced_at = float("-inf")

    def once(self) -> bool:
        """One unit of each kind of work; whether there was any. Raises nothing: what fails is told in the log."""
        kinds = (self._replay, self._announce, renewal.work_once, revocation.work_once, adopt.work_once)
        done = [self._did(kind) for kind in kinds]  # each gets its turn, whatever became of those before it
        return any(done)

    def run(self, stopped: threading.Event) -> None:
        """Works until `stopped` is set. A failure is told and waited out; its unit stays claimed in the database until then."""
        while not stopped.is_set():
            if not self.once():
                stopped.wait(IDLE_SECONDS)

    def _did(self, kind: Callable[[Runtime], bool]) -> bool:
        """Whether there was a unit of that kind, and it ended well. One that fails does not stand before the others."""
        try:
            return kind(self._rt)
        except GatewayError as error:
            log.warning("work.failed", error=error.slug, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a defect in one unit must not end the work of all others
            # Without the traceback, whose messages may hold what a log must not.
            log.error("work.failed", error="unexpected", kind=type(error).__name__)  # noqa: TRY400
        return False

    def _replay(self, rt: Runtime) -> bool:
        if next(rt.journal.pending(), None) is not None:
            renewal.replay(rt)
        return False

    def _announce(self, rt: Runtime) -> bool:
        if self._clock() - self._announced_at > ANNOUNCE_SECONDS:
            self._announced_at = self._clock()
            rt.store.announce_endings()
        return False


def start_worker(rt: Runtime) -> threading.Event:
    """A worker in a thread of this process, for installations without one of their own; set the event to end it."""
    stopped = threading.Event()
    threading.Thread(target=Worker(rt).run, args=(stopped,), name="worker", daemon=True).start()
    return stopped
