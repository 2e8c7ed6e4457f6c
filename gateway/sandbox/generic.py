"""
Simulates every provider that differs from others in data alone: one table each in `providers/*.toml`.

Written apart from the gateway's catalogue. It is strict: another client authentication, body, separator or parameter than the table's is
refused.

A provider without a table is simulated from its catalogue entry (derived.py). The keys of a table:

- `authorize`, `token`, `main_token` (of the data centre where no account is), `revoke`, `account`, `jwks`, `metadata`: paths. `issuer`: the one in id_tokens; with it, `openid` gives an id_token
- `code_auth`, `refresh_auth`, `revoke_auth`: `post`, `basic`, `none`, or for `revoke_auth` `bearer`; `body`: `form` or `json`
- `response_type`, `separator`, `needs` (parameters of the authorization request), `pkce`: `required`, `ok` or `refused`
- `app_scope`: the scope belongs to the app, and none may be asked for; `answer_scope`: what the response says, `""` leaves it out;
  `answer_separator`
- `refresh`: `rotates`, `old_valid`, `stable` or `none`; `refresh_ends_access`; `throttle_seconds`: between two token requests of an account
- `access_seconds`: 0 is sent as 0; without it the response has no `expires_in`
- `callback`, `answer`: further fields of the authorization and of the token response
- `account_scheme`, `account_query` (the parameter with the token), `account_body` (words of a POST), `account_answer`, `account_dead` and `account_dead_status`
  (the response to a dead token, 401)
- `revokes`: the kinds of token that may be revoked; `revoke_param`; `revoke_again`: the status for a token that has ended
- `fields`: what a user enters before the redirect; only tests read it

In texts, `{origin}`, `{id}`, `{label}` and `{tenant}` are filled.
"""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from authlib.oauth2.rfc7636 import create_s256_code_challenge
from flask import Blueprint, Response, request

from .clients import CLIENTS, proves
from .consent import Stage, ask, back, new_code, refuse, save_code
from .derived import is_oauth, oauth_table, read_entries
from .state import Account, Code, Session, State, fresh
from .wire import answer, fields

REFRESH_SECONDS = 90 * 86400
ACCOUNTS = (
    Account("4401001", "alice@northwind.example", "Alice Winter", {"tenant": "7701"}),
    Account("4401002", "desk@northwind.example", "Front Desk", {"tenant": "7701"}),
    Account("4402001", "bob@marsh.example", "Bob Marsh", {"tenant": "7702"}),
)
Table = Mapping[str, Any]


def load_tables() -> dict[str, Table]:
    """The OAuth providers by id."""
    found: dict[str, Table] = {}
    for file in sorted((Path(__file__).parent / "providers").glob("*.toml")):
        found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: table for name, table in found.items() if "token" in table}


def add_tables(tables: Mapping[str, Table]) -> None:
    """Simulate further providers, from the next server on."""
    TABLES.update(tables)
    CLIENTS.update({name: (f"sandbox-{name}", f"sandbox-{name}-secret") for name in tables})


TABLES: dict[str, Table] = {}
add_tables(load_tables())
add_tables({
    name: oauth_table(name, entry) for name, entry in read_entries().items() if is_oauth(entry) and name not in CLIENTS
})  # fmt: skip


