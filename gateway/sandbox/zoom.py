"""
Simulates Zoom: zoom.us and api.zoom.us.

Basic authentication; scopes belong to the app; only an access token can be revoked; the refresh token rotates and the old one ends at once; a new authorization by the same
user ends every earlier token; errors contain Zoom's own reason. https://developers.zoom.us/docs/integrations/oauth/
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from .authority import Authority
from .consent import Stage
from .state import Account, Pair, Session, State, fresh
from .wire import answer, bearer_token, fields

ACCESS_SECONDS = 3600
REFRESH_SECONDS = 90 * 86400
CODE_SECONDS = 300
ACCOUNTS = (
    Account(
        "zmAlice0000000000001A", "alice@northwind.example", "Alice Winter", {"account_id": "zmNorthwind000000001A"}
    ),
    Account("zmFrontDesk00000002A", "desk@northwind.example", "Front Desk", {"account_id": "zmNorthwind000000001A"}),
    Account("zmBob000000000000003B", "bob@marsh.example", "Bob Marsh", {"account_id": "zmMarsh00000000000002B"}),
)


class Zoom(Authority):
    """zoom.us/oauth."""

    stage = Stage("zoom", "Zoom", ACCOUNTS, code_seconds=CODE_SECONDS)
    auth_methods = ("client_secret_basic",)
    app_scope = "user:read:user phone:read:user phone:read:list_call_logs"

    def first(self, session: Session) -> dict[str, Any]:
        """Every earlier session of the user and the app ends."""
        for earlier in self.state.sessions:
            if (earlier.provider, earlier.account.id) == (session.provider, session.account.id):
                self.state.end(earlier)
        return self._issued(session)

    def again(self, pair: Pair) -> dict[str, Any]:
        """The old refresh token ends at once."""
        pair.used_at = self.state.now()
        return self._issued(pair.session)

    def failed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Zoom's reasons: 4733 a bad code, 4735 a refresh token that is not valid or was used, 4741 a revoked one."""
        if body["error"] != "invalid_grant":
            return {"reason": body.get("error_description", ""), "error": body["error"]}
        pair = self.state.by_refresh.get(fields().get("refresh_token", ""))
        if "code" in fields():
            return {"reason": "Invalid authorization code (4733)", "error": "invalid_grant"}
        revoked = pair is not None and pair.session.revoked
        return {"reason": "Token revoked (4741)" if revoked else "Invalid Token! (4735)", "error": "invalid_grant"}

    def revocation(self) -> Response:
        """Of an access token alone."""
        if fields().get("token") in self.state.by_refresh:
            return answer({"reason": "Invalid access token.", "error": "unsupported_token_type"}, 400)
        return super().revocation()

    def _issued(self, session: Session) -> dict[str, Any]:
        pair = self.state.issue(
            session, fresh("zm-access-", 90), ACCESS_SECONDS, fresh("zm-refresh-", 90), REFRESH_SECONDS
        )
        body = {"access_token": pair.access_token, "token_type": "bearer", "refresh_token": pair.refresh_token}
        return body | {
            "expires_in": ACCESS_SECONDS,
            "scope": self.app_scope,
            "api_url": f"{self.state.origin}/zoom/api-us.zoom.us",
        }


def make_blueprint(state: State) -> Blueprint:
    """Zoom's addresses below /zoom."""
    zoom = Zoom(state)
    rooms = Blueprint("zoom", __name__, url_prefix="/zoom")
    rooms.add_url_rule("/oauth/authorize", "authorize", zoom.authorize, methods=["GET", "POST"])
    rooms.add_url_rule("/oauth/token", "token", zoom.token, methods=["POST"])
    rooms.add_url_rule("/oauth/revoke", "revoke", zoom.revocation, methods=["POST"])
    rooms.add_url_rule("/v2/users/me", "userinfo", lambda: _me(state))
    rooms.add_url_rule("/api-us.zoom.us/v2/users/me", "user", lambda: _me(state))
    return rooms


def _me(state: State) -> Response:
    pair = state.bearer("zoom", bearer_token())
    if pair is None:
        return answer({"code": 124, "message": "Invalid access token."}, 401)
    who = pair.session.account
    name = {"first_name": who.detail.split()[0], "last_name": who.detail.split()[-1], "display_name": who.detail}
    return answer({"id": who.id, "account_id": who.facts["account_id"], "email": who.label, "type": 2} | name)
