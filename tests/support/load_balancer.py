"""
A load balancer in a thread: one address, and behind it whichever gateways a test says. One that is taken out gets no more
connections, and may end when those that it has are over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from itertools import count


class Balancer:
    """Listens on `port`, and joins each connection to the next of `backends` (ports on this machine)."""

    def __init__(self, port: int) -> None:
        self.backends: list[int] = []
        self._turn = count()
        self._busy: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        threading.Thread(target=self._run, daemon=True).start()

    def drain(self, port: int) -> None:
        """Take a backend out, and return when it has no connection any more."""
        with self._changed:
            self.backends.remove(port)
            assert self._changed.wait_for(lambda: not self._busy[port], 20)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        with self._changed:
            port = self.backends[next(self._turn) % len(self.backends)]
            self._busy[port] += 1
        with client, socket.create_connection(("127.0.0.1", port), 10) as server:
            server.settimeout(None)
            back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
            back.start()
            _pass_on(client, server)
            back.join()
        with self._changed:
            self._busy[port] -= 1
            self._changed.notify_all()


def _pass_on(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65_536):
            there.sendall(data)
    with contextlib.suppress(OSError):
        there.shutdown(socket.SHUT_WR)
