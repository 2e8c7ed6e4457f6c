"""What the doctor reports: findings, and how they are printed."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_FINDINGS: dict[str, dict[str, dict[Any, str]]] = tomllib.loads(
    Path(__file__).with_name("findings.toml").read_text(encoding="utf-8")
)
Level = Literal["ok", "warn", "fail", "unseen"]


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


def finding(name: str, about: str = "", /, **values: object) -> Finding:
    """The finding `part.name` in findings.toml, with its placeholders filled in."""
    part, _, key = name.partition(".")
    words = dict(_FINDINGS[part][key])
    fix = words.pop("fix", "")
    ((level, message),) = words.items()
    return Finding(about or part, level, message.format(**values), fix.format(**values))


def is_sound(findings: Sequence[Finding]) -> bool:
    """Whether nothing must be fixed: warnings are to be read, failures to be fixed."""
    return all(finding.level != "fail" for finding in findings)


def lines(finding: Finding, printed: set[str]) -> Iterator[str]:
    """One finding on the terminal, with its fix below it; a fix that is in `printed` is not repeated."""
    mark = {"fail": "FAIL", "unseen": "-"}.get(finding.level, finding.level)
    yield f"{mark:<5} {finding.about:<18} {finding.message}"
    if finding.fix and finding.fix not in printed:
        printed.add(finding.fix)
        yield f"{'':<24} → {finding.fix}"


def conclusion(findings: Sequence[Finding]) -> str:
    levels = [finding.level for finding in findings]
    if not {"fail", "warn"} & set(levels):
        return "\nNothing to fix."
    return f"\n{levels.count('fail')} to fix, {levels.count('warn')} to read; the fix is below each."
