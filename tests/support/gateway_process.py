"""
The whole product, running for a test: a sandbox, a gateway process, and people who use them.

Everything is real: the process, its database, HTTP between them. `Person` is a browser without pixels; the pixels are in
test_journey.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import requests

from gateway.cli.demo import demo_settings
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.sandbox import SandboxServer, make_server
from gateway.sandbox.supabase import ProductUser, access_token
from tests.support.database import fresh_database
from tests.support.forked import ROOT, Command  # noqa: F401 - ROOT for others
from tests.support.patience import PATIENCE, wait_for

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)">')


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(process: Any, port: int, said: Callable[[], str]) -> None:
    """Until the server there can serve; `said` is what it logged, should it end instead."""

    def is_ready() -> bool:
        assert process.poll() is None, said()
        try:
            socket.create_connection(("127.0.0.1", port)).close()  # a request takes a hundred times as long
            return bool(requests.get(f"http://127.0.0.1:{port}/readyz", timeout=60).ok)
        except (OSError, requests.ConnectionError, requests.Timeout):
            return False

    wait_for(is_ready)


@dataclass
class Gateway:
    """A gateway in processes of its own, over `dsn`, talking to `sandbox`."""

    folder: Path
    dsn: str
    settings: dict[str, str] = field(default_factory=dict)
    workers: int = 1
    options: tuple[str, ...] = ()
    """Of `serve`, further ones."""

    def __post_init__(self) -> None:
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self.sandbox: SandboxServer = make_server(gateway=self.url).start()
        self.sandbox.state.seen = deque()  # all of it: tests compare how much was seen before and afterwards
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "gateway.log"
        self.environ = demo_settings(self.folder, self.url, self.sandbox.origin, self.dsn) | self.settings
        self.process: Command | None = None

    def start(self) -> Gateway:
        """Serves, and returns when it is ready."""
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PG_BINDIR")}
        command = ("serve", "--port", str(self.port), "--workers", str(self.workers), *self.options)
        self.process = Command(*command, environ=inherited | self.environ, log=self.log)
        wait_until_ready(self.process, self.port, self.log.read_text)
        return self

    def stop(self) -> None:
        """Ends the processes and the sandbox."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.sandbox.stop()

    def person(self, name: str = "Alice Winter", *, user_id: str | None = None) -> Person:
        """A user of the product in a new browser, without a session here."""
        email = f"{name.split(maxsplit=1)[0].lower()}@northwind.example"
        return Person(self, ProductUser(name, user_id or str(uuid.uuid4()), email, "Operations"))


@contextmanager
def whole_gateway(cluster: EmbeddedPostgres, template: str, **options: Any) -> Iterator[Gateway]:
    """The whole product over a database of its own, not started yet; `options` as of Gateway."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-whole-"))
    with fresh_database(cluster, template) as dsn:
        made = Gateway(folder, dsn, **options)
        try:
            yield made
        finally:
            made.stop()
            shutil.rmtree(folder)


class Person:
    """A user of the product, and their browser: cookies are kept, redirects are followed only when asked."""

    def __init__(self, gateway: Gateway, user: ProductUser) -> None:
        self.gateway = gateway
        self.user = user
        self.browser = requests.Session()
        self.browser.trust_env = False  # no proxy and no netrc, which would be looked for before each request

    @property
    def id(self) -> str:
        return self.user.id

    def elsewhere(self) -> Person:
        """The same user in another browser."""
        return Person(self.gateway, self.user)

    def token(self, **changes: object) -> str:
        """Their Supabase access token."""
        issuer = {"iss": f"{self.gateway.environ['SUPABASE_URL']}/auth/v1"}
        return access_token(self.gateway.sandbox.state, self.user, **(issuer | changes))

    def get(self, path: str, **options: object) -> requests.Response:
        return self.browser.get(self._url(path), allow_redirects=False, timeout=30, **options)

    def post(self, path: str, data: dict[str, str] | None = None, **options: object) -> requests.Response:
        headers = {"Origin": self.gateway.url} | dict(options.pop("headers", {}))
        return self.browser.post(
            self._url(path), data=data, headers=headers, allow_redirects=False, timeout=30, **options
        )

    def _url(self, path: str) -> str:
        return path if path.startswith("http") else self.gateway.url + path

    def signs_in(self, next_: str = "/connections") -> requests.Response:
        """The product's front end hands them over."""
        origin = {"Origin": self.gateway.sandbox.origin}
        return self.post("/session", {"access_token": self.token(), "next": next_}, headers=origin)

    def asks(self, provider: str, **query: str) -> requests.Response:
        """The connect page, by the short link."""
        link = self.get(f"/connect/{provider}", params=query)
        return self.get(link.headers["Location"]) if link.status_code == 303 else link

    def begins(self, provider: str, entered: dict[str, str] | None = None, **query: str) -> str:
        """Fills in the form and presses "Continue"; where that leads."""
        page = self.asks(provider, **query)
        assert page.status_code == 200, page.text
        action = re.search(r'<form id="connect" method="post" action="([^"]+)"', page.text)
        answer = self.post(action[1], fields_in(page.text.split('id="connect"')[1]) | (entered or {}))
        assert answer.status_code == 303, answer.text
        return answer.headers["Location"]

    def consents(
        self, provider: str, account: str | None = None, *, query: dict[str, str] | None = None, **form: str
    ) -> str:
        """Says yes at the provider; the callback's address, not opened yet."""
        return self.gateway.sandbox.consents(self.begins(provider, **(query or {})), account, **form)

    def connects(self, provider: str, account: str | None = None, **query: str) -> dict[str, str]:
        """The whole flow; the result that the product gets."""
        if not self.browser.cookies:
            self.signs_in()
        answer = self.get(self.consents(provider, account, query=query))
        assert answer.status_code == 303, answer.text
        return told(answer)

    def disconnects(self, connection_id: str) -> requests.Response:
        """By the button on their page."""
        page = self.get("/connections").text
        form = page.split(f'action="/connections/{connection_id}/disconnect"')[1]
        return self.post(f"/connections/{connection_id}/disconnect", fields_in(form.split("</form>")[0]))


def fields_in(page: str) -> dict[str, str]:
    """The hidden fields of a form, as a browser would send them."""
    return {name: html.unescape(value) for name, value in HIDDEN.findall(page)}


def told(answer: requests.Response) -> dict[str, str]:
    """The result in the query of a URL at the end of a flow."""
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def places_with(gateway: Gateway, text: str, *shown: requests.Response) -> list[str]:
    """Where a text is: tables of the database, files of the gateway, and addresses of responses."""
    with psycopg.connect(gateway.dsn) as database:
        tables = database.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('public', 'gateway')"
        )
        found = [
            table
            for (table,) in tables.fetchall()
            if database.execute(f"select 1 from {table} t where t::text like %s limit 1", [f"%{text}%"]).fetchone()  # noqa: S608
        ]
    files = [file for file in gateway.folder.rglob("*") if file.is_file() and "catalog" not in file.parts]
    found += [file.name for file in files if text.encode() in file.read_bytes()]
    return found + [answer.url for answer in shown if text in answer.text]


def without_request_id(answer: requests.Response) -> str:
    """The body of a response, but for the id that each request has of its own."""
    return answer.text.replace(answer.headers["X-Request-Id"], "")
