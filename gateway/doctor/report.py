"""What the doctor reports: findings, and how they are printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "unseen"]
APPLY = "Run `python -m gateway db apply`: it sets everything up again and loses nothing."


@dataclass(frozen=True, slots=True)
class Finding:
    """
    `message` says what was found about the part `about`, `fix` what to do. Both can be pasted anywhere: no values of settings, no
    database address, no text from a provider.
    """

    about: str
    level: Level
    message: str
    fix: str = ""


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether nothing must be fixed: warnings are to be read, failures to be fixed."""
    return all(finding.level != "fail" for finding in findings)


def line(finding: Finding) -> str:
    """One finding on the terminal."""
    mark = {"ok": "ok", "warn": "warn", "fail": "FAIL", "unseen": "-"}[finding.level]
    return f"{mark:<5} {finding.about:<18} {finding.message}"


def what_to_fix(findings: Sequence[Finding]) -> str:
    """The end of the report: failures first, then warnings."""
    urgent = sorted((f for f in findings if f.level in ("fail", "warn")), key=lambda finding: finding.level)
    fixes = dict.fromkeys(f"{finding.about}: {finding.fix or finding.message}" for finding in urgent)
    if not fixes:
        return "\nNothing to fix."
    return "\n".join(["\nWhat to fix:", *(f"  {number}. {fix}" for number, fix in enumerate(fixes, start=1))])
