"""The worker's part: send the next events to an endpoint, each signed with the endpoint's secrets."""

import random
import time
from collections.abc import Collection
from functools import partial

import structlog
from pydantic_core import to_json
from standardwebhooks import Webhook as Signer

from gateway.database.queries.events import Event
from gateway.database.queries.webhooks import Attempt, Claim, claim_deliveries, end_delivery
from gateway.errors import GatewayError
from gateway.http import Deadline, parse_retry_after
from gateway.models import Unit
from gateway.services import Runtime
from gateway.webhooks.endpoints import read_secret

log = structlog.get_logger(__name__)

MOST_EVENTS = 20
"""One claim: few enough that a worker which crashes repeats little."""
MOST_OF_PARTNER = 4
"""Deliveries under way for one partner: receivers that hang leave the other places to other partners."""
DELIVERY_SECONDS = 10.0
CLAIM_SECONDS = 20.0
"""No further event of a claim is sent after this."""
LEASE_SECONDS = CLAIM_SECONDS + DELIVERY_SECONDS + 15.0
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 5.0, 4 * 3600.0
FAILURES_TO_DISABLE = 26
"""In a row. The waits between them are three days, and longer where no worker was running."""
_GONE = 410


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: deliver the next events of one endpoint. Nothing while too many deliveries are under way (`""` is busy)."""
    if "" in busy:
        return []
    claim = claim_deliveries(rt.database, most=MOST_EVENTS, of_partner=MOST_OF_PARTNER, lease_seconds=LEASE_SECONDS)
    return [] if claim is None else [Unit("", partial(_deliver_claimed, rt, claim))]


def _deliver_claimed(rt: Runtime, claim: Claim) -> None:
    """In order, until one fails or the endpoint is changed."""
    until, failures = Deadline.after(CLAIM_SECONDS), claim.failures
    for event in claim.events:
        attempt, retry_after = _deliver(rt, claim, event)
        end = partial(end_delivery, rt.database, claim.id, claim_id=claim.claim_id, attempt=attempt)
        if attempt.status is None or not 200 <= attempt.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
            failures += 1
            disabled = "gone" if attempt.status == _GONE else "failing" if failures >= FAILURES_TO_DISABLE else None
            log.warning("webhook.failed", webhook=str(claim.id), status=attempt.status, error=attempt.error)
            end(failures=failures, wait_seconds=_wait_seconds(failures, retry_after), disabled=disabled)
            return
        failures, is_last = 0, event is claim.events[-1] or not until.remaining()
        if not end(wait_seconds=0.0 if is_last else None) or is_last:
            return


def _deliver(rt: Runtime, claim: Claim, event: Event) -> tuple[Attempt, float | None]:
    """Send one event. Its response body is not read."""
    body = to_json({"type": event.type, "timestamp": event.at, "data": event})
    headers = _signed(rt, claim, str(event.id), body)
    started, status, error, retry_after = time.monotonic(), None, None, None
    try:
        deadline, share = Deadline.after(DELIVERY_SECONDS), f"webhook {claim.id}"
        with rt.http.stream("POST", claim.url, headers=headers, body=body, deadline=deadline, provider=share) as head:
            status, retry_after = head.status, parse_retry_after(head.headers.get("Retry-After"))
    except GatewayError as failed:
        error, retry_after = str(failed)[:200], failed.retry_after
    duration = round((time.monotonic() - started) * 1000)
    return Attempt(event.position, event.id, event.type, status, error, duration), retry_after


def _signed(rt: Runtime, claim: Claim, event_id: str, body: bytes) -> dict[str, str]:
    """Standard Webhooks: the id stays the same when an event is sent again; one signature for each secret."""
    now = rt.now()
    signatures = [Signer(read_secret(rt, secret)).sign(event_id, now, body.decode()) for secret in claim.secrets]
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _wait_seconds(failures: int, retry_after: float | None) -> float:
    """5, 15, 45 seconds … up to four hours, with jitter; longer where the receiver asks for it."""
    wait = min(_FIRST_WAIT_SECONDS * 3.0 ** min(failures - 1, 10), _LONGEST_WAIT_SECONDS)
    wait *= 0.9 + 0.2 * random.random()  # noqa: S311 - jitter, not a secret
    return max(wait, min(retry_after or 0.0, _LONGEST_WAIT_SECONDS))
