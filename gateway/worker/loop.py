"""Run jobs: in threads beside a server, or as a process of their own (`python -m gateway worker`)."""

import threading
import time
from collections import Counter
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import structlog

from gateway.errors import GatewayError
from gateway.models import Unit
from gateway.services import Runtime, build_runtime
from gateway.settings import forget_secrets, read_settings
from gateway.tokens import refresh_request
from gateway.worker.jobs import EVENT_JOBS, HEARTBEAT, HOUSEKEEPING, UNIT_JOBS, WEBHOOK_JOBS, Job

log = structlog.get_logger(__name__)

IDLE_SECONDS = refresh_request.LOOK_SECONDS
_LOOK_SECONDS = 0.2
"""How soon a pause ends after a signal."""
UNITS_AT_ONCE = 8
WEBHOOKS_AT_ONCE = 16
UNIT_SECONDS = 30.0
"""The longest unit: requests to a provider, and the database calls around them."""


class Worker:
    """Runs jobs in turn until it is stopped."""

    def __init__(self, rt: Runtime, jobs: Sequence[Job], clock: Callable[[], float] = time.monotonic) -> None:
        self._rt = rt
        self._jobs = jobs
        self._clock = clock
        self._ran_at: dict[str, float] = {}

    def once(self) -> bool:
        """Run each job that is due; whether any found work. A job that fails is logged and does not stop the others."""
        found = False
        for job in self._jobs:
            if self._clock() - self._ran_at.get(job.name, float("-inf")) >= job.every_seconds:
                self._ran_at[job.name] = self._clock()
                found = _run_logged(job.name, partial(self._run, job)) or found
        return found

    def run(self, stopped: threading.Event, pause_seconds: float = IDLE_SECONDS) -> None:
        """Work until `stopped` is set, with a pause whenever there is nothing to do."""
        while not stopped.is_set():
            if not self.once():
                stopped.wait(pause_seconds)

    def _run(self, job: Job) -> object:
        return job.run(self._rt)


class UnitWorker(Worker):
    """
    Claims units of work, and runs each in a thread of its own.

    A provider has `at_once` places for each kind of job. Nothing is claimed of a provider without a place, without a free slot, or with an
    open circuit: a provider that hangs delays only its own jobs.
    """

    def __init__(self, rt: Runtime, jobs: Sequence[Job], at_once: int = UNITS_AT_ONCE) -> None:
        super().__init__(rt, jobs)
        self._at_once = at_once
        self._lock = threading.Condition()
        self._has_ended = threading.Event()
        self._running: Counter[tuple[str, str]] = Counter()
        """Units by job and provider."""

    def run(self, stopped: threading.Event, pause_seconds: float = IDLE_SECONDS) -> None:
        """Work until `stopped` is set, and finish the units under way. A unit that ends leaves a place for the next."""
        while not stopped.is_set():
            end = self._clock() + (0 if self.once() else pause_seconds)
            while self._clock() < end and not stopped.is_set() and not self.wait_for_end(_LOOK_SECONDS):
                pass
        self.finish(UNIT_SECONDS)

    def finish(self, seconds: float) -> bool:
        """Wait until no unit is running, but not longer; whether none is."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._running.total(), seconds)

    def wait_for_end(self, seconds: float) -> bool:
        """Wait until a unit has ended since the last call, but not longer; whether one has."""
        has_ended = self._has_ended.wait(seconds)
        self._has_ended.clear()
        return has_ended

    def _run(self, job: Job) -> bool:
        busy = [name for name in ("", *self._rt.catalog.providers) if self._is_busy(job, name)]
        units: Any = job.run(self._rt, busy)
        for unit in units:
            key = job.name, unit.provider
            with self._lock:
                self._running[key] += 1
            threading.Thread(target=self._work, args=(key, unit), name=job.name, daemon=True).start()
        return bool(units)

    def _is_busy(self, job: Job, provider_id: str) -> bool:
        running = self._running[job.name, provider_id]
        if job.is_local:
            return running > 0
        return running >= self._at_once or not self._rt.bulkhead.is_available(provider_id)

    def _work(self, key: tuple[str, str], unit: Unit) -> None:
        try:
            with self._rt.bulkhead.slot(unit.provider, always=True) if unit.provider else nullcontext():
                _run_logged(key[0], unit.run)
        finally:
            with self._lock:
                self._running[key] -= 1
                self._lock.notify_all()
            self._has_ended.set()


def _run_logged(name: str, run: Callable[[], object]) -> bool:
    try:
        return bool(run())
    except GatewayError as error:
        log.warning("job.failed", job=name, error=error.slug, reason=str(error))
    except Exception as error:  # noqa: BLE001 - a defect in one job must not end the others
        # Without the traceback: its messages may hold secrets.
        log.error("job.failed", job=name, error="unexpected", kind=type(error).__name__)  # noqa: TRY400
    return False


def start_worker(rt: Runtime, stopped: threading.Event | None = None, *, work: bool = True) -> list[threading.Thread]:
    """
    Start a worker in this process: a thread each for units and webhooks (which run in further threads), events, and what is done every minute.

    Without `work` it only reports that this process is there.
    """
    stopped = stopped or threading.Event()
    minutely = Worker(rt, (HEARTBEAT, HOUSEKEEPING) if work else (HEARTBEAT,))
    workers: list[tuple[str, Worker, float]] = [("minutely", minutely, IDLE_SECONDS)]
    if work:
        workers += [
            ("worker", UnitWorker(rt, UNIT_JOBS), IDLE_SECONDS),
            ("events", Worker(rt, EVENT_JOBS), 1.0),
            ("webhooks", UnitWorker(rt, WEBHOOK_JOBS, WEBHOOKS_AT_ONCE), 1.0),
        ]
    started = []
    for name, worker, pause_seconds in workers:
        started.append(threading.Thread(target=worker.run, args=(stopped, pause_seconds), name=name, daemon=True))
        started[-1].start()
    return started


def run_workers(environ: MutableMapping[str, str], stopped: threading.Event) -> None:
    """Work with the settings in `environ` until `stopped` is set. Raises SettingsRefused with all problems."""
    rt = build_runtime(read_settings(environ))
    forget_secrets(environ)
    started = start_worker(rt, stopped)
    log.info("worker.started", host=rt.journal.host)
    while not stopped.is_set():
        time.sleep(_LOOK_SECONDS)
    log.info("worker.stopping")
    until = time.monotonic() + UNIT_SECONDS
    for thread in started:
        thread.join(max(0.0, until - time.monotonic()))
    log.info("worker.stopped")
    rt.close()
