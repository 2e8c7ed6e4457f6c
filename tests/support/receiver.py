"""A partner's webhook receiver: real HTTP, each request kept, the response decided by the test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)["data"]


class Receiver:
    """Listens on loopback until it is closed. `respond`: the status for a request; None closes the connection without a response."""

    def __init__(self, respond: Callable[[Received], int | None] = lambda _: 204) -> None:
        self.respond = respond
        self.received: list[Received] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Received({name.lower(): value for name, value in self.headers.items()}, body, self.path)
                receiver.received.append(request)
                status = receiver.respond(request)
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def positions(self) -> list[int]:
        """Of the events that came, in order of arrival."""
        return [request.event["position"] for request in self.received]
