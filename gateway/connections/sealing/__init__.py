"""
`python -m gateway connections import`: what stood in provider_data before the gateway came, verified and sealed.

One row a transaction: it may be interrupted at any time and run again, by several at once; what is done is found sealed the next
time. Shows how far it is, ends with counts, and with what is left and why. No secret is shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

from gateway.catalog import Catalog
from gateway.cli.context import interruptible, printable
from gateway.connections.sealing.walk import Report, Run
from gateway.errors import SettingsRefused
from gateway.services import Runtime


def read_names(catalog: Catalog, given: Sequence[str]) -> dict[str, str]:
    """What each name means. SettingsRefused for what is not NAME=PROVIDER, or names a provider that does not exist."""
    pairs = [text.rpartition("=") for text in given]
    problems = [
        f"--map {name}{mark}{provider}: write it as NAME=PROVIDER." for name, mark, provider in pairs if not mark
    ]
    problems += [
        f"--map {name}={provider}: there is no such provider, `providers list` names them."
        for name, mark, provider in pairs
        if mark and catalog.get(provider.strip()) is None
    ]
    if problems:
        raise SettingsRefused(problems)
    return {name: provider.strip() for name, _, provider in pairs}


def run_seal(rt: Runtime, names: Mapping[str, str], *, dry_run: bool, as_json: bool) -> bool:
    """Walks over all rows, showing how far it is, and says how it ended; whether nothing is left to be done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with interruptible() as stopped, Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        run = Run(rt, names, dry_run=dry_run, stopped=stopped)
        task = shown.add_task("Looking" if dry_run else "Sealing", total=None)
        for report in run:
            shown.update(task, total=report.total, completed=report.counts.total())
    if as_json:
        json.dump(run.report.told(), sys.stdout)
        sys.stdout.write("\n")
    else:
        _say(Console(soft_wrap=True, highlight=False, markup=False), run.report)
    return run.report.clean


_WORDS = {
    "sealed": "sealed now",
    "standing": "sealed before",
    "to_verify": "would be verified",
    "marked": "marked: the user has to connect again",
    "refused": "not confirmed by their provider",
    "unmapped": "of no known provider",
    "duplicate": "duplicates",
    "unreadable": "unreadable",
    "no_user": "of no user",
    "put_off": "put off: run it again",
}


def _say(console: Console, report: Report) -> None:
    for outcome, words in _WORDS.items():
        if report.counts[outcome]:
            console.print(f"{report.counts[outcome]:>7}  {words}")
    if not report.counts:
        console.print("There is nothing to seal.")
    if report.left:
        table = Table(Column("row", no_wrap=True, min_width=36), "name", "provider", "why", box=None)
        for left in report.left:
            table.add_row(left.id, printable(left.name), left.provider or "", left.reason)
        console.print()
        console.print(table)
    for duplicates in report.duplicates:
        console.print(
            f"\nSeveral rows of user {duplicates.user_id} for {duplicates.provider}. Look at them:\n{duplicates.sql}"
        )
    if report.interrupted:
        console.print("\nInterrupted: run it again, and it goes on.")
