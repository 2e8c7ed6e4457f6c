"""
Checking the whole chain, or its end: page by page, against its own hashes and against what is known of it elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.database.ledgering import Ledger, RawEvent
from gateway.events import chain
from gateway.events.chain import Check, Problem, fault, key_of, stray
from gateway.events.heads import known, made_anew, place, remembered, wrong, wrong_since
from gateway.services import Runtime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a check is: the last position that was found right, the one where it will end, and the problem that ended it."""

    position: int
    until: int
    checked: int
    hash: str
    problem: Problem | None = None


def verify(
    rt: Runtime, heads: Sequence[tuple[int, str]] = (), *, last: int | None = None, alone: bool = False
) -> Iterator[Progress]:
    """
    Checks the chain from its beginning, or its `last` rows, up to where it ends when it is asked; says so page by page.

    `heads`: positions and hashes that the log told of, which have to stand still, as has what this host remembers unless it is checked
    `alone`. Ends at the first problem. Raises DatabaseUnavailable, and SecretUnreadable where the key does not open.
    """
    seen = None if alone else remembered(rt)
    ledger = rt.store.ledger(seen=place(seen))
    if ledger.sealed_key is None and not ledger.position:
        yield Progress(0, 0, 0, "", _unknown(heads, ledger) or wrong_since(ledger, seen) or stray(ledger))
        return
    check = Check(key_of(rt, ledger.sealed_key), ledger)
    seen, ends = (None, ledger) if alone else known(rt, check.key, ledger, seen)
    problem = check.front() or _unknown(heads, ledger) or wrong_since(ledger, seen)
    begin = max(ledger.dropped_position, ledger.position - last) if last is not None else ledger.dropped_position
    if problem is None and begin > ledger.dropped_position:
        problem = _begun_at(rt, check, begin)
    checked = 0
    while problem is None and check.position < ledger.position:
        until, stood = min(check.position + chain.MOST, ledger.position), check.position
        rows, _ = rt.store.ledger_page(after=check.position, most=until - check.position)
        problem = check.page(rows, until) or _anew(dict(heads), stood, check, rows)
        if problem is not None and _dropped_meanwhile(rt, check, problem):
            problem = None
        checked += max(0, check.position - stood)
        yield Progress(check.position, ledger.position, checked, check.hash, problem)
    problem = problem or check.end() or wrong(check.key, ends, seen)
    yield Progress(check.position, ledger.position, checked, check.hash, problem)


def _begun_at(rt: Runtime, check: Check, begin: int) -> Problem | None:
    rows, _ = rt.store.ledger_page(after=begin - 1, most=1)
    for row in rows[:1]:
        check.begin_at(row)
    return None if rows else fault("removed", begin)


def _unknown(heads: Sequence[tuple[int, str]], ledger: Ledger) -> Problem | None:
    """A position that the log knows, and the chain does not reach."""
    for position, digest in sorted(heads):
        if position > ledger.position:
            says = (
                f"The log knows of position {position}, and the chain ends at {ledger.position}: its end was cut off."
            )
            return Problem("cut_off", ledger.position + 1, position, says)
        if position == ledger.dropped_position and digest != ledger.dropped_hash:
            return made_anew(position)
    return None


def _anew(known: dict[int, str], stood: int, check: Check, rows: Sequence[RawEvent]) -> Problem | None:
    """A position in this page that the log knows by another hash. All rows of it were found right before."""
    for row in rows:
        position = row.position or 0
        if stood < position <= check.position and known.get(position, row.hash) != row.hash:
            return made_anew(position)
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
