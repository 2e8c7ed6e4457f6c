"""
An API with files of any size, in a process of its own: `GET /<bytes>` sends that many, `POST` counts what it gets. Prints its port.
"""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PIECE = bytes(256 * 1024)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024

    def do_GET(self) -> None:
        """As many zeros as the path says."""
        size = int(self.path.strip("/"))
        self._head(size)
        while size:
            size -= self.wfile.write(_PIECE[:size])

    def do_POST(self) -> None:
        """How much arrived."""
        left = length = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, len(_PIECE))))
        said = str(length).encode()
        self._head(len(said))
        self.wfile.write(said)

    def _head(self, size: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
