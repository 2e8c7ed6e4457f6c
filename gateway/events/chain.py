"""
How rows are chained, and how a chain is checked: hashes and marks under its key, and what is wrong first.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from gateway.database.ledgering import Ends, Ledger, RawEvent
from gateway.errors import GatewayError, SecretUnreadable
from gateway.services import Runtime

MOST = 500
"""Rows sealed, read or dropped at a time."""
LEASE_SECONDS = 5.0
"""How long a sealer that died keeps the others away."""

_PLACE = {"row": "ledger", "column": "ledger", "generation": 0}
_KEY_BYTES = 32

Kind = Literal["changed", "removed", "reordered", "inserted", "cut_off", "made_anew", "front", "head"]


def row_hash(key: bytes, before: str, row: RawEvent, position: int) -> str:
    """The hash (hex) of a row at that place behind one of hash `before`, "" for the first: over each column, as it stands."""
    columns = dict(row.columns) | {"at": row.said_at, "position": position}
    said = json.dumps(columns, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.digest(key, f"{before}{said}".encode(), hashlib.sha256).hex()


def mark_of(key: bytes, what: str, position: int, digest: str) -> str:
    """
    What proves that the chain was brought to end (`head`), or to begin (`front`), there by one who has the key.

    What a row's hash is made over begins with a hash or a brace, and so with none of these words.
    """
    return hmac.digest(key, f"{what} {position} {digest}".encode(), hashlib.sha256).hex()


def open_key(rt: Runtime, sealed: str) -> bytes:
    """The chain's key. Raises SecretUnreadable."""
    return bytes.fromhex(rt.vault.open(sealed, **_PLACE))  # type: ignore[arg-type]


def key_of(rt: Runtime, sealed: str | None) -> bytes:
    """The chain's key, made at first need. A chain that has begun and lost it gets no other: the database refuses to keep one."""
    if sealed is None:
        ours = rt.vault.seal(secrets.token_bytes(_KEY_BYTES).hex(), **_PLACE)  # type: ignore[arg-type]
        sealed = rt.store.keep_ledger_key(ours)
    if sealed is None:
        raise SecretUnreadable("the ledger has lost its key")
    return open_key(rt, sealed)


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong, and where: from `position` to `until`."""

    kind: Kind
    position: int
    until: int
    says: str


def fault(kind: Kind, position: int, until: int | None = None) -> Problem:
    """A problem of rows, in the words of its kind."""
    last = position if until is None else until
    where = f"position {position}" if last == position else f"positions {position}–{last}"
    words = {
        "changed": f"The event at {where} was changed.",
        "removed": f"The events at {where} were removed." if last > position else f"The event at {where} was removed.",
        "reordered": f"The events at {where} were reordered.",
        "inserted": f"An event was inserted at {where}.",
    }
    return Problem(kind, position, last, words[kind])


class LedgerBroken(GatewayError):
    """Nothing may be sealed behind what stands: that would make it right. `problem` is what is wrong."""

    meaning: ClassVar[str] = "The ledger does not end where it was sealed, so nothing more is sealed."
    next_step: ClassVar[str] = "Run `python -m gateway events verify`, and look for who wrote to the database."

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.says)
        self.problem = problem


class Check:
    """A walk along the chain, a page at a time. `position` and `hash`: of the last row that was found right."""

    def __init__(self, key: bytes, ledger: Ledger) -> None:
        self.key = key
        self.ledger = ledger
        self.position, self.hash = ledger.dropped_position, ledger.dropped_hash

    def begin_at(self, row: RawEvent) -> None:
        """From behind that row, whose own hash is believed."""
        self.position, self.hash = row.position or 0, row.hash or ""

    def front(self) -> Problem | None:
        """Whether the chain begins where it was brought to begin."""
        ledger = self.ledger
        if ledger.before:
            return Problem("front", 0, ledger.dropped_position, "Events stand in front of where the chain begins.")
        return wrong_front(self.key, ledger)

    def page(self, rows: Sequence[RawEvent], until: int | None = None) -> Problem | None:
        """The next rows, which have to reach up to position `until`."""
        for place, row in enumerate(rows):
            wanted = self.position + 1
            if row.position != wanted and (row.position or 0) > wanted:
                return fault("removed", wanted, (row.position or 0) - 1)
            if row.position != wanted:
                return fault("inserted", row.position or 0)
            digest = row_hash(self.key, self.hash, row, wanted)
            if not hmac.compare_digest(digest, row.hash or ""):
                return self._misplaced(rows[place:], wanted)
            self.position, self.hash = wanted, digest
        if until is not None and self.position < until:
            return fault("removed", self.position + 1, until)
        return None

    def _misplaced(self, rows: Sequence[RawEvent], wanted: int) -> Problem:
        """A row that is not what stood there: another's place was given to it, or it was changed where it stands."""
        for place, row in enumerate(rows[1:], start=1):
            if row_hash(self.key, self.hash, row, wanted) == row.hash:
                follows = any(row_hash(self.key, row.hash, other, wanted + 1) == other.hash for other in rows[:place])
                return fault("reordered", wanted, wanted + place) if follows else fault("inserted", wanted)
        return fault("changed", wanted)

    def end(self) -> Problem | None:
        """Whether it ends where it was brought to end, and nothing stands behind that."""
        ledger = self.ledger
        return stray(ledger) or wrong_head(self.key, ledger, self.hash)


def stray(ledger: Ledger) -> Problem | None:
    """Rows behind the end."""
    if not ledger.beyond:
        return None
    says = f"Events stand behind the end of the chain, position {ledger.position}."
    return Problem("inserted", ledger.position + 1, ledger.position + 1, says)


def wrong_front(key: bytes, ends: Ends) -> Problem | None:
    """Whether whoever moved the beginning had the key."""
    if not ends.dropped_position and not ends.dropped_hash:
        return None
    if hmac.compare_digest(mark_of(key, "front", ends.dropped_position, ends.dropped_hash), ends.dropped_mark):
        return None
    says = f"The events up to position {ends.dropped_position} were removed: the gateway did not drop them."
    return Problem("front", 1, ends.dropped_position, says)


def wrong_head(key: bytes, ends: Ends, there: str | None) -> Problem | None:
    """Whether whoever moved the end had the key, and the hash at it is the one that is really `there`."""
    if ends.position:
        marked = hmac.compare_digest(mark_of(key, "head", ends.position, ends.hash), ends.mark)
        right = marked and hmac.compare_digest(there or "", ends.hash)
    else:
        right = not ends.hash
    says = f"The end of the chain, position {ends.position}, is not the one that was sealed."
    return None if right else Problem("head", ends.position, ends.position, says)
