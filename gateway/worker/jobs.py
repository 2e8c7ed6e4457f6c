"""
The jobs of a worker.

Several workers may run, in any number of processes and on any number of hosts: each unit of work is claimed in the database.
"""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.connect import unclaimed
from gateway.connections import import_existing, locations, revoke
from gateway.database.queries.events import read_chain
from gateway.database.queries.operator import housekeeping, report_host
from gateway.events import chain
from gateway.services import Runtime
from gateway.tokens import refresh_request
from gateway.webhooks import deliver, receive

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """
    One kind of work, done no more often than `every_seconds`. `run` returns whether there was any; for work at providers it gets the ones
    to leave alone too, and returns units that run in threads of their own.
    """

    name: str
    run: Callable[..., object]
    every_seconds: float = 0.0
    is_local: bool = False
    """Done whatever the state of the provider, one unit at a time: it is rarely called."""


UNIT_JOBS = (
    Job("journal", refresh_request.find_unsaved, 1.0, is_local=True),  # first: only this host can replay it
    Job("refresh", refresh_request.claim_next),
    Job("revocation", revoke.claim_next),
    Job("import", import_existing.claim_next),
    Job("listing", locations.claim_next, 60.0),
    Job("unclaimed", unclaimed.claim_next, 60.0),
)
WEBHOOK_JOBS = (Job("webhooks", deliver.claim_next),)
"""Apart from the others: receivers wait for no provider, and are looked for every second."""
HEARTBEAT = Job("heartbeat", lambda rt: report_host(rt.database, host=rt.journal.host, keys=rt.vault.key_ids()), 60.0)
"""Report the fingerprints of this process's keys: key rotation and the doctor find a host that lacks one."""
HOUSEKEEPING = Job("housekeeping", lambda rt: housekeeping(rt.database, events_days=rt.settings.events_days), 60.0)
"""Remove what has expired, announce grants that will expire soon, and drop old events."""


def _log_checkpoint(rt: Runtime) -> None:
    """The end of the chain, which `events verify --head` compares with it."""
    end = read_chain(rt.database).end
    if end.hash:
        log.info("events.checkpoint", position=end.position, hash=end.hash)


EVENT_JOBS = (
    Job("positions", chain.assign_positions, 1.0),
    Job("seals", chain.seal_events, 1.0),
    Job("provider_events", receive.settle, 1.0),
    Job("checkpoint", _log_checkpoint, 60.0),
)
"""Positions first, since readers wait for them; the hash chain follows, and its failures do not stop positions."""
