"""
Requests of others while providers hang: `python -m bench.neighbours` (200 callers at each silent provider).

One gateway process. A silent provider accepts connections and never responds, at any endpoint; its callers read expired tokens, refresh,
come back from the provider, and check, and try again when `Retry-After` says, or after a second. Meanwhile `/healthz`, token reads, sign-ins and
refreshes at a healthy provider are timed, one of each at a time: without silent providers, with one, and with two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlsplit

from joserfc import jwt
from joserfc.jwk import OctKey

from bench.browsers import Answer, Browser
from bench.readers import gateway, percentile
from bench.stage import CLIENT_ID, CLIENT_SECRET, JWT_SECRET, PROJECT, Stage, staged
from gateway.database import open_postgres
from gateway.partners.admin import add_partner

MOST_TIMES = 3.0
"""A p99 beside silent providers may be that many times the quiet one."""
_PUBLIC_PORT = 8000
_HEALTHY = 200
"""Connections that are refreshed in turn: one may be refreshed ten times within a minute."""
_PAUSE_SECONDS, _RETRY_SECONDS = 0.02, 1.0
_SILENT = ("silent1", "silent2")
_TABLE = """
[{name}]
like = "strict"
name = "{name}"
authorization_endpoint = "{origin}/{name}/authorize"
token_endpoint = "{origin}/{name}/token"
revocation_endpoint = "{origin}/{name}/revoke"
userinfo_endpoint = "{origin}/{name}/me"
slug = "{name}"
"""


class Street(Stage):
    """A stage with silent providers beside the healthy one."""

    def environ(self, host: str = "a", **more: str) -> dict[str, str]:
        """The settings of a gateway with all of them."""
        for name in _SILENT:
            more |= {f"{name.upper()}_CLIENT_ID": CLIENT_ID, f"{name.upper()}_CLIENT_SECRET": CLIENT_SECRET}
        environ = super().environ(host, **more)
        tables = [_TABLE.format(name=name, origin=self.origin) for name in _SILENT]
        Path(environ["GATEWAY_CATALOG"], "silent.toml").write_text("".join(tables), encoding="utf-8")
        return environ


class User(Browser):
    """A user of the product in a browser, over one kept connection."""

    def __init__(self, port: int) -> None:
        super().__init__(_PUBLIC_PORT, 0)
        self._true_port = port
        now = int(time.time())
        claims = {
            "iss": f"{PROJECT}/auth/v1",
            "aud": "authenticated",
            "sub": str(uuid.uuid4()),
            "iat": now - 1,
            "exp": now + 3600,
        }
        claims |= {"role": "authenticated", "email": "alice@northwind.example"}
        self._token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(JWT_SECRET.encode()))

    async def call(self, method: str, path: str, key: str = "") -> Answer:
        """A request without a body."""
        self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._true_port)
        return await self._ask(method, path, b"", self.cookies, key)

    async def sign_in(self) -> Answer:
        """As the product's front end hands its user over."""
        self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self._true_port)
        answer = await self.post("/session", f"access_token={self._token}&next=/connections".encode())
        self.cookies |= answer.cookies
        return answer

    async def come_back(self, provider: str) -> Answer:
        """Start to connect, and open the callback."""
        if not self.cookies:
            await self.sign_in()
            page = (await self.get(f"/phone/{provider}/connect")).body
            self.form = b"csrf=" + page.partition(b'name="csrf" value="')[2].split(b'"')[0] + b"&display=page"
        begun = await self.post(f"/phone/{provider}/connect", self.form)
        state = parse_qs(urlsplit(begun.location).query).get("state")
        if not state:
            return begun
        return await self.get(f"/phone/{provider}/callback?state={state[0]}&code=x", {**self.cookies, **begun.cookies})


# -- the callers of silent providers ---------------------------------------------------------------------------------


async def _insist(
    call: Callable[[], Coroutine[Any, Any, Answer]], user: User, statuses: Counter[int], slowest: list[float]
) -> None:
    while True:
        began, pause = time.monotonic(), _RETRY_SECONDS
        try:
            answer = await call()
            statuses[answer.status] += 1
            pause = max(pause, answer.retry_after)
        except (OSError, asyncio.IncompleteReadError):
            statuses[0] += 1
            await user.close()
        slowest[0] = max(slowest[0], time.monotonic() - began)
        await asyncio.sleep(pause)


async def _crowd(port: int, key: str, rows: dict[str, Sequence[str]], count: int, pipe: Connection) -> None:
    statuses: Counter[int] = Counter()
    slowest, tasks = [0.0], []
    for provider, ids in rows.items():
        for number in range(count):
            user, row = User(port), ids[1 + number]
            calls: list[Callable[[], Coroutine[Any, Any, Answer]]] = [
                lambda user=user, row=row: user.call("GET", f"/v1/connections/{row}/token", key),
                lambda user=user, row=ids[0]: user.call("GET", f"/v1/connections/{row}/token", key),
                lambda user=user, row=row: user.call("POST", f"/v1/connections/{row}/refresh", key),
                lambda user=user, row=row: user.call("POST", f"/v1/connections/{row}/check", key),
                lambda user=user, provider=provider: user.come_back(provider),
            ]
            tasks.append(asyncio.create_task(_insist(calls[number % len(calls)], user, statuses, slowest)))
    await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
    pipe.send({"statuses": dict(statuses), "slowest_seconds": round(slowest[0], 1)})
    os._exit(0)


