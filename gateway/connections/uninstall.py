"""
Leaving a provider: our app removed there, for an account whose user asked for just that.

Needs a token that is good now. Never part of an ordinary disconnect: it ends what others of the account may use too. Whatever goes
wrong is told and stops nobody.
"""

from __future__ import annotations

import json
import uuid
from typing import Literal

import structlog

from gateway.database import Leaving
from gateway.errors import GatewayError, NotFound
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime
from gateway.tokens.read import fresh_grant

log = structlog.get_logger(__name__)

UNINSTALL_SECONDS = 6.0

Uninstalled = Literal["done", "failed", "unsupported", "kept"]


def uninstall(
    rt: Runtime, deadline: Deadline, *, connection_id: uuid.UUID, session_hash: str | None, caller: Caller | None
) -> Uninstalled | None:
    """
    Removes our app at the provider, for the account of that connection; None where it stays connected for others.

    `kept`: a partner asks that reaches only what its users gave it, and the account is somebody else's connection too.
    Raises NotFound for another's id as for none, and DatabaseUnavailable before anything was asked of the provider.
    """
    leaving = rt.store.leaving(connection_id=connection_id, session_hash=session_hash, caller=caller)
    if leaving is None:
        raise NotFound("no such connection of this user")
    if leaving.kept:
        return None
    if leaving.shared:
        return "kept"
    try:
        ended: Uninstalled = _ask(rt, connection_id, leaving, deadline)
    except GatewayError as error:
        log.warning("uninstall.failed", provider=leaving.provider, error=error.slug, reason=str(error))
        ended = "failed"
    try:
        rt.store.record(
            "app.uninstalled" if ended == "done" else "app.uninstall_failed",
            connection_id=connection_id,
            user_id=leaving.user_id,
            provider=leaving.provider,
            data={"account": {"id": leaving.account_id}},
        )
    except GatewayError as error:
        log.warning("uninstall.untold", provider=leaving.provider, error=error.slug)
    return ended


def _ask(rt: Runtime, connection_id: uuid.UUID, leaving: Leaving, deadline: Deadline) -> Uninstalled:
    provider = rt.provider(leaving.provider)
    quirk = provider.uninstalling
    if quirk is None or quirk.uninstall is None:
        return "unsupported"
    fresh = fresh_grant(rt, connection_id, until=deadline)
    wire = quirk.uninstall(
        provider.api_base_url or "", rt.clients[provider.id].client_id, leaving.account_id, leaving.facts
    )
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        **provider.headers,
        "Authorization": f"Bearer {fresh.access_token}",
    }
    body, soon = json.dumps(dict(wire.body)), deadline.within(UNINSTALL_SECONDS)
    answer = rt.outbound.request("DELETE", wire.url, headers=headers, body=body, deadline=soon)
    if 200 <= answer.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
        return "done"
    log.warning("uninstall.refused", provider=provider.id, status=answer.status)
    return "failed"
