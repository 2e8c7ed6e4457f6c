"""
A hostile provider: `python -m bench.rogue` prints its port and serves until its input ends.

Each registration has endpoints below its own name, which answer well until `/control/plan` gives one of them, or with `*` that
of all, an answer from the tables here. A script is what is sent, step by step: bytes, a pause in seconds, or a piece with how
often and how slowly it is repeated. Imports nothing of the gateway.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import socket
import struct
import sys
import time
import zlib
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from bench.strict import CLIENT_ID

ACCOUNT = "account-1"
ENDPOINTS = "authorization", "token", "userinfo", "revocation"
METADATA = ".well-known/openid-configuration"
GARBLED, AWAY, STANDS = "provider_garbled", "provider_unavailable", ""

Step = bytes | float | tuple[bytes, int, float] | None
Script = bytes | tuple[Step, ...]
Answers = dict[str, tuple[Script, str]]
"""By name: the script, and how a connect has to end."""

_HUGE = 300 * 1024 * 1024
_PIECE = b" " * 65_536
_PIECES = _HUGE // len(_PIECE)
_JUST = 64_000
"""Bytes: just below what the gateway reads."""
_SOMEWHERE = "http://127.0.0.1:00000/d000"
"""Stands for whoever is asked, and is as long."""
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_SLOWLY = 400, 0.2


def whole(body: str | bytes, status: int = 200, kind: str = "application/json", more: str = "") -> bytes:
    """A complete response."""
    content = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def said(**fields: Any) -> bytes:
    """The correct response of any endpoint, changed by `fields`; None removes one."""
    right = {"access_token": f"at.{ACCOUNT}.x", "refresh_token": f"rt.{ACCOUNT}.x", "expires_in": 3600, "scope": "read"}
    right |= {"token_type": "Bearer", "id": ACCOUNT, "sub": ACCOUNT, "keys": [], "issuer": _SOMEWHERE}
    right |= {f"{each}_endpoint": f"{_SOMEWHERE}/{each}" for each in ENDPOINTS}
    body = {name: value for name, value in (right | fields).items() if value is not None}
    return whole(json.dumps(body, ensure_ascii=False))


def raw(name: str, value: str) -> bytes:
    """The same with a literal value."""
    return whole(said(**{name: 41_414_141}).partition(b"\r\n\r\n")[2].replace(b"41414141", value.encode()))


def _gzip(size: int) -> bytes:
    """Blanks, by the thousand to one; far larger than the bound on the wire already where `size` is."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(_PIECE) for _ in range(size // len(_PIECE))) + packer.flush()


