"""
Connections to this process whose request has not been answered for too long, found by what the kernel knows of them (Linux).

WSGI does not say which connection a request came on. But a request that is under way has brought something since we last sent
something there, and all that we do ourselves is over within seconds: what stands like that for longer waits for its client.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

UNANSWERED_SECONDS = 30.0
IDLE_SECONDS = 80.0
"""The server itself closes what is idle for less (`serving`): what only looks idle holds half a request, behind one that was answered."""
_ESTABLISHED = 1
_TCP_INFO = struct.Struct("=B43xI4xI64xQQ")
"""Of tcp_info (linux/tcp.h): tcpi_state, tcpi_last_data_sent and tcpi_last_data_recv in milliseconds, tcpi_bytes_acked and _received."""


class Overdue:
    """Looks again and again, and remembers since when a connection has been waiting."""

    def __init__(self) -> None:
        self._since: dict[tuple[object, int], float] = {}

    def end(self, ports: Collection[int]) -> int:
        """Shuts down what is overdue of the connections to `ports`, which are ours; how many."""
        before, self._since, ended = self._since, {}, 0
        for connection in _connections(ports):
            with suppress(OSError):  # it has just been closed
                if self._is_overdue(connection, before):
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
        return ended

    def _is_overdue(self, connection: socket.socket, before: Mapping[tuple[object, int], float]) -> bool:
        told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        state, sent, received, sent_bytes, received_bytes = _TCP_INFO.unpack(told)
        if state != _ESTABLISHED:
            return False
        hidden: bool = sent > IDLE_SECONDS * 1000 and received > UNANSWERED_SECONDS * 1000
        if received >= sent and (sent_bytes or not received_bytes):
            return hidden
        here, now = (connection.getpeername(), sent_bytes), time.monotonic()
        self._since[here] = before.get(here, now)
        waiting = now - self._since[here]
        return hidden or waiting >= UNANSWERED_SECONDS


def _connections(ports: Collection[int]) -> Iterator[socket.socket]:
    """Each as a copy, which is closed when the next is asked for."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            copy = os.dup(int(entry.name))
            try:
                found = socket.socket(fileno=copy)
            except OSError:  # a file, a pipe
                os.close(copy)
                continue
            with found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] in ports:
                    found.getpeername()  # OSError of the one that listens
                    yield found
