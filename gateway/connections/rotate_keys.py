"""
Key rotation: encrypt every stored secret again with the newest key, while the gateway runs.

Walks over all encrypted values, a page at a time, and replaces each by compare-and-set on its text. It may be interrupted anywhere and run
again. Authorization requests are left out: they expire within ten minutes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import get_args

from gateway.crypto.vault import Vault
from gateway.database.queries.operator import EncryptedValue, Kind, encrypted_values, list_hosts, replace_encrypted
from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.services import Runtime

PAGE = 200
PASSES = 5
"""How often the run repeats for values that were changed or locked meanwhile."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass
class Report:
    """Progress of a run. `old_key` and `unreadable` count in the current pass: what is left, and what no key decrypts."""

    total: int = 0
    looked_at: int = 0
    replaced: int = 0
    old_key: int = 0
    unreadable: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not (self.old_key or self.unreadable)


def rotate(rt: Runtime, *, check: bool) -> Iterator[Report]:
    """Rotate, with the report after each page. `check`: only count. It may end between two pages. Raises DatabaseUnavailable."""
    report = Report()
    for _ in range(1 if check else PASSES):
        report.total = report.looked_at = report.old_key = 0
        report.unreadable.clear()
        for kind in KINDS:
            for page in _pages(rt, kind, report):
                changes = _changes(rt.vault, kind, page, report)
                replaced = replace_encrypted(rt.database, kind, {"items": changes}) if changes and not check else 0
                report.replaced += replaced
                report.old_key += len(changes) - replaced
                yield report
        yield report
        if not report.old_key:
            return


def _pages(rt: Runtime, kind: Kind, report: Report) -> Iterator[Sequence[EncryptedValue]]:
    page_of = partial(encrypted_values, rt.database, kind, most=PAGE)
    page = page_of(after_id=None, after_column=None)
    report.total += page.total or 0
    while page.items:
        yield page.items
        page = page_of(after_id=page.items[-1].id, after_column=page.items[-1].context["column"])


def _changes(vault: Vault, kind: Kind, values: Sequence[EncryptedValue], report: Report) -> list[dict[str, object]]:
    changes: list[dict[str, object]] = []
    report.looked_at += len(values)
    for value in values:
        try:
            if vault.encrypted_with_old_key(value.text, **value.context):
                new = vault.encrypt(vault.decrypt(value.text, **value.context), **value.context)
                changes.append({"id": value.id, "column": value.context["column"], "old": value.text, "new": new})
        except SecretUnreadable:
            report.unreadable.append(f"{kind} {value.id}, {value.context['column']}")
    return changes


def require_newest_key_everywhere(rt: Runtime) -> None:
    """Raises SettingsRefused while a host lacks the newest key: it could not decrypt what is encrypted with it."""
    newest = rt.vault.key_ids()[0]
    problems = [
        f"host {host.id}, seen {host.seen_seconds} s ago, lacks the newest key: put that into its GATEWAY_KEYS and restart "
        "it. The process before a restart counts for two and a half minutes, a host that is gone for ten."
        for host in list_hosts(rt.database)
        if newest not in host.keys
    ]
    if problems:
        raise SettingsRefused(*problems)
