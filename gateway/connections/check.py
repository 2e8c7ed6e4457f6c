"""
Whether a connection works: its provider is asked whose account it is, with a token that is good now.

The account has to be the one that stands. A token that the provider does not take is refreshed once; what is refused then, or is of
another account, ends the connection until its owner connects again. The token itself goes nowhere else.
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
"""For everything that the provider is asked: its account endpoint, once more with a new token, and the refresh between them."""


def check(rt: Runtime, connection_id: uuid.UUID, caller: Caller) -> Connection:
    """
    The connection as it stands once its provider was asked.

    Raises NotFound for one that the caller does not reach as for none, RateLimited within a minute of the last time, and what a
    refresh and the provider's endpoint raise; then nothing is known and nothing changed. An answer past the question is told in an
    event beside that. The provider has CHECK_SECONDS.
    """
    begun = begin_check(rt.database, caller, connection_id)
    if begun is None:
        raise NotFound("no such connection of this caller")
    if begun.connection.status != "active":
        return begun.connection
    generation, outcome, error, problem = _asked(rt, begun)
    stands = end_check(rt.database, caller, connection_id, generation=generation, outcome=outcome, error=error)
    if stands is None:
        raise NotFound("disconnected meanwhile")
    if problem is not None:
        raise problem
    return stands


def _asked(rt: Runtime, begun: Check) -> tuple[int, CheckOutcome, str, ProviderGarbled | None]:
    """The generation asked about, what came of it, for a refusal its name in the event, and an answer past the question."""
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
        # Without a token at all: the engine has marked it, or it ran out and has nothing to be refreshed with. With one: the
        # provider cannot be asked with it.
        outcome = ("unknown", "") if fresh is not None else ("refused", problem.slug)
    return (fresh.generation if fresh else connection.generation, *outcome, garbled)


def _confirm(rt: Runtime, begun: Check, fresh: FreshToken, deadline: Deadline) -> None:
    connection = begun.connection
    grant = Grant(fresh.access_token, None, "Bearer", fresh.scope, fresh.expires_at)
    provider = rt.issuers.complete(rt.provider(connection.provider), deadline)
    confirm_account(rt, provider, TokenResponse(grant, begun.facts), connection.account.id, deadline)
