"""
Crash points: directly before or after a call of the database, the HTTP client or the journal.

`with_crash_points` wraps these three objects of a Runtime, so that every call is announced. The product has no such code.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from gateway.services import Runtime

_WRAPPED = ("database", "http", "journal")
"""The fields of Runtime that are wrapped."""


class CrashPoints:
    """A proxy that announces each method call, before and after it."""

    def __init__(self, wrapped: Any, name: str, reached: Callable[[str], None]) -> None:
        self._wrapped, self._name, self._reached = wrapped, name, reached

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._wrapped, attribute)
        if not callable(found):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            # `database.call("claim_refresh", …)` is named after the function that is called.
            point = f"{self._name}.{args[0] if self._name == 'database' and attribute == 'call' else attribute}"
            self._reached(f"before {point}")
            result = found(*args, **kwargs)
            self._reached(f"after {point}")
            return result

        return called


def with_crash_points(rt: Runtime, stop_at: str) -> Runtime:
    """The same Runtime, printing `POINT <name>` at each point; at `stop_at` the thread stops forever."""

    def reached(point: str) -> None:
        print(f"POINT {point}", flush=True)
        if point == stop_at:
            threading.Event().wait()

    names = {field.name for field in fields(rt)} & set(_WRAPPED)
    return replace(rt, **{name: CrashPoints(getattr(rt, name), name, reached) for name in names})
