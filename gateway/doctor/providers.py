"""
Providers: whether each enabled one answers, is the one the catalogue means, and knows our registration.

A token request with an invented code shows this: a server that answers `invalid_grant` has accepted our client id and secret (RFC 6749
section 5.2), one that answers `invalid_client` has not. The request has no effect.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from difflib import get_close_matches
from urllib.parse import urlsplit

from gateway import protocol
from gateway.catalog import Provider
from gateway.database.queries.operator import all_connections
from gateway.doctor.report import Finding
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    IssuerMismatch,
    ProviderUnavailable,
)
from gateway.http import Deadline
from gateway.services import Runtime

_SECONDS = 10.0
"""For all calls to one provider."""
_MANY = 100
_UNKNOWN_CLIENT = ("invalid_client", "unauthorized_client", "401")
_UNKNOWN_REDIRECT = ("redirect_uri_mismatch", "invalid_redirect_uri")


def examine(rt: Runtime) -> Iterator[Finding]:
    """Every enabled provider, in the catalogue's order."""
    if not rt.enabled():
        fix = "Set <PROVIDER>_CLIENT_ID, and _CLIENT_SECRET beside it."
        yield Finding("providers", "warn", "None is enabled.", fix)
    for name in sorted(set(rt.settings.clients) - set(rt.catalog.providers)):
        near = [
            f" (did you mean {each.upper()}_CLIENT_ID?)" for each in get_close_matches(name, rt.catalog.providers, n=1)
        ]
        message = f"{name.upper()}_CLIENT_ID is set, and there is no provider {name}{''.join(near)}."
        fix = "`python -m gateway providers list` names them; your own are in the folder GATEWAY_CATALOG."
        yield Finding("providers", "warn", message, fix)
    for provider in rt.registered():
        yield from examine_one(rt, provider)
        yield from _grants_of_other_clients(rt, provider)


def examine_one(rt: Runtime, provider: Provider) -> Iterator[Finding]:
    """One enabled provider."""
    yield Finding(provider.id, "ok", f"Redirect URI: {rt.redirect_uri(provider)}")
    host = (urlsplit(rt.settings.public_url).hostname or "").lower()
    if word := next((word for word in provider.refused_in_redirect_uri if word in host), None):
        message = f"It refuses redirect URIs that contain `{word}`, as the host in GATEWAY_PUBLIC_URL does."
        yield Finding(provider.id, "fail", message, "Use a host name without it.")
    deadline = Deadline.after(_SECONDS)
    try:
        whole = rt.issuers.complete(provider, deadline)
    except IssuerMismatch:
        message = "Its metadata names another issuer than the catalogue: it is not the same service."
        yield Finding(
            provider.id, "fail", message, "Compare `issuer` in the catalogue with the provider's documentation."
        )
        return
    except GatewayError as error:
        yield Finding(provider.id, "fail", f"Its metadata cannot be read: {error}.", "Check `issuer` in the catalogue.")
        return
    yield _examine_registration(rt, whole, deadline)


def _grants_of_other_clients(rt: Runtime, provider: Provider) -> Iterator[Finding]:
    """Connections of a registration that was replaced. The findings about the database say why it cannot be asked."""
    clients = {provider.id: rt.clients[provider.id].client_id}
    try:
        gone = all_connections(rt.database, provider=provider.id, clients=clients, most=_MANY)
    except GatewayError:
        return
    if gone:
        number = f"{len(gone)} connections" if len(gone) < _MANY else f"{_MANY} connections or more"
        message = (
            f"{number} belong to another registration than the one that is set: their users have to connect again."
        )
        fix = "`python -m gateway connections list --client-gone` lists them; they work again with that client id."
        yield Finding(provider.id, "warn", message, fix)


def _examine_registration(rt: Runtime, provider: Provider, deadline: Deadline) -> Finding:
    """What the token endpoint answers to our registration."""
    client = rt.clients[provider.id]
    wire = protocol.build_code_request(
        provider,
        client,
        code=f"doctor-{secrets.token_urlsafe(24)}",
        redirect_uri=rt.redirect_uri(provider),
        code_verifier=secrets.token_urlsafe(48),
    )
    try:
        response = rt.http.request(
            wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline, provider=provider.id
        )
        protocol.parse_token_response(provider, response.status, response.body, now=rt.now(), scope=provider.scope)
    except AccessDenied:
        return Finding(provider.id, "ok", "It knows our registration: it refused a made-up code as a code.")
    except ProviderUnavailable as error:
        message = f"Its token endpoint cannot be used now: {error}."
        return Finding(
            provider.id, "fail", message, "Wait, or check the network and `token_endpoint` in the catalogue."
        )
    except GatewayError as error:
        return _explain_refusal(rt, provider, error)
    message = "It issues a token for a made-up code."
    return Finding(provider.id, "fail", message, "Do not use this provider.")


def _explain_refusal(rt: Runtime, provider: Provider, error: GatewayError) -> Finding:
    """A refusal for another reason than the code."""
    reason = " ".join(map(str, error.facts().values())) if isinstance(error, ClientRejected) else ""
    if any(word in reason for word in _UNKNOWN_CLIENT):
        secret = f"{provider.id.upper()}_CLIENT_ID and {provider.id.upper()}_CLIENT_SECRET"
        message = "It refuses our registration: wrong client id or secret, or one for another environment."
        return Finding(provider.id, "fail", message, f"Copy {secret} from the provider's console again.")
    if any(word in reason for word in _UNKNOWN_REDIRECT):
        fix = f"Register it there exactly: {rt.redirect_uri(provider)}"
        return Finding(provider.id, "fail", "It does not know our redirect URI.", fix)
    message = f"It is not clear whether it knows our registration: {error}."
    return Finding(provider.id, "warn", message, "Connect once yourself to be sure.")
