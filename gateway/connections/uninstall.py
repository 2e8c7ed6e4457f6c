"""
Uninstall: remove our app at the provider, for the account of one connection.

Only when the user asks for it: an uninstall also ends other connections of the account.
"""

from __future__ import annotations

import json
import uuid
from typing import Literal

import structlog

from gateway.database.queries.events import append_event
from gateway.database.queries.revocations import UninstallTarget, find_uninstall_target
from gateway.errors import GatewayError, NotFound
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
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
    client_id, base_url = rt.clients[provider.id].client_id, provider.api_base_url or ""
    deviation = provider.uninstaller
    request = deviation.uninstall(base_url, client_id, target.account_id, target.facts) if deviation else None
    if request is None:
        return "unsupported"
    fresh = fresh_grant(rt, connection_id, until=deadline)
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        **provider.headers,
        **provider.token_placement.headers(fresh.access_token),
    }
    url = provider.token_placement.url(request.url, fresh.access_token)
    body, until = json.dumps(dict(request.body)), deadline.within(UNINSTALL_SECONDS)
    answer = rt.http.request("DELETE", url, headers=headers, body=body, deadline=until, provider=provider.id)
    if 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return "done"
    log.warning("uninstall.refused", provider=provider.id, status=answer.status)
    return "failed"
