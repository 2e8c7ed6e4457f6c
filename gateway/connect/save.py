"""
Save a new grant: encrypt it, and hand it to the database, in one call.

The database decides whether a connection is created or updated, or whether the grant waits for a decision. It knows a repeated call by its
`seal_id`, so that a response that was lost can be asked for again.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from gateway.catalog import AnyEntry
from gateway.crypto.vault import fingerprint
from gateway.database import ANSWER_SECONDS
from gateway.database.queries.connections import NewGrant, save_connection
from gateway.errors import DatabaseUnavailable
from gateway.models import Account, AuthorizationRequest, Connection, Grant
from gateway.services import Runtime

_T = TypeVar("_T")


def save_grant(
    rt: Runtime,
    provider: AnyEntry,
    request: AuthorizationRequest,
    grant: Grant,
    account: Account,
    *,
    state_hash: str,
    confirmation: str | None = None,
) -> Connection | None:
    """
    The connection of the user who made `request`; None where the grant is pending.

    With a `confirmation` it is pending in any case, until the partner's server sends that. Raises Frozen, Unauthenticated for a user who was
    banned or deleted meanwhile, and DatabaseUnavailable: then nothing is saved, now or later.
    """
    seal_id = uuid.uuid4()
    encrypt = partial(rt.vault.encrypt, user_id=request.user_id, provider=provider.id, seal_id=seal_id)
    new = NewGrant(
        seal_id=seal_id,
        user_id=request.user_id,
        provider=provider.id,
        type=provider.type,
        many_accounts=provider.accounts == "many",
        account_id=account.id,
        account_label=account.label,
        scope=grant.scope,
        facts=grant.facts,
        client_id=client.client_id if (client := rt.clients.get(provider.id)) else None,
        token=encrypt(grant.access_token, column="token"),
        refresh=grant.refresh_token and encrypt(grant.refresh_token, column="refresh"),
        browser_hash=request.browser_hash,
        return_to=request.return_to,
        display=request.display,
        connect_session_id=request.connect_session_id,
        confirmation_hash=confirmation and fingerprint(confirmation),
    )
    return repeat_once(
        lambda: save_connection(
            rt.database,
            new,
            requested_scope=request.scope,
            required_scope=provider.required,
            add_account=request.add_account,
            expires_seconds=rt.seconds_until(grant.expires_at),
            refresh_expires_seconds=rt.seconds_until(grant.refresh_expires_at),
            not_after=request.clock.after(ANSWER_SECONDS),
            state_hash=state_hash,
        )
    )


def repeat_once(call: Callable[[], _T]) -> _T:
    """`call`, and once more if the database went away before it answered: the call may have been carried out."""
    try:
        return call()
    except DatabaseUnavailable:
        return call()
