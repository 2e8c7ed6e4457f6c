"""
One refresh per connection in this process: the first caller starts it, the others wait for its end.

The task runs in a thread of its own, so it goes on when every caller has stopped waiting. The number of waiting callers is
bounded: the other request threads stay free for reads that need no refresh.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from uuid import UUID

from gateway.errors import GatewayError, RefreshInProgress

MOST_WAITING = 112
"""Callers that may wait at once: a hundred readers of one connection, and others; 16 of a server's 128 threads stay free."""
MOST_FOLLOWING = 104
"""Of these, callers that did not start the refresh they wait for. The rest can always start one for another connection."""
_THREADS = 64


class SingleFlight:
    """Tasks by connection, each running once at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[UUID, Future[None]] = {}
        self._waiting = 0
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="refresh")

    def is_running(self, key: UUID) -> bool:
        """Whether a task of that key is running."""
        return key in self._running

    def run(self, key: UUID, task: Callable[[], None], seconds: float) -> None:
        """
        Run `task`, or wait for the running one of that key. Raises its error, or RefreshInProgress after `seconds`.

        Without a place to wait, the task starts all the same and the caller gets RefreshInProgress at once.
        """
        with self._lock:
            future, most = self._running.get(key), MOST_FOLLOWING
            if future is None:
                most = MOST_WAITING
                future = self._running[key] = self._threads.submit(copy_context().run, self._run, key, task)
            if self._waiting >= most:
                raise in_progress("too many callers wait for a refresh")
            self._waiting += 1
        try:
            future.result(max(0.0, seconds))
        except TimeoutError:
            raise in_progress("the refresh takes longer than a caller waits") from None
        except GatewayError as error:
            raise copy.copy(error) from None  # a copy: callers in other threads raise the same error
        finally:
            with self._lock:
                self._waiting -= 1

    def _run(self, key: UUID, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._lock:
                del self._running[key]


def in_progress(detail: str, retry_after: float = 1.0) -> RefreshInProgress:
    """The error for a caller that cannot wait for the refresh to end."""
    error = RefreshInProgress(detail)
    error.retry_after = retry_after
    return error
