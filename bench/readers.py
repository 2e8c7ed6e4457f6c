"""
Readers of tokens over HTTP, and their gateway: kept connections, a partner's key, response times.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.request import urlopen

from bench.stage import ROOT, Stage
from gateway.database import open_postgres
from gateway.partners.admin import add_partner

_READY_SECONDS = 60


@contextmanager
def gateway(stage: Stage, workers: int) -> Iterator[int]:
    """The port of a gateway with that many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    log = stage.folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", str(workers)],
            cwd=ROOT, env={"PATH": os.environ["PATH"], **stage.environ()}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        _wait(port, log, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            if urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(log.read_text("utf-8", "replace"))


@dataclass(frozen=True)
class Read:
    """One response: its status, the token (or the body instead), and its time in seconds."""

    status: int
    body: str
    seconds: float


@lru_cache
def _partner_key(dsn: str) -> str:
    database = open_postgres(dsn)
    try:
        return add_partner(database, "Northwind back end", scope=["tokens:read"], reach="all").text
    finally:
        database.close()


class Reader:
    """One kept connection of the product's back end, whose key reaches every connection."""

    def __init__(self, stage: Stage, port: int) -> None:
        self._key = _partner_key(stage.dsn)
        self._port = port

    async def open(self) -> Reader:
        """Connects."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def read(self, connection_id: str) -> Read:
        """`GET /v1/connections/<id>/token`."""
        began = time.perf_counter()
        self._writer.write(
            f"GET /v1/connections/{connection_id}/token HTTP/1.1\r\nHost: localhost:{self._port}\r\n"
            f"Authorization: Bearer {self._key}\r\n\r\n".encode()
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = (await self._reader.readexactly(length)).decode()
        return Read(int(head.split(" ", 2)[1]), body, time.perf_counter() - began)

    async def close(self) -> None:
        """Lets go."""
        self._writer.close()
        await self._writer.wait_closed()


async def readers(stage: Stage, port: int, count: int) -> list[Reader]:
    """That many, connected; each has been answered once, so that every process is warm."""
    made = [await Reader(stage, port).open() for _ in range(count)]
    await asyncio.gather(*(reader.read("00000000-0000-4000-8000-000000000000") for reader in made))
    return made


def percentile(values: Sequence[float], share: float) -> float:
    """Of at least one value; nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]
