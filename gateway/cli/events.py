"""
`python -m gateway events …`: the ledger, read and checked by whoever runs the gateway.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gateway.cli.context import interruptible, opened_runtime, opened_store, plainly
from gateway.database import Store
from gateway.database.ledgering import RawEvent
from gateway.events import Progress, accept_head, standing, verify
from gateway.services import Runtime

PAGE = 500
_LAST = 20
_LOOK_SECONDS = 1.0
_NAMES = ("id", "type", "connection_id", "user_id", "partner_id", "provider")


@click.group()
def events() -> None:
    """What happened, in the ledger's order."""


# -- reading ---------------------------------------------------------------------------------------------------------


@events.command("tail")
@click.option("--after", type=click.IntRange(0), help=f"Behind this position; the last {_LAST} unless told.")
@click.option("--follow", is_flag=True, help="Go on with what comes, until it is interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def tail(after: int | None, *, follow: bool, as_json: bool) -> None:
    """Sealed events, oldest first."""
    with opened_store() as store, interruptible() as stopped, suppress(BrokenPipeError):
        stands = store.ledger()
        begin = max(0, stands.position - _LAST) if after is None else after
        last = begin = max(begin, stands.dropped_position)
        while not stopped.is_set():
            for row in _behind(store, last):
                click.echo(json.dumps(_shown(row)) if as_json else _line(row))
                last = row.position or last
                if stopped.is_set():
                    break
            if not follow or stopped.wait(_LOOK_SECONDS):
                break
        if stands.oldest_unsealed_seconds > _LAST and not as_json:
            click.echo(f"{stands.unsealed} more are not sealed yet: no worker runs.", err=True)


def _behind(store: Store, after: int) -> Iterator[RawEvent]:
    """Everything sealed behind that position just now, a page at a time."""
    end = store.ledger().position
    while after < end:
        rows, _ = store.ledger_page(after=after, most=PAGE)
        yield from rows
        after += PAGE


def _shown(row: RawEvent) -> dict[str, Any]:
    return (
        {"position": row.position, "at": row.said_at}
        | {name: row.columns[name] for name in _NAMES}
        | {"data": json.loads(row.columns["data"] or "{}"), "hash": row.hash}
    )


def _line(row: RawEvent) -> str:
    said = row.columns
    who = f" partner {said['partner_id']}" if said["partner_id"] else ""
    what = f" {said['connection_id']}" if said["connection_id"] else ""
    data = "" if said["data"] == "{}" else " " + plainly(said["data"])
    at = row.said_at[:19].replace("T", " ")
    return f"{row.position:>8}  {at}  {said['type']:<32} {said['provider'] or '–':<14}{what}{who}{data}"


# -- checking --------------------------------------------------------------------------------------------------------


def _read_heads(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> tuple[tuple[int, str], ...]:
    """`POSITION:HASH` each, as the log tells of them; the hash is empty at position 0 alone."""
    found = [re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64}|)", text) for text in given]
    if not all(found):
        raise click.BadParameter("write it as POSITION:HASH, as `ledger.head` in the log has them.")
    return tuple((int(head[1]), head[2]) for head in found if head)


@events.command("verify")
@click.option(
    "--head",
    "heads",
    metavar="POSITION:HASH",
    multiple=True,
    callback=_read_heads,
    help="What the log told of; repeatable.",
)
@click.option(
    "--accept-head",
    "accept",
    is_flag=True,
    help="After a backup was restored: seal on from where the chain ends now, though it was longer before.",
)
@click.option("--json", "as_json", is_flag=True)
def verify_(heads: tuple[tuple[int, str], ...], *, accept: bool, as_json: bool) -> None:
    """Check the whole chain; names the first event that was changed, removed or moved, and ends with 1 then."""
    if accept and heads:
        raise click.UsageError("--accept-head goes on from what stands: without --head.")
    console = Console(stderr=True)
    columns = (TextColumn("Checking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with (
        opened_runtime() as rt,
        interruptible() as stopped,
        Bar(*columns, console=console, disable=not console.is_terminal) as shown,
    ):
        task = shown.add_task("", total=None)
        for progress in verify(rt, heads, alone=accept):
            end = progress
            shown.update(task, total=end.until, completed=end.position)
            if stopped.is_set():
                break
        accepted = _accept(rt, end) if accept and not stopped.is_set() else None
    interrupted = stopped.is_set() and end.problem is None and end.position < end.until
    if accepted:
        click.echo(accepted, err=as_json)
    _say(end, interrupted=interrupted, compared=bool(heads) or accept, as_json=as_json)
    sys.exit(1 if end.problem or interrupted else 0)


def _accept(rt: Runtime, end: Progress) -> str:
    """Makes the last event that is right the end, where the one that was known before is not; what to say of it."""
    was = standing(rt)
    if was is None:
        return "The chain ends where it was sealed: there is nothing to accept."
    if end.problem is not None and end.problem.kind not in ("head", "removed"):
        return "Not accepted: more is wrong than where it ends."
    if not accept_head(rt, end.position, end.hash):
        return f"Not accepted: events stand behind position {end.position}, or it moved just now."
    return f"{was}\nAccepted, and told in the ledger: it goes on from position {end.position}."


def _say(end: Progress, *, interrupted: bool, compared: bool, as_json: bool) -> None:
    if as_json:
        problem = end.problem and asdict(end.problem)
        whole = {
            "ok": not problem and not interrupted,
            "checked": end.checked,
            "position": end.position,
            "hash": end.hash,
        }
        click.echo(json.dumps(whole | {"problem": problem, "interrupted": interrupted}))
    elif end.problem is not None:
        click.echo(end.problem.says)
        click.echo(f"Up to position {end.position} everything is as it was sealed.")
    elif interrupted:
        click.echo(f"Interrupted. Up to position {end.position} of {end.until} everything is as it was sealed.")
    else:
        many = "1 event is as it was" if end.checked == 1 else f"{end.checked} events are as they were"
        click.echo(f"{many} sealed, up to position {end.position}, hash {end.hash}.")
        if not compared:
            click.echo(
                "Compare with the log, from outside the database: --head POSITION:HASH, as its `ledger.head` says."
            )
