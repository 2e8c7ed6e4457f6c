"""
An authorization server on Authlib, for the providers that follow RFC 6749 closely.

Authlib checks requests, clients, codes, redirect URIs and PKCE. The subclass in a provider's module defines what a token response
contains and what happens to a used token.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

from authlib.common.urls import add_params_to_uri
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter
from flask import Response, request

from .clients import knows, proves
from .consent import Stage, ask, new_code, refuse, save_code
from .state import Code, Pair, Session, State

AUTH_METHODS = ["client_secret_basic", "client_secret_post"]
"""What Authlib tries, in this order; `Authority.auth_methods` names the allowed ones."""


class Client:
    """The provider's one client, as Authlib asks about it."""

    def __init__(self, authority: Authority, client_id: str) -> None:
        """`client_id` is known already."""
        self.authority = authority
        self.client_id = client_id

    def get_client_id(self) -> str:
        """Its id."""
        return self.client_id

    def get_default_redirect_uri(self) -> str:
        """No default: every request names its own."""
        return ""

    def get_allowed_scope(self, scope: str | None) -> str:
        """The app's scopes, for providers that ignore the requested scope."""
        return self.authority.app_scope or scope or ""

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        """RFC 6749 section 3.1.2.4."""
        return self.authority.state.allows(redirect_uri)

    def check_client_secret(self, secret: str) -> bool:
        """RFC 6749 section 2.3.1."""
        return proves(self.authority.stage.provider, self.client_id, secret)

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """RFC 7591 section 2: `client_secret_basic`, `client_secret_post`."""
        return method in self.authority.auth_methods

    def check_response_type(self, response_type: str) -> bool:
        """Codes only."""
        return response_type == "code"

    def check_grant_type(self, _grant_type: str) -> bool:
        """Every grant that is registered."""
        return True


class CodeGrant(AuthorizationCodeGrant):
    """RFC 6749 section 4.1."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def generate_authorization_code(self) -> str:
        """RFC 6749 section 4.1.2."""
        return new_code()

    def save_authorization_code(self, code: str, request: Any) -> None:
        """With the scopes that the user left selected."""
        stage: Stage = self.server.stage
        save_code(self.server.state, stage, code, request.user, stage.granted(request.scope))

    def query_authorization_code(self, code: str, client: Any) -> Any:
        """Unused, young enough, and of this client."""
        found: Code | None = self.server.state.redeemable(self.server.stage.provider, code)
        return found if found is not None and found.client_id == client.client_id else None

    def delete_authorization_code(self, authorization_code: Any) -> None:
        """Mark it used and keep it: a second use must differ from an unknown code."""
        authorization_code.used = True

    def authenticate_user(self, authorization_code: Any) -> Any:
        """The account that was chosen on the page."""
        return authorization_code.account

    def generate_token(self, *_: Any, **__: Any) -> dict[str, Any]:
        """The first token response of a session, in the provider's form."""
        code = cast("Code", self.request.authorization_code)
        session = Session(code.provider, code.client_id, code.account, code.scope, code.query)
        body: dict[str, Any] = self.server.first(session)
        return body


class RefreshGrant(RefreshTokenGrant):
    """RFC 6749 section 6."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS

    def authenticate_refresh_token(self, refresh_token: str) -> Any:
        """The pair, while the provider accepts its refresh token."""
        pair: Pair | None = self.server.state.by_refresh.get(refresh_token)
        if pair is None or pair.session.provider != self.server.stage.provider:
            return None
        alive = not pair.session.revoked and self.server.state.now() < pair.refresh_until
        return pair if alive and self.server.refreshable(pair) else None

    def authenticate_user(self, refresh_token: Any) -> Any:
        """The account of the session."""
        return refresh_token.session.account

    def issue_token(self, user: Any, refresh_token: Any) -> dict[str, Any]:  # noqa: ARG002 - Authlib's signature
        """The next token response of the session, in the provider's form."""
        body: dict[str, Any] = self.server.again(refresh_token)
        return body

    def revoke_old_credential(self, refresh_token: Any) -> None:
        """The authority does this, as its provider would."""


