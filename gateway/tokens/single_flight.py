"""
Who stands still in this process, and for which refresh.

A flight is one refresh of one connection here: whoever comes while it is under way follows it and shares its end. Places are counted,
so that those who wait never take every thread; and a crowd looks a few at a time, so that the first to see that a refresh is needed can
begin it.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from gateway.database import StoredGrant
from gateway.errors import GatewayError, RefreshInProgress
from gateway.models import Caller

_SOON_SECONDS = 1.0
"""For who finds no place to wait: when to ask again."""
_STAGGER_SECONDS = (0.02, 0.08)
"""So long whoever comes after a leader leaves it the processor and the database. A provider takes longer to answer."""
_AT_ONCE = 4
"""Threads of this process that look at one connection for one caller at a time. With a database nearby more get through no sooner."""
_TURN_SECONDS = 0.04
"""So long a thread waits for its turn to look, and goes on without: what a crowd at a database far away has to pay for it."""

_Whose = tuple[uuid.UUID, Caller | None]
Part = Literal["lead", "follow", "all"]
MOST: dict[Part, int] = {"lead": 40, "follow": 44, "all": 48}
"""
Threads of this process that may stand still at once. Together three quarters of them: a healthy connection is read as fast as
ever. Some are kept for each part: those who wait for one connection do not keep another from being refreshed.
"""


class Flight:
    """One refresh of one connection in this process; those who wait for it share its end."""

    def __init__(self, caller: Caller | None, *, alive: bool) -> None:
        self.alive = alive
        """Whether the old token still is: then nobody waits for the new one."""
        self.caller = caller
        """Of whom the leader is: what is judged at its end is judged for them."""
        self.landed = threading.Event()
        self.after: StoredGrant | None = None
        self.error: GatewayError | None = None


class _Queue:
    """Those who look at one connection for one caller: how many, and which of them wait for their turn."""

    __slots__ = ("length", "waiting")

    def __init__(self) -> None:
        self.length = 0
        self.waiting: deque[threading.Event] = deque()


class Flights:
    """Every refresh of this process that is under way, and the places of those who wait for one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[Part] = Counter()
        self._under_way: dict[uuid.UUID, Flight] = {}
        self._queues: dict[_Whose, _Queue] = {}

    @contextmanager
    def looking(self, connection_id: uuid.UUID, caller: Caller | None) -> Iterator[None]:
        """
        The context in which a connection is read for `caller`. A hundred who read at once would keep the one that they wait for from
        asking the provider: so they take turns, and who finds a thread of this process at it already for the same caller waits a moment,
        since nothing that is read now is of any use before it lands.

        Nobody else waits: how long an answer takes must not tell a stranger what goes on with a connection.
        """
        whose = connection_id, caller
        queue, held = self._take_turn(whose), True
        try:
            ahead = self._under_way.get(connection_id)
            if ahead is not None and not ahead.alive and ahead.caller == caller:
                self._pass_on(whose, queue)
                held = False
                ahead.landed.wait(random.uniform(*_STAGGER_SECONDS))  # noqa: S311 - jitter, not a secret
            yield
        finally:
            if held:
                self._pass_on(whose, queue)

    def _take_turn(self, whose: _Whose) -> _Queue:
        with self._lock:
            queue = self._queues.get(whose)
            if queue is None:
                queue = self._queues[whose] = _Queue()
            if queue.length < _AT_ONCE:
                queue.length += 1
                return queue
            turn = threading.Event()
            queue.waiting.append(turn)
            queue.length += 1
        turn.wait(_TURN_SECONDS)
        return queue

    def _pass_on(self, whose: _Whose, queue: _Queue) -> None:
        """To whoever waits longest; they may have gone on by themselves."""
        with self._lock:
            queue.length -= 1
            if not queue.length:
                del self._queues[whose]
            elif queue.waiting:
                queue.waiting.popleft().set()

    def board(self, row: StoredGrant, caller: Caller | None, *, force: bool) -> tuple[Flight, Part] | None:
        """
        The connection's flight, and whether this thread leads it or follows; None where the old token will do meanwhile.

        Who boards has to leave again. Raises RefreshInProgress when there is no place.
        """
        with self._lock:
            theirs = self._under_way.get(row.id)
            if theirs is not None and row.alive and not force:
                return None
            part: Part = "lead" if theirs is None else "follow"
            if self._taken[part] >= MOST[part] or self._taken["all"] >= MOST["all"]:
                raise later("too many wait already")
            self._taken.update((part, "all"))
            return theirs or self._under_way.setdefault(row.id, Flight(caller, alive=row.alive)), part

    def leave(self, row: StoredGrant, part: Part) -> None:
        """Gives the place back; where a leader does, its flight has landed."""
        with self._lock:
            self._taken.subtract((part, "all"))
            flight = self._under_way.pop(row.id) if part == "lead" else None
        if flight is not None:
            flight.landed.set()


def later(why: str) -> RefreshInProgress:
    """For who may not wait, or not any longer."""
    error = RefreshInProgress(why)
    error.retry_after = _SOON_SECONDS
    return error
