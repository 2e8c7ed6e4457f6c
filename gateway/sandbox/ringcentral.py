"""
Simulates RingCentral: platform.ringcentral.com.

Basic authentication; scopes belong to the app and the parameter is ignored; the callback has the lifetime of the code; every refresh
gives a new pair and ends the old access token, while the old refresh token stays valid for a while; the sixth session of a user drops the
oldest; revoking ends the session. https://developers.ringcentral.com/guide/authentication/auth-code-flow
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from .authority import Authority
from .consent import Stage
from .state import Account, Pair, Session, State, fresh
from .wire import answer, bearer_token

ACCESS_SECONDS = 3600
REFRESH_SECONDS = 7 * 86400
GRACE_SECONDS = 10
UNREAD_GRACE_SECONDS = 3600
SESSIONS_AT_MOST = 5
CODE_SECONDS = 60
ACCOUNTS = (
    Account(
        "62264425008", "Alice Winter", "alice@northwind.example, ext. 101", {"account": "37439510", "extension": "101"}
    ),
    Account(
        "62264426009",
        "Northwind Sales",
        "sales@northwind.example, ext. 200",
        {"account": "37439510", "extension": "200"},
    ),
    Account("88120017003", "Bob Marsh", "bob@marsh.example, ext. 1", {"account": "40021188", "extension": "1"}),
)


class RingCentral(Authority):
    """platform.ringcentral.com/restapi/oauth."""

    stage = Stage("ringcentral", "RingCentral", ACCOUNTS, code_seconds=CODE_SECONDS, question="Which extension?")
    auth_methods = ("client_secret_basic",)
    app_scope = "ReadAccounts SMS ReadMessages ReadCallLog ReadPresence RingOut SubscriptionWebhook"

    def first(self, session: Session) -> dict[str, Any]:
        """With too many sessions, the user's oldest one ends."""
        mine = [s for s in self.state.sessions if _same_user(s, session) and not s.revoked]
        for oldest in mine[: len(mine) - SESSIONS_AT_MOST + 1]:
            self.state.end(oldest)
        session.facts = {"endpoint_id": fresh(size=16)}
        return self._issued(session)[0]

    def again(self, pair: Pair) -> dict[str, Any]:
        """End the old access token at once, and the old refresh token later."""
        body, successor = self._issued(pair.session)
        pair.ended = True
        pair.used_at, pair.successor = self.state.now(), successor
        return body

    def refreshable(self, pair: Pair) -> bool:
        """Unused; or within 10 s of the new access token's first use; or within the hour while that was never used."""
        if pair.successor is None or pair.used_at is None:
            return True
        read_at = pair.successor.read_at
        until = pair.used_at + UNREAD_GRACE_SECONDS if read_at is None else read_at + GRACE_SECONDS
        return self.state.now() < until

    def beside_the_code(self) -> dict[str, str]:
        """The lifetime of the code."""
        return {"expires_in": str(CODE_SECONDS)}

    def failed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The OAuth error, and the platform's own list of errors."""
        codes = {"invalid_grant": ("OAU-210", "Token not found"), "invalid_client": ("OAU-153", "Invalid client")}
        code, text = codes.get(body["error"], ("OAU-250", body.get("error_description", "")))
        return {"error": body["error"], "error_description": text, "errors": [{"errorCode": code, "message": text}]}

    def _issued(self, session: Session) -> tuple[dict[str, Any], Pair]:
        pair = self.state.issue(
            session, fresh("rc-access-", 60), ACCESS_SECONDS, fresh("rc-refresh-", 60), REFRESH_SECONDS
        )
        body = {
            "access_token": pair.access_token,
            "token_type": "bearer",
            "expires_in": ACCESS_SECONDS,
            "refresh_token": pair.refresh_token,
            "refresh_token_expires_in": REFRESH_SECONDS,
            "scope": self.app_scope,
            "owner_id": session.account.id,
            "endpoint_id": session.facts["endpoint_id"],
        }
        return body, pair


def make_blueprint(state: State) -> Blueprint:
    """RingCentral's addresses below /ringcentral."""
    ringcentral = RingCentral(state)
    rooms = Blueprint("ringcentral", __name__, url_prefix="/ringcentral")
    rooms.add_url_rule("/restapi/oauth/authorize", "authorize", ringcentral.authorize, methods=["GET", "POST"])
    rooms.add_url_rule("/restapi/oauth/token", "token", ringcentral.token, methods=["POST"])
    rooms.add_url_rule("/restapi/oauth/revoke", "revoke", ringcentral.revocation, methods=["POST"])
    rooms.add_url_rule("/restapi/v1.0/account/~/extension/~", "userinfo", lambda: _extension(state))
    return rooms


def _same_user(one: Session, other: Session) -> bool:
    return (one.provider, one.client_id, one.account.id) == (other.provider, other.client_id, other.account.id)


def _extension(state: State) -> Response:
    pair = state.bearer("ringcentral", bearer_token())
    if pair is None:
        text = "Access token not found or expired"
        error = {"errorCode": "OAU-213", "message": text}
        return answer({"errorCode": "TokenInvalid", "message": text, "errors": [error]}, 401)
    who = pair.session.account
    email = who.detail.partition(",")[0]
    body = {
        "id": int(who.id),
        "extensionNumber": who.facts["extension"],
        "account": {"id": who.facts["account"]},
        "name": who.label,
        "contact": {"firstName": who.label.split()[0], "lastName": who.label.split()[-1], "email": email},
        "type": "User",
        "status": "Enabled",
    }
    limits = {"X-Rate-Limit-Group": "light", "X-Rate-Limit-Limit": "50", "X-Rate-Limit-Remaining": "49"}
    return answer(body, 200, limits | {"X-Rate-Limit-Window": "60"})
