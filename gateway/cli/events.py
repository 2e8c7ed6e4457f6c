"""`python -m gateway events …`: read events and verify their hash chain."""

import json
import re
import time
from contextlib import suppress

import click

from gateway.cli.context import (
    Report,
    carry_out,
    interruptible,
    opened_database,
    opened_runtime,
    printable,
    reporting,
)
from gateway.database.queries import events as queries
from gateway.database.queries.events import EventRow, Seal
from gateway.database.queries.partners import list_partners
from gateway.events.verify import verify

PAGE = 500
_LAST = 20
_LOOK_SECONDS = 0.5
_SHOWN_PROBLEMS = 20
_NAMES = ("position", "id", "at", "type", "connection_id", "user_id", "partner_id", "provider")


@click.group()
def events() -> None:
    """The events, in order of position."""


@events.command("tail")
@click.option("--after", type=click.IntRange(0), help=f"Events after this position; by default the last {_LAST}.")
@click.option("--follow", is_flag=True, help="Continue with new events until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def tail(after: int | None, *, follow: bool, as_json: bool) -> None:
    """Show events, oldest first."""
    with opened_database() as database, interruptible() as stopped, suppress(BrokenPipeError):
        chain = queries.read_chain(database)
        last = max(0, chain.position - _LAST) if after is None else after
        names: dict[str, str] = {}
        while not stopped.is_set():
            rows = [
                row for row in queries.read_chain_page(database, after=last, limit=PAGE).rows if row["position"] > last
            ]
            if any(row["partner_id"] and row["partner_id"] not in names for row in rows):
                names = {partner["id"]: partner["name"] for partner in list_partners(database)["partners"]}
            for row in rows:
                partner = names.get(row["partner_id"])
                data = {"data": json.loads(row["data"] or "{}"), "partner": partner}
                whole = {name: row[name] for name in _NAMES} | data | {"at": row["at"].replace(" ", "T") + "Z"}
                click.echo(json.dumps(whole) if as_json else _as_line(row, partner))
                last = row["position"]
            if not (rows or follow):
                break
            time.sleep(0 if rows else _LOOK_SECONDS)
        if chain.oldest_unassigned_seconds > _LAST and not as_json:
            click.echo(f"{chain.unassigned} events have no position yet: no worker runs.", err=True)


def _as_line(row: EventRow, name: str | None) -> str:
    partner = f" partner {printable(name) or row['partner_id']}" if row["partner_id"] else ""
    connection = f" {row['connection_id']}" if row["connection_id"] else ""
    data = "" if row["data"] == "{}" else " " + printable(row["data"])
    return f"{row['position']:>8}  {row['at'][:19]}  {row['type']:<32} {row['provider'] or '–':<14}{connection}{partner}{data}"


def _read_checkpoints(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[Seal, ...]:
    """`POSITION:HASH` each, as in `events.checkpoint` in the log."""
    found = [re.fullmatch(r"([0-9]{1,18}):([0-9]+\.[0-9a-f]{64})", text) for text in given]
    if not all(found):
        raise click.BadParameter("write it as POSITION:HASH, with the values of `events.checkpoint` in the log.")
    return tuple(Seal(int(match[1]), match[2]) for match in found if match)


@events.command("verify")
@click.option(
    "--head",
    "checkpoints",
    metavar="POSITION:HASH",
    multiple=True,
    callback=_read_checkpoints,
    help="A checkpoint from the log; repeatable.",
)
@reporting
def verify_(checkpoints: tuple[Seal, ...]) -> Report:
    """Verify the whole chain; names the first events that were changed or removed, and then ends with 1."""
    with opened_runtime() as rt:
        progress, stopped = carry_out(verify(rt, checkpoints), lambda at: ("Verifying", at.seal.position, at.until))
    seal, problems = progress.seal, sorted(progress.problems, key=lambda problem: problem.first)
    interrupted = stopped and seal.position < progress.until
    ok = not problems and not interrupted
    whole = {"ok": ok, "checked": progress.checked, "position": seal.position, "hash": seal.hash, "problems": problems}
    lines = [problem.message for problem in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"… and {len(problems) - _SHOWN_PROBLEMS} more.")
    if problems:
        lines.append(f"The events before position {problems[0].first} are unchanged since they were sealed.")
    elif ok:
        lines.append(f"Events unchanged: {progress.checked}, up to position {seal.position}, hash {seal.hash or '–'}.")
    if interrupted:
        lines.append(f"Interrupted at position {seal.position} of {progress.until}.")
    elif not checkpoints:
        lines.append(
            "To find an end that was cut off, compare with the log: --head POSITION:HASH, from `events.checkpoint`."
        )
    return Report(whole | {"interrupted": interrupted}, lines, ok=ok)
