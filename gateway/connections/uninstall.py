"""
Uninstall: remove our app at the provider, for the account of one connection.

Only when the user asks for it: an uninstall also ends other connections of the account.
"""

import uuid
from collections.abc import Mapping
from typing import Any, Literal

import structlog

from gateway.catalog import Provider
from gateway.catalog.deviations import ApiRequest
from gateway.database.queries.connections import UninstallTarget, find_uninstall_target
from gateway.database.queries.events import append_event
from gateway.errors import GatewayError, NotFound
from gateway.http import Deadline
from gateway.models import Caller, Grant
from gateway.services import Runtime
from gateway.tokens.provider_api import call_api, send_api
from gateway.tokens.read import fresh_grant

log = structlog.get_logger(__name__)

UNINSTALL_SECONDS = 6.0

Uninstalled = Literal["done", "failed", "unsupported", "kept"]


def uninstall_app(
    rt: Runtime, deadline: Deadline, *, connection_id: uuid.UUID, session_hash: str | None, caller: Caller | None
) -> Uninstalled | None:
    """
    Remove our app at the provider; None where the connection stays for others. `kept`: the account has other connections, which the
    calling partner may not end. A failure is logged and recorded as an event, not raised. Raises NotFound (the same for an id of another
    user and for an unknown id) and DatabaseUnavailable before the provider was asked.
    """
    target = find_uninstall_target(rt.database, connection_id=connection_id, session_hash=session_hash, caller=caller)
    if target is None:
        raise NotFound("no such connection of this user")
    if target.kept:
        return None
    if target.shared:
        return "kept"
    try:
        outcome: Uninstalled = _send(rt, connection_id, target, deadline)
    except GatewayError as error:
        log.warning("uninstall.failed", provider=target.provider, error=error.slug, reason=str(error))
        outcome = "failed"
    try:
        append_event(
            rt.database,
            "app.uninstalled" if outcome == "done" else "app.uninstall_failed",
            connection_id=connection_id,
            user_id=target.user_id,
            provider=target.provider,
            data={"account": {"id": target.account_id}},
        )
    except GatewayError as error:
        log.warning("uninstall.report_failed", provider=target.provider, error=error.slug)
    return outcome


def _send(rt: Runtime, connection_id: uuid.UUID, target: UninstallTarget, deadline: Deadline) -> Uninstalled:
    provider = rt.provider(target.provider)
    request = _request(rt, provider, target.account_id, target.facts)
    if request is None:
        return "unsupported"
    fresh_grant(rt, connection_id, until=deadline)  # a refresh may take longer than the request after it
    _, answer = call_api(rt, provider, connection_id, lambda _: request, deadline.within(UNINSTALL_SECONDS))
    return _outcome(provider, answer.status)


def uninstall_unclaimed(rt: Runtime, provider: Provider, grant: Grant, account_id: str) -> Uninstalled:
    """The same with a grant that became no connection. Raises what the provider's API raises."""
    request = _request(rt, provider, account_id, grant.facts)
    if request is None or provider.deviation.uninstall_scope not in grant.scope:
        return "unsupported"
    deadline = Deadline.after(UNINSTALL_SECONDS)
    return _outcome(provider, send_api(rt, provider, grant.access_token, grant.facts, request, deadline).status)


def _request(rt: Runtime, provider: Provider, account_id: str, facts: Mapping[str, Any]) -> ApiRequest | None:
    client_id = rt.clients[provider.id].client_id
    return provider.deviation.uninstall(provider.api_base_url or "", client_id, account_id, facts)


def _outcome(provider: Provider, status: int) -> Uninstalled:
    if 200 <= status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return "done"
    log.warning("uninstall.refused", provider=provider.id, status=status)
    return "failed"