def _many(item: str, *, size: int = _JUST) -> str:
    return "[" + ",".join([item] * (size // (len(item.encode()) + 1) - 100)) + "]"


def _key(size: int = 256, e: bytes = b"\1\0\1", **more: str) -> dict[str, str]:
    """An unrelated RSA key of `size` bytes."""
    n = b"\xc1" * (size - 1) + b"\1"
    coded = {name: base64.urlsafe_b64encode(value).decode().rstrip("=") for name, value in (("n", n), ("e", e))}
    return {"kty": "RSA", "kid": "a", "use": "sig", **coded, **more}


def _id_token(header: str, payload: str = "{}", signature: int = 256) -> str:
    parts = header.encode(), payload.encode(), b"s" * signature
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


# fmt: off
EVERYWHERE: Answers = {
    "what is right": (b"", STANDS),
    "not JSON": (whole("It works!", kind="text/plain"), GARBLED),
    "HTML with 200": (whole("<!doctype html><title>Sorry</title>", kind="text/html"), GARBLED),
    "a list": (whole("[]"), GARBLED),
    "a name twice": (whole('{"access_token":"a","access_token":"b"}'), GARBLED),
    **{f"redirect {n}": (whole("", n, more="Location: /elsewhere\r\n"), GARBLED) for n in (301, 302, 303, 307, 308)},
    "300 MB announced": ((_OK + b"Content-Length: %d\r\n\r\n" % _HUGE, (_PIECE, _PIECES, 0.0)), GARBLED),
    "300 MB chunked": ((_CHUNKED, (b"10000\r\n" + _PIECE + b"\r\n", _PIECES, 0.0)), GARBLED),
    "300 MB until close": ((_OK + b"Connection: close\r\n\r\n", (_PIECE, _PIECES, 0.0)), GARBLED),
    "gzip of 300 MB": (whole(_gzip(_HUGE), more="Content-Encoding: gzip\r\n"), GARBLED),
    "gzip of 60 MB in 60 KB": (whole(_gzip(60 << 20), more="Content-Encoding: gzip\r\n"), GARBLED),
    "100,000 nested lists": (whole("[" * 100_000 + "]" * 100_000), GARBLED),
    "32,000 nested lists": (whole('{"a":' + "[" * 32_000 + "]" * 32_000 + "}"), GARBLED),
    "an endless opening": (whole('{"a":' * 13_000), GARBLED),
    "one number of 60 KB": (raw("more", "1" * _JUST), STANDS),
    "200 one-byte chunks": ((_CHUNKED[:-2] + b"Connection: close\r\n\r\n" + b"1\r\n \r\n" * 200 + b"0\r\n\r\n",), GARBLED),
    "64,000 one-byte chunks": ((_CHUNKED + b"1\r\n \r\n" * 64_000 + b"0\r\n\r\n",), GARBLED),
    "54 KB of header lines": (whole(" ", more=("X: " + "x" * 595 + "\r\n") * 90), GARBLED),
    "endless header lines": ((_OK, (b"X-Line: 1\r\n" * 1_000, 10_000, 0.0)), GARBLED),
    "an endless header line": ((_OK + b"X-Line: ", (_PIECE, _PIECES, 0.0)), GARBLED),
    "1xx for ever": (((b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, 10_000, 0.0),), GARBLED),
    "103 for ever": (((b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1_000, 10_000, 0.0),), GARBLED),
    "reset": ((None,), AWAY),
    "closed half-way": ((_OK + b"Content-Length: 1000\r\n\r\n{",), AWAY),
    "silence": ((60.0,), AWAY),
    "silence half-way": ((_OK + b"Content-Length: 1000\r\n\r\n{", 60.0), AWAY),
    "a drip in the headers": ((_OK + b"X-Line: ", (b"x", *_SLOWLY)), AWAY),
    "a drip of header lines": ((_OK, (b"X: 1\r\n", *_SLOWLY)), AWAY),
    "a drip in the body": ((_OK + b"Content-Length: 9000\r\n\r\n", (b" ", *_SLOWLY)), AWAY),
    "a drip of 1xx": (((b"HTTP/1.1 100 Continue\r\n\r\n", *_SLOWLY),), AWAY),
    "60 KB of non-ASCII": (said(more="é" * (_JUST // 2 - 150)), STANDS),
    "60 KB of one-letter lists": (raw("more", _many("[0]")), GARBLED),
    "60 KB of empty objects": (raw("more", _many("{}")), GARBLED),
    "60 KB of fractions": (raw("more", _many("1e9")), GARBLED),
    "60 KB of short texts": (raw("more", _many('"é"')), GARBLED),
    "60 KB of lists of names": (raw("more", _many('{"a":0}')), GARBLED),
    "60 KB of tiny names": (said(more={f"{n:x}": 0 for n in range(5_800)}), STANDS),
}
SLOW = tuple(name for name in EVERYWHERE if name.startswith(("silence", "a drip")))
TAKEN = ("not JSON", "HTML with 200", "a list", "a name twice", "32,000 nested lists", "an endless opening", "one number of 60 KB",
         "200 one-byte chunks", "54 KB of header lines", *(name for name in EVERYWHERE if name.startswith("60 KB of")))
"""Whole and small enough, for whom the status is enough."""
IN_TOKENS: Answers = {
    "error in 200": (whole('{"error":"access_denied"}'), "access_denied"),
    "invalid_client": (whole('{"error":"invalid_client"}', 401), "client_rejected"),
    "an error nobody knows": (whole('{"error":"' + "x" * 60_000 + '"}', 400), GARBLED),
    "500": (whole("{}", 500), AWAY),
    "429": (whole("{}", 429, more="Retry-After: 99999999\r\n"), AWAY),
    "no access_token": (said(access_token=None), GARBLED),
    **{f"expires_in {odd}": (raw("expires_in", odd), STANDS) for odd in ('"text"', "-1", "null", "1e309", "1000000000000", "NaN")},
    "NUL in a token": (said(access_token="a\0b"), GARBLED),
    "CRLF in a token": (said(access_token="a\r\nX: y"), GARBLED),
    "CRLF in the refresh token": (said(refresh_token="a\r\nX: y"), GARBLED),
    "a token of 4 MB": (said(access_token="a" * (4 << 20)), GARBLED),
    "a token of 60 KB": (said(access_token="a" * 60_000), STANDS),
    "60 KB of non-ASCII token": (said(access_token="é" * 31_000), GARBLED),
    "60 KB of escaped token": (raw("access_token", '"' + "\\ud83d\\ude00" * 5_200 + '"'), GARBLED),
    "a scope of 12,500 words": (said(scope=" ".join(f"{n:x}" for n in range(12_500))), STANDS),
    "a scope of 12,000 same words": (said(scope=["a"] * 12_000), GARBLED),
}
IN_ACCOUNTS: Answers = {
    "no account": (said(id=None, sub=None), GARBLED),
    "a list for an id": (said(id=["a"]), GARBLED),
    "NUL in the id": (said(id="a\0b"), GARBLED),
    "an id of 60 KB": (said(id="é" * 31_000), GARBLED),
    "a label of 60 KB": (said(label="é" * 31_000), STANDS),
    "404": (whole("{}", 404), GARBLED),
    "500": (whole("{}", 500), AWAY),
}
IN_KEYS: Answers = {
    "no keys": (said(keys=None), GARBLED),
    "keys that are none": (said(keys=[1, None, "x", []] * 3_000), GARBLED),
    "20,000 empty keys": (raw("keys", _many("{}")), GARBLED),
    "n of 60 KB": (said(keys=[_key(46_000)]), GARBLED),
    "n of 16,384 bits": (said(keys=[_key(2_048)]), GARBLED),
    "e of 60 KB": (said(keys=[_key(e=b"\3" * 46_000)]), GARBLED),
    "e of 2,048 bits": (said(keys=[_key(256, e=b"\3" * 256)]), GARBLED),
    "e of 3,072 bits": (said(keys=[_key(384, e=b"\3" * 384)]), GARBLED),
    "e of 16,384 bits": (said(keys=[_key(2_048, e=b"\3" * 2_048)]), GARBLED),
    "x5c of 60 KB": (said(keys=[_key(x5c="A" * 60_000)]), GARBLED),
    "100 keys": (said(keys=[_key(kid=str(number)) for number in range(100)]), GARBLED),
    "100 keys of one name": (said(keys=[_key()] * 100), GARBLED),
    "100 points on no curve": (said(keys=[{"kty": "EC", "crv": "P-256", "kid": "a", "x": "A" * 43, "y": "A" * 43}] * 100), GARBLED),
}
IN_ID_TOKENS: Answers = {
    "no id_token": (said(), GARBLED),
    "a header of 60 KB": (said(id_token=_id_token('{"alg":"RS256","kid":"' + "a" * 45_000 + '"}')), GARBLED),
    "a header of 12 KB of lists": (said(id_token=_id_token('{"alg":"RS256","a":' + _many("[0]", size=11_000) + "}")), GARBLED),
    "a header of 11 KB nested": (said(id_token=_id_token("[" * 11_000)), GARBLED),
    "a payload of 60 KB": (said(id_token=_id_token('{"alg":"RS256"}', '{"a":"' + "a" * 45_000 + '"}')), GARBLED),
    "a payload of 11 KB nested": (said(id_token=_id_token('{"alg":"ES256","kid":"a"}', "[" * 11_000)), GARBLED),
    "40,000 dots": (said(id_token="." * 40_000), GARBLED),
    "zip in the header": (said(id_token=_id_token('{"alg":"RS256","zip":"DEF","b64":false,"crit":["b64"]}')), GARBLED),
}
IN_METADATA: Answers = {
    "another issuer": (said(issuer="https://other.example"), "issuer_mismatch"),
    "500": (whole("{}", 500), AWAY),
}
# fmt: on
ANSWERS = EVERYWHERE | IN_TOKENS | IN_ACCOUNTS | IN_KEYS | IN_ID_TOKENS | IN_METADATA
_SIGNATURES = {"n of 16,384 bits": 2_048, "e of 16,384 bits": 2_048, "e of 3,072 bits": 384}
"""Their bytes, where a key's are not 256."""


class Rogue:
    """The planned responses, and the recorded requests."""

    def __init__(self) -> None:
        self.port = 0
        self.plans: dict[tuple[str, str], str] = {}
        self.given = self.elsewhere = 0
        self._key = ECKey.generate_key("P-256", {"kid": "a", "use": "sig"})

    def planned(self, who: str, endpoint: str) -> str | None:
        """The name of the response."""
        return self.plans.get((who, endpoint)) or self.plans.get(("*", endpoint))

    def script(self, path: str, query: dict[str, str], head: str, form: dict[str, str]) -> Script:
        """The script for one request."""
        _, who, endpoint = path.split("/", 2) if path.count("/") > 1 else ("", "", path)
        if who == "control":
            return whole(json.dumps(self._control(endpoint, query)))
        self.elsewhere += "elsewhere" in path
        name = self.planned(who, endpoint)
        self.given += name is not None
        answer = (name and ANSWERS[name][0]) or self._right(who, endpoint, head, form)
        here = f"http://127.0.0.1:{self.port}/{who}"
        return answer.replace(_SOMEWHERE.encode(), here.encode()) if isinstance(answer, bytes) else answer

    def _right(self, who: str, endpoint: str, head: str, form: dict[str, str]) -> bytes:
        if endpoint == "keys":
            return whole(json.dumps({"keys": [self._key.as_dict(private=False)]}))
        token = form.get("refresh_token") or head.partition("Bearer ")[2].split("\r\n")[0]
        account = token.split(".")[1] if token.count(".") == 2 else ACCOUNT
        more: dict[str, Any] = {"id": account, "sub": account}
        if endpoint == "token":
            more |= {"id": None} | {
                f"{kind}_token": f"{kind[0]}t.{account}.{secrets.token_urlsafe(24)}" for kind in ("access", "refresh")
            }
            more |= {"id_token": self._id_token(who, form.get("code", ""))} if who.startswith("k") else {}
        return said(**more)

    def _id_token(self, who: str, code: str) -> str:
        """A valid one; or, for unrelated keys, one with a plausible header."""
        planned = self.planned(who, "keys")
        if planned and ANSWERS[planned][0]:
            return _id_token('{"alg":"RS256","kid":"a"}', signature=_SIGNATURES.get(planned, 256))
        now, issuer = int(time.time()), f"http://127.0.0.1:{self.port}/{who}"
        claims = {"iss": issuer, "aud": CLIENT_ID, "sub": ACCOUNT, "iat": now, "exp": now + 600, "nonce": code}
        return jwt.encode({"alg": "ES256", "kid": "a"}, claims, self._key)

    def _control(self, what: str, query: dict[str, str]) -> Any:
        if what == "mint":
            accounts = [f"{query['name']}-{number}" for number in range(int(query["count"]))]
            return [[each, f"at.{each}.x", f"rt.{each}.x"] for each in (accounts if accounts[1:] else [ACCOUNT])]
        if what == "plan":
            self.plans[query["who"], query["endpoint"]] = query["answer"]
        if what == "forget":
            self.plans.clear()
        return {"given": self.given, "elsewhere": self.elsewhere}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; it is kept as long as the answers are whole."""
        try:
            script: Script = b""
            while isinstance(script, bytes):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = head.lower().partition("content-length:")[2].split("\r\n")[0]
                form = dict(parse_qsl((await reader.readexactly(int(length or 0))).decode()))
                target = urlsplit(head.split(" ", 2)[1])
                query = {name: values[0] for name, values in parse_qs(target.query).items()}
                script = self.script(target.path, query, head, form)
                await _play(writer, (script,) if isinstance(script, bytes) else script)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def _play(writer: asyncio.StreamWriter, script: tuple[Step, ...]) -> None:
    for step in script:
        if step is None:  # what is closed without lingering is reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        if isinstance(step, float):
            await asyncio.sleep(step)
            continue
        piece, times, pause = step if isinstance(step, tuple) else (step, 1, 0.0)
        for _ in range(times):
            writer.write(piece)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)


async def main() -> None:
    """Serves on a free port until standard input ends."""
    rogue = Rogue()
    server = await asyncio.start_server(rogue.serve, "127.0.0.1", 0, backlog=512)
    rogue.port = server.sockets[0].getsockname()[1]
    print(rogue.port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
