"""
Simulates Microsoft: login.microsoftonline.com (v2.0) and graph.microsoft.com.

The tenant is in the path; the common tenants' metadata have the literal `{tenantid}` in the issuer, and id_tokens name the real tenant; a
refresh token needs `offline_access`, each use returns a new one, and the old one stays valid; there is no revocation.
https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
"""

from __future__ import annotations

import random
from typing import Any

from flask import Blueprint, Response, request

from .authority import Authority
from .consent import Stage
from .state import Account, Pair, Session, State, fresh
from .wire import answer, bearer_token

REFRESH_SECONDS = 90 * 86400
COMMON = ("common", "organizations", "consumers")
NORTHWIND = "6f1e2a00-0000-4000-8000-0000000000a1"
PERSONAL = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The one tenant of all personal Microsoft accounts."""
ACCOUNTS = (
    Account(
        "0a11ce00-0000-4000-8000-00000000c0de", "alice@northwind.example", "Alice Winter, Northwind", {"tid": NORTHWIND}
    ),
    Account(
        "0de5c000-0000-4000-8000-00000000c0de", "desk@northwind.example", "Front Desk, Northwind", {"tid": NORTHWIND}
    ),
    Account(
        "00b0b000-0000-4000-8000-00000000c0de", "bob.marsh@outlook.example", "Bob Marsh, personal", {"tid": PERSONAL}
    ),
)
SAID = {
    "invalid_grant": "AADSTS70000: The provided value for the code or refresh token is not valid.",
    "invalid_client": "AADSTS7000215: Invalid client secret provided.",
}


class Microsoft(Authority):
    """login.microsoftonline.com."""

    stage = Stage("microsoft", "Microsoft 365", ACCOUNTS, question="Pick an account")

    def issuer(self) -> str:
        """The common tenants' issuer has a placeholder."""
        return self.tenant_issuer("{tenantid}")

    def tenant_issuer(self, tenant: str) -> str:
        """The issuer in a tenant's id_tokens."""
        return f"{self.state.origin}/microsoft/{tenant}/v2.0"

    def first(self, session: Session) -> dict[str, Any]:
        """With an identity token where openid was asked for."""
        return self._issued(session, session.query.get("nonce"))

    def again(self, pair: Pair) -> dict[str, Any]:
        """A new pair; the old refresh token stays valid."""
        return self._issued(pair.session, None)

    def refreshable(self, pair: Pair) -> bool:  # noqa: ARG002 - the old ones stay valid
        """Any number of times."""
        return True

    def beside_the_code(self) -> dict[str, str]:
        """A value for single sign-out, unused here."""
        return {"session_state": fresh(size=12)}

    def failed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Microsoft puts its own error number into the description."""
        text = SAID.get(body["error"], f"AADSTS900144: {body.get('error_description', '')}")
        return {"error": body["error"], "error_description": text, "error_codes": [int(text.partition(":")[0][6:])]}

    def _issued(self, session: Session, nonce: str | None) -> dict[str, Any]:
        seconds = random.randint(3600, 5400)  # noqa: S311 - Microsoft spreads the load, this is no secret
        names = session.scope.split()
        refresh = fresh("M.sandbox-refresh-", 80) if "offline_access" in names else None
        pair = self.state.issue(session, fresh("EwB-sandbox-", 120), seconds, refresh, REFRESH_SECONDS)
        granted = " ".join(name for name in names if name != "offline_access")
        body: dict[str, Any] = {
            "token_type": "Bearer",
            "scope": granted,
            "expires_in": seconds,
            "ext_expires_in": seconds,
        }
        body["access_token"] = pair.access_token
        body |= {"refresh_token": refresh} if refresh else {}
        if "openid" in names:
            body["id_token"] = self._id_token(session, nonce)
        return body

    def _id_token(self, session: Session, nonce: str | None) -> str:
        now, who = int(self.state.now()), session.account
        tenant = str(who.facts["tid"])
        claims = {
            "ver": "2.0",
            "iss": self.tenant_issuer(tenant),
            "aud": session.client_id,
            "sub": f"pairwise-{who.id}",
        }
        claims |= {"tid": tenant, "oid": who.id, "preferred_username": who.label, "email": who.label}
        claims |= {"name": who.detail.partition(",")[0]} | ({"nonce": nonce} if nonce else {})
        return self.state.keys.rs256(claims | {"iat": now, "nbf": now, "exp": now + 3600})

    def metadata(self, tenant: str) -> Response:
        """RFC 8414 section 2, but for the issuer of the common tenants."""
        at = f"{self.state.origin}/microsoft"
        body = {
            "issuer": self.tenant_issuer("{tenantid}" if tenant in COMMON else tenant),
            "authorization_endpoint": f"{at}/{tenant}/oauth2/v2.0/authorize",
            "token_endpoint": f"{at}/{tenant}/oauth2/v2.0/token",
            "userinfo_endpoint": f"{at}/oidc/userinfo",
            "jwks_uri": f"{at}/discovery/v2.0/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
        }
        return answer(body)


def make_blueprint(state: State) -> Blueprint:
    """Microsoft's addresses below /microsoft."""
    microsoft = Microsoft(state)
    rooms = Blueprint("microsoft", __name__, url_prefix="/microsoft")
    oauth = "/<tenant>/oauth2/v2.0"
    rooms.add_url_rule(
        f"{oauth}/authorize", "authorize", lambda tenant: _at(tenant, microsoft.authorize), methods=["GET", "POST"]
    )
    rooms.add_url_rule(f"{oauth}/token", "token", lambda tenant: _at(tenant, microsoft.token), methods=["POST"])
    rooms.add_url_rule("/<tenant>/v2.0/.well-known/openid-configuration", "discovery", microsoft.metadata)
    rooms.add_url_rule("/discovery/v2.0/keys", "jwks", lambda: answer(state.keys.rsa_set()))
    rooms.add_url_rule("/<tenant>/discovery/v2.0/keys", "jwks_of", lambda tenant: answer(state.keys.rsa_set()))  # noqa: ARG005
    rooms.add_url_rule("/v1.0/me", "userinfo", lambda: _me(state))
    rooms.add_url_rule("/oidc/userinfo", "oidc_userinfo", lambda: _oidc_userinfo(state))
    return rooms


def _at(tenant: str, view: Any) -> Response:
    """The view, if the tenant exists."""
    known = (*COMMON, NORTHWIND, PERSONAL)
    if tenant in known:
        said: Response = view()
        return said
    text = f"AADSTS90002: Tenant '{tenant}' not found."
    return answer({"error": "invalid_request", "error_description": text, "error_codes": [90002]}, 400)


def _refused() -> Response:
    text = "Lifetime validation failed, the token is expired." if bearer_token() else "Access token is empty."
    error = {"code": "InvalidAuthenticationToken", "message": text}
    return answer({"error": error}, 401, {"WWW-Authenticate": 'Bearer realm=""'})


def _me(state: State) -> Response:
    pair = state.bearer("microsoft", bearer_token())
    if pair is None:
        return _refused()
    who = pair.session.account
    body = {
        "id": who.id,
        "displayName": who.detail.partition(",")[0],
        "mail": who.label,
        "userPrincipalName": who.label,
    }
    return answer({"@odata.context": f"{request.url_root}microsoft/v1.0/$metadata#users/$entity"} | body)


def _oidc_userinfo(state: State) -> Response:
    pair = state.bearer("microsoft", bearer_token())
    if pair is None:
        return _refused()
    who = pair.session.account
    return answer({"sub": f"pairwise-{who.id}", "name": who.detail.partition(",")[0], "email": who.label})
