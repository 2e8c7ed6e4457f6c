"""
The heartbeat of a process: which encryption keys it has, by fingerprints that show nothing of them.

Key rotation and the doctor compare these to find a host that lacks a key.
"""

from __future__ import annotations

import threading

import structlog

from gateway.database.queries.hosts import report_host
from gateway.errors import GatewayError
from gateway.services import Runtime

log = structlog.get_logger(__name__)

EVERY_SECONDS = 60.0


def start_heartbeat(rt: Runtime, stopped: threading.Event | None = None) -> threading.Event:
    """Report from a thread of its own, now and every minute, until the event is set or the process ends."""
    stopped = stopped or threading.Event()
    threading.Thread(target=_run, args=(rt, stopped), name="heartbeat", daemon=True).start()
    return stopped


def _run(rt: Runtime, stopped: threading.Event) -> None:
    while True:
        try:
            report_host(rt.database, host=rt.journal.host, keys=rt.vault.key_ids())
        except GatewayError as error:
            log.warning("heartbeat.report_failed", error=error.slug)
        if stopped.wait(EVERY_SECONDS):
            return
