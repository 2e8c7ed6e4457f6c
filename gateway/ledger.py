"""
The ledger: every event in one chain, so that one who changes, removes or reorders rows in the database is found out.

Requests append rows; one sealer at a time gives committed ones their place and an HMAC-SHA-256 over the row and the hash before it.
The chain's key is sealed by the vault, so that the database alone cannot make a hash. Knows how rows are chained and checked;
what is in them is others' business.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import structlog

from gateway.errors import SecretUnreadable
from gateway.runtime import Runtime
from gateway.store.ledgering import Ledger, RawEvent

log = structlog.get_logger(__name__)

MOST = 500
"""Rows sealed, read or dropped at a time."""
LEASE_SECONDS = 5.0
"""How long a sealer that died keeps the others away."""

_PLACE = {"row": "ledger", "column": "ledger", "generation": 0}
_KEY_BYTES = 32

Kind = Literal["changed", "removed", "reordered", "inserted", "cut_off", "made_anew", "front", "head"]


# -- the chain -------------------------------------------------------------------------------------------------------


def row_hash(key: bytes, before: str, row: RawEvent, position: int) -> str:
    """The hash (hex) of a row at that place behind one of hash `before`, "" for the first: over each column, as it stands."""
    columns = dict(row.columns) | {"at": row.at.isoformat(), "position": position}
    said = json.dumps(columns, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hmac.digest(key, f"{before}{said}".encode(), hashlib.sha256).hex()


def mark_of(key: bytes, what: Literal["head", "front"], position: int, digest: str) -> str:
    """What proves that the chain was brought to end, or to begin, there by one who has the key. No row's hash begins like it."""
    return hmac.digest(key, f"{what} {position} {digest}".encode(), hashlib.sha256).hex()


def _open_key(rt: Runtime, sealed: str) -> bytes:
    return bytes.fromhex(rt.vault.open(sealed, **_PLACE))  # type: ignore[arg-type]


def _key_of(rt: Runtime, sealed: str | None) -> bytes:
    """The chain's key, made at first need. A chain that has begun and lost it gets no other: the database refuses to keep one."""
    if sealed is None:
        ours = rt.vault.seal(secrets.token_bytes(_KEY_BYTES).hex(), **_PLACE)  # type: ignore[arg-type]
        sealed = rt.store.keep_ledger_key(ours)
    if sealed is None:
        raise SecretUnreadable("the ledger has lost its key")
    return _open_key(rt, sealed)


def seal_once(rt: Runtime) -> int:
    """
    Seals the oldest rows that wait, MOST at a time; how many. 0: there are none, or another sealer is at them.

    Raises DatabaseUnavailable, and SecretUnreadable where the ledger's key does not open.
    """
    waiting = rt.store.unsealed_events(most=MOST, lease_seconds=LEASE_SECONDS)
    if waiting is None or not waiting.rows:
        return 0
    key = _key_of(rt, waiting.sealed_key)
    digest, sealed = waiting.hash, []
    for position, row in enumerate(waiting.rows, start=waiting.position + 1):
        digest = row_hash(key, digest, row, position)
        sealed.append((row.id, digest))
    done = rt.store.seal_events(
        head_position=waiting.position,
        head_hash=waiting.hash,
        sealed=sealed,
        mark=mark_of(key, "head", waiting.position + len(sealed), digest),
    )
    return len(sealed) if done else 0


def seal_all(rt: Runtime) -> int:
    """Everything that waits just now, without a pause; how many rows."""
    total = 0
    while done := seal_once(rt):
        total += done
        if done < MOST:
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
    rows, before = rt.store.ledger_page(after=ledger.dropped_position, most=MOST, days=days)
    if before is None or not rows or rows[0].at >= before:
        return 0
    check = Check(_open_key(rt, ledger.sealed_key), ledger)
    if (problem := check.front() or check.page(_older(rows, before))) is not None:
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


def _older(rows: Sequence[RawEvent], before: object) -> list[RawEvent]:
    """Those before the first that is too young."""
    kept = next((place for place, row in enumerate(rows) if row.at >= before), len(rows))  # type: ignore[operator]
    return list(rows[:kept])


# -- checking it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """The first thing that is wrong, and where: from `position` to `until`."""

    kind: Kind
    position: int
    until: int
    says: str


