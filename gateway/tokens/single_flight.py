"""
One refresh per connection in this process: the first caller starts it, the others wait for its end.

The task runs in a thread of its own, so it goes on when every caller has stopped waiting. The number of waiting callers is
bounded, with a share for each provider: the other request threads stay free for requests that wait for no provider.
"""

import copy
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from uuid import UUID

from gateway.errors import GatewayError, RefreshInProgress
from gateway.http import Deadline, Shares, retry_seconds

MOST_WAITING = 208
"""Callers that may wait at once. One provider gets half of them: a hundred readers of one connection, and others."""
_THREADS = 128
"""More than the slots for calls, so that no refresh waits for a thread."""
WAIT_SECONDS = 9.5
"""How long a caller waits for a refresh, whichever process sends the request."""
_LONGEST_PAUSE_SECONDS = 0.5


def looks(first_pause_seconds: float) -> Iterator[None]:
    """
    Moments to look whether another process has released its lease. The pauses between them double, up to half a second.

    Raises RefreshInProgress in the end.
    """
    until, pause = Deadline.after(WAIT_SECONDS), first_pause_seconds
    while True:
        yield
        if until.remaining() < pause:
            raise RefreshInProgress("another process is refreshing the connection")
        time.sleep(pause * random.uniform(1.0, 1.25))  # noqa: S311 - jitter, not a secret
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class SingleFlight:
    """Tasks by connection, each running once at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[UUID, Future[None]] = {}
        self._waiting = Shares(MOST_WAITING)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="refresh")

    def is_running(self, key: UUID) -> bool:
        return key in self._running

    def run(self, key: UUID, provider_id: str, task: Callable[[], None], seconds: float) -> None:
        """
        Run `task`, or wait for the running one of that key. Raises its error, or RefreshInProgress after `seconds`.

        Without a place to wait, the task starts all the same and the caller gets RefreshInProgress at once.
        """
        with self._lock:
            future = self._running.get(key)
            if future is None:
                future = self._running[key] = self._threads.submit(copy_context().run, self._run, key, task)
        if not self._waiting.take(provider_id):
            raise RefreshInProgress("too many callers wait for refreshes at this provider", retry_after=retry_seconds())
        try:
            future.result(max(0.0, seconds * random.uniform(0.8, 1.0)))  # noqa: S311 - so that not all callers give up at once
        except TimeoutError:
            raise RefreshInProgress("the refresh takes longer than a caller waits") from None
        except GatewayError as error:
            raise copy.copy(error) from None  # a copy: callers in other threads raise the same error
        finally:
            self._waiting.release(provider_id)

    def _run(self, key: UUID, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._lock:
                del self._running[key]
