"""
A fast provider on asyncio: one token endpoint over TLS that redeems codes and counts.

A code contains its account and its PKCE challenge, so that only redeemed codes have to be stored; `code_for` stands for the consent page.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl

CLIENT_ID, CLIENT_SECRET = "bench-client", "bench-client-secret"
_BASIC = b"basic " + base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).lower()
_TOKEN_LENGTH = 64


class Provider:
    """The endpoint, and its counts: TLS connections, redeemed codes, refused requests."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = self.redeemed = self.refused = 0
        self._used: set[str] = set()

    @property
    def origin(self) -> str:
        """Its origin, with the name in its certificate."""
        return f"https://localhost:{self.port}"

    def answer(self, head: bytes, body: bytes) -> tuple[int, dict[str, object]]:
        """Status and JSON for a token request (RFC 6749 sections 4.1.3, 5.1 and 5.2; RFC 7636 section 4.6)."""
        form = dict(parse_qsl(body.decode("ascii")))
        code = form.get("code", "")
        account, _, rest = code.partition(".")
        challenge = rest.partition(".")[0]
        if _BASIC not in head.lower():
            return self._refuse(401, "invalid_client")
        if form.get("grant_type") != "authorization_code" or code in self._used:
            return self._refuse(400, "invalid_grant")
        if _challenge(form.get("code_verifier", "")) != challenge:
            return self._refuse(400, "invalid_grant")
        self._used.add(code)
        self.redeemed += 1
        return 200, {
            "access_token": "at_" + secrets.token_urlsafe(_TOKEN_LENGTH),
            "refresh_token": "rt_" + secrets.token_urlsafe(_TOKEN_LENGTH),
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "read write",
            "account": account,
        }

    def _refuse(self, status: int, error: str) -> tuple[int, dict[str, object]]:
        self.refused += 1
        return status, {"error": error}


def code_for(account: str, challenge: str) -> str:
    """A code for `account`, to be redeemed once, with the verifier of `challenge`."""
    return f"{account}.{challenge}.{secrets.token_urlsafe(8)}"


def _challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode("ascii")


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with kept connections; a request has a length or no body."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS is up."""
        self._provider.connections += 1
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Respond to every complete request."""
        self._received += data
        while True:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            length = _content_length(head)
            if not end or len(rest) < length:
                return
            self._received = rest[length:]
            status, said = self._provider.answer(head, rest[:length])
            body = json.dumps(said).encode()
            self._transport.write(
                b"HTTP/1.1 %d Answer\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
            )


def _content_length(head: bytes) -> int:
    _, found, after = head.lower().partition(b"\r\ncontent-length:")
    return int(after.split(b"\r\n", 1)[0]) if found else 0


@asynccontextmanager
async def running_provider(certificate: Path) -> AsyncIterator[Provider]:
    """A provider on a free port of this machine, with the certificate and key in `certificate`."""
    provider = Provider()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(provider), "127.0.0.1", 0, ssl=context)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()
