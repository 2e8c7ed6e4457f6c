"""
Work that nobody waits for: one unit at a time, and whether there was any.

Several workers may run, in as many processes: each unit is claimed in the database.
"""

from __future__ import annotations

import threading

import structlog

from gateway import revocation
from gateway.errors import GatewayError
from gateway.runtime import Runtime

log = structlog.get_logger(__name__)

IDLE_SECONDS = 5.0


def work_once(rt: Runtime) -> bool:
    """One unit, whatever is due; whether there was any."""
    return revocation.work_once(rt)


def work(rt: Runtime, stopped: threading.Event) -> None:
    """Works until `stopped` is set. A failure is told and waited out; the unit stays claimed in the database until then."""
    while not stopped.is_set():
        try:
            busy = work_once(rt)
        except GatewayError as error:
            log.warning("work.failed", error=error.slug, reason=str(error))
            busy = False
        except Exception as error:  # noqa: BLE001 - a defect in one unit must not end the work of all others
            # Without the traceback, whose messages may hold what a log must not.
            log.error("work.failed", error="unexpected", kind=type(error).__name__)  # noqa: TRY400
            busy = False
        if not busy:
            stopped.wait(IDLE_SECONDS)


def start_worker(rt: Runtime) -> threading.Event:
    """A worker in a thread of this process, for installations without one of their own; set the event to end it."""
    stopped = threading.Event()
    threading.Thread(target=work, args=(rt, stopped), name="worker", daemon=True).start()
    return stopped
