"""
`python -m gateway keys rotate`: every sealed value under the newest key, while everything goes on.

Walks over all that is sealed, a page at a time, and puts a new seal in the place of an old one by compare-and-set: what was
refreshed, connected again or erased meanwhile stays as it became. May be interrupted anywhere and run again: what is done is passed
over. Attempts to connect are left out: they live ten minutes and run out by themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import get_args

from gateway.database import SealedRow
from gateway.database.keeping import Change, Kind
from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.services import Runtime

PAGE = 200
PASSES = 5
"""How often what was changed or locked meanwhile is looked at again."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Connections first, the queue of revocations behind them: a value moves from the one to the other, never back."""


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


def require_newest_key_everywhere(rt: Runtime) -> None:
    """Raises SettingsRefused while a host lacks the newest key: it could not decrypt what is encrypted under that."""
    newest = rt.vault.fingerprints()[0]
    problems = [
        f"host {host.id}, seen {host.seen_seconds} s ago, lacks the newest key: put that into its GATEWAY_KEYS and restart "
        "it; if it is gone for good, wait ten minutes."
        for host in rt.store.hosts()
        if newest not in host.keys
    ]
    if problems:
        raise SettingsRefused(problems)
