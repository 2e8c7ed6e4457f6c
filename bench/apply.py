"""
`db apply` on a live database: `python -m bench.apply` (twenty times, at 100 reads and 10 callbacks a second).

One gateway with its worker serves token reads and whole connects while `python -m gateway db apply` runs again and again. Reported are the
failed requests, the deadlocks that Postgres counted, and the slowest responses: requests wait while the tables are locked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg

from bench.browsers import Browser, FlowLost
from bench.certificates import make_certificates
from bench.connect import folder_for_a_database, free_port
from bench.contenders import ROOT, GatewayServer, Place
from bench.provider import running_provider
from bench.readers import percentile
from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import start_or_join

_BROWSERS = 20
_READERS = 20
_PARTNER = ("partners", "add", "bench", "--scope", "tokens:read", "--reach", "all", "--json")
_PAUSE_SECONDS = 0.5


class Load:
    """Requests at a fixed rate, whatever the server does: each has its own moment."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()
        self.seconds: dict[str, list[float]] = {"read": [], "callback": []}
        self.over = False

    async def repeat(self, kind: str, every_seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        """`step` every so often until it is over; the next one waits for a slow one."""
        due = time.monotonic()
        while not self.over:
            due += every_seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            try:
                await step()
            except (FlowLost, OSError, EOFError) as error:
                self.failed[f"{kind}: {error}"] += 1
            self.seconds[kind].append(time.monotonic() - began)


async def _connected(server: GatewayServer, number: int) -> tuple[Browser, str]:
    """A browser that has connected once, and the id of the connection."""
    browser = Browser(server.place.port, number)
    await server.welcome(browser)
    attempt = await server.connect(browser)
    answer = await browser.get(attempt.callback, attempt.cookies)
    return browser, answer.location.partition("connection=")[2].partition("&")[0]


async def _run(folder: Path, dsn: str, times: int, *, quiet: bool) -> dict[str, Any]:
    authority, certificate = make_certificates(folder)
    async with running_provider(certificate) as provider:
        server = GatewayServer(Place(folder, free_port(), provider.origin, authority, dsn))
        try:
            await server.ready()
            environ = {"PATH": os.environ["PATH"], **server.settings(), "PYTHONWARNINGS": "ignore"}
            told = subprocess.run(  # noqa: ASYNC221 - before the load
                [sys.executable, "-m", "gateway", *_PARTNER], cwd=ROOT, env=environ, check=True, capture_output=True
            )
            key = json.loads(told.stdout)["key"]
            browsers = [await _connected(server, number) for number in range(_BROWSERS)]
            return await _under_load(server, browsers, key, environ, times, quiet=quiet)
        finally:
            server.stop()


async def _close(browsers: list[Browser]) -> None:
    for browser in browsers:
        await browser.close()


async def _under_load(
    server: GatewayServer,
    browsers: list[tuple[Browser, str]],
    key: str,
    environ: dict[str, str],
    times: int,
    *,
    quiet: bool,
) -> dict[str, Any]:
    load = Load()

    def connecting(browser: Browser) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            await server.callback(browser, await server.connect(browser))

        return step

    def reading(reader: Browser, connection_id: str) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            answer = await reader.get(f"/v1/connections/{connection_id}/token", bearer=key)
            if answer.status != 200:
                raise FlowLost(f"status {answer.status}")

        return step

    running = [
        asyncio.create_task(load.repeat("callback", _BROWSERS / 10, connecting(browser))) for browser, _ in browsers
    ]
    readers = [Browser(server.place.port, number) for number in range(_READERS)]
    for number, reader in enumerate(readers):
        step = reading(reader, browsers[number % len(browsers)][1])
        running.append(asyncio.create_task(load.repeat("read", _READERS / 100, step)))
    applied = []
    for number in range(1, times + 1):
        await asyncio.sleep(_PAUSE_SECONDS)
        began = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway",
            "db",
            "apply",
            cwd=ROOT,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        applied.append(time.monotonic() - began)
        if process.returncode:
            load.failed[f"db apply: {output.decode()[-300:]}"] += 1
        if not quiet:
            print(f"  {number} of {times} times", file=sys.stderr, flush=True)
    load.over = True
    await asyncio.gather(*running)
    await _close([*readers, *(browser for browser, _ in browsers)])
    return {
        "times": times,
        "failed": dict(load.failed),
        "apply_seconds_max": round(max(applied), 2),
        "requests": {kind: len(seconds) for kind, seconds in load.seconds.items()},
        "p99_ms": {kind: round(percentile(seconds, 0.99) * 1000) for kind, seconds in load.seconds.items()},
        "max_ms": {kind: round(max(seconds) * 1000) for kind, seconds in load.seconds.items()},
    }


def measure(times: int, *, quiet: bool = False) -> dict[str, Any]:
    """The figures of one run."""
    with folder_for_a_database() as folder, start_or_join(folder) as server:
        dsn = server.dsn
        apply_schema(dsn)
        told = asyncio.run(_run(folder, dsn, times, quiet=quiet))
        with psycopg.connect(dsn) as connection:
            [told["deadlocks"]] = connection.execute(
                "select sum(deadlocks)::integer from pg_stat_database"
            ).fetchone() or (0,)
    return told


def main() -> None:
    """Measure and print; ends with 1 if a request failed or Postgres found a deadlock."""
    parser = argparse.ArgumentParser(prog="python -m bench.apply", description="`db apply` under load.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--quiet", action="store_true", help="no progress")
    given = parser.parse_args()
    told = measure(given.times, quiet=given.quiet)
    print(json.dumps(told, indent=1))
    sys.exit(1 if told["failed"] or told["deadlocks"] else 0)


if __name__ == "__main__":
    main()
