"""Check a connection: ask its provider whose account the token is for. Or retry: refresh connections at the operator's request."""

import uuid
from collections.abc import Iterator

import structlog

from gateway.account import NotConfirmed, confirm_account
from gateway.database.queries.connections import CheckOutcome, end_check, reached_connection
from gateway.database.queries.operator import inspect_connection
from gateway.database.queries.tokens import retry
from gateway.errors import (
    ClientRejected,
    DatabaseUnavailable,
    GatewayError,
    Held,
    NeedsReauthorization,
    NotFound,
    ProviderGarbled,
    Suspended,
)
from gateway.http import Deadline
from gateway.models import Account, Caller, Connection
from gateway.services import Runtime
from gateway.tokens.read import fresh_grant

log = structlog.get_logger(__name__)

_OUTCOMES: dict[str, CheckOutcome] = {"another_account": "another_account", "test_mode": "refused"}
CHECK_SECONDS = 9.5
"""For two calls of the account endpoint and the refresh between them."""


def check(rt: Runtime, connection_id: uuid.UUID, caller: Caller | None) -> Connection:
    """
    Ask the provider for the account of a valid token, and return the connection as it is afterwards. `caller`: None is the operator.

    A refused access token says nothing about the grant: only a refused refresh ends a connection, a refused key, and another account. A
    connection that is suspended, and a key that is held, is tried again. Other failures change nothing and are raised. Raises NotFound for an id that the caller
    cannot reach, RateLimited within a minute of a caller's last check, and ProviderLimit while the account's calls are used up.
    """
    connection = _begin(rt, connection_id, caller)
    if connection.status not in ("active", "suspended") and (connection.status != "held" or connection.refreshable):
        return connection
    generation, outcome, found = _ask(rt, connection)
    label = found.label if isinstance(found, Account) else None
    checked = end_check(rt.database, caller, connection_id, generation=generation, outcome=outcome, label=label)
    if checked is None:
        raise NotFound("disconnected meanwhile")
    if outcome == "refused" and checked.status == "held":
        log.error("provider.incident", provider=checked.provider, remedy="operator")
    if isinstance(found, ProviderGarbled):
        raise found
    return checked


def _begin(rt: Runtime, connection_id: uuid.UUID, caller: Caller | None) -> Connection:
    if caller is not None:
        connection = reached_connection(rt.database, caller, connection_id, check=True)
    else:
        found = inspect_connection(rt.database, connection_id)
        connection = found.connection if found else None
    if connection is None:
        raise NotFound("no such connection of this caller")
    return connection


def _ask(rt: Runtime, connection: Connection) -> tuple[int, CheckOutcome, Account | GatewayError | None]:
    """The generation that was checked, the outcome, and the account, or a response that does not answer the question."""
    deadline, generation = Deadline.after(CHECK_SECONDS), connection.generation
    force, account = connection.status == "suspended" and connection.refreshable, None
    try:
        entry = rt.entry(connection.provider, ClientRejected)
        while account is None:
            fresh = fresh_grant(rt, connection.id, force=force, until=deadline, scope="proxy")
            generation, known = fresh.generation, (fresh.scope, connection.facts, connection.account.id)
            try:
                account = confirm_account(rt, entry, fresh.access_token, *known, deadline)
            except NotConfirmed as refusal:
                if force or refusal.reason != "token_refused" or not connection.refreshable:
                    raise
                force = True
    except NotConfirmed as refusal:
        is_garbled = refusal.reason in ("not_confirmed", "not_named")
        outcome = _OUTCOMES.get(refusal.reason, "unknown")
        if refusal.reason == "token_refused" and not connection.refreshable:
            outcome = "refused"  # a key, and a token without a refresh token, are the grant itself
        return generation, outcome, ProviderGarbled(str(refusal)) if is_garbled else None
    except Suspended:
        return generation, "suspended", None
    except (NeedsReauthorization, Held, ProviderGarbled) as problem:
        return generation, "unknown", problem
    return generation, "confirmed", account


def retry_connections(
    rt: Runtime, *, connection_id: uuid.UUID | None = None, provider: str | None = None
) -> Iterator[tuple[dict[str, str], int]]:
    """
    Refresh one connection, or all of a provider that wait, one after the other; a key is checked. What is left is due for the worker.

    Each time the results so far, `refreshed`, `confirmed` or the slug of what prevented it, and how many there are in all.
    """
    ids = retry(rt.database, connection_id=connection_id, provider=provider)
    results: dict[str, str] = {}
    yield results, len(ids)
    for each in ids:
        try:
            if _begin(rt, each, None).refreshable:
                fresh_grant(rt, each, force=True)
                results[str(each)] = "refreshed"
            else:
                status = check(rt, each, None).status
                results[str(each)] = "confirmed" if status == "active" else status
        except DatabaseUnavailable:
            raise
        except GatewayError as error:
            results[str(each)] = error.slug
        yield results, len(ids)
