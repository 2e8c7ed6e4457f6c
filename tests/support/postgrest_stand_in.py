"""
Stands in for PostgREST and the API gateway before it, over a real Postgres.

PostgREST itself is in no package registry and was not exercised: this does what its documentation says of the few requests
that are needed here: who asks, by key and token; what of it goes to `postgrest_database`; errors as {code, message, details,
hint}. It also breaks on purpose, and passes `/auth/v1` on. https://docs.postgrest.org/en/stable/references/
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey

from tests.support.postgrest_database import Exposed, Refused

SECRET_KEY = "sb_secret_northwind_0123456789abcdef"
PUBLISHABLE_KEY = "sb_publishable_northwind_0123456789"
JWT_SECRET = "a legacy secret that the project signs with"


def service_role_jwt() -> str:
    """The legacy secret key of the project."""
    claims = {"iss": "supabase", "ref": "northwind", "role": "service_role", "iat": 1, "exp": 4_000_000_000}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(JWT_SECRET))


@dataclass
class PostgRest:
    """`dsn`: the database, as a superuser. `auth`: where `/auth/v1` is passed on to. `fault`: see `_Handler.do_POST`."""

    dsn: str
    auth: str = ""
    keys: KeySet | None = None
    fault: Callable[[str], str] = field(default=lambda _: "")
    calls: Counter[str] = field(default_factory=Counter)
    """By the last part of the path; `""` counts connections."""
    seen: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Exposed(self.dsn)
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"stand_in": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = {"target": self._server.serve_forever, "kwargs": {"poll_interval": 0.02}, "daemon": True}
        self._thread = threading.Thread(**serve)
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection, to both sides."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for link in list(self._open):
            with _suppressed():
                link.shutdown(socket.SHUT_RDWR)
        self.database.close()

    def who(self, headers: Any) -> dict[str, Any]:
        """The claims of a request: the token's, else those that the API gateway puts in for a key."""
        apikey, bearer = headers.get("apikey", ""), headers.get("Authorization", "").removeprefix("Bearer ")
        claims = {SECRET_KEY: {"role": "service_role"}, PUBLISHABLE_KEY: {"role": "anon"}}.get(apikey)
        if claims is None and not (apikey.count(".") == 2 and self._verified(apikey)):
            raise Refused("401", "Invalid API key")
        if not bearer:
            return claims or {"role": "anon"}
        if bearer.count(".") != 2:
            raise Refused("PGRST301", f"Expected 3 parts in JWT; got {bearer.count('.') + 1}")
        found = self._verified(bearer)
        if found is None:
            raise Refused("PGRST301", "No suitable key or wrong key type")
        if found.get("exp", 0) < time.time():
            raise Refused("PGRST303", "JWT expired")
        return {"role": "anon"} | found

    def _verified(self, token: str) -> dict[str, Any] | None:
        for key, algorithm in ((OctKey.import_key(JWT_SECRET), "HS256"), (self.keys, "ES256")):
            if key is not None:
                with _suppressed():
                    return dict(jwt.decode(token, key, algorithms=[algorithm]).claims)
        return None


@contextmanager
def _suppressed() -> Iterator[None]:
    try:
        yield
    except (OSError, JoseError, ValueError):
        return


class _Handler(BaseHTTPRequestHandler):
    """One kept connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 30
    stand_in: PostgRest

    def setup(self) -> None:
        super().setup()
        self.stand_in.calls[""] += 1
        self.stand_in._open.add(self.connection)

    def finish(self) -> None:
        self.stand_in._open.discard(self.connection)
        with _suppressed():
            super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        """
        `fault` is asked with the last part of the path, before anything is done: "before" drops the connection then, "after"
        once the transaction is committed, "drip" sends the answer's header a byte at a time; a number is an answer of that
        status, from a proxy that knows no JSON.
        """
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        last = parts.path.rpartition("/")[2]
        self.stand_in.calls[last] += 1
        self.stand_in.seen.append({name.lower(): value for name, value in self.headers.items()})
        if parts.path.startswith("/auth/v1/"):
            passed = requests.get(self.stand_in.auth + self.path, timeout=60)
            self._answer(passed.status_code, passed.text)
            return
        fault = self.stand_in.fault(last)
        if fault == "before":
            self._drop()
        elif fault.isdigit():
            self._answer(int(fault), "<h1>The proxy speaks</h1>", "text/html")
        else:
            status, text = self._asked(parts.path, parts.query, body)
            if fault == "after":
                self._drop()
            elif fault == "drip":
                self._drip()
            else:
                self._answer(status, text)

    def _asked(self, path: str, query: str, body: bytes) -> tuple[int, str]:
        try:
            claims, sent = self.stand_in.who(self.headers), json.loads(body) if body else {}
            if path.startswith("/rest/v1/rpc/"):
                return 200, self.stand_in.database.call(path.removeprefix("/rest/v1/rpc/"), sent, claims)
            return self.stand_in.database.rows(
                self.command, path.removeprefix("/rest/v1/"), query, sent, self.headers, claims
            )
        except Refused as refused:
            if refused.code == "401":  # the API gateway's own words, without a code
                return 401, json.dumps({"message": refused.message, "hint": "Double check your API key."})
            told = {"code": refused.code, "message": refused.message, "details": refused.details, "hint": None}
            return refused.status, json.dumps(told)

    def _answer(self, status: int, text: str, kind: str = "application/json; charset=utf-8") -> None:
        with _suppressed():
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(b"" if status == 204 else text.encode())
            self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        with _suppressed():
            self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self) -> None:
        """Until the other side has enough."""
        self.close_connection = True
        with _suppressed():
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(600):
                self.wfile.write(b"X-Drip: 1\r\n")
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
