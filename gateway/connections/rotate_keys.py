"""
`python -m gateway keys rotate`: every sealed value under the newest key, while everything goes on.

Walks over all that is sealed, a page at a time, and puts a new seal in the place of an old one by compare-and-set: what was
refreshed, connected again or erased meanwhile stays as it became. May be interrupted anywhere and run again: what is done is passed
over. Attempts to connect are left out: they live ten minutes and run out by themselves.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import get_args

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.context import interruptible
from gateway.database import FunctionMissing, SealedRow
from gateway.database.keeping import Change, Kind
from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.log_setup import start_log
from gateway.services import Runtime, build_runtime
from gateway.settings import read_settings
from gateway.worker.heartbeat import lacking

PAGE = 200
PASSES = 5
"""How often what was changed or locked meanwhile is looked at again."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Connections first, the queue of revocations behind them: a value moves from the one to the other, never back."""
_SHOWN = 20


@dataclass
class Report:
    """How far it is. `older` and `unreadable` are of the pass under way: what is left, and what no key opens."""

    total: int = 0
    looked_at: int = 0
    resealed: int = 0
    older: int = 0
    unreadable: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def clean(self) -> bool:
        """Whether everything is under the newest key."""
        return not (self.older or self.unreadable or self.interrupted)


class Rotation:
    """One run. `check`: only counts. Ends early, between two pages, when `stopped` is set."""

    def __init__(self, rt: Runtime, *, check: bool, stopped: threading.Event) -> None:
        self._rt = rt
        self._check = check
        self._stopped = stopped
        self.report = Report()

    def __iter__(self) -> Iterator[Report]:
        """Says how far it is after each page. Raises DatabaseUnavailable."""
        report = self.report
        for _ in range(1 if self._check else PASSES):
            report.total = report.looked_at = report.older = 0
            report.unreadable.clear()
            for kind in KINDS:
                for rows in self._pages(kind):
                    self._page(kind, rows)
                    yield report
                    if self._stopped.is_set():
                        report.interrupted = True
                        return
            yield report
            if not report.older:
                return

    def _pages(self, kind: Kind) -> Iterator[tuple[SealedRow, ...]]:
        after: SealedRow | None = None
        while True:
            page = self._rt.store.sealed(kind, after=after, most=PAGE)
            self.report.total += page.total or 0
            yield page.rows
            if len(page.rows) < PAGE:
                return
            after = page.rows[-1]

    def _page(self, kind: Kind, rows: tuple[SealedRow, ...]) -> None:
        changes = []
        for row in rows:
            place = {"row": "ledger" if kind == "ledger" else str(row.id), "generation": row.generation}
            for column, sealed in row.values.items():
                try:
                    if self._rt.vault.stale(sealed, column=column, **place):  # type: ignore[arg-type]
                        opened = self._rt.vault.open(sealed, column=column, **place)  # type: ignore[arg-type]
                        new = self._rt.vault.seal(opened, column=column, **place)  # type: ignore[arg-type]
                        changes.append(Change(row, column, new))
                except SecretUnreadable:
                    self.report.unreadable.append(f"{kind} {row.id}, {column}")
        self.report.looked_at += len(rows)
        done = self._rt.store.reseal(kind, changes) if changes and not self._check else 0
        self.report.resealed += done
        self.report.older += len(changes) - done


# -- on the terminal -------------------------------------------------------------------------------------------------


def rotate_keys(environ: Mapping[str, str], *, check: bool, as_json: bool) -> bool:
    """
    The command; whether everything is under the newest key in the end.

    Raises SettingsRefused with all problems, a host that lacks the newest key among them, and DatabaseUnavailable.
    """
    start_log()
    rt = build_runtime(read_settings(environ))
    try:
        if not check:
            _judge_hosts(rt)
        return run_rotation(rt, check=check, as_json=as_json)
    except FunctionMissing:
        raise SettingsRefused(["the schema is missing or older: run `python -m gateway db apply`."]) from None
    finally:
        rt.store.close()


def _judge_hosts(rt: Runtime) -> None:
    """Sealed under a key that somebody lacks, a connection would be lost to them."""
    problems = [
        f"host {host.id}, seen {host.seen_seconds} s ago, lacks the newest key: put that into its GATEWAY_KEYS and restart "
        "it; if it is gone for good, wait ten minutes."
        for host in lacking(rt)
    ]
    if problems:
        raise SettingsRefused(problems)


def run_rotation(rt: Runtime, *, check: bool, as_json: bool) -> bool:
    """Walks over all that is sealed, showing how far it is, and says how it ended."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with interruptible() as stopped, Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        run = Rotation(rt, check=check, stopped=stopped)
        task = shown.add_task("Looking" if check else "Sealing again", total=None)
        for report in run:
            shown.update(task, total=report.total, completed=report.looked_at)
    if as_json:
        said = asdict(run.report) | {"unreadable": len(run.report.unreadable), "clean": run.report.clean}
        said["unreadable_places"] = run.report.unreadable[:_SHOWN]
        json.dump(said, sys.stdout)
        sys.stdout.write("\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(run.report, check=check)))
    return run.report.clean


def _lines(report: Report, *, check: bool) -> Iterator[str]:
    if not check:
        yield f"{report.resealed} values were sealed again."
    if report.older:
        yield f"{report.older} are still under an older key: run `python -m gateway keys rotate`."
    if report.unreadable:
        yield f"{len(report.unreadable)} are opened by no key here:"
        yield from (f"  {place}" for place in report.unreadable[:_SHOWN])
        yield "Put the key that sealed them back into GATEWAY_KEYS, or have these connected again."
    if report.interrupted:
        yield "Interrupted: run it again, and it goes on."
    elif report.clean:
        yield "Everything in the database is encrypted under the newest key."
        yield "Keep the older keys for a day: the refresh journals of the hosts and open attempts to connect still need them."
