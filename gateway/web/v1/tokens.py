"""`/v1/connections/<id>/token` and `/refresh`: access tokens that are valid now."""

import uuid
from functools import partial

from flask import Blueprint

from gateway.catalog import ApiKeyProvider
from gateway.catalog.provider import TokenPlacement
from gateway.database.queries.connections import check_caller
from gateway.errors import ClientRejected, Forbidden, GrantUnusable, ProviderFailed, every_problem
from gateway.models import Caller
from gateway.tokens.derived import location_grant
from gateway.tokens.read import fresh_grant
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import Call

blueprint = Blueprint("tokens", __name__, url_prefix="/v1")

UNUSABLE = [kind for kind in every_problem() if issubclass(kind, GrantUnusable)]
PROVIDER_FAILED = [kind for kind in every_problem() if issubclass(kind, ProviderFailed)]


@blueprint.get("/connections/<uuid:connection_id>/token")
@Call(schemas.Token, *UNUSABLE, *PROVIDER_FAILED, scope="tokens:read", query=schemas.TokenQuery)
def get_token(who: Caller, query: schemas.TokenQuery, connection_id: uuid.UUID) -> schemas.Token:
    """
    Reads an access token.

    The token is valid for at least `min_seconds`: a stored token with less time left is refreshed first. A new token that is shorter
    than that is returned as it is.
    """
    return _token(who, connection_id, query)


@blueprint.post("/connections/<uuid:connection_id>/refresh")
@Call(schemas.Token, *UNUSABLE, *PROVIDER_FAILED, scope="tokens:read", query=schemas.TokenQuery)
def refresh_token(who: Caller, query: schemas.TokenQuery, connection_id: uuid.UUID) -> schemas.Token:
    """
    Fetches a new access token.

    For when the provider refuses a token that should be valid.
    """
    return _token(who, connection_id, query, force=True)


def _token(who: Caller, connection_id: uuid.UUID, query: schemas.TokenQuery, *, force: bool = False) -> schemas.Token:
    rt = runtime()
    if who.key_hash is None and not rt.settings.owner_tokens:
        check_caller(rt.database, who)  # a banned user is refused as such
        detail = "Users cannot read their own access tokens here: the operator has switched that off."
        raise Forbidden("GATEWAY_OWNER_TOKENS is off", detail=detail)
    read = location_grant if query.location else fresh_grant
    asked = partial(read, rt, connection_id, caller=who, min_seconds=query.min_seconds, location=query.location)
    fresh = asked(refused=asked()) if force and query.location else asked(force=force)
    provider = rt.enabled.get(fresh.provider)
    if provider is None:
        raise ClientRejected("the provider is not enabled any more")
    base_url, headers = provider.api(fresh.facts)
    placement = provider.token_placement
    if isinstance(provider, ApiKeyProvider) or placement != TokenPlacement():
        headers = {**headers, **placement.headers(fresh.access_token)}
    return schemas.Token(
        connection_id=fresh.connection_id,
        access_token=fresh.access_token,
        token_type=placement.scheme,
        expires_at=fresh.expires_at,
        scope=fresh.scope,
        api_base_url=base_url,
        headers=dict(headers),
    )
