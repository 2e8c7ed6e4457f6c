"""
A provider's API for tests of the proxy: it notes each request as it came, and answers as the path says.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

PIECE = bytes(range(256)) * 256


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    target: str
    headers: dict[str, str]
    length: int
    sha256: str


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def parse_request(self) -> bool:
        """Every method has the same handler."""
        parsed = super().parse_request()
        if parsed:
            setattr(self, f"do_{self.command}", self._respond)
        return parsed

    def _respond(self) -> None:
        length, digest = 0, hashlib.sha256()
        for piece in self._body():
            length += len(piece)
            digest.update(piece)
        seen = Seen(self.command, self.path, dict(self.headers.items()), length, digest.hexdigest())
        self.server.seen.append(seen)
        name, _, rest = self.path.partition("?")[0].removeprefix("/base").strip("/").partition("/")
        getattr(self, f"_{name}", self._echo)(rest, seen)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read(min(left, 1 << 20))
            left -= len(piece)
            yield piece

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        length = {} if status in (204, 304) else {"Content-Length": str(len(body))}
        for key, value in (length | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def _echo(self, _: str, seen: Seen) -> None:
        body = json.dumps([seen.method, seen.target, seen.headers, seen.length, seen.sha256]).encode()
        more = {
            "Content-Type": "application/json",
            "Set-Cookie": "a=b",
            "X-Said": self.headers.get("Authorization", ""),
        }
        self.answer(200, body, more | {"Access-Control-Allow-Origin": "*", "Connection": "X-Secret", "X-Secret": "1"})

    def _status(self, rest: str, _: Seen) -> None:
        status, body = self.server.answers.get(rest) or (int(rest or 200), b"said")
        self.answer(status, body, self.server.headers)

    def _script(self, rest: str, _: Seen) -> None:
        """The next of the statuses in the path: /script/503-503-200."""
        statuses = rest.split("-")
        count = sum(each.target == self.path for each in self.server.seen) - 1
        self.answer(int(statuses[min(count, len(statuses) - 1)]), b"said", self.server.headers)

    def _bytes(self, rest: str, _: Seen) -> None:
        size = int(rest)
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        sent = size if self.command == "HEAD" else 0
        while sent < size:
            sent += self.wfile.write(PIECE[: size - sent])

    def _raw(self, rest: str, _: Seen) -> None:
        """Exactly the bytes that the test has put there, and the end of the connection."""
        self.wfile.write(self.server.raw[rest])
        self.close_connection = True

    def _slow(self, rest: str, _: Seen) -> None:
        """A head, one byte, and nothing more until the client has gone or the seconds are over."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"a")
        self._wait(float(rest or 20))

    def _stream(self, rest: str, _: Seen) -> None:
        """The head of a stream of that kind, and an event for each that the test has put there, until an empty one."""
        self.send_response(200)
        self.send_header("Content-Type", rest)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while event := self.server.events.get(timeout=60):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _silent(self, rest: str, _: Seen) -> None:
        self._wait(float(rest or 20))
        self.answer(200, b"late")

    def _wait(self, seconds: float) -> None:
        self.server.waiting += 1
        end = time.monotonic() + seconds
        self.connection.settimeout(0.05)
        while time.monotonic() < end and not self.server.released:
            with suppress(TimeoutError):
                if not self.connection.recv(1):
                    self.server.abandoned += 1
                    break
        self.connection.settimeout(None)
        self.server.waiting -= 1

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Upstream(ThreadingHTTPServer):
    """The server; `seen` has the requests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[Seen] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.headers: dict[str, str] = {}
        self.raw: dict[str, bytes] = {}
        self.events: Queue[bytes] = Queue()
        self.waiting = self.abandoned = 0
        self.released = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the tests."""


@contextmanager
def upstream() -> Iterator[Upstream]:
    """A running one."""
    server = Upstream()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.released = True
    server.shutdown()
    server.server_close()


def rebase(folder: Path, provider: str, base_url: str, more: str = "") -> None:
    """Let the gateway in `folder` find a provider's API at `base_url`; `more`: further lines of its catalogue entry."""
    file = folder / "catalog" / "sandbox.toml"
    head, table, rest = file.read_text().partition(f"[{provider}]\n")
    lines, end, others = rest.partition("\n\n")
    lines = re.sub(r"api_base_url = .*\n", "", lines + "\n")
    file.write_text(f'{head}{table}{lines}api_base_url = "{base_url}"\n{more}{end}{others}')
