"""
Check whether a connection works: ask its provider for the account, with a valid token.

The account must be the connection's. If the provider refuses the token, it is refreshed once. After a further refusal, or for another
account, the owner has to connect again.
"""

from __future__ import annotations

import uuid

from gateway.account import (
    AccountNotNamed,
    AccountOutOfScope,
    AnotherAccount,
    NotConfirmed,
    TokenRefused,
    confirm_account,
)
from gateway.database.queries.callers import Check, CheckOutcome, begin_check, end_check
from gateway.errors import NeedsReauthorization, NotFound, ProviderGarbled
from gateway.http import Deadline
from gateway.models import Caller, Connection, Grant
from gateway.protocol import TokenResponse
from gateway.services import Runtime
from gateway.tokens.read import FreshToken, fresh_grant

CHECK_SECONDS = 9.5
"""For all calls to the provider: the account endpoint, the refresh, and the account endpoint again."""


def check(rt: Runtime, connection_id: uuid.UUID, caller: Caller) -> Connection:
    """
    The connection after the check.

    Raises NotFound, in the same way for an id out of reach and for an unknown one; RateLimited within a minute of the last check; and the
    errors of a refresh and of the account endpoint, which change nothing. An unusable response is also recorded as an event.
    """
    begun = begin_check(rt.database, caller, connection_id)
    if begun is None:
        raise NotFound("no such connection of this caller")
    if begun.connection.status != "active":
        return begun.connection
    generation, outcome, error, problem = _asked(rt, begun)
    checked = end_check(rt.database, caller, connection_id, generation=generation, outcome=outcome, error=error)
    if checked is None:
        raise NotFound("disconnected meanwhile")
    if problem is not None:
        raise problem
    return checked


def _asked(rt: Runtime, begun: Check) -> tuple[int, CheckOutcome, str, ProviderGarbled | None]:
    """The checked generation, the outcome, the reason of a refusal for the event, and the error of an unusable response."""
    connection, deadline = begun.connection, Deadline.after(CHECK_SECONDS)
    fresh: FreshToken | None = None
    garbled: ProviderGarbled | None = None
    outcome: tuple[CheckOutcome, str] = "confirmed", ""
    try:
        fresh = fresh_grant(rt, connection.id, until=deadline)
        try:
            _confirm(rt, begun, fresh, deadline)
        except TokenRefused:
            fresh = None
            fresh = fresh_grant(rt, connection.id, force=True, until=deadline)
            _confirm(rt, begun, fresh, deadline)
    except TokenRefused:
        outcome = "refused", "token_refused"
    except AnotherAccount:
        outcome = "refused", "another_account"
    except AccountOutOfScope:
        outcome = "unknown", ""
    except ProviderGarbled as problem:
        outcome, garbled = ("unknown", ""), problem
    except (NotConfirmed, AccountNotNamed) as problem:
        outcome, garbled = ("unknown", ""), ProviderGarbled(str(problem))
    except NeedsReauthorization as problem:
        # Without a token: the connection is marked already, or its token expired and cannot be refreshed. With one: the
        # provider cannot be asked with it.
        outcome = ("unknown", "") if fresh is not None else ("refused", problem.slug)
    return (fresh.generation if fresh else connection.generation, *outcome, garbled)


def _confirm(rt: Runtime, begun: Check, fresh: FreshToken, deadline: Deadline) -> None:
    connection = begun.connection
    grant = Grant(fresh.access_token, None, "Bearer", fresh.scope, fresh.expires_at)
    provider = rt.issuers.complete(rt.provider(connection.provider), deadline)
    confirm_account(rt, provider, TokenResponse(grant, begun.facts), connection.account.id, deadline)
