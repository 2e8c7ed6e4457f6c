"""
The places where the gateway calls a provider, for `bench.hostile`.

Registrations at the hostile provider are `p…` with endpoints of their own, `k…` with id_tokens, `d…` discovered.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
from joserfc import jwt
from joserfc.jwk import OctKey

from bench import rogue
from bench.browsers import Answer, Browser
from bench.stage import CLIENT_ID, CLIENT_SECRET, JWT_SECRET, PROJECT, Stage

REGISTRATIONS = {"p": 64, "k": 900, "d": 900}
_PUBLIC_PORT = 8000
_CSRF, _PROBLEM = re.compile(rb'name="csrf" value="([^"]+)"'), re.compile(rb'data-problem="([^"]+)"')

_TABLE = (
    '\n[{0}]\nname = "{0}"\ntype = 3\nissuer = "{1}/{0}"\nscope = "{2}"\naccount = {{ id = "id", label = "label" }}\n'
)
_ENDPOINTS = '{1}_endpoint = "{0}/{1}"\n'
_STANDS = (
    "select 'c', c.id::text, c.generation, c.status, md5(concat(d.token, d.refresh)) from gateway.connection c"
    " join public.provider_data d on d.id = c.id where c.user_id = %s union all"
    " select 'p', p.id::text, 0, '', '' from public.provider_data p where p.auth_provider_id = %s union all"
    " select 'g', g.id::text, 0, '', '' from gateway.pending_grant g where g.user_id = %s union all"
    " select 'a', a.state_hash, 0, '', '' from gateway.authorization_request a where a.user_id = %s order by 1, 2"
)
_AFRESH = (
    "update gateway.connection set expires_at = clock_timestamp() + %s * interval '1 second', not_before = null, failures = 0,"
    " status = 'active', reason = null, lease_id = null, lease_until = null, intent_at = null, checked_at = null,"
    " refresh_at = clock_timestamp() + interval '1 day' where user_id = %s"
)


@dataclass(frozen=True)
class Place:
    """A place where a provider is called. `verb`: the `/v1` call that leads there; without one a browser connects. `kind`: of registrations."""

    endpoint: str
    answers: rogue.Answers
    kind: str = "p"
    verb: str = ""

    def slug(self, name: str) -> str:
        """The expected slug; for a revocation, the expected receipt."""
        script, slug = self.answers[name]
        if self.verb == "DELETE ":  # RFC 7009 section 2.2: the status says it, whatever else is in the answer
            return "done" if name in rogue.TAKEN or slug == rogue.STANDS else "queued"
        if self.verb == "POST /refresh" and name in rogue.SLOW:  # the token request outlives the caller's wait
            return "refresh_in_progress"
        if self.endpoint == "keys" and script and slug == rogue.STANDS:
            return rogue.GARBLED
        return "needs_reauthorization" if self.verb and slug == "access_denied" else slug


PLACES = {
    "token, connect": Place("token", rogue.EVERYWHERE | rogue.IN_TOKENS),
    "token, refresh": Place("token", rogue.EVERYWHERE | rogue.IN_TOKENS, verb="POST /refresh"),
    "account, connect": Place("userinfo", rogue.EVERYWHERE | rogue.IN_ACCOUNTS),
    "account, check": Place("userinfo", rogue.EVERYWHERE | rogue.IN_ACCOUNTS, verb="POST /check"),
    "keys": Place("keys", rogue.EVERYWHERE | rogue.IN_KEYS, "k"),
    "id_token": Place("token", rogue.IN_ID_TOKENS, "k"),
    "metadata": Place(rogue.METADATA, rogue.EVERYWHERE | rogue.IN_METADATA, "d"),
    "revocation": Place("revocation", rogue.EVERYWHERE, verb="DELETE "),
}


class Hostile(Stage):
    """A stage with registrations at the hostile provider: `p…` plain, `k…` with id_tokens, `d…` discovered."""

    _kept: psycopg.Connection[Any] | None = None

    def environ(self, host: str = "a", **more: str) -> dict[str, str]:
        """The settings of a gateway with all registrations."""
        tables = []
        for who in (f"{kind}{number:03}" for kind, most in REGISTRATIONS.items() for number in range(most)):
            tables.append(_TABLE.format(who, self.origin, "openid" if who[0] == "k" else "read"))
            if who[0] != "d":
                named = (*rogue.ENDPOINTS, "keys")
                tables += [
                    _ENDPOINTS.format(f"{self.origin}/{who}", name).replace("keys_endpoint", "jwks_uri")
                    for name in named
                ]
            more |= {f"{who.upper()}_CLIENT_ID": CLIENT_ID, f"{who.upper()}_CLIENT_SECRET": CLIENT_SECRET}
        environ = super().environ(host, **more)
        Path(environ["GATEWAY_CATALOG"], "rogue.toml").write_text("".join(tables), encoding="utf-8")
        return environ

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """As the parent's, over one connection."""
        self._kept = self._kept or psycopg.connect(self.dsn, autocommit=True)
        cursor = self._kept.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []

    def plan(self, who: str, place: str, answer: str) -> None:
        """Plan the response for `who` there."""
        self.control("plan", who=who, endpoint=PLACES[place].endpoint, answer=answer.replace(" ", "+"))


