"""
Every row of provider_data that holds a secret, looked at, oldest first, and adopted where it holds plaintext.

What it means that a name is unknown or a row a second one is decided here; what a provider confirms, in `adopt`. Knows no terminal.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from gateway.connections.adopt import Ended, adopt
from gateway.database import Adoptable
from gateway.errors import DatabaseUnavailable, SecretUnreadable
from gateway.services import Runtime

PAGE = 200
BUSY_SECONDS = 65.0
"""How long another run's claim is waited for: it lasts a minute."""
_LOOK_SECONDS = 0.5
_AWAY_AT_MOST = 3
_DONE = {"sealed", "standing"}

LOOK = """select d.id, d.created_at, d.name, d.type, d.auth_provider_id, c.status, c.account_label
  from public.provider_data d left join gateway.connection c on c.id = d.id
 where d.id in ({ids}) order by d.created_at, d.id;"""


@dataclass(frozen=True, slots=True)
class Left:
    """A row that still needs somebody."""

    id: str
    name: str | None
    provider: str | None
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Several rows of one user and provider, where a user has one; and the statement to look at them with."""

    user_id: str
    provider: str
    ids: list[str]
    sql: str


@dataclass
class Report:
    """How a run ended."""

    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    left: list[Left] = field(default_factory=list)
    duplicates: list[Duplicates] = field(default_factory=list)
    interrupted: bool = False

    @property
    def clean(self) -> bool:
        """Whether nothing is left to be done."""
        return not (self.left or self.duplicates or self.interrupted)

    def told(self) -> dict[str, Any]:
        """As JSON."""
        lists = {"left": list(map(asdict, self.left)), "duplicates": list(map(asdict, self.duplicates))}
        ends = {"interrupted": self.interrupted, "clean": self.clean}
        return {"total": self.total, "counts": dict(self.counts), **lists, **ends}


class Run:
    """One walk over all rows. `names`: what free text stands for which provider, beside what the database knows itself."""

    def __init__(self, rt: Runtime, names: Mapping[str, str], *, dry_run: bool, stopped: threading.Event) -> None:
        self._rt = rt
        self._names = {spoken(name): provider for name, provider in names.items()}
        self._dry_run = dry_run
        self._stopped = stopped
        self._rows_of: defaultdict[tuple[UUID, str], list[UUID]] = defaultdict(list)
        self._away = 0
        self.report = Report()

    def __iter__(self) -> Iterator[Report]:
        """Says how far it is after each row. Raises DatabaseUnavailable when the database stays away."""
        busy: list[Adoptable] = []
        for row in self._rows():
            if self._stopped.is_set():
                self.report.interrupted = True
                break
            ended = self._look(row)
            if ended is None:
                busy.append(row)
                continue
            self._tell(row, ended)
            yield self.report
        for row in busy:
            self._tell(row, self._wait_for(row))
            yield self.report
        self._tell_duplicates()

    def _rows(self) -> Iterator[Adoptable]:
        known = list(self._rt.catalog.providers)
        last: Adoptable | None = None
        while True:
            page = self._rt.store.adoptable(after=last, most=PAGE, providers=known)
            self.report.total = self.report.total or page.total
            yield from page.rows
            if len(page.rows) < PAGE:
                return
            last = page.rows[-1]

    def _provider(self, row: Adoptable) -> str | None:
        return row.provider if row.generation else self._names.get(spoken(row.name), row.provider)

    def _look(self, row: Adoptable) -> Ended | None:
        """What becomes of it; None where another run has it."""
        provider_id = self._provider(row)
        provider = self._rt.catalog.get(provider_id or "")
        if provider is not None and row.user_id is not None and provider.accounts == "one":
            self._rows_of[row.user_id, provider.id].append(row.id)
        if not row.plain:
            return self._opens(row)
        if provider is None:
            return Ended("unmapped", "no provider has this name: --map NAME=PROVIDER says which is meant")

        if provider.id not in self._rt.clients:
            return Ended("put_off", f"{provider.id} is not enabled: it needs {provider.id.upper()}_CLIENT_ID")
        if row.user_id is None:
            return Ended("no_user", "the row belongs to no user")
        if self._dry_run:
            return Ended("to_verify")
        return self._adopt(row, provider.id)

    def _opens(self, row: Adoptable) -> Ended:
        try:
            for column, value in (("token", row.token), ("refresh", row.refresh)):
                seal_id = row.seal_id if column == "token" else row.refresh_seal_id
                if value is not None:
                    self._rt.vault.decrypt(
                        value, column=column, user_id=row.user_id, provider=row.provider or "", seal_id=seal_id or ""
                    )
        except SecretUnreadable:
            return Ended(
                "unreadable", "a sealed value does not open: a key is missing, or it was moved or sealed by others"
            )
        return Ended("standing")

    def _adopt(self, row: Adoptable, provider_id: str) -> Ended | None:
        try:
            claim = self._rt.store.claim_adoption(row.id, provider_id)
            ended = None if claim is None else adopt(self._rt, claim)
        except DatabaseUnavailable:
            self._away += 1
            if self._away >= _AWAY_AT_MOST:
                raise
            return Ended("put_off", "the database did not answer")
        self._away = 0
        return ended

    def _wait_for(self, row: Adoptable) -> Ended:
        """Another run has it, or had it when it died: its claim ends within a minute."""
        end = time.monotonic() + BUSY_SECONDS
        while time.monotonic() < end and not self._stopped.is_set():
            ended = self._adopt(row, self._provider(row) or "")
            if ended is not None:
                return ended
            self._stopped.wait(_LOOK_SECONDS)
        return Ended("put_off", "another run is at it")

    def _tell(self, row: Adoptable, ended: Ended) -> None:
        # A refusal marks a connection; a row that is none stays as it is, and is listed.
        outcome = "marked" if ended.outcome == "refused" and row.generation else ended.outcome
        self.report.counts[outcome] += 1
        if outcome not in _DONE and outcome != "to_verify":
            self.report.left.append(Left(str(row.id), row.name, self._provider(row), outcome, ended.reason))

    def _tell_duplicates(self) -> None:
        for (user_id, provider), ids in self._rows_of.items():
            if len(ids) > 1:
                named = [str(row) for row in ids]
                look = LOOK.format(ids=", ".join(f"'{row}'" for row in named))
                self.report.duplicates.append(Duplicates(str(user_id), provider, named, look))


def spoken(name: str | None) -> str:
    """A name as people mean it: without the spaces around it, in lower case."""
    return (name or "").strip().lower()
