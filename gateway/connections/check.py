"""Check a connection: ask its provider whose account the token is for."""

from __future__ import annotations

import uuid

from gateway.account import NotConfirmed, confirm_account
from gateway.database.queries.callers import Check, CheckOutcome, begin_check, end_check
from gateway.errors import NeedsReauthorization, NotFound, ProviderGarbled
from gateway.http import Deadline
from gateway.models import Caller, Connection, Grant
from gateway.protocol import TokenResponse
from gateway.services import Runtime
from gateway.tokens.read import FreshToken, fresh_grant

CHECK_SECONDS = 9.5
"""For two calls of the account endpoint and the refresh between them."""


def check(rt: Runtime, connection_id: uuid.UUID, caller: Caller) -> Connection:
    """
    Ask the provider for the account of a valid token, and return the connection as it is afterwards.

    When the provider refuses the token even after a refresh, or names another account, the user must connect again. Any other failure changes
    nothing and is raised. Raises NotFound for an id that the caller cannot reach, and RateLimited within a minute of the last check.
    """
    begun = begin_check(rt.database, caller, connection_id)
    if begun is None:
        raise NotFound("no such connection of this caller")
    if begun.connection.status != "active":
        return begun.connection
    generation, outcome, error, problem = _ask(rt, begun)
    checked = end_check(rt.database, caller, connection_id, generation=generation, outcome=outcome, error=error)
    if checked is None:
        raise NotFound("disconnected meanwhile")
    if problem is not None:
        raise problem
    return checked


def _ask(rt: Runtime, begun: Check) -> tuple[int, CheckOutcome, str, ProviderGarbled | None]:
    """The generation that was checked, the outcome, the error of a refusal, and a response that does not answer the question."""
    deadline, generation = Deadline.after(CHECK_SECONDS), begun.connection.generation
    try:
        fresh = fresh_grant(rt, begun.connection.id, until=deadline)
        generation = fresh.generation
        try:
            _confirm(rt, begun, fresh, deadline)
        except NotConfirmed as refusal:
            if refusal.reason != "token_refused":
                raise
            fresh = fresh_grant(rt, begun.connection.id, force=True, until=deadline)
            generation = fresh.generation
            _confirm(rt, begun, fresh, deadline)
    except NotConfirmed as refusal:
        if refusal.reason in ("token_refused", "another_account"):
            return generation, "refused", refusal.reason, None
        is_garbled = refusal.reason in ("not_confirmed", "not_named")
        return generation, "unknown", "", ProviderGarbled(str(refusal)) if is_garbled else None
    except NeedsReauthorization as refusal:
        return generation, "refused", refusal.slug, None
    except ProviderGarbled as problem:
        return generation, "unknown", "", problem
    return generation, "confirmed", "", None


def _confirm(rt: Runtime, begun: Check, fresh: FreshToken, deadline: Deadline) -> None:
    connection = begun.connection
    grant = Grant(fresh.access_token, None, "Bearer", fresh.scope, fresh.expires_at)
    provider = rt.issuers.complete(rt.provider(connection.provider), deadline)
    confirm_account(rt, provider, TokenResponse(grant, begun.facts), connection.account.id, deadline)