class Caller(Browser):
    """A new user, and the call for them."""

    def __init__(self, stage: Hostile, place: Place) -> None:
        super().__init__(_PUBLIC_PORT, 0)
        self.stage, self.place, self.user, self.rows = stage, place, uuid.uuid4(), [""]
        now = int(time.time())
        claims = {
            "iss": f"{PROJECT}/auth/v1",
            "aud": "authenticated",
            "sub": str(self.user),
            "iat": now - 1,
            "exp": now + 3600,
        }
        claims |= {"role": "authenticated", "email": "alice@northwind.example"}
        self._bearer = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(JWT_SECRET.encode()))

    async def open(self, port: int, who: str, count: int = 1) -> Caller:
        """Signed in; or with connections at `who`, `count` where each serves once."""
        self._streams = await asyncio.open_connection("127.0.0.1", port)
        if self.place.verb:
            self.stage.user_id = self.user
            self.rows = list(self.stage.connections(who, count if self.place.verb == "DELETE " else 1))
        else:
            self.cookies |= (
                await self.post("/session", f"access_token={self._bearer}&next=/connections".encode())
            ).cookies
            self.form = b"csrf=" + _CSRF.search((await self.get("/phone/p000/connect")).body)[1] + b"&display=page"
        return self

    async def ask(self, who: str) -> str:
        """Has the provider asked; how it ended."""
        if not self.place.verb:
            return await self._connect(who)
        method, _, path = self.place.verb.partition(" ")
        row = self.rows.pop() if method == "DELETE" else self.rows[0]
        if method == "POST":
            self.stage.sql(_AFRESH, -1 if path == "/refresh" else 3600, self.user)
        answer = await self._ask(method, f"/v1/connections/{row}{path}", b"", {}, self._bearer)
        told = json.loads(answer.body)
        if answer.status >= 400:
            return str(told["type"].rsplit("/", 1)[-1])
        return str(told["revocation"] if method == "DELETE" else told.get("status", "")).replace("active", "")

    async def _connect(self, who: str) -> str:
        begun = await self._ask("POST", f"/phone/{who}/connect", self.form, self.cookies)
        asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.location).query).items()}
        if "state" not in asked:
            return _ended(begun)
        back = f"/phone/{who}/callback?state={asked['state']}&code={asked.get('nonce', 'x')}"
        return _ended(await self.get(back, {**self.cookies, **begun.cookies}))

    def stands(self) -> list[tuple[Any, ...]]:
        """Everything stored for the user."""
        return self.stage.sql(_STANDS, *[self.user] * 4)


def _ended(answer: Answer) -> str:
    told = parse_qs(urlsplit(answer.location).query)
    if "connection" in told:
        return rogue.STANDS
    page = _PROBLEM.search(answer.body)
    return page[1].decode() if page else told.get("error", [f"{answer.status} {answer.location}"])[0]
