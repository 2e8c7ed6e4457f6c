"""
Work that nobody waits for: one unit at a time, and whether there was any.

Several workers may run, in as many processes: each unit is claimed in the database. What the journal of this host still holds
comes first, since nobody else can bring it. The ledger has a thread of its own: it is sealed each second, whatever else takes long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from gateway import events
from gateway.connections import adopt, revoke
from gateway.errors import GatewayError
from gateway.services import Runtime
from gateway.tokens import refresh_request

log = structlog.get_logger(__name__)

IDLE_SECONDS = refresh_request.LOOK_SECONDS
ANNOUNCE_SECONDS = 60.0
SEAL_SECONDS = 1.0
HEAD_SECONDS = 3600.0
"""How often the log is told where the ledger ends: whoever has the log can tell a chain that was cut off or made anew."""
DROP_SECONDS = 86400.0


class Worker:
    """One worker: what is due, unit by unit, until it is stopped."""

    def __init__(self, rt: Runtime, clock: Callable[[], float] = time.monotonic) -> None:
        self._rt = rt
        self._clock = clock
        self._announced_at = float("-inf")

    def once(self) -> bool:
        """One unit of each kind of work; whether there was any. Raises nothing: what fails is told in the log."""
        kinds = (self._replay, self._announce, refresh_request.work_once, revoke.revoke_next, adopt.work_once)
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
        refresh_request.replay(rt)
        return False

    def _announce(self, rt: Runtime) -> bool:
        if self._clock() - self._announced_at > ANNOUNCE_SECONDS:
            self._announced_at = self._clock()
            rt.store.announce_endings()
        return False


class Sealer:
    """Keeps the ledger: sealed each second, its old days dropped daily, its end told to the log hourly. Of many, one seals at a time."""

    def __init__(self, rt: Runtime, clock: Callable[[], float] = time.monotonic) -> None:
        self._rt = rt
        self._clock = clock
        self._told_at = self._dropped_at = self._broken_at = float("-inf")

    def once(self) -> bool:
        """Whatever of it is due. Raises nothing; whether all of it went well."""
        try:
            events.seal_all(self._rt)
            if self._clock() - self._told_at > HEAD_SECONDS:
                stands = events.judged(self._rt)
                log.info("ledger.head", position=stands.position, hash=stands.hash)
                self._told_at = self._clock()
            if self._clock() - self._dropped_at > DROP_SECONDS and not events.drop_once(self._rt):
                self._dropped_at = self._clock()
        except events.LedgerBroken as error:
            self._tell_broken(error)
            return False
        except GatewayError as error:
            log.warning("ledger.failed", error=error.slug, reason=str(error))
            return False
        except Exception as error:  # noqa: BLE001 - as a worker's unit: what fails now is tried again
            log.error("ledger.failed", error="unexpected", kind=type(error).__name__)  # noqa: TRY400
            return False
        return True

    def _tell_broken(self, error: events.LedgerBroken) -> None:
        """Once a minute: events are appended still, and wait unsealed until somebody has looked."""
        if self._clock() - self._broken_at > ANNOUNCE_SECONDS:
            self._broken_at = self._clock()
            problem = error.problem
            log.error("ledger.broken", problem=problem.kind, position=problem.position, says=problem.says)

    def run(self, stopped: threading.Event) -> None:
        """Until `stopped` is set. After a failure it waits for longer: nothing is lost meanwhile."""
        while not stopped.wait(SEAL_SECONDS if self.once() else IDLE_SECONDS):
            pass


def start_sealer(rt: Runtime, stopped: threading.Event) -> threading.Thread:
    """A sealer in a thread of this process."""
    thread = threading.Thread(target=Sealer(rt).run, args=(stopped,), name="sealer", daemon=True)
    thread.start()
    return thread


def start_worker(rt: Runtime) -> threading.Event:
    """A worker and a sealer in threads of this process, where no others may run; set the event to end them."""
    stopped = threading.Event()
    threading.Thread(target=Worker(rt).run, args=(stopped,), name="worker", daemon=True).start()
    start_sealer(rt, stopped)
    return stopped
