"""
Sealing what was committed, behind an end that is judged before; and dropping what is old, from the front.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from gateway.database.ledgering import RawEvent
from gateway.events import chain
from gateway.events.chain import Check, mark_of, open_key, row_hash
from gateway.events.heads import Seen, fit_to_seal, place, remember, remembered
from gateway.services import Runtime

log = structlog.get_logger(__name__)


def seal_once(rt: Runtime) -> int:
    """
    Seals the oldest rows that wait, MOST at a time; how many. 0: there are none, or another sealer is at them.

    Raises LedgerBroken where the chain does not end as it was sealed, DatabaseUnavailable, and SecretUnreadable where its key does
    not open.
    """
    seen = remembered(rt)
    waiting = rt.store.unsealed_events(most=chain.MOST, lease_seconds=chain.LEASE_SECONDS, seen=place(seen))
    if waiting is None or not waiting.rows:
        return 0
    ends = waiting.ends
    key, accepted = fit_to_seal(rt, ends, seen)
    digest, sealed = ends.hash, []
    for position, row in enumerate(waiting.rows, start=ends.position + 1):
        digest = row_hash(key, digest, row, position)
        sealed.append((row.id, digest))
    last = ends.position + len(sealed)
    done = rt.store.seal_events(
        head_position=ends.position, head_hash=ends.hash, sealed=sealed, mark=mark_of(key, "head", last, digest)
    )
    if done:
        remember(rt, Seen(accepted, last, digest))
    return len(sealed) if done else 0


def seal_all(rt: Runtime) -> int:
    """Everything that waits just now, without a pause; how many rows."""
    total = 0
    while done := seal_once(rt):
        total += done
        if done < chain.MOST:
            break
    return total


def drop_once(rt: Runtime) -> int:
    """
    Drops what is older than GATEWAY_EVENTS_DAYS whole days, from the front and MOST rows at a time; how many.

    Only rows that are as they were sealed: what somebody changed stays, to be found.
    """
    days = rt.settings.events_days
    ledger = rt.store.ledger()
    if ledger.sealed_key is None:
        return 0
    rows, before = rt.store.ledger_page(after=ledger.dropped_position, most=chain.MOST, days=days)
    if before is None or not (old := _older(rows, before)):
        return 0
    check = Check(open_key(rt, ledger.sealed_key), ledger)
    if (problem := check.front() or check.page(old)) is not None:
        log.error("ledger.broken", problem=problem.kind, position=problem.position)
        return 0
    dropped = check.position - ledger.dropped_position
    done = dropped and rt.store.drop_events(
        from_position=ledger.dropped_position,
        until_position=check.position,
        until_hash=check.hash,
        mark=mark_of(check.key, "front", check.position, check.hash),
        days=days,
    )
    return dropped if done else 0


def _older(rows: Sequence[RawEvent], before: datetime) -> list[RawEvent]:
    """Those before the first that is too young, or of no time at all."""
    kept = next((place for place, row in enumerate(rows) if row.at is None or row.at >= before), len(rows))
    return list(rows[:kept])
