"""
HTTP clients that act like browsers: kept connections, cookies, forms and redirects.

The stop at the provider costs the server nothing and is left out: the browser reads the authorization request in the redirect
and comes back with the code that the consent page would have made. Every response is checked, so that no failed flow counts as a cheap one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

from bench.provider import code_for

_FORM = "application/x-www-form-urlencoded"


class FlowLost(Exception):
    """A step failed; the measurement is invalid."""


@dataclass(frozen=True)
class Answer:
    """A response; `cookies` are those that it sets."""

    status: int
    location: str
    cookies: Mapping[str, str]
    body: bytes = field(repr=False)
    retry_after: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """A flow between its two halves: the callback URL, and the browser's cookies."""

    callback: str
    cookies: Mapping[str, str]


class Browser:
    """One connection to one server. `account`: the user's account at the provider."""

    def __init__(self, port: int, number: int) -> None:
        self.port = port
        self.account = f"account-{number}"
        self.cookies: dict[str, str] = {}
        self.form = b""
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, cookies: Mapping[str, str] | None = None, *, bearer: str = "") -> Answer:
        """The page at `path`; with `bearer`, as a program asks for it."""
        return await self._ask("GET", path, b"", self.cookies if cookies is None else cookies, bearer)

    async def post(self, path: str, form: bytes) -> Answer:
        """Sends a form as a browser does from a page of the same origin."""
        return await self._ask("POST", path, form, self.cookies)

    async def close(self) -> None:
        """Lets the connection go."""
        if self._streams:
            self._streams[1].close()
            self._streams = None

    def attempt(self, answer: Answer) -> Attempt:
        """The attempt in a redirect to the provider (RFC 6749 section 4.1.1). Raises FlowLost for another response."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(answer.location).query).items()}
        if answer.status not in (302, 303) or asked.get("code_challenge_method") != "S256":
            raise FlowLost(f"connect ended with {answer.status}")
        back = urlencode({"code": code_for(self.account, asked["code_challenge"]), "state": asked["state"]})
        path = urlsplit(asked["redirect_uri"]).path
        return Attempt(f"{path}?{back}", {**self.cookies, **answer.cookies})

    async def _ask(self, method: str, path: str, body: bytes, cookies: Mapping[str, str], bearer: str = "") -> Answer:
        origin = f"http://localhost:{self.port}"
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: localhost:{self.port}",
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64) bench",
            "Accept: text/html,application/xhtml+xml,*/*;q=0.8",
            "Accept-Language: en",
        ]
        if bearer:
            lines.append(f"Authorization: Bearer {bearer}")
        if cookies:
            lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
        if body:
            lines += [f"Origin: {origin}", "Sec-Fetch-Site: same-origin", f"Content-Type: {_FORM}"]
            lines.append(f"Content-Length: {len(body)}")
        self._streams = self._streams or await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await _read(reader)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    location, length, cookies, retry_after = "", 0, {}, 0.0
    for line in head[1:]:
        name, _, value = line.partition(": ")
        match name.lower():
            case "location":
                location = value
            case "content-length":
                length = int(value)
            case "retry-after":
                retry_after = float(value)
            case "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                cookies[cookie] = content
    return Answer(int(head[0].split(" ")[1]), location, cookies, await reader.readexactly(length), retry_after)
