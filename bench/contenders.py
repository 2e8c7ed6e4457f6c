"""
The contenders: how each is started, and the two steps of its flow.

All run on waitress with one process and the same number of threads, over the same Postgres and the same provider.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import certifi
from cryptography.fernet import Fernet
from joserfc import jwt
from joserfc.jwk import OctKey

from bench.browsers import Attempt, Browser, FlowLost
from bench.provider import CLIENT_ID, CLIENT_SECRET
from gateway.server import CONNECTIONS, THREADS

ROOT = Path(__file__).resolve().parents[1]
_PROJECT = "https://bench.supabase.example"
_READY_SECONDS = 120
_CSRF = re.compile(rb'name="csrf" value="([^"]+)"')

_CATALOG = """
[bench]
name = "Bench"
type = 2
authorization_endpoint = "{origin}/authorize"
token_endpoint = "{origin}/token"
scope = "read write"
account = {{ id = "account" }}
"""


@dataclass(frozen=True)
class Place:
    """The environment of a contender: a folder, its port, the provider's origin and authority, and the database."""

    folder: Path
    port: int
    provider: str
    authority: Path
    dsn: str


class Contender:
    """A server and its flow. This one is the bare route, without a flow."""

    name = "bare Flask route"

    def __init__(self, place: Place) -> None:
        self.place = place
        self.log = place.folder / f"{type(self).__name__}.log"
        inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(), cwd=ROOT, env=inherited | self.settings(), stdout=log, stderr=log
            )

    def command(self) -> list[str]:
        """The command line."""
        return waitress("bench.apps.bare:app", self.place.port)

    def settings(self) -> dict[str, str]:
        """The environment."""
        return {}

    async def ready(self, path: str = "/bare") -> None:
        """Waits until it answers; FlowLost with its log when it does not come up."""
        end = time.monotonic() + _READY_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            browser = Browser(self.place.port, 0)
            try:
                if (await browser.get(path)).status < 500:
                    return
            except OSError:
                await asyncio.sleep(0.05)
            finally:
                await browser.close()
        raise FlowLost(f"{self.name} does not start:\n{self.log.read_text('utf-8', 'replace')}")

    def stop(self) -> None:
        """Stop its processes."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    async def welcome(self, browser: Browser) -> None:
        """What has to happen once, before the first flow."""

    async def ask(self, browser: Browser) -> None:
        """One request that does nothing."""
        if (await browser.get("/bare")).body != b"ok":
            raise FlowLost("the bare route did not answer")


class AuthlibRoute(Contender):
    """The hand-written route."""

    name = "Flask + Authlib by hand"

    def command(self) -> list[str]:
        """A module for waitress."""
        return waitress("bench.apps.authlib_route:app", self.place.port)

    def settings(self) -> dict[str, str]:
        """Trusts public authorities and the bench's, in one file, as requests needs it."""
        bundle = self.place.folder / "bundle.pem"
        bundle.write_bytes(Path(certifi.where()).read_bytes() + self.place.authority.read_bytes())
        return {
            "BENCH_DSN": self.place.dsn,
            "BENCH_PROVIDER": self.place.provider,
            "BENCH_ID": CLIENT_ID,
            "BENCH_SECRET": CLIENT_SECRET,
            "REQUESTS_CA_BUNDLE": str(bundle),
        }

    async def connect(self, browser: Browser) -> Attempt:
        """By the link that starts it."""
        return browser.attempt(await browser.get(f"/connect/bench?owner={browser.account}"))

    async def callback(self, browser: Browser, attempt: Attempt) -> None:
        """Back from the provider."""
        answer = await browser.get(attempt.callback, attempt.cookies)
        if not answer.location.endswith("/done"):
            raise FlowLost(f"the hand-written callback ended with {answer.status}")


class GatewayServer(Contender):
    """The gateway, started as an operator starts it."""

    name = "the gateway"
    _JWT_SECRET = "bench-jwt-secret-bench-jwt-secret-bench"

    def command(self) -> list[str]:
        """One process with its default number of threads."""
        return [sys.executable, "-m", "gateway", "serve", "--port", str(self.place.port)]

    def settings(self) -> dict[str, str]:
        """An operator's settings, with one more provider."""
        catalog = self.place.folder / "catalog"
        catalog.mkdir(exist_ok=True)
        (catalog / "bench.toml").write_text(_CATALOG.format(origin=self.place.provider), "utf-8")
        return {
            "GATEWAY_PUBLIC_URL": f"http://localhost:{self.place.port}",
            "GATEWAY_KEYS": Fernet.generate_key().decode("ascii"),
            "GATEWAY_DATA": str(self.place.folder),
            "GATEWAY_CATALOG": str(catalog),
            "GATEWAY_CA_BUNDLE": str(self.place.authority),
            "GATEWAY_ALLOW_PRIVATE_HOSTS": "1",
            "DATABASE_URL": self.place.dsn,
            "SUPABASE_URL": _PROJECT,
            "SUPABASE_JWT_SECRET": self._JWT_SECRET,
            "BENCH_CLIENT_ID": CLIENT_ID,
            "BENCH_CLIENT_SECRET": CLIENT_SECRET,
        }

    async def ready(self, path: str = "/readyz") -> None:
        """Its own word for it, database included."""
        await super().ready(path)

    async def welcome(self, browser: Browser) -> None:
        """Signs a new user in and opens the connect page, whose form is sent again and again."""
        token = jwt.encode({"alg": "HS256"}, self._claims(), OctKey.import_key(self._JWT_SECRET))
        signed_in = await browser.post("/session", f"access_token={token}&next=/connections".encode())
        browser.cookies |= signed_in.cookies
        page = await browser.get("/email/bench/connect")
        found = _CSRF.search(page.body)
        if found is None:
            raise FlowLost(f"sign-in ended with {signed_in.status}, the connect page with {page.status}")
        browser.form = b"csrf=" + found[1] + b"&display=page"

    def _claims(self) -> dict[str, object]:
        now = int(time.time())
        return {
            "iss": f"{_PROJECT}/auth/v1",
            "aud": "authenticated",
            "role": "authenticated",
            "sub": str(uuid.uuid4()),
            "email": "alice@northwind.example",
            "iat": now,
            "exp": now + 3600,
        }

    async def connect(self, browser: Browser) -> Attempt:
        """Presses "Continue"."""
        attempt = browser.attempt(await browser.post("/email/bench/connect", browser.form))
        browser.cookies = dict(attempt.cookies)
        return attempt

    async def callback(self, browser: Browser, attempt: Attempt) -> None:
        """Back from the provider."""
        answer = await browser.get(attempt.callback, attempt.cookies)
        if "connection=" not in answer.location:
            raise FlowLost(f"the gateway's callback ended with {answer.status} {answer.location}")


def waitress(target: str, port: int) -> list[str]:
    """The command line of waitress with the gateway's number of processes and threads."""
    return [
        *(sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", f"--threads={THREADS}"),
        *(f"--connection-limit={CONNECTIONS}", "--asyncore-use-poll", target),
    ]
