"""
A hostile authorization server: what a tenant might register to get at the codes of an honest one.

Issuers live below its origin, each with the metadata that a test gives it. It records every request and works like a normal server, so
that only the gateway's checks keep a code out of its records.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMES = ("authorization", "token", "userinfo", "revocation")


class HostileServer:
    """`issuer(name)` is an issuer here; `metadata[name]` overrides what it publishes; `posts` is what was handed to it."""

    def __init__(self) -> None:
        self.metadata: dict[str, dict[str, Any]] = {}
        self.userinfo: dict[str, Any] = {"sub": "mallory", "email": "mallory@hostile.example"}
        self.posts: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def issuer(self, name: str) -> str:
        """RFC 8414 section 2."""
        return f"{self.origin}/{name}"

    def answer(self, path: str) -> dict[str, Any] | None:
        """Metadata, a token or an account, as the path has it."""
        name, _, rest = path.strip("/").partition("/")
        if rest == ".well-known/openid-configuration":
            usual = {f"{each}_endpoint": f"{self.issuer(name)}/{each}" for each in NAMES}
            return {"issuer": self.issuer(name), **usual} | self.metadata.get(name, {})
        if rest == "token":
            return {
                "access_token": "hostile-access",
                "token_type": "Bearer",
                "expires_in": 60,
                "refresh_token": "hostile-r",
            }
        return self.userinfo if rest == "userinfo" else None

    def posted(self, text: str) -> list[str]:
        """The paths to which something with `text` in it was posted."""
        return [path for path, body in self.posts if text in body]

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _handler(hostile: HostileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(hostile.answer(urlsplit(self.path).path))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            hostile.posts.append((self.path, f"{self.headers.get('Authorization', '')} {parse_qs(body)} {body}"))
            self._say(hostile.answer(self.path))

        def _say(self, body: dict[str, Any] | None) -> None:
            text = json.dumps(body or {}).encode()
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    return Handler
