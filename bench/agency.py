"""
Many locations of one agency, read at once: `python -m bench.agency` (500 locations, 300 of them read twice, 4 processes).

The simulated HighLevel takes 100 calls in ten seconds for an agency, as the real one does, so most readers are told to wait, and come back
when they were told to. Told are the tokens that were minted, the most for one location, and how long it took.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

from gateway.cli.demo import demo_settings
from gateway.connect.attempt import Connected, by_user, finish_connect, start_connect
from gateway.crypto.vault import fingerprint
from gateway.database.migrate import apply_schema
from gateway.database.queries.connect import open_session
from gateway.embedded.postgres import start_or_join
from gateway.partners.admin import add_partner
from gateway.sandbox import SandboxServer, make_server
from gateway.services import Runtime, build_runtime
from gateway.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
AGENCY = "NorthwindAgency00001"


def measure(*, locations: int, read: int, readers: int, processes: int, seconds: float) -> dict[str, Any]:
    """What a run says. Raises TimeoutError if a reader has no token after that many seconds."""
    with ExitStack() as held:
        folder = Path(tempfile.mkdtemp(prefix="gateway-agency-"))
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        server = held.enter_context(start_or_join(folder))
        apply_schema(server.dsn)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        public = f"http://localhost:{port}"
        sandbox = held.enter_context(make_server(gateway=public))
        sandbox.state.more_locations = locations
        environ = demo_settings(folder / "data", public, sandbox.origin, server.dsn)
        connection, key = _prepared(environ, sandbox)
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--workers", str(processes)]
        serving = subprocess.Popen(
            command, cwd=ROOT, env={"PATH": os.environ["PATH"], **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        held.callback(serving.wait)
        held.callback(serving.terminate)
        _wait(f"{public}/readyz")
        began, statuses = time.monotonic(), Counter[int]()

        def reader(number: int) -> str:
            path = f"/v1/connections/{connection}/token?location=NorthwindMore{number % read:07}"
            return _token(port, path, key, statuses, began + seconds)

        with ThreadPoolExecutor(min(readers * read, 600)) as pool:
            tokens = list(pool.map(reader, range(readers * read)))
        took = time.monotonic() - began
        seen = sandbox.state.requests("ghl", "location_token")
        minted = Counter(each["form"].get("locationId") for each in seen if each["status"] == 201)
        return {
            "locations": len(minted),
            "most_for_one": max(minted.values()),
            "tokens": len(set(tokens)),
            "requests": len(seen),
            "statuses": {str(status): count for status, count in sorted(statuses.items())},
            "seconds": round(took, 1),
        }


def _prepared(environ: dict[str, str], sandbox: SandboxServer) -> tuple[uuid.UUID, str]:
    """An agency's connection, and a partner's key."""
    rt: Runtime = build_runtime(read_settings(environ))
    try:
        session, browser, user = secrets.token_urlsafe(), secrets.token_urlsafe(), uuid.uuid4()
        until = datetime.now(UTC) + timedelta(hours=1)
        open_session(rt.database, session_hash=fingerprint(session), user_id=user, label="Mia", expires_at=until)
        begin = by_user(rt, session=session, browser=browser, return_to=None, display="page", add_account=False)
        url = start_connect(rt, rt.provider("ghl"), {}, begin)
        back = parse_qs(urlsplit(sandbox.consents(url, AGENCY)).query)
        ended = finish_connect(rt, "crm", "main", back, session=session, browser=browser)
        if not isinstance(ended, Connected):
            raise TypeError(ended)
        partner = add_partner(rt.database, "Northwind back end", scope=["tokens:read"], reach="all")
        return ended.connection_id, partner.text
    finally:
        rt.close()


def _token(port: int, path: str, key: str, statuses: Counter[int], until: float) -> str:
    """Read until there is a token; a refused reader comes back when it was told to."""
    while time.monotonic() < until:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            link.request("GET", path, headers={"Authorization": f"Bearer {key}"})
            answer = link.getresponse()
            body = answer.read()
        finally:
            link.close()
        statuses[answer.status] += 1
        if answer.status == 200:
            return str(json.loads(body)["access_token"])
        time.sleep(float(answer.headers.get("Retry-After", "1")))
    raise TimeoutError(path)


def _wait(url: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if urlopen(url, timeout=5).status == 200:  # noqa: S310 - our own address
                return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(url)


def main() -> None:
    """Print what a run says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--locations", type=int, default=500)
    parser.add_argument("--read", type=int, default=300)
    parser.add_argument("--readers", type=int, default=2, help="of each location")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    told = measure(
        locations=asked.locations,
        read=asked.read,
        readers=asked.readers,
        processes=asked.processes,
        seconds=asked.seconds,
    )
    print(json.dumps(told, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
