"""
Where a process may be killed to see what it leaves behind: a test aid, off unless a test turns it on, and no setting.

`GATEWAY_TEST_MARKS=all` prints `MARK <name>` at each mark; with the name of one the process stops there until it is killed, so that the
blow lands between two lines and not near them. Knows nothing of what is marked.
"""

from __future__ import annotations

import os
import signal
import sys

_WANTED = os.environ.get("GATEWAY_TEST_MARKS", "")


def _silent(name: str) -> None:
    """Nothing is marked in life."""


def _loud(name: str) -> None:
    sys.stdout.write(f"MARK {name}\n")
    sys.stdout.flush()
    while name == _WANTED:
        signal.pause()


mark = _loud if _WANTED else _silent
