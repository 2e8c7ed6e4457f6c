"""Run jobs: in threads beside a server, or as a process of their own (`python -m gateway worker`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping, Sequence

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

    def once(self) -> bool:
        """Run each job that is due; whether any found work. A job that fails is logged and does not stop the others."""
        results = [self._run(job) for job in self._jobs if self._is_due(job)]
        return any(results)

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


def start_worker(rt: Runtime, stopped: threading.Event | None = None, *, threads: int = 1) -> list[threading.Thread]:
    """Start the threads of a worker in this process: `threads` for units, one for events, one for housekeeping."""
    stopped = stopped or threading.Event()
    kinds = [("worker", unit_jobs, IDLE_SECONDS)] * threads
    kinds += [("events", event_jobs, 1.0), ("housekeeping", housekeeping_jobs, IDLE_SECONDS)]
    started = []
    for name, jobs, pause_seconds in kinds:
        run = Worker(rt, jobs()).run
        started.append(threading.Thread(target=run, args=(stopped, pause_seconds), name=name, daemon=True))
        started[-1].start()
    return started


def run_workers(environ: MutableMapping[str, str], stopped: threading.Event, *, threads: int) -> None:
    """Work with the settings in `environ` until `stopped` is set. Raises SettingsRefused with all problems."""
    start_log()
    rt = build_runtime(read_settings(environ))
    forget_secrets(environ)
    start_heartbeat(rt, stopped)
    started = start_worker(rt, stopped, threads=threads)
    log.info("worker.started", threads=threads, host=rt.journal.host)
    while not stopped.wait(PROGRESS_SECONDS):
        _log_progress(rt)
    log.info("worker.stopping")
    until = time.monotonic() + UNIT_SECONDS
    for thread in started:
        thread.join(max(0.0, until - time.monotonic()))
    log.info("worker.stopped")
    rt.close()


def _log_progress(rt: Runtime) -> None:
    """What is due in the whole installation."""
    try:
        lag = worker_backlog(rt.database)
    except GatewayError as error:
        log.warning("worker.progress_failed", error=error.slug)
        return
    log.info(
        "worker.progress",
        due=lag["due"],
        oldest_due_seconds=round(float(lag["oldest_due_seconds"])),
        revocations=lag["revocations"],
    )
