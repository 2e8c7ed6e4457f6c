"""Verify the hash chain: segment by segment, and against checkpoints from the log."""

import hmac
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.database.queries import events
from gateway.database.queries.events import Chain, ChainPage, EventRow, Seal
from gateway.events.chain import SEGMENT, read_chain, segment_hash
from gateway.services import Runtime

Kind = Literal["changed", "removed", "cut_off", "replaced", "start"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong between the positions `first` and `last`."""

    kind: Kind
    first: int
    last: int
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification is, and the problems up to there. `seal`: the last one that was reached."""

    seal: Seal
    until: int
    checked: int
    problems: tuple[Problem, ...] = ()


def verify(rt: Runtime, checkpoints: Sequence[Seal] = (), *, last: int | None = None) -> Iterator[Progress]:
    """
    Verify the whole chain, or the segments that hold its `last` events, page by page.

    After a broken segment it continues with the stored seal of that segment, so that one problem does not hide another. `checkpoints` come
    from the log. Raises DatabaseUnavailable, and SecretUnreadable when the key does not decrypt.
    """
    chain, key = read_chain(rt)
    wanted = dict(checkpoints)
    problems = list(_outside(chain, wanted))
    reached, checked, drop_recorded = chain.start, 0, chain.start.position == 0
    if last is not None:
        first = events.read_chain_page(rt.database, after=max(chain.start.position, chain.end.position - last), limit=1)
        reached, drop_recorded = first.previous, True
    yield Progress(reached, chain.end.position, 0, tuple(problems))
    while reached.position < chain.end.position:
        page = events.read_chain_page(rt.database, after=reached.position, limit=SEGMENT)
        if page.previous.position > reached.position:  # dropped by the gateway since this began
            reached = page.previous
            continue
        for seal, rows in _segments(page):
            problems += _judge(key, reached, seal, rows)
            problems += _compare(wanted, reached, seal)
            drop_recorded = drop_recorded or any(_records_drop(row, chain.start) for row in rows)
            checked += len(rows)
            reached = seal
        if not page.seals:
            problems.append(_removed(reached.position + 1, chain.end.position))
            reached = chain.end
        yield Progress(reached, chain.end.position, checked, tuple(problems))
    unsealed = events.read_chain_page(rt.database, after=chain.end.position, limit=SEGMENT).rows
    if not drop_recorded and not any(_records_drop(row, chain.start) for row in unsealed):
        text = f"The events up to position {chain.start.position} were removed, and not by the gateway: no event records it."
        problems.append(Problem("start", 1, chain.start.position, text))
        yield Progress(reached, chain.end.position, checked, tuple(problems))


def _segments(page: ChainPage) -> Iterator[tuple[Seal, list[EventRow]]]:
    after = page.previous.position
    for seal in page.seals:
        yield seal, [row for row in page.rows if after < row["position"] <= seal.position]
        after = seal.position


def _judge(key: bytes, before: Seal, seal: Seal, rows: list[EventRow]) -> Iterator[Problem]:
    present = {row["position"] for row in rows}
    missing = [position for position in range(before.position + 1, seal.position + 1) if position not in present]
    if missing:
        yield _removed(missing[0], missing[-1])
    elif not hmac.compare_digest(segment_hash(key, before.hash, rows), seal.hash):
        where = _positions(before.position + 1, seal.position)
        text = f"{where} changed: an event there was changed, moved or replaced, or a seal was."
        yield Problem("changed", before.position + 1, seal.position, text)


def _compare(checkpoints: dict[int, str], before: Seal, seal: Seal) -> Iterator[Problem]:
    for position in sorted(checkpoints):
        if before.position < position <= seal.position and (position, checkpoints[position]) != seal:
            text = f"Position {position} has another hash than the log: events up to there were replaced."
            yield Problem("replaced", position, position, text)


def _outside(chain: Chain, checkpoints: dict[int, str]) -> Iterator[Problem]:
    if chain.rows_before_start:
        yield Problem("start", 0, chain.start.position, "There are events before the start of the chain.")
    for position, digest in sorted(checkpoints.items()):
        if position > chain.end.position:
            text = (
                f"The log has position {position}, and the chain ends at {chain.end.position}: "
                "its end was cut off, or a backup was restored."
            )
            yield Problem("cut_off", chain.end.position + 1, position, text)
        elif position == chain.start.position and digest != chain.start.hash:
            yield Problem("replaced", position, position, f"Position {position} has another hash than the log.")


def _records_drop(row: EventRow, start: Seal) -> bool:
    return row["type"] == "events.dropped" and bool(json.loads(row["data"]) == start._asdict())


def _removed(first: int, last: int) -> Problem:
    return Problem("removed", first, last, f"{_positions(first, last)} removed.")


def _positions(first: int, last: int) -> str:
    return (
        f"The event at position {first} was"
        if first == last
        else f"Events between the positions {first} and {last} were"
    )
