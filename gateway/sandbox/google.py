"""
Simulates Google: accounts.google.com, oauth2.googleapis.com and the mailbox's profile.

Scopes can be granted one by one; a refresh token comes only with `access_type=offline`, and only at the first
consent or with `prompt=consent`; it is not rotated; revoking either token ends the whole grant.
https://developers.google.com/identity/protocols/oauth2/web-server
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from .authority import Authority
from .consent import Stage
from .state import Account, Pair, Session, State, fresh
from .wire import answer, bearer_token

ACCESS_SECONDS = 3600
BASIC = frozenset({"openid", "email", "profile"})
CANONICAL = {
    "email": "https://www.googleapis.com/auth/userinfo.email",
    "profile": "https://www.googleapis.com/auth/userinfo.profile",
}
"""Google's names for these two in responses, whatever the request used."""
ACCOUNTS = (
    Account("110248495921238986420", "alice.winter@gmail.example", "Alice Winter"),
    Account("104771938219837465501", "hello@northwind.example", "Northwind Front Desk"),
    Account("117003288451920047733", "bob.marsh@gmail.example", "Bob Marsh"),
)


class Google(Authority):
    """accounts.google.com."""

    stage = Stage("google", "Google", ACCOUNTS, granular=True, basic=BASIC, question="Choose an account")

    def first(self, session: Session) -> dict[str, Any]:
        """A refresh token only for an offline request, and only with a consent that counts as new."""
        consent = (session.provider, session.client_id, session.account.id)
        offline = session.query.get("access_type") == "offline"
        anew = consent not in self.state.consented or "consent" in session.query.get("prompt", "").split()
        self.state.consented.add(consent)
        return self._issued(session, fresh("1//sandbox-", 40) if offline and anew else None, session.query.get("nonce"))

    def again(self, pair: Pair) -> dict[str, Any]:
        """The refresh token stays, and is not repeated."""
        body = self._issued(pair.session, pair.refresh_token, None)
        del body["refresh_token"]
        return body

    def refreshable(self, pair: Pair) -> bool:  # noqa: ARG002 - any number of times
        """Any number of times."""
        return True

    def beside_the_code(self) -> dict[str, str]:
        """Further parameters that Google adds; `iss` if its switch is on."""
        asked = self.stage.granted(request.args.get("scope", ""))
        return {"scope": self._named(asked), "authuser": "0", "prompt": request.args.get("prompt", "none")}

    def failed(self, body: dict[str, Any]) -> dict[str, Any]:
        """`invalid_grant` says no more than that."""
        said = {"invalid_grant": "Bad Request", "invalid_client": "Unauthorized"}
        return {"error": body["error"], "error_description": said.get(body["error"], body.get("error_description", ""))}

    def _named(self, scope: str) -> str:
        canonical = self.state.switches["google_canonical_scope"]
        return " ".join(CANONICAL.get(name, name) if canonical else name for name in scope.split())

    def _issued(self, session: Session, refresh: str | None, nonce: str | None) -> dict[str, Any]:
        pair = self.state.issue(session, fresh("ya29.sandbox-", 60), ACCESS_SECONDS, refresh, 10 * 365 * 86400)
        body: dict[str, Any] = {"access_token": pair.access_token, "expires_in": ACCESS_SECONDS - 1}
        body |= {"refresh_token": refresh} if refresh else {}
        body |= {"scope": self._named(session.scope), "token_type": "Bearer"}
        if "openid" in session.scope.split():
            body["id_token"] = self._id_token(session, nonce)
        return body

    def _id_token(self, session: Session, nonce: str | None) -> str:
        now = int(self.state.now())
        who = {"iss": self.issuer(), "azp": session.client_id, "aud": session.client_id, "sub": session.account.id}
        when = {"iat": now, "exp": now + ACCESS_SECONDS}
        return self.state.keys.rs256(who | _profile(session) | ({"nonce": nonce} if nonce else {}) | when)

    def metadata(self) -> dict[str, Any]:
        """RFC 8414 section 2, as https://accounts.google.com/.well-known/openid-configuration has it."""
        at = self.issuer()
        return {
            "issuer": at,
            "authorization_endpoint": f"{at}/o/oauth2/v2/auth",
            "token_endpoint": f"{at}/token",
            "userinfo_endpoint": f"{at}/v1/userinfo",
            "revocation_endpoint": f"{at}/revoke",
            "jwks_uri": f"{at}/oauth2/v3/certs",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "scopes_supported": ["openid", "email", "profile"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "code_challenge_methods_supported": ["plain", "S256"],
            "authorization_response_iss_parameter_supported": self.sends_iss(),
        }


def make_blueprint(state: State) -> Blueprint:
    """Google's addresses below /google."""
    google = Google(state)
    rooms = Blueprint("google", __name__, url_prefix="/google")
    rooms.add_url_rule("/o/oauth2/v2/auth", "authorize", google.authorize, methods=["GET", "POST"])
    rooms.add_url_rule("/token", "token", google.token, methods=["POST"])
    rooms.add_url_rule("/revoke", "revoke", lambda: _revoke(state), methods=["GET", "POST"])
    rooms.add_url_rule("/v1/userinfo", "userinfo", lambda: _userinfo(state))
    rooms.add_url_rule("/oauth2/v3/certs", "jwks", lambda: answer(state.keys.rsa_set()))
    rooms.add_url_rule("/.well-known/openid-configuration", "discovery", lambda: answer(google.metadata()))
    rooms.add_url_rule("/gmail/v1/users/me/profile", "mailbox", lambda: _mailbox(state))
    return rooms


def _profile(session: Session) -> dict[str, Any]:
    granted = session.scope.split()
    said: dict[str, Any] = {}
    if "email" in granted:
        said |= {"email": session.account.label, "email_verified": True}
    if "profile" in granted:
        said |= {"name": session.account.detail, "given_name": session.account.detail.split()[0]}
    return said


def _revoke(state: State) -> Response:
    """No client authentication; the token itself is the proof."""
    token = request.values.get("token", "")
    if not state.revoke("google", token):
        return answer({"error": "invalid_token", "error_description": "Token expired or revoked"}, 400)
    return answer({})


def _userinfo(state: State) -> Response:
    pair = state.bearer("google", bearer_token())
    if pair is None or "openid" not in pair.session.scope.split():
        return answer({"error": "invalid_request", "error_description": "Invalid Credentials"}, 401)
    return answer({"sub": pair.session.account.id} | _profile(pair.session))


def _mailbox(state: State) -> Response:
    pair = state.bearer("google", bearer_token())
    if pair is None:
        error = {"code": 401, "message": "Invalid Credentials", "status": "UNAUTHENTICATED"}
        return answer({"error": error}, 401)
    return answer({"emailAddress": pair.session.account.label, "messagesTotal": 3, "threadsTotal": 2, "historyId": "1"})