class Refused(Exception):
    """An OAuth error: its name, and what the request did wrong."""

    def __init__(self, error: str, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.error, self.why, self.status = error, why, status


def make_blueprint(state: State, provider: str) -> Blueprint:
    """A provider's addresses below /<id>."""
    simulated, table = Generic(state, provider), TABLES[provider]
    rooms = Blueprint(provider, __name__, url_prefix=f"/{provider}")
    rooms.add_url_rule(table["authorize"], "authorize", simulated.authorize, methods=["GET", "POST"])
    rooms.add_url_rule(table["token"], "token", simulated.token, methods=["POST"])
    if "main_token" in table:
        rooms.add_url_rule(table["main_token"], "main_token", simulated.main_token, methods=["POST"])
    if "account" in table:
        method = "POST" if "account_body" in table else "GET"
        rooms.add_url_rule(table["account"], "userinfo", simulated.account, methods=[method])
    if "revoke" in table:
        rooms.add_url_rule(table["revoke"], "revoke", simulated.revoke, methods=["POST"])
    if "metadata" in table:
        rooms.add_url_rule(table["metadata"], "metadata", simulated.metadata)
    if "jwks" in table:
        rooms.add_url_rule(table["jwks"], "jwks", lambda: answer(state.keys.rsa_set()))
    return rooms


class Generic:
    """One simulated provider."""

    def __init__(self, state: State, provider: str) -> None:
        self.state, self.provider, self.table = state, provider, TABLES[provider]
        name, granular = str(self.table.get("name", provider)), "app_scope" not in self.table
        self.stage = Stage(provider, name, ACCOUNTS, granular=granular)

    # -- authorization -----------------------------------------------------------------------------------------------

    def authorize(self) -> Response:
        """GET asks; POST answers 303 to the redirect URI."""
        wrong = self._wrong_request()
        if wrong:
            return refuse(self.state, self.stage, wrong)
        scope = " ".join(request.args.get("scope", "").split(self.table.get("separator", " ")))
        if request.method != "POST":
            return ask(self.state, self.stage, scope or self.table.get("app_scope", ""))
        to, state = request.args["redirect_uri"], request.args.get("state", "")
        account = self.stage.chosen(self.state)
        if account is None:
            return back(to, error="access_denied", state=state)
        code = new_code()
        save_code(self.state, self.stage, code, account, self.stage.granted(scope))
        return back(to, code=code, state=state, **self._filled(self.table.get("callback", {}), account))

    def _wrong_request(self) -> str:
        args, table = request.args, self.table
        checks = {
            "client_id": args.get("client_id") == CLIENTS[self.provider][0],
            "redirect_uri": self.state.allows(args.get("redirect_uri", "")),
            "response_type": args.get("response_type") == table.get("response_type", "code"),
            "code_challenge": ("code_challenge" in args) is not (table["pkce"] == "refused") or table["pkce"] == "ok",
            "code_challenge_method": args.get("code_challenge_method", "S256") == "S256",
            "scope": "app_scope" not in table or not args.get("scope"),
            "separator": {" ": ",", ",": " "}[table.get("separator", " ")] not in args.get("scope", ""),
        }
        checks |= {name: args.get(name) == value for name, value in table.get("needs", {}).items()}
        return ", ".join(name for name, right in checks.items() if not right)

    # -- tokens ------------------------------------------------------------------------------------------------------

    def token(self) -> Response:
        """RFC 6749 section 3.2; one request at a time, so that a code or a token is used once."""
        with self.state.lock:
            try:
                sent = fields()
                if request.is_json is not (self.table.get("body", "form") == "json"):
                    raise Refused("invalid_request", "the body has another form")
                if sent.get("grant_type") == "authorization_code":
                    self._authenticated(sent, self.table.get("code_auth", "post"))
                    return answer(self._redeemed(sent))
                if sent.get("grant_type") == "refresh_token" and self.table["refresh"] != "none":
                    self._authenticated(sent, self.table.get("refresh_auth", self.table.get("code_auth", "post")))
                    return answer(self._refreshed(sent))
                raise Refused("unsupported_grant_type", "another grant")
            except Refused as wrong:
                return answer({"error": wrong.error, "error_description": wrong.why}, wrong.status)

    def main_token(self) -> Response:
        """Of another data centre than the accounts': it knows the client and none of the codes."""
        try:
            self._authenticated(fields(), self.table.get("code_auth", "post"))
        except Refused as wrong:
            return answer({"error": wrong.error, "error_description": wrong.why}, wrong.status)
        return answer({"error": "invalid_code"})

    def _authenticated(self, sent: Mapping[str, str], method: str) -> None:
        """RFC 6749 section 2.3.1, by that method and no other."""
        header = request.headers.get("Authorization", "")
        posted = sent.get("client_id", ""), sent.get("client_secret", "")
        if method == "basic":
            user, _, secret = base64.b64decode(header.partition(" ")[2] or "Og==").decode().partition(":")
            proven = proves(self.provider, unquote_plus(user), unquote_plus(secret)) and not posted[1]
        elif method == "post":
            proven = proves(self.provider, *posted) and not header
        else:
            proven = not header and not posted[1]
        if not proven:
            raise Refused("invalid_client", f"the client authenticates by {method}", 401)

    def _redeemed(self, sent: Mapping[str, str]) -> dict[str, Any]:
        code = self.state.redeemable(self.provider, sent.get("code", ""))
        if code is None or code.redirect_uri != sent.get("redirect_uri"):
            raise Refused("invalid_grant", "the code is unknown, used or of another redirect URI")
        if code.code_challenge and code.code_challenge != create_s256_code_challenge(sent.get("code_verifier", "")):  # type: ignore[no-untyped-call]
            raise Refused("invalid_grant", "the verifier is wrong")
        self._throttle(code.account)
        code.used = True
        scope = code.scope or self.table.get("app_scope", "")
        return self._issued(Session(self.provider, code.client_id, code.account, scope, code.query), None, code)

    def _refreshed(self, sent: Mapping[str, str]) -> dict[str, Any]:
        used = self.state.by_refresh.get(sent.get("refresh_token", ""))
        if used is None or used.session.provider != self.provider or used.session.revoked or used.used_at is not None:
            raise Refused("invalid_grant", "the refresh token is unknown, used or revoked")
        self._throttle(used.session.account)
        used.ended = used.ended or self.table.get("refresh_ends_access", False)
        if self.table["refresh"] == "rotates":
            used.used_at = self.state.now()
        return self._issued(used.session, used.refresh_token if self.table["refresh"] == "stable" else None, None)

    def _throttle(self, account: Account) -> None:
        calls, now = self.state.calls[f"{self.provider} {account.id}"], self.state.now()
        if calls and now - calls[-1] < self.table.get("throttle_seconds", 0):
            raise Refused("too_many_requests", "one token a minute", 429)
        calls.append(now)

    def _issued(self, session: Session, kept: str | None, code: Code | None) -> dict[str, Any]:
        table, lifetime = self.table, self.table.get("access_seconds")
        access = fresh(f"{self.provider}-access-")
        refresh = None if table["refresh"] == "none" else kept or fresh(f"{self.provider}-refresh-")
        self.state.issue(session, access, lifetime or 10 * 365 * 86400, refresh, REFRESH_SECONDS)
        body: dict[str, Any] = {"access_token": access, "token_type": "Bearer"}
        body |= {"refresh_token": refresh} if refresh and not (kept and code is None) else {}
        body |= {} if lifetime is None else {"expires_in": lifetime}
        scope = table.get("answer_scope", session.scope.replace(" ", table.get("answer_separator", " ")))
        body |= {"scope": scope} if scope else {}
        if "issuer" in table and "openid" in session.scope.split():
            body["id_token"] = self._id_token(session, code)
        return body | self._filled(table.get("answer", {}), session.account)

    def _id_token(self, session: Session, code: Code | None) -> str:
        now = int(self.state.now())
        claims: dict[str, Any] = {
            "iss": f"{self.state.origin}/{self.provider}{self.table['issuer']}",
            "aud": session.client_id,
        }
        claims |= {"sub": session.account.id, "iat": now, "exp": now + 3600}
        claims |= {"email": session.account.label} | self._filled(self.table.get("claims", {}), session.account)
        claims |= {"nonce": code.query["nonce"]} if code and "nonce" in code.query else {}
        return self.state.keys.rs256(claims)

    def metadata(self) -> Response:
        """OpenID Connect Discovery section 3."""
        base = f"{self.state.origin}/{self.provider}"
        names = {"authorize": "authorization_endpoint", "token": "token_endpoint", "jwks": "jwks_uri"}
        return answer(
            {"issuer": base + self.table["issuer"]} | {name: base + self.table[key] for key, name in names.items()}
        )

    # -- account and revocation --------------------------------------------------------------------------------------

    def account(self) -> Response:
        """Whose token it is."""
        query = self.table.get("account_query")
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if query:
            scheme, token = "Bearer" if query in request.args else "", request.args.get(query, "")
        pair = self.state.bearer(self.provider, token)
        words = self.table.get("account_body", "")
        if scheme != self.table.get("account_scheme", "Bearer") or words not in request.get_data(as_text=True):
            return answer({"error": "invalid_request"}, 400)
        if pair is None:
            dead = json.loads(self.table.get("account_dead", '{"error":"invalid_token"}'))
            return answer(dead, self.table.get("account_dead_status", 401))
        return answer(json.loads(self._text(self.table["account_answer"], pair.session.account)))

    def revoke(self) -> Response:
        """RFC 7009 section 2, as the provider understands it."""
        sent = fields()
        method = self.table.get("revoke_auth", self.table.get("code_auth", "post"))
        token = sent.get(self.table.get("revoke_param", "token"), "")
        if method == "bearer":
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        else:
            try:
                self._authenticated(sent, method)
            except Refused as wrong:
                return answer({"error": wrong.error, "error_description": wrong.why}, wrong.status)
        kind = "refresh_token" if token in self.state.by_refresh else "access_token"
        if kind not in self.table.get("revokes", ["access_token", "refresh_token"]):
            return answer({"error": "unsupported_token_type"}, 400)
        known = self.state.revoke(self.provider, token)
        again: int = self.table.get("revoke_again", 200)
        return answer({}) if known or again < 300 else answer({"error": "unknown_token"}, again)

    # -- texts -------------------------------------------------------------------------------------------------------

    def _filled(self, texts: Mapping[str, Any], account: Account) -> dict[str, Any]:
        return {name: self._text(text, account) if isinstance(text, str) else text for name, text in texts.items()}

    def _text(self, text: str, account: Account) -> str:
        known = {
            "origin": self.state.origin,
            "id": account.id,
            "label": account.label,
            "tenant": account.facts["tenant"],
        }
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", value)
        return text
