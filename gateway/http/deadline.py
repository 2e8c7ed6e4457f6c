"""
Deadlines that hold: one thread cuts the sockets of calls that last too long.

A timeout on a socket starts anew with every byte, so that a provider who drips one at a time keeps a call alive for ever;
only shutting the socket down from outside ends it. Knows no HTTP and no addresses.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time


class Deadline:
    """A moment on the monotonic clock by which something has to be over."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        """`at`: seconds of `time.monotonic`."""
        self.at = at

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def within(self, seconds: float) -> Deadline:
        """The moment `seconds` from now, but no later than this one."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def remaining(self) -> float:
        """Seconds that are left; 0.0 when it has passed."""
        return max(0.0, self.at - time.monotonic())


class Lifeline:
    """
    A second handle on a connection's socket, by which it can be shut down from another thread.

    `ssl` detaches the socket it wraps, so that the first handle is worthless from the handshake on. A kept connection
    passes from call to call: only the call that holds the line now can have it cut.
    """

    __slots__ = ("_holder", "_lock", "_retired", "_socket")

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: connected; it is duplicated, not taken over."""
        self._socket = sock.dup()
        self._holder: Call | None = None
        self._lock = threading.Lock()
        self._retired = False

    def hold(self, call: Call) -> None:
        """From now on it is `call` that has it cut."""
        with self._lock:
            self._holder = call

    def cut(self, call: Call) -> None:
        """Shut the connection down, unless it serves another call by now."""
        with self._lock:
            if self._holder is call:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def release(self, call: Call) -> None:
        """`call` is over."""
        with self._lock:
            if self._holder is call:
                self._holder = None
                if self._retired:
                    self._socket.close()

    def retire(self) -> None:
        """The connection was closed. Its answer may still be read (`Connection: close`), so a holder keeps the line."""
        with self._lock:
            self._retired = True
            if self._holder is None:
                self._socket.close()


class Call:
    """One exchange under way: how long it may last, and the line that is cut then."""

    __slots__ = ("_lifeline", "deadline", "expired")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.expired = False
        self._lifeline: Lifeline | None = None

    def hold(self, lifeline: Lifeline) -> None:
        """This call now runs over that connection. Raises TimeoutError when it is too late for it."""
        lifeline.hold(self)
        self._lifeline = lifeline
        if self.expired:  # the watchdog came by before there was a line to cut
            raise TimeoutError

    def expire(self) -> None:
        """Called by the watchdog, once."""
        self.expired = True
        if self._lifeline is not None:
            self._lifeline.cut(self)

    def release(self) -> None:
        """The call is over and holds no line any more."""
        if self._lifeline is not None:
            self._lifeline.release(self)


class Watchdog:
    """Looks after all calls with one thread, which is started by the first and sleeps until the next deadline."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._changed = threading.Condition()
        self._wakes_at = math.inf
        self._thread: threading.Thread | None = None
        self._closed = False

    def watch(self, deadline: Deadline) -> Call:
        """A call that expires at `deadline`, unless it is released before."""
        call = Call(deadline)
        with self._changed:
            self._calls.add(call)
            if self._thread is None:
                self._closed = False
                self._thread = threading.Thread(target=self._run, name="outbound-watchdog", daemon=True)
                self._thread.start()
            elif deadline.at < self._wakes_at:
                self._changed.notify()
        return call

    def release(self, call: Call) -> None:
        """`call` is over, in whatever way."""
        with self._changed:
            self._calls.discard(call)
        call.release()

    def close(self) -> None:
        """End the thread; the next call would start another."""
        with self._changed:
            self._closed = True
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                late = [call for call in self._calls if not call.deadline.remaining()]
                self._calls.difference_update(late)
                if not late:
                    self._wakes_at = min((call.deadline.at for call in self._calls), default=math.inf)
                    self._changed.wait(min(self._wakes_at - time.monotonic(), threading.TIMEOUT_MAX))
            for call in late:
                call.expire()
