"""
Run jobs: in threads beside a server, or as a process of their own (`python -m gateway worker`).

The first SIGTERM or SIGINT ends the process after the current units, a second one at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from types import FrameType

import structlog

from gateway.database.queries.operator import worker_backlog
from gateway.errors import GatewayError
from gateway.log_setup import start_log
from gateway.services import Runtime, build_runtime
from gateway.settings import forget_secrets, read_settings
from gateway.tokens import refresh_request
from gateway.worker.heartbeat import start_heartbeat
from gateway.worker.jobs import Job, event_jobs, housekeeping_jobs, unit_jobs

log = structlog.get_logger(__name__)

IDLE_SECONDS = refresh_request.LOOK_SECONDS
PROGRESS_SECONDS = 30.0
UNIT_SECONDS = 30.0
"""The longest unit: requests to a provider, and the database calls around them."""


class Worker:
    """Runs jobs in turn until it is stopped."""

    def __init__(
        self, rt: Runtime, jobs: Sequence[Job] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rt = rt
        self._jobs = unit_jobs() if jobs is None else jobs
        self._clock = clock
        self._ran_at: dict[str, float] = {}
        self.done = 0
        """Rounds in which there was work."""

    def once(self) -> bool:
        """Run each job that is due; whether any found work. A job that fails is logged and does not stop the others."""
        results = [self._run(job) for job in self._jobs if self._is_due(job)]
        found = any(results)
        self.done += found
        return found

    def run(self, stopped: threading.Event, pause_seconds: float = IDLE_SECONDS) -> None:
        """Work until `stopped` is set, with a pause whenever there is nothing to do."""
        while not stopped.is_set():
            if not self.once():
                stopped.wait(pause_seconds)

    def _is_due(self, job: Job) -> bool:
        return self._clock() - self._ran_at.get(job.name, float("-inf")) >= job.every_seconds

    def _run(self, job: Job) -> bool:
        self._ran_at[job.name] = self._clock()
        try:
            return bool(job.run(self._rt))
        except GatewayError as error:
            log.warning("job.failed", job=job.name, error=error.slug, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a defect in one job must not end the others
            # Without the traceback: its messages may hold secrets.
            log.error("job.failed", job=job.name, error="unexpected", kind=type(error).__name__)  # noqa: TRY400
        return False


def start_worker(rt: Runtime, stopped: threading.Event | None = None, *, threads: int = 1) -> list[Worker]:
    """Start the threads of a worker in this process: `threads` for units, one for events, one for housekeeping."""
    stopped = stopped or threading.Event()
    units = [Worker(rt) for _ in range(threads)]
    for worker in units:
        _start(worker, stopped, IDLE_SECONDS, "worker")
    _start(Worker(rt, event_jobs()), stopped, 1.0, "events")
    _start(Worker(rt, housekeeping_jobs()), stopped, IDLE_SECONDS, "housekeeping")
    return units


def _start(worker: Worker, stopped: threading.Event, pause_seconds: float, name: str) -> None:
    threading.Thread(target=worker.run, args=(stopped, pause_seconds), name=name, daemon=True).start()


def run_workers(environ: MutableMapping[str, str], *, threads: int) -> None:
    """Work with the settings in `environ` until a signal comes. Raises SettingsRefused with all problems."""
    start_log()
    rt = build_runtime(read_settings(environ))
    forget_secrets(environ)
    stopped = _stopped_by_signal()
    start_heartbeat(rt, stopped)
    before = set(threading.enumerate())
    workers = start_worker(rt, stopped, threads=threads)
    started = set(threading.enumerate()) - before
    log.info("worker.started", threads=threads, host=rt.journal.host)
    while not stopped.wait(PROGRESS_SECONDS):
        _log_progress(rt, workers)
    log.info("worker.stopping")
    until = time.monotonic() + UNIT_SECONDS
    for thread in started:
        thread.join(max(0.0, until - time.monotonic()))
    log.info("worker.stopped", units=sum(worker.done for worker in workers))
    rt.store.close()
    rt.http.close()


def _stopped_by_signal() -> threading.Event:
    stopped = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


def _log_progress(rt: Runtime, workers: Sequence[Worker]) -> None:
    """What this process has done since its start, and what is due in the whole installation."""
    try:
        lag = worker_backlog(rt.database)
    except GatewayError as error:
        log.warning("worker.progress_failed", error=error.slug)
        return
    log.info(
        "worker.progress",
        units=sum(worker.done for worker in workers),
        due=lag["due"],
        oldest_due_seconds=round(float(lag["oldest_due_seconds"])),
        revocations=lag["revocations"],
    )
