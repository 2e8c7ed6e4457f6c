"""What the doctor reports: findings, and how they are printed."""

import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
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


def lines(findings: Iterable[Finding]) -> Iterator[str]:
    """The findings on the terminal, each with its fix below it, once; and how many there are to fix."""
    levels, printed = Counter[str](), set[str]()
    for each in findings:
        levels[each.level] += 1
        mark = {"fail": "FAIL", "unseen": "-"}.get(each.level, each.level)
        yield f"{mark:<5} {each.about:<20} {each.message}"
        if each.fix and each.fix not in printed:
            printed.add(each.fix)
            yield f"{'':<26} → {each.fix}"
    summary = f"{levels['fail']} to fix, {levels['warn']} to read; the fix is below each."
    yield "\n" + (summary if levels["fail"] or levels["warn"] else "Nothing to fix.")
