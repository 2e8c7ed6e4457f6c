"""
Positions of events, and the hash chain over them: segments of consecutive positions, each sealed by an HMAC over its rows and the seal before it.

Delivery depends on the positions alone, and never waits for the chain. The vault encrypts the chain's key, so that the database alone is not
enough to make a seal.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable

from gateway.database.queries import events
from gateway.database.queries.events import Chain, EventRow
from gateway.errors import SecretUnreadable
from gateway.services import Runtime

BATCH = 1000
SEGMENT = 500
"""The most rows under one seal."""
_FORMAT = 1
_KEY_BYTES = 32
_KEY_COLUMN = "event_chain"


def assign_positions(rt: Runtime) -> int:
    """Assign positions to all events that are committed now; how many. An event that commits later gets a later position."""
    total = 0
    while assigned := events.assign_positions(rt.database, limit=BATCH):
        total += assigned
        if assigned < BATCH:
            break
    return total


def segment_hash(key: bytes, previous: str, rows: Iterable[EventRow]) -> str:
    """
    The hash over some rows and the seal before them: its format version, a dot, an HMAC-SHA-256 in hex.

    Only keys with a value are covered, so that a column which is added later does not change the hash of older rows.
    """
    present = [{name: value for name, value in row.items() if value is not None} for row in rows]
    content = {"format": _FORMAT, "previous": previous, "rows": present}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"{_FORMAT}.{hmac.digest(key, text.encode(), hashlib.sha256).hex()}"


def read_chain(rt: Runtime) -> tuple[Chain, bytes]:
    """
    The state of the chain and its key, which is made when it is first needed.

    Raises SecretUnreadable when the key does not decrypt, or is missing although the chain has begun.
    """
    chain = events.read_chain(rt.database)
    if chain.encrypted_key is None:
        new_key = rt.vault.encrypt(secrets.token_bytes(_KEY_BYTES).hex(), column=_KEY_COLUMN, seal_id=_KEY_COLUMN)
        chain = events.read_chain(rt.database, new_key=new_key)
    if chain.encrypted_key is None:
        raise SecretUnreadable("the key of the event chain is missing")
    return chain, bytes.fromhex(rt.vault.decrypt(chain.encrypted_key, column=_KEY_COLUMN, seal_id=_KEY_COLUMN))


def seal_events(rt: Runtime) -> int:
    """Seal all events that have a position and no seal; how many."""
    total = 0
    while sealed := _seal_segment(rt):
        total += sealed
    return total


def _seal_segment(rt: Runtime) -> int:
    chain, key = read_chain(rt)
    if chain.position <= chain.end.position:
        return 0
    rows = events.read_chain_page(rt.database, after=chain.end.position, limit=SEGMENT).rows
    if not rows:
        return 0
    last = rows[-1]["position"]
    digest = segment_hash(key, chain.end.hash, rows)
    return len(rows) if events.seal_events(rt.database, after=chain.end.position, position=last, hash=digest) else 0
