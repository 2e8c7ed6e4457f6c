"""
A strict provider, in a separate process: `python -m bench.strict` prints its port and serves until its input ends.

Every refresh rotates the refresh token. Below /strict the use of an old one revokes the whole family at once; below /forgiving it
gets the same new pair again for thirty seconds, as HighLevel does, and revokes after that. It counts who asked how often, and can
be made slow, or silent below one path. Imports nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

CLIENT_ID, CLIENT_SECRET = "bench-client", "bench-client-secret"
REPLAY_SECONDS = 30.0
EXPIRES_SECONDS = 3600
_BASIC = b"basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).lower()


@dataclass
class Family:
    """All tokens of one consent."""

    account: str
    access: str = ""
    refresh: str = ""
    revoked: bool = False
    before: dict[str, tuple[float, str, str]] = field(default_factory=dict)
    """Used refresh tokens: when, and the pair that was answered."""

    def rotate(self) -> tuple[str, str]:
        """A new pair; the previous one is used up."""
        used, name = self.refresh, secrets.token_urlsafe(24)
        self.access, self.refresh = f"at.{self.account}.{name}", f"rt.{self.account}.{name}"
        if used:
            self.before[used] = time.monotonic(), self.access, self.refresh
        return self.access, self.refresh


class Strict:
    """The families, and the recorded requests."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.hanging: set[str] = set()
        self.families: dict[str, Family] = {}
        self.asked: Counter[str] = Counter()
        self.refused = 0
        self.reused = 0
        self.seen = 0

    async def answer(self, path: str, query: dict[str, str], head: bytes, form: dict[str, str]) -> tuple[int, Any]:
        """Status and JSON."""
        _, kind, *rest = path.split("/")
        if kind == "control":
            return 200, self._control(rest[0], query)
        if kind in self.hanging:
            await asyncio.sleep(3600)
        if rest == ["token"]:
            self.seen += 1
            if _BASIC not in head.lower():
                return 401, {"error": "invalid_client"}
            said = self._token(
                kind, form
            )  # taken in at once and answered late: what is killed meanwhile loses the answer
            await asyncio.sleep(self.delay)
            return said
        if rest == ["revoke"]:
            self._family(form.get("token", "")).revoked = True
            return 200, {}
        bearer = head.lower().partition(b"authorization: bearer ")[2].split(b"\r\n")[0].decode()
        family = next((each for each in self.families.values() if each.access.lower() == bearer), None)
        if family is None or family.revoked:
            return 401, {"error": "invalid_token"}
        return 200, {"id": family.account}

    def _token(self, kind: str, form: dict[str, str]) -> tuple[int, Any]:
        if form.get("grant_type") == "authorization_code":
            family = self.families.setdefault(form["code"], Family(form["code"]))
            return 200, self._body(family, family.rotate())
        token = form.get("refresh_token", "")
        family = self._family(token)
        self.asked[family.account] += 1
        if family.revoked:
            self.refused += 1
            return 400, {"error": "invalid_grant"}
        if token == family.refresh:
            return 200, self._body(family, family.rotate())
        self.reused += 1
        at, access, refresh = family.before.get(token, (float("-inf"), "", ""))
        if kind == "forgiving" and refresh == family.refresh and time.monotonic() - at < REPLAY_SECONDS:
            return 200, self._body(family, (access, refresh))
        family.revoked = True
        self.refused += 1
        return 400, {"error": "invalid_grant"}

    def _body(self, family: Family, pair: tuple[str, str]) -> dict[str, Any]:
        body = {"access_token": pair[0], "refresh_token": pair[1], "token_type": "Bearer"}
        return body | {"expires_in": EXPIRES_SECONDS, "scope": "read", "id": family.account}

    def _family(self, token: str) -> Family:
        account = token.split(".")[1] if token.count(".") == 2 else ""
        return self.families.get(account) or Family(account, revoked=True)

    def _control(self, what: str, query: dict[str, str]) -> Any:
        if what == "mint":
            made = [Family(f"{query['name']}-{number}") for number in range(int(query["count"]))]
            self.families |= {each.account: each for each in made}
            return [[each.account, *each.rotate()] for each in made]
        if what == "delay":
            self.delay = float(query["seconds"])
        if what == "hang":
            self.hanging = set(query.get("kinds", "").split(",")) - {""}
        if what == "forget":
            self.asked.clear()
            self.refused = self.reused = self.seen = 0
        return {
            "seen": self.seen,
            "asked": sum(self.asked.values()),
            "families_asked": len(self.asked),
            "most": max(self.asked.values(), default=0),
            "refused": self.refused,
            "reused": self.reused,
            "revoked": [each.account for each in self.families.values() if each.revoked],
        }


async def _serve(strict: Strict, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            form = await reader.readexactly(int(length)) if length else b""
            target = urlsplit(head.split(b" ", 2)[1].decode())
            query = {name: values[0] for name, values in parse_qs(target.query).items()}
            status, said = await strict.answer(target.path, query, head, dict(parse_qsl(form.decode())))
            body = json.dumps(said).encode()
            writer.write(
                b"HTTP/1.1 %d Answer\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(body), body)
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serves on a free port until standard input ends."""
    strict = Strict()
    server = await asyncio.start_server(lambda r, w: _serve(strict, r, w), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
