"""
Servers that do with a connection exactly what a script says, for tests of the room that owns the socket.

Real sockets on loopback, a thread for each connection; what arrived is kept to be looked at.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator

from tests.support.patience import PATIENCE

Script = Callable[["Line"], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Line:
    """One accepted connection, as its script sees it."""

    def __init__(self, sock: socket.socket, listener: Listener) -> None:
        self.sock = sock
        self.listener = listener
        self._unread = b""

    def request(self) -> bytes:
        """The next request, head and body; b"" when the other side has hung up."""
        while b"\r\n\r\n" not in self._unread:
            if not self._more():
                return b""
        head, _, rest = self._unread.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(rest) < length and self._more():
            rest = self._unread.partition(b"\r\n\r\n")[2]
        self._unread = rest[length:]
        whole = head + b"\r\n\r\n" + rest[:length]
        self.listener.note(whole)
        return whole

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self._unread += data
        return bool(data)

    def send(self, data: bytes) -> None:
        """All of `data`, at once."""
        self.sock.sendall(data)

    def drip(self, data: bytes, every: float = 0.05) -> None:
        """One byte at a time, over and over, until the other side hangs up."""
        while not self.listener.closing.is_set():
            for byte in data:
                self.send(bytes([byte]))
                if self.listener.closing.wait(every):
                    return

    def stay_silent(self) -> None:
        """Keep the connection until the test is over."""
        self.listener.closing.wait(30)

    def reset(self) -> None:
        """RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class Listener:
    """A listening socket; `connections` counts, `requests` keeps what came."""

    def __init__(
        self, script: Script, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._script, self._tls = script, tls
        self._server = socket.create_server((host, port), backlog=128)
        self.host, self.port = host, self._server.getsockname()[1]
        self.connections = 0
        self.handshakes = 0
        self._served = 0
        self.requests: list[bytes] = []
        self.closing = threading.Event()
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def url(self, path: str = "/token") -> str:
        """An address here, by the listener's own IP address."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}{path}"

    def idle(self) -> bool:
        """Whether every connection so far has ended on this side."""
        return not self._open and self.connections == self._served

    def note(self, request: bytes | None = None) -> None:
        """Wake up waiting threads."""
        with self._changed:
            if request is not None:
                self.requests.append(request)
            self._changed.notify_all()

    def waits_until(self, condition: Callable[[], bool]) -> None:
        """Block until what happens here makes `condition` true."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=PATIENCE)

    def close(self) -> None:
        """Hang up on everybody and wait for the scripts to end."""
        self.closing.set()
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self.note()
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        with contextlib.suppress(OSError):
            if self._tls is not None:
                plain, sock = sock, self._tls.wrap_socket(sock, server_side=True)
                self._open.discard(plain)
                self._open.add(sock)
                with self._changed:
                    self.handshakes += 1
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._script(Line(sock, self))
        sock.close()
        self._open.discard(sock)
        with self._changed:
            self._served += 1
        self.note()


def answering(*answers: bytes) -> Script:
    """Keep the connection and give these answers in turn, the last one for ever."""

    def script(line: Line) -> None:
        position = 0
        while line.request():
            line.send(answers[min(position, len(answers) - 1)])
            position += 1

    return script


def once(answer: bytes) -> Script:
    """Answer one request and hang up."""

    def script(line: Line) -> None:
        line.request()
        line.send(answer)

    return script


@contextlib.contextmanager
def listening() -> Iterator[Callable[..., Listener]]:
    """A maker of listeners, all of which are closed at the end."""
    made: list[Listener] = []

    def listen(script: Script, **named: object) -> Listener:
        made.append(Listener(script, **named))  # type: ignore[arg-type]
        return made[-1]

    yield listen
    for listener in made:
        listener.close()


@contextlib.contextmanager
def lasting(at_least: float, at_most: float = 20.0) -> Iterator[None]:
    """
    What is done in here takes that many seconds. The most is far above what a loaded machine takes, and below what a wait without a bound does.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert at_least <= took <= at_most, f"took {took:.2f} s"
