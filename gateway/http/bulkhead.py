"""
How many threads of a process may wait for providers, and when a provider is left alone.

Every call to a provider holds one slot. A provider that hangs uses up its own share and then its circuit breaker opens;
calls beyond that fail at once, and other providers keep their slots. Requests and worker jobs use the same slots.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gateway.errors import ProviderFailed, ProviderUnavailable

BUDGET = 48
"""Slots of a process: three quarters of its request threads."""
SHARE = 40
"""Slots of one provider."""
FAILURES_TO_OPEN = 10
OPEN_SECONDS = 5.0
_FULL_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Circuit:
    in_use: int = 0
    failures: int = 0
    open_until: float = 0.0


class Bulkhead:
    """The slots of one process, and a circuit breaker for each provider. Safe to use from many threads and after a fork."""

    def __init__(
        self, *, budget: int = BUDGET, share: int = SHARE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._share = share
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget every call, as a forked child must: it holds none of its parent's slots."""
        self._lock = threading.Lock()
        self._in_use = 0
        self._circuits: dict[str, _Circuit] = {}

    @contextlib.contextmanager
    def slot(self, provider_id: str) -> Iterator[None]:
        """
        Hold a slot for one call to the provider; ProviderUnavailable inside counts as a failure, a response as a success.

        Raises ProviderUnavailable at once, with `retry_after`, when no slot is free or the circuit breaker is open.
        """
        circuit = self._enter(provider_id)
        failed: bool | None = None  # an error of ours says nothing about the provider
        try:
            yield
            failed = False
        except ProviderFailed as error:
            failed = isinstance(error, ProviderUnavailable)
            raise
        finally:
            with self._lock:
                circuit.in_use -= 1
                self._in_use -= 1
                if failed:
                    circuit.failures += 1
                    circuit.open_until = self._clock() + OPEN_SECONDS
                elif failed is False:
                    circuit.failures = 0

    def open_circuits(self) -> list[str]:
        """The providers that this process leaves alone at the moment."""
        with self._lock:
            return [name for name, circuit in self._circuits.items() if circuit.failures >= FAILURES_TO_OPEN]

    def _enter(self, provider_id: str) -> _Circuit:
        with self._lock:
            circuit = self._circuits.setdefault(provider_id, _Circuit())
            is_open = circuit.failures >= FAILURES_TO_OPEN
            wait = circuit.open_until - self._clock()
            if is_open and wait > 0:
                raise _refusal(f"{provider_id}: failed {circuit.failures} times in a row, not called", wait)
            if circuit.in_use >= self._share:
                raise _refusal(f"{provider_id}: too many calls are waiting for it", _FULL_RETRY_SECONDS)
            if self._in_use >= self._budget:
                raise _refusal(f"{provider_id}: too many calls are waiting for providers", _FULL_RETRY_SECONDS)
            if is_open:  # this call finds out whether the provider is back; the others wait for it
                circuit.open_until = self._clock() + OPEN_SECONDS
            circuit.in_use += 1
            self._in_use += 1
            return circuit


def _refusal(message: str, seconds: float) -> ProviderUnavailable:
    error = ProviderUnavailable(message)
    error.retry_after = max(1.0, math.ceil(seconds))
    return error
