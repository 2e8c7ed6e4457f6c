"""
`python -m gateway worker`: a process that does nothing but the work that nobody waits for, in several threads.

Any number of them on any number of machines: each unit is claimed in the database. The first SIGTERM or SIGINT ends it after the
units under way, a second one at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import MutableMapping
from types import FrameType

import structlog

from gateway.errors import GatewayError
from gateway.log_setup import start_log
from gateway.services import Runtime, build_runtime
from gateway.settings import forget_secrets, read_settings
from gateway.worker.heartbeat import keep_announcing
from gateway.worker.jobs import Worker, start_sealer

log = structlog.get_logger(__name__)

PROGRESS_SECONDS = 30.0
UNIT_SECONDS = 30.0
"""No unit takes longer: one token request, one revocation, and the database's own bounds around them."""


class Counted(Worker):
    """A worker that counts its units."""

    done = 0

    def once(self) -> bool:
        """As a worker's."""
        busy = super().once()
        self.done += busy
        return busy


def run_workers(environ: MutableMapping[str, str], *, threads: int) -> None:
    """Works with the settings in `environ` until it is told to stop. Raises SettingsRefused with all problems."""
    start_log()
    rt = build_runtime(read_settings(environ))
    forget_secrets(environ)
    stopped = _told_to_stop()
    keep_announcing(rt, stopped)
    workers = [Counted(rt) for _ in range(threads)]
    running = [
        threading.Thread(target=worker.run, args=(stopped,), name=f"worker-{number}", daemon=True)
        for number, worker in enumerate(workers, start=1)
    ]
    for thread in running:
        thread.start()
    running.append(start_sealer(rt, stopped))
    log.info("worker.started", threads=threads, host=rt.journal.host)
    while not stopped.wait(PROGRESS_SECONDS):
        _tell(rt, workers)
    log.info("worker.stopping")
    until = time.monotonic() + UNIT_SECONDS
    for thread in running:
        thread.join(max(0.0, until - time.monotonic()))
    log.info("worker.stopped", units=sum(worker.done for worker in workers))
    rt.store.close()
    rt.http.close()


def _told_to_stop() -> threading.Event:
    stopped = threading.Event()

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopped


def _tell(rt: Runtime, workers: list[Counted]) -> None:
    """Progress: what was done since the start, and what is left in the whole installation."""
    try:
        lag = rt.store.lag()
    except GatewayError as error:
        log.warning("worker.progress", error=error.slug)
        return
    log.info(
        "worker.progress",
        units=sum(worker.done for worker in workers),
        due=lag["due"],
        oldest_due_seconds=round(float(lag["oldest_due_seconds"])),
        revocations=lag["revocations"],
    )