def _problem(kind: Kind, position: int, until: int | None = None, says: str = "") -> Problem:
    last = position if until is None else until
    where = f"position {position}" if last == position else f"positions {position}–{last}"
    words = {
        "changed": f"The event at {where} was changed.",
        "removed": f"The events at {where} were removed." if last > position else f"The event at {where} was removed.",
        "reordered": f"The events at {where} were reordered.",
        "inserted": f"An event was inserted at {where}.",
    }
    return Problem(kind, position, last, says or words[kind])


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
        if not ledger.dropped_position and not ledger.dropped_hash:
            return None
        mark = mark_of(self.key, "front", ledger.dropped_position, ledger.dropped_hash)
        if hmac.compare_digest(mark, ledger.dropped_mark):
            return None
        says = f"The events up to position {ledger.dropped_position} were removed: the gateway did not drop them."
        return Problem("front", 1, ledger.dropped_position, says)

    def page(self, rows: Sequence[RawEvent], until: int | None = None) -> Problem | None:
        """The next rows, which have to reach up to position `until`."""
        for place, row in enumerate(rows):
            wanted = self.position + 1
            if row.position != wanted and (row.position or 0) > wanted:
                return _problem("removed", wanted, (row.position or 0) - 1)
            if row.position != wanted:
                return _problem("inserted", row.position or 0)
            digest = row_hash(self.key, self.hash, row, wanted)
            if not hmac.compare_digest(digest, row.hash or ""):
                return self._misplaced(rows[place:], wanted)
            self.position, self.hash = wanted, digest
        if until is not None and self.position < until:
            return _problem("removed", self.position + 1, until)
        return None

    def _misplaced(self, rows: Sequence[RawEvent], wanted: int) -> Problem:
        """A row that is not what stood there: another's place was given to it, or it was changed where it stands."""
        for place, row in enumerate(rows[1:], start=1):
            if row_hash(self.key, self.hash, row, wanted) == row.hash:
                follows = any(row_hash(self.key, row.hash, other, wanted + 1) == other.hash for other in rows[:place])
                return _problem("reordered", wanted, wanted + place) if follows else _problem("inserted", wanted)
        return _problem("changed", wanted)

    def end(self) -> Problem | None:
        """Whether it ends where it was brought to end, and nothing stands behind that."""
        ledger = self.ledger
        if (stray := _stray(ledger)) is not None:
            return stray
        mark = mark_of(self.key, "head", ledger.position, ledger.hash)
        if ledger.position and not (
            hmac.compare_digest(mark, ledger.mark) and hmac.compare_digest(self.hash, ledger.hash)
        ):
            says = f"The end of the chain, position {ledger.position}, is not the one that was sealed."
            return Problem("head", ledger.position, ledger.position, says)
        return None


def _stray(ledger: Ledger) -> Problem | None:
    if not ledger.beyond:
        return None
    says = f"Events stand behind the end of the chain, position {ledger.position}."
    return Problem("inserted", ledger.position + 1, ledger.position + 1, says)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is: the last position that was found right, the one where it will end, and the problem that ended it."""

    position: int
    until: int
    checked: int
    hash: str
    problem: Problem | None = None


def verify(rt: Runtime, heads: Sequence[tuple[int, str]] = (), *, last: int | None = None) -> Iterator[Progress]:
    """
    Checks the chain from its beginning, or its `last` rows, up to where it ends when it is asked; says so page by page.

    `heads`: positions and hashes that the log told of, which have to stand still. Ends at the first problem. Raises
    DatabaseUnavailable, and SecretUnreadable where the key does not open.
    """
    ledger = rt.store.ledger()
    if ledger.sealed_key is None and not ledger.position:
        yield Progress(0, 0, 0, "", _unknown(heads, ledger) or _stray(ledger))
        return
    check = Check(_key_of(rt, ledger.sealed_key), ledger)
    problem = check.front() or _unknown(heads, ledger)
    begin = max(ledger.dropped_position, ledger.position - last) if last is not None else ledger.dropped_position
    if problem is None and begin > ledger.dropped_position:
        rows, _ = rt.store.ledger_page(after=begin - 1, most=1)
        problem = _problem("removed", begin) if not rows else None
        for row in rows[:1]:
            check.begin_at(row)
    known, checked = dict(heads), 0
    while problem is None and check.position < ledger.position:
        until, stood = min(check.position + MOST, ledger.position), check.position
        rows, _ = rt.store.ledger_page(after=check.position, most=until - check.position)
        problem = check.page(rows, until) or _anew(known, stood, check, rows)
        if problem is not None and _dropped_meanwhile(rt, check, problem):
            problem = None
        checked += max(0, check.position - stood)
        yield Progress(check.position, ledger.position, checked, check.hash, problem)
    problem = problem or check.end()
    yield Progress(check.position, ledger.position, checked, check.hash, problem)


def _unknown(heads: Sequence[tuple[int, str]], ledger: Ledger) -> Problem | None:
    """A position that the log knows, and the chain does not reach."""
    for position, digest in sorted(heads):
        if position > ledger.position:
            says = (
                f"The log knows of position {position}, and the chain ends at {ledger.position}: its end was cut off."
            )
            return Problem("cut_off", ledger.position + 1, position, says)
        if position == ledger.dropped_position and digest != ledger.dropped_hash:
            return _made_anew(position)
    return None


def _made_anew(position: int) -> Problem:
    says = f"Position {position} has another hash than the log knows: the chain was made anew."
    return Problem("made_anew", position, position, says)


def _anew(known: dict[int, str], stood: int, check: Check, rows: Sequence[RawEvent]) -> Problem | None:
    """A position in this page that the log knows by another hash. All rows of it were found right before."""
    for row in rows:
        position = row.position or 0
        if stood < position <= check.position and known.get(position, row.hash) != row.hash:
            return _made_anew(position)
    return None


def _dropped_meanwhile(rt: Runtime, check: Check, problem: Problem) -> bool:
    """Whether what is missing was dropped by the gateway itself since this check began; then it goes on behind that."""
    now = rt.store.ledger()
    if problem.kind != "removed" or now.dropped_position < problem.position:
        return False
    moved = Check(check.key, replace(check.ledger, **{name: getattr(now, name) for name in _FRONT}))
    if moved.front() is not None:
        return False
    check.position, check.hash = now.dropped_position, now.dropped_hash
    return True


_FRONT = ("dropped_position", "dropped_hash", "dropped_mark")
