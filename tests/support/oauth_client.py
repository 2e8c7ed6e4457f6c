"""
A client of the sandbox's providers as plain as can be: it asks for consent, redeems the code, refreshes.

It knows each provider's paths and how its client proves itself, and nothing of the gateway.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from gateway.sandbox import CLIENTS, SandboxServer

CALLBACK = "http://localhost:8000/crm/main/callback"
PATHS = {
    "ghl": ("/v2/oauth/chooselocation", "/oauth/token"),
    "ghl_white_label": ("/v2/oauth/chooselocation", "/oauth/token"),
    "google": ("/o/oauth2/v2/auth", "/token"),
    "microsoft": ("/common/oauth2/v2.0/authorize", "/common/oauth2/v2.0/token"),
    "ringcentral": ("/restapi/oauth/authorize", "/restapi/oauth/token"),
    "zoom": ("/oauth/authorize", "/oauth/token"),
}
SCOPES = {"google": "openid email profile https://www.googleapis.com/auth/gmail.send"}
SCOPES |= {"microsoft": "openid email offline_access User.Read"}
AGENCY = "locations.readonly companies.readonly oauth.readonly oauth.write"
BASIC = ("ringcentral", "zoom")
VERSION = {"Version": "2021-07-28"}


class Walker:
    """Walks one provider's flow against a running sandbox."""

    def __init__(self, sandbox: SandboxServer, provider: str) -> None:
        self.sandbox, self.provider = sandbox, provider
        self.origin = f"{sandbox.origin}/{provider}"
        self.authorize_url, self.token_url = (self.origin + path for path in PATHS[provider])
        self.client_id, self.secret = CLIENTS[provider]

    def asks(self, **more: str) -> str:
        """The authorization request's URL."""
        scope = SCOPES.get(self.provider, "locations.readonly contacts.readonly")
        asked = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": CALLBACK,
            "state": "s",
            "scope": scope,
        }
        return f"{self.authorize_url}?{urlencode(asked | more)}"

    def returns(self, *, consent: dict[str, object] | None = None, **more: str) -> dict[str, str]:
        """The query that the consent page sends the browser back with."""
        location = self.sandbox.consents(self.asks(**more), **(consent or {}))
        assert location.startswith(CALLBACK)
        return dict(parse_qsl(urlsplit(location).query))

    def posts(self, **fields: str) -> requests.Response:
        """A token request with the client's credentials where this provider wants them."""
        if self.provider in BASIC:
            return requests.post(self.token_url, data=fields, auth=(self.client_id, self.secret), timeout=60)
        mine = {"client_id": self.client_id, "client_secret": self.secret}
        return requests.post(self.token_url, data=mine | fields, timeout=60)

    def redeems(self, code: str, **more: str) -> requests.Response:
        """RFC 6749 section 4.1.3."""
        return self.posts(grant_type="authorization_code", code=code, redirect_uri=CALLBACK, **more)

    def connects(self, *, consent: dict[str, object] | None = None, **more: str) -> dict:
        """Consent and token request in one; the token response's body."""
        answer = self.redeems(self.returns(consent=consent, **more)["code"])
        assert answer.status_code == 200, answer.text
        assert "no-store" in answer.headers["Cache-Control"]
        return answer.json()

    def refreshes(self, token: str) -> requests.Response:
        """RFC 6749 section 6."""
        return self.posts(grant_type="refresh_token", refresh_token=token)

    def reads(self, path: str, token: str, **headers: str) -> requests.Response:
        """A call of the provider's API (RFC 6750 section 2.1)."""
        return requests.get(self.origin + path, headers={"Authorization": f"Bearer {token}"} | headers, timeout=60)


class Clock:
    """Seconds since 1970, moved only by a test."""

    def __init__(self) -> None:
        self.seconds = 1_790_000_000.0

    def __call__(self) -> float:
        """As `time.time` is called."""
        return self.seconds
