"""
Providers: whether each enabled one answers, is the one the catalogue means, and knows our registration.

A token request with an invented code shows this: a server that answers `invalid_grant` has accepted our client id and secret (RFC 6749
section 5.2), one that answers `invalid_client` has not. The request has no effect.
"""

import secrets
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import partial

from gateway.catalog import AnyEntry, Provider
from gateway.catalog.provider import fill_known
from gateway.database.queries.connections import reached_connections
from gateway.doctor.report import Finding, finding
from gateway.errors import AccessDenied, ClientRejected, GatewayError, IssuerMismatch, ProviderUnavailable
from gateway.http import Deadline
from gateway.models import OPERATOR
from gateway.protocol.oauth import build_code_request, parse_token_response
from gateway.services import Runtime

_SECONDS = 10.0
"""For all calls to one provider."""
_MANY = 100
_GONE = (404, 410)
_UNKNOWN_CLIENT = ("invalid_client", "unauthorized_client", "401")
_UNKNOWN_REDIRECT = ("redirect_uri_mismatch", "invalid_redirect_uri")


def examine(rt: Runtime) -> Iterator[Finding]:
    if not rt.enabled:
        yield finding("providers.none")
    for name in sorted(set(rt.settings.clients) - set(rt.catalog.providers)):
        near = get_close_matches(name, rt.catalog.providers, n=1)
        hint = f" (did you mean {near[0].upper()}_CLIENT_ID?)" if near else ""
        yield finding("providers.unknown", setting=f"{name.upper()}_CLIENT_ID", name=name, near=hint)
    clients = {name: client.client_id for name, client in rt.clients.items()}
    counts = _counts(rt, [each.id for each in rt.registered()], clients=clients)
    for entry in rt.enabled.values():
        yield from examine_one(rt, entry) if isinstance(entry, Provider) else examine_endpoints(rt, entry)
        if count := counts.get(entry.id):
            yield finding("providers.other_client", entry.id, count=_connections(count))
    for provider_id, count in _counts(rt, rt.enabled, rotation_due=True).items():
        if count:
            yield finding("providers.rotation_due", provider_id, count=_connections(count))


def examine_one(rt: Runtime, provider: Provider) -> Iterator[Finding]:
    yield finding("providers.redirect_uri", provider.id, uri=provider.redirect_uri(rt.settings.public_url))
    uri = provider.redirect_uri(rt.settings.public_url).lower()
    if word := next((word for word in provider.refused_in_redirect_uri if word in uri), None):
        yield finding("providers.refused_host", provider.id, word=word)
    deadline = Deadline.after(_SECONDS)
    try:
        whole = rt.issuers.complete(provider.filled(_first_choices(provider)), deadline)
    except IssuerMismatch:
        yield finding("providers.other_issuer", provider.id)
    except GatewayError as error:
        yield finding("providers.metadata_unread", provider.id, error=error)
    else:
        if "{" in (whole.token_endpoint or ""):
            yield finding("providers.unknown_address", provider.id, name="token_endpoint")
        else:
            yield _examine_registration(rt, whole, deadline)


def examine_endpoints(rt: Runtime, provider: AnyEntry) -> Iterator[Finding]:
    """What its endpoints answer to a request without credentials: of a provider without a registration, or whose users enter a key."""
    deadline, first = Deadline.after(_SECONDS), _first_choices(provider)
    asked = [("POST" if provider.userinfo_body else "GET", "userinfo_endpoint")]
    if isinstance(provider, Provider):
        provider, asked = provider.filled(first), [("GET", "authorization_endpoint"), ("POST", "token_endpoint")]
    for method, name in asked:
        url = fill_known(getattr(provider, name) or "{", first)
        if "{" in url:
            yield finding("providers.unknown_address", provider.id, name=name)
            continue
        try:
            status = rt.http.request(method, url, headers={}, deadline=deadline, provider=provider.id).status
        except GatewayError as error:
            yield finding("providers.unknown_endpoint", provider.id, name=name, error=error)
            continue
        if status in _GONE:
            yield finding("providers.gone_endpoint", provider.id, name=name, status=status)
        elif status == 200 and name == "userinfo_endpoint" and not provider.valid_path:  # noqa: PLR2004
            yield finding("providers.open_endpoint", provider.id, name=name, status=status)
        else:
            yield finding("providers.endpoint", provider.id, name=name, status=status)


def _first_choices(entry: AnyEntry) -> dict[str, str]:
    return {name: next(iter(field.options)) for name, field in entry.fields.items() if field.options}


def _counts(rt: Runtime, providers: Iterable[str], **wanted: object) -> dict[str, int]:
    """Connections of each provider of which something is to be done. The findings about the database say why it cannot be asked."""
    ask = partial(reached_connections, rt.database, OPERATOR, wanted=wanted, most=_MANY)
    try:
        return {name: len(ask(provider=name)) for name in providers}
    except GatewayError:
        return {}


def _connections(count: int) -> str:
    return f"{count} connections{'' if count < _MANY else ' or more'}"


def _examine_registration(rt: Runtime, provider: Provider, deadline: Deadline) -> Finding:
    client = rt.clients[provider.id]
    wire = build_code_request(
        provider,
        client,
        code=f"doctor-{secrets.token_urlsafe(24)}",
        redirect_uri=provider.redirect_uri(rt.settings.public_url),
        code_verifier=secrets.token_urlsafe(48),
    )
    try:
        response = rt.http.request(
            wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline, provider=provider.id
        )
        parse_token_response(provider, response.status, response.body, now=rt.now(), scope=provider.scope)
    except AccessDenied:
        return finding("providers.known", provider.id)
    except ProviderUnavailable as error:
        return finding("providers.token_endpoint_unavailable", provider.id, error=error)
    except GatewayError as error:
        return _explain_refusal(rt, provider, error)
    return finding("providers.accepts_any_code", provider.id)


def _explain_refusal(rt: Runtime, provider: Provider, error: GatewayError) -> Finding:
    reason = " ".join(map(str, error.facts().values())) if isinstance(error, ClientRejected) else ""
    if any(word in reason for word in _UNKNOWN_CLIENT):
        return finding("providers.unknown_client", provider.id, name=provider.id.upper())
    if any(word in reason for word in _UNKNOWN_REDIRECT):
        return finding("providers.unknown_redirect_uri", provider.id, uri=provider.redirect_uri(rt.settings.public_url))
    return finding("providers.unclear", provider.id, error=error)
