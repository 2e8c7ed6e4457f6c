"""
How many threads of a process may wait for providers, and when a provider is left alone.

A provider may hold as many slots as are still free, and each provider can always hold one. So a provider that hangs takes
half of them, a second one half of the rest, and any other provider still finds one. What exceeds this fails at once. Requests and
worker jobs, and every kind of call, use the same slots. After failures in a row a circuit opens: only one call at a time finds out
whether the provider is back. The gateway's own calls of a provider have one circuit, and each caller's proxied calls one of their own.
"""

import contextlib
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.errors import ProviderBusy, ProviderFailed, ProviderUnavailable

BUDGET = 64
"""Slots of a process for calls to providers. One provider gets half of them."""
FAILURES_TO_OPEN = 10
OPEN_SECONDS = 5.0
FORGET_SECONDS = 60.0
"""Failures with a longer pause between them do not add up."""
RETRY_SECONDS = (2.0, 6.0)
"""The pause for a refused caller, at random, so that refused callers neither keep the process busy nor come back together."""
FAILURES = frozenset({429, *range(500, 600)})
"""Statuses that count as a failure of the provider."""


class Shares:
    """In each group a number of places, which its members share fairly. Safe to use from many threads."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._lock = threading.RLock()
        self._taken: Counter[tuple[Any, Any]] = Counter()
        self._totals: Counter[Any] = Counter()

    def has_free_place(self, who: Any, group: Any = None) -> bool:
        """Whether there is a further place for `who`."""
        with self._lock:
            mine = self._taken[group, who]
            return mine == 0 or mine < self._budget - self._totals[group]

    def take(self, who: Any, group: Any = None, *, always: bool = False) -> bool:
        """Take a place, until `release`; False when there is none. `always`: also then."""
        with self._lock:
            if not always and not self.has_free_place(who, group):
                return False
            self._taken[group, who] += 1
            self._totals[group] += 1
            return True

    def release(self, who: Any, group: Any = None) -> None:
        """Free a place."""
        with self._lock:
            self._taken -= Counter([(group, who)])  # and forget who has none
            self._totals -= Counter([group])

    def taken(self, group: Any = None) -> int:
        """Places in use."""
        return self._totals[group]


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0


@dataclass(slots=True)
class Exchange:
    """One request to a provider, and the status of its response."""

    status: int = 0


class Bulkhead:
    """The slots of one process, and a circuit breaker for each provider. Safe to use from many threads."""

    def __init__(self, *, budget: int = BUDGET, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots = Shares(budget)
        self._clock = clock
        self._lock = threading.Lock()
        self._circuits: dict[tuple[str, str], _Circuit] = {}
        self._held = threading.local()

    @contextlib.contextmanager
    def slot(self, provider_id: str, caller: str = "", *, always: bool = False) -> Iterator[None]:
        """
        Hold a slot while this thread works with the provider; the calls in it use the same slot.

        Raises ProviderBusy at once, with `retry_after`, when no slot is free or the circuit is open. `always`: for work that was claimed
        because `is_available`. `caller`: whose circuit it is; the gateway's own without.
        """
        held: set[str] = self._held.__dict__.setdefault("providers", set())
        if provider_id in held:
            yield
            return
        wait = self._wait((provider_id, caller), probe=True)
        if wait and not always:
            raise ProviderBusy(
                f"{provider_id}: failed several times in a row, not called",
                retry_after=math.ceil(max(wait, retry_seconds())),
            )
        if not self._slots.take(provider_id, always=always):
            raise ProviderBusy(f"{provider_id}: too many calls are waiting for it", retry_after=retry_seconds())
        held.add(provider_id)
        try:
            yield
        finally:
            held.discard(provider_id)
            self._slots.release(provider_id)

    @contextlib.contextmanager
    def exchange(self, provider_id: str, caller: str = "", failures: Container[int] = FAILURES) -> Iterator[Exchange]:
        """One request in a slot. No response, and a status in `failures`, count as a failure of the provider, any other response as a success."""
        with self.slot(provider_id, caller):
            exchange, failed = Exchange(), None  # an error of ours says nothing about the provider
            try:
                yield exchange
                failed = exchange.status in failures
            except ProviderFailed as error:
                failed = isinstance(error, ProviderUnavailable)
                raise
            finally:
                if failed is not None:
                    self._judge((provider_id, caller), failed=failed)

    def is_available(self, provider_id: str) -> bool:
        """Whether a slot is free, and the circuit closed or due for a probe."""
        return not self._wait((provider_id, ""), probe=False) and self._slots.has_free_place(provider_id)

    def open_circuits(self) -> list[str]:
        """The providers that this process leaves alone at the moment, for itself or for a caller."""
        with self._lock:
            return [name for (name, _), circuit in self._circuits.items() if circuit.failures >= FAILURES_TO_OPEN]

    def _wait(self, name: tuple[str, str], *, probe: bool) -> float:
        """For how long the circuit refuses calls. `probe`: the caller makes the call that finds out whether the provider is back."""
        with self._lock:
            circuit = self._circuits.get(name)
            if circuit is None or circuit.failures < FAILURES_TO_OPEN:
                return 0.0
            now = self._clock()
            if circuit.open_until > now:
                return circuit.open_until - now
            if probe:
                circuit.open_until = now + OPEN_SECONDS
            return 0.0

    def _judge(self, name: tuple[str, str], *, failed: bool) -> None:
        with self._lock:
            now = self._clock()
            recent = {each: it for each, it in self._circuits.items() if now < it.open_until + FORGET_SECONDS}
            failures = recent.pop(name, _Circuit()).failures
            self._circuits = recent | ({name: _Circuit(failures + 1, now + OPEN_SECONDS)} if failed else {})


def retry_seconds() -> float:
    """After how long a caller that found no place should come back."""
    return math.ceil(random.uniform(*RETRY_SECONDS))  # noqa: S311 - jitter, not a secret