@contextmanager
def _callers(port: int, key: str, rows: dict[str, Sequence[str]], count: int) -> Iterator[dict[str, Any]]:
    """That many callers of each provider, in a process of their own; what they got is in the dict afterwards."""
    told: dict[str, Any] = {}
    pipe, theirs = multiprocessing.Pipe()
    run = lambda: asyncio.run(_crowd(port, key, rows, count, theirs))  # noqa: E731
    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    try:
        yield told
        pipe.send("stop")
        told |= pipe.recv()
    finally:
        process.kill()
        process.join()


# -- the others ------------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """Of one kind of request."""

    seconds: list[float]
    refused: int = 0

    def told(self) -> dict[str, float]:
        """In milliseconds."""
        return {
            "requests": len(self.seconds), "refused": self.refused, "median_ms": round(median(self.seconds) * 1000, 1),
            "p99_ms": round(percentile(self.seconds, 0.99) * 1000, 1),
        }  # fmt: skip


async def _timed(call: Callable[[int], Coroutine[Any, Any, Answer]], seconds: float) -> Times:
    times, end, number = Times([]), time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        began = time.perf_counter()
        answer = await call(number)
        times.seconds.append(time.perf_counter() - began)
        times.refused += answer.status not in (200, 303)
        number += 1
        await asyncio.sleep(_PAUSE_SECONDS)
    return times


async def _measure(port: int, key: str, ids: Sequence[str], seconds: float) -> dict[str, Times]:
    users = [User(port) for _ in range(4)]
    calls: dict[str, Callable[[int], Coroutine[Any, Any, Answer]]] = {
        "healthz": lambda _: users[0].call("GET", "/healthz"),
        "token read": lambda _: users[1].call("GET", f"/v1/connections/{ids[0]}/token", key),
        "sign-in": lambda _: users[2].sign_in(),
        "refresh": lambda at: users[3].call("POST", f"/v1/connections/{ids[1 + at % (len(ids) - 1)]}/refresh", key),
    }
    found = await asyncio.gather(*(_timed(call, seconds) for call in calls.values()))
    return dict(zip(calls, found, strict=True))


def _key(stage: Stage) -> str:
    database = open_postgres(stage.dsn)
    try:
        scope = ["tokens:read", "connections:read"]
        return add_partner(database, f"bench {uuid.uuid4().hex[:6]}", scope=scope, reach="all").text
    finally:
        database.close()


def neighbours(seconds: float, callers: int, rounds: int = 1) -> dict[str, Any]:
    """The figures: for each number of silent providers the times of the others, over all rounds."""
    found: dict[str, dict[str, Times]] = {}
    crowds: dict[str, list[Any]] = {}
    with staged(Street) as stage:
        key = _key(stage)
        healthy = list(stage.connections("strict", _HEALTHY))
        rows = {name: list(stage.connections(name, callers + 1)) for name in _SILENT}
        stage.control("hang", kinds=",".join(_SILENT))
        for _ in range(rounds):
            for hanging in range(len(_SILENT) + 1):
                stage.expire([row for each in rows.values() for row in each])
                name = f"{hanging} silent"
                silent = {each: rows[each] for each in _SILENT[:hanging]}
                with gateway(stage, 1) as port, _callers(port, key, silent, callers) as told:
                    time.sleep(1)
                    for what, times in asyncio.run(_measure(port, key, healthy, seconds)).items():
                        kept = found.setdefault(name, {}).setdefault(what, Times([]))
                        kept.seconds += times.seconds
                        kept.refused += times.refused
                crowds.setdefault(name, []).append(told)
                print(f"  {name}: {told}", file=sys.stderr, flush=True)
    figures = {name: {what: times.told() for what, times in each.items()} for name, each in found.items()}
    quiet = figures["0 silent"]
    ratios = {
        name: {what: round(told["p99_ms"] / quiet[what]["p99_ms"], 2) for what, told in each.items()}
        for name, each in figures.items()
        if each is not quiet
    }
    return {"load": os.getloadavg()[0], "figures": figures, "p99_ratios": ratios, "callers": crowds}


def main() -> None:
    """Measure and print; ends with 1 where a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.neighbours", description=__doc__.splitlines()[1])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    told = neighbours(given.seconds, given.callers, given.rounds)
    print(json.dumps(told, indent=1))
    slow = max(ratio for each in told["p99_ratios"].values() for ratio in each.values()) > MOST_TIMES
    sys.exit(1 if slow or any(row["refused"] for each in told["figures"].values() for row in each.values()) else 0)


if __name__ == "__main__":
    main()
