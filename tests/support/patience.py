"""
Waiting for what happens, not for so many seconds: another process may have both cores for a while, and a test is only slower then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 60.0
"""Seconds in which everything happens on any machine. A test that passes does not wait for their end."""


def wait_for(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Return what `condition` returns as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not after {seconds} seconds"
        time.sleep(0.02)
    return found


def wait_until_equal(look: Callable[[], Any], wanted: Any) -> None:
    """Until `look` returns what is wanted; the failure shows what it returned."""
    end = time.monotonic() + PATIENCE
    while (found := look()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert found == wanted


class _Held:
    """The `seconds` of a slow fault: as many as the test takes."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __float__(self) -> float:
        self.over.wait(PATIENCE)
        return 0.0


@contextmanager
def held(sandbox: Any, provider: str, endpoint: str, **options: Any) -> Iterator[Callable[[], bool]]:
    """
    The provider receives the next request there and does not respond before the end. What is yielded says whether it has received it.
    """
    state, seconds = sandbox.state, _Held()
    before = len(state.requests(provider, endpoint))
    state.add_fault("slow", provider, endpoint, seconds=seconds, **options)
    try:
        yield lambda: len(state.requests(provider, endpoint)) > before
    finally:
        seconds.over.set()