class Revocation(RevocationEndpoint):
    """RFC 7009, for providers that authenticate the client there."""

    def query_token(self, token_string: str, token_type_hint: str | None) -> str:  # noqa: ARG002 - Authlib's signature
        """The token itself; the state finds its session."""
        return token_string

    def authenticate_token(self, request: Any, client: Client) -> str:
        """RFC 7009 section 2.1. An unknown token is no error (section 2.2)."""
        self.check_params(request, client)
        return str(request.form["token"])

    def revoke_token(self, token: str, request: Any) -> None:  # noqa: ARG002 - Authlib's signature
        """End the token's whole session."""
        self.server.state.revoke(self.server.stage.provider, token)


class _Issuer(IssuerParameter):
    """RFC 9207 section 2, if the provider's switch is on."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self(authority)

    def get_issuer(self) -> str | None:
        """RFC 9207 section 2.1; None leaves it out."""
        return self.authority.issuer() if self.authority.sends_iss() else None


class Authority(AuthorizationServer):
    """One provider's authorization server; a subclass defines how it behaves."""

    stage: Stage
    auth_methods: ClassVar[tuple[str, ...]] = ("client_secret_basic", "client_secret_post")
    app_scope: ClassVar[str] = ""
    """The app's scopes, for providers that ignore the parameter."""

    def __init__(self, state: State) -> None:
        """An authority over `state`."""
        super().__init__()
        self.state = state
        self.register_grant(CodeGrant, [CodeChallenge(required=False)])
        self.register_grant(RefreshGrant)
        self.register_endpoint(Revocation)
        self.register_extension(_Issuer)

    # -- habits ------------------------------------------------------------------------------------------------------

    def issuer(self) -> str:
        """RFC 8414 section 2: the value of `iss`."""
        return f"{self.state.origin}/{self.stage.provider}"

    def sends_iss(self) -> bool:
        """Whether authorization responses carry `iss`."""
        return self.state.switches[f"{self.stage.provider}_iss"]

    def first(self, session: Session) -> dict[str, Any]:
        """The token response for a code."""
        raise NotImplementedError

    def again(self, pair: Pair) -> dict[str, Any]:
        """The token response for a refresh token; also changes that token."""
        raise NotImplementedError

    def refreshable(self, pair: Pair) -> bool:
        """Whether the pair's refresh token, neither revoked nor too old, may be used now."""
        return pair.used_at is None

    def beside_the_code(self) -> dict[str, str]:
        """Further parameters of a successful authorization response."""
        return {}

    def failed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The provider's form of a token endpoint error."""
        return body

    # -- endpoints ---------------------------------------------------------------------------------------------------

    def query_client(self, client_id: str) -> Any:
        """The one client, or None."""
        return Client(self, client_id) if knows(self.stage.provider, client_id) else None

    def save_token(self, token: Any, request: Any) -> None:
        """Nothing: it was stored when it was issued."""

    def authorize(self) -> Response:
        """GET asks; POST answers 303 to the redirect URI."""
        try:
            grant: Any = self.get_consent_grant(end_user=self.stage.accounts[0])  # type: ignore[no-untyped-call]
        except OAuth2Error as error:
            if not getattr(error, "redirect_uri", None):
                return refuse(self.state, self.stage, error.description or error.error or "")
            return _see_other(self.handle_error_response(self.create_oauth2_request(request), error))
        if request.method != "POST":
            return ask(self.state, self.stage, grant.request.scope)
        answer = _see_other(self.create_authorization_response(grant=grant, grant_user=self.stage.chosen(self.state)))
        if answer.location and "code=" in answer.location and (more := self.beside_the_code()):
            answer.location = add_params_to_uri(answer.location, list(more.items()))
        return answer

    def token(self) -> Response:
        """RFC 6749 section 3.2; one request at a time, so that a code or a token is used once."""
        with self.state.lock:
            answer: Any = self.create_token_response()
        said: Response = answer
        if said.status_code >= 400:
            said.set_data(json.dumps(self.failed(json.loads(said.get_data()))))
        return said

    def revocation(self) -> Response:
        """RFC 7009 section 2."""
        answer: Response = self.create_endpoint_response("revocation")  # type: ignore[no-untyped-call]
        return answer


def _see_other(made: Any) -> Response:
    answer: Response = made
    answer.autocorrect_location_header = False
    answer.status_code = 303 if answer.status_code == 302 else answer.status_code
    answer.headers["Referrer-Policy"] = "no-referrer"
    return answer
