"""
What the doctor says: one sentence about one thing, and how to mend it.

Knows nothing of where it was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail", "unseen"]

CLOCK_SECONDS = 30
"""Tokens are judged with a minute of tolerance: half of it may be used up before somebody is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`about` names the part, `says` what is seen there, `mend` what to do about it, where anything is."""

    about: str
    level: Level
    says: str
    mend: str = ""


def clock_finding(whose: str, ahead_seconds: float) -> Finding:
    """Our clock against another."""
    if abs(ahead_seconds) <= CLOCK_SECONDS:
        return Finding("clock", "ok", f"With {whose}, to within {CLOCK_SECONDS} s.")
    side = "ahead of" if ahead_seconds > 0 else "behind"
    return Finding(
        "clock",
        "warn",
        f"This machine is {abs(ahead_seconds):.0f} s {side} {whose}.",
        "Set it by NTP: tokens would be refused, or believed for too long.",
    )
