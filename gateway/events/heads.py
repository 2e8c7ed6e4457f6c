"""
The end of the chain, held against what was known of it: nothing is sealed behind an end that is not the one that was sealed.

A head without the key cannot be marked, but an old one could be put back with its mark. So each host keeps the highest that it has
sealed or seen, beside its journal. Only whoever runs the gateway may go on from an older one: after a backup was restored.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from gateway.database.ledgering import Ends, Ledger
from gateway.errors import SecretUnreadable
from gateway.events.chain import LedgerBroken, Problem, key_of, mark_of, wrong_front, wrong_head
from gateway.services import Runtime

_NOTE = "ledger"


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """A head that is known. `accepted`: how often an older one was gone on from before it; the newest of that counts."""

    accepted: int
    position: int
    hash: str


def remembered(rt: Runtime) -> Seen | None:
    """The highest head that this host has sealed or seen. Ask it before the database: nobody puts that back meanwhile."""
    note = rt.journal.note(_NOTE)
    return None if note is None else Seen(*note)


def place(seen: Seen | None) -> int | None:
    """Of which position the database is asked what stands there."""
    return None if seen is None else seen.position


def remember(rt: Runtime, seen: Seen) -> None:
    """Keeps it, unless a higher one is known."""
    rt.journal.keep_note(_NOTE, [seen.accepted, seen.position, seen.hash])


def known(rt: Runtime, key: bytes, ends: Ends, seen: Seen | None) -> tuple[Seen | None, Ends]:
    """What `ends` are held against: what was seen, or an older head that was accepted since; and `ends` with the hash at that place."""
    said = _accepted(key, ends)
    if said is None or (seen is not None and said.accepted <= seen.accepted):
        return seen, ends
    return said, replace(ends, at_seen=rt.store.ledger(seen=said.position).at_seen)


def _accepted(key: bytes, ends: Ends) -> Seen | None:
    number, position, digest, mark = ends.accepted.split(" ") if ends.accepted.count(" ") == 3 else ("", "", "", "")  # noqa: PLR2004
    if not (number.isdecimal() and position.isdecimal()):
        return None
    marked = hmac.compare_digest(mark_of(key, f"accepted {number}", int(position), digest), mark)
    return Seen(int(number), int(position), digest) if marked else None


def wrong(key: bytes, ends: Ends, seen: Seen | None) -> Problem | None:
    """What is wrong with where the chain is said to end."""
    below = wrong_since(ends, seen)
    if below is not None:
        return below
    there = ends.at_head if ends.position > ends.dropped_position else ends.dropped_hash
    return wrong_front(key, ends) or wrong_head(key, ends, there) or _another(ends, seen)


def wrong_since(ends: Ends, seen: Seen | None) -> Problem | None:
    """Whether the end was put back, or cut off."""
    if seen is None or ends.position >= seen.position:
        return None
    says = (
        f"Position {seen.position} was sealed, and the chain ends at {ends.position}: its end was cut off or put back."
    )
    return Problem("cut_off", ends.position + 1, seen.position, says)


def _another(ends: Ends, seen: Seen | None) -> Problem | None:
    if seen is None or not seen.position or seen.position < ends.dropped_position:
        return None
    at = ends.dropped_hash if seen.position == ends.dropped_position else ends.at_seen
    return None if hmac.compare_digest(at or "", seen.hash) else made_anew(seen.position)


def made_anew(position: int) -> Problem:
    """Where another hash was known to stand."""
    says = f"Position {position} has another hash than it is known by: the chain was made anew."
    return Problem("made_anew", position, position, says)


# -- whether it may be gone on from ----------------------------------------------------------------------------------


def fit_to_seal(rt: Runtime, ends: Ends, seen: Seen | None) -> tuple[bytes, int]:
    """
    The chain's key, and how often an older head was accepted. Raises LedgerBroken where nothing may be sealed behind `ends`, and
    SecretUnreadable where the key does not open.
    """
    if ends.sealed_key is None and (below := wrong_since(ends, seen)) is not None:
        raise LedgerBroken(below)
    key = key_of(rt, ends.sealed_key)
    seen, ends = known(rt, key, ends, seen)
    if (problem := wrong(key, ends, seen)) is not None:
        raise LedgerBroken(problem)
    return key, 0 if seen is None else seen.accepted


def judged(rt: Runtime) -> Ledger:
    """The chain's state, whose end is remembered from then on. Raises as `fit_to_seal`."""
    seen = remembered(rt)
    ledger = rt.store.ledger(seen=place(seen))
    if ledger.sealed_key is not None or ledger.position or seen is not None:
        _, accepted = fit_to_seal(rt, ledger, seen)
        remember(rt, Seen(accepted, ledger.position, ledger.hash))
    return ledger


def standing(rt: Runtime) -> str | None:
    """Why nothing can be sealed, in a sentence, or None. Raises DatabaseUnavailable."""
    try:
        judged(rt)
    except (LedgerBroken, SecretUnreadable) as error:
        return str(error)
    return None


def accept_head(rt: Runtime, position: int, digest: str) -> bool:
    """
    Lets the chain go on from that head, which a check has found right, on every host; tells so in the chain.

    False where rows stand behind it, or the head moved just now. Raises SecretUnreadable and DatabaseUnavailable.
    """
    seen = remembered(rt)
    ledger = rt.store.ledger()
    key = key_of(rt, ledger.sealed_key)
    said = _accepted(key, ledger)
    number = 1 + max(each.accepted for each in (seen, said, Seen(0, 0, "")) if each is not None)
    mark = mark_of(key, f"accepted {number}", position, digest)
    instead = max(ledger.position, 0 if seen is None else seen.position)
    done = rt.store.accept_head(
        ledger,
        position=position,
        digest=digest,
        mark=mark_of(key, "head", position, digest),
        accepted=f"{number} {position} {digest} {mark}",
        data={"position": position, "hash": digest, "known": instead},
    )
    if done:
        remember(rt, Seen(number, position, digest))
    return done
