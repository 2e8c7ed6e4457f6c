"""
Says which keys this process has, when it starts and every minute, so that a host that lacks one is seen before it matters.

Keys leave as marks that show nothing of them. Whoever compares the hosts does it elsewhere.
"""

from __future__ import annotations

import threading

import structlog

from gateway.errors import GatewayError
from gateway.services import Runtime

log = structlog.get_logger(__name__)

EVERY_SECONDS = 60.0


def keep_announcing(rt: Runtime, stopped: threading.Event | None = None) -> threading.Event:
    """Announces this process from a thread of its own until the event is set, or the process ends."""
    stopped = stopped or threading.Event()
    threading.Thread(target=_run, args=(rt, stopped), name="presence", daemon=True).start()
    return stopped


def _run(rt: Runtime, stopped: threading.Event) -> None:
    while True:
        try:
            rt.store.host_seen(host=rt.journal.host, keys=rt.vault.fingerprints())
        except GatewayError as error:
            log.warning("presence.untold", error=error.slug)
        if stopped.wait(EVERY_SECONDS):
            return
