"""
Import tokens that the gateway did not write: rows from before the gateway, and what an owner wrote into a row.

The values are encrypted as they are, and the connection is `unverified`: no caller can read its token. It becomes active when the provider
confirms the account: when it is asked with the access token, or in the response to an ordinary refresh.
"""

import contextlib
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog

from gateway.account import NotConfirmed, confirm_account
from gateway.catalog import AnyEntry, Provider
from gateway.database.queries import connections as queries
from gateway.database.queries.connections import ImportRow
from gateway.errors import (
    GrantUnusable,
    NeedsReauthorization,
    NotFound,
    ProviderFailed,
    RateLimited,
    SecretUnreadable,
)
from gateway.http import Deadline
from gateway.models import Account, Unit
from gateway.protocol.oauth import parse_fact, parse_time
from gateway.services import Runtime
from gateway.tokens.read import fresh_grant

log = structlog.get_logger(__name__)

VERIFY_SECONDS = 20.0
_OPERATOR_SECONDS = 86400.0
"""How long a row waits for the operator: an unknown name, a provider that is not enabled."""
_TRUSTED_SECONDS = 3600.0
"""How long an expiry is believed that the gateway did not write, where a refresh brings a true one."""
_ENCRYPTED = "gAAAA"
"""The first characters of every Fernet token."""

Name = Literal["imported", "refused", "unmapped", "not_enabled", "no_user", "duplicate", "unreadable", "later"]


class Outcome(NamedTuple):
    name: Name
    reason: str = ""


class Secrets(NamedTuple):
    """The plain values of a row. `is_new`: they have to be stored; `problem`: why they cannot be used."""

    token: str | None
    refresh: str | None
    is_new: bool
    has_new_refresh: bool
    problem: str = ""


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:
    """The worker's job: import one row that is due. Not of `busy` providers."""
    row = queries.claim_import(rt.database, providers=_providers(rt), busy=busy)
    return [] if row is None else [Unit(row.provider or "", partial(_import_claimed, rt, row))]


def _providers(rt: Runtime) -> list[Mapping[str, object]]:
    return [{"id": entry.id, "type": entry.type, "names": entry.row_names} for entry in rt.enabled.values()]


def _import_claimed(rt: Runtime, row: ImportRow) -> None:
    outcome = import_row(rt, row, row.provider)
    log.info("import.finished", connection=str(row.id), outcome=outcome.name, reason=outcome.reason)


def import_row(rt: Runtime, row: ImportRow, provider_id: str | None) -> Outcome:
    """Encrypt and verify a claimed row. Raises DatabaseUnavailable; the row is due again after a minute then."""
    provider = rt.catalog.entries.get(provider_id or "")
    if row.user_id is None:
        outcome = Outcome("no_user", "the row belongs to no user")
    elif provider is None:
        outcome = Outcome("unmapped", "no provider has this name: use --map NAME=PROVIDER")
    elif provider.id not in rt.enabled:
        outcome = Outcome("not_enabled", f"{provider.id.upper()}_CLIENT_ID is not set")
    else:
        outcome = _import(rt, row, provider)
    if outcome.name in ("unmapped", "not_enabled", "no_user", "duplicate", "unreadable"):
        queries.finish_import(rt.database, row.id, "later", wait_seconds=_OPERATOR_SECONDS)
    return outcome


def _import(rt: Runtime, row: ImportRow, provider: AnyEntry) -> Outcome:
    secrets = _read_secrets(rt, row, provider)
    if secrets is None:
        return Outcome("unreadable", "an encrypted value does not decrypt: a key is missing")
    if row.seal_id is not None and not secrets.is_new:
        if row.status == "unverified":
            return _verify(rt, row, provider, secrets, row.generation, row.seal_id)
        queries.finish_import(rt.database, row.id, "confirmed")
        return Outcome("imported")
    seal_id = uuid.uuid4()
    stored = _store(rt, row, provider, secrets, seal_id)
    if stored == "stored":
        return _verify(rt, row, provider, secrets, row.generation + 1, seal_id)
    queries.finish_import(rt.database, row.id, "later")
    return _NOT_STORED[stored]


_NOT_STORED = {
    "changed": Outcome("later", "the row was changed meanwhile"),
    "duplicate": Outcome("duplicate", "another row of this user is connected"),
    "no_user": Outcome("no_user", "the user does not exist, or may not sign in"),
}


# -- the values ------------------------------------------------------------------------------------------------------


def _read_secrets(rt: Runtime, row: ImportRow, provider: AnyEntry) -> Secrets | None:
    """
    The plain values of a row; None for an existing row with an encrypted value that does not decrypt: its key may be missing.

    In a connection, the owner may have written a value that only looks encrypted, or is not a token (RFC 6749 appendix A.12): it counts
    as none.
    """
    values = {"token": (row.token, row.seal_id), "refresh": (row.refresh, row.refresh_seal_id)}
    plain: dict[str, str | None] = dict.fromkeys(values)
    ours = {column for column, (value, _) in values.items() if value is None}
    for column, (value, seal_id) in values.items():
        if value is not None and value.startswith(_ENCRYPTED):
            if seal_id is None:
                return None
            with contextlib.suppress(SecretUnreadable):
                plain[column] = rt.vault.decrypt(
                    value, column=column, user_id=row.user_id, provider=provider.id, seal_id=seal_id
                )
                ours.add(column)
        elif value is not None and value.isascii() and value.isprintable():
            plain[column] = value.strip() or None
    problem = ""
    if row.refresh is not None and plain["refresh"] is None:
        problem = "the refresh token that was written is not a token"
    elif plain["token"] is None and plain["refresh"] is None:
        problem = "there is no token"
    return Secrets(plain["token"], plain["refresh"], ours != set(values), "refresh" not in ours, problem)


def _store(
    rt: Runtime, row: ImportRow, provider: AnyEntry, secrets: Secrets, seal_id: uuid.UUID
) -> queries.ImportStored:
    encrypt = partial(rt.vault.encrypt, user_id=row.user_id, provider=provider.id, seal_id=seal_id)
    token_is_new = row.token is not None and not row.token.startswith(_ENCRYPTED)
    written = parse_time(row.expires)
    if secrets.refresh:
        latest = rt.now() + timedelta(seconds=_TRUSTED_SECONDS)
        written = min(written or latest, latest)
    return queries.store_import(
        rt.database,
        row.id,
        version=row.version,
        provider=provider.id,
        type=provider.type,
        one_account=provider.accounts == "one",
        seal_id=seal_id,
        token=secrets.token and encrypt(secrets.token, column="token"),
        refresh=secrets.refresh and encrypt(secrets.refresh, column="refresh"),
        expires_at=written if token_is_new else row.expires_at,
        scope=row.scope or provider.scope,
        facts=_hints(provider, row),
    )


def _hints(provider: AnyEntry, row: ImportRow) -> Mapping[str, Any]:
    """What a row says about its account. It only decides where to ask; the provider's response decides the account."""
    known = row.data if isinstance(row.data, dict) else {}
    if row.seal_id is not None:
        return known  # the facts of the connection
    facts = {name: fact for name in provider.facts if (fact := parse_fact(known.get(name))) is not None}
    if isinstance(provider, Provider):
        return facts | dict(provider.known(known))
    return facts | {name: known[name] for name, field in provider.fields.items() if field.matches(known.get(name))}


# -- verification ----------------------------------------------------------------------------------------------------


def _verify(
    rt: Runtime, row: ImportRow, provider: AnyEntry, secrets: Secrets, generation: int, seal_id: uuid.UUID
) -> Outcome:
    try:
        if secrets.problem:
            raise NeedsReauthorization(secrets.problem)
        account = _confirmed_account(rt, row, provider, secrets, generation)
    except (NeedsReauthorization, NotFound) as error:
        reason = error.reason if isinstance(error, NotConfirmed) else "not_confirmed"
        queries.finish_import(rt.database, row.id, "refused", seal_id=seal_id, error=reason)
        return Outcome("refused", str(error))
    except (ProviderFailed, GrantUnusable, RateLimited) as error:
        queries.finish_import(rt.database, row.id, "later", wait_seconds=60.0 * 2 ** min(row.attempts - 1, 6))
        return Outcome("later", str(error))
    queries.finish_import(rt.database, row.id, "confirmed", seal_id=seal_id, account=account)
    return Outcome("imported")


def _confirmed_account(
    rt: Runtime, row: ImportRow, provider: AnyEntry, secrets: Secrets, generation: int
) -> Account | None:
    """
    The account that the provider names for the access token; None when a refresh has verified the connection.

    For a known connection, a new refresh token is verified only by its use: the account of the access token says nothing about it.
    """
    deadline = Deadline.after(VERIFY_SECONDS)
    is_known = bool(row.account_id)
    fresh = fresh_grant(rt, row.id, min_seconds=0, force=is_known and secrets.has_new_refresh, until=deadline)
    if fresh.generation != generation:
        return None
    known = (fresh.access_token, fresh.scope, _hints(provider, row), row.account_id or None)
    try:
        return confirm_account(rt, provider, *known, deadline)
    except NotConfirmed as refusal:
        # The access token is refused, or does not name its account. The response to a refresh may.
        if secrets.refresh is None or refusal.reason in ("out_of_scope", "another_account", "not_confirmed"):
            raise
    fresh_grant(rt, row.id, force=True, until=deadline)
    return None


# -- the command -----------------------------------------------------------------------------------------------------


@dataclass
class Report:
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    remaining: list[dict[str, str | None]] = field(default_factory=list)


def import_all(rt: Runtime, names: Mapping[str, str]) -> Iterator[Report]:
    """
    Import all rows that wait, with the progress after each row. It may end between two rows, and be repeated.

    `names`: further names and the provider that each stands for. Raises DatabaseUnavailable.
    """
    mapped = {name.strip().lower(): provider for name, provider in names.items()}
    providers, queue = _providers(rt), queries.list_imports(rt.database)
    report = Report(total=len(queue))
    for queued in queue:
        row = queries.claim_import(rt.database, providers=providers, id=queued)
        if row:
            named = None if row.seal_id else mapped.get((row.name or "").strip().lower())
            outcome = import_row(rt, row, named or row.provider)
        else:
            outcome = Outcome("later", "another process is importing it")
        report.counts[outcome.name] += 1
        if outcome.name != "imported":
            name = row.name if row else None
            left = {"id": str(queued), "name": name, "outcome": outcome.name, "reason": outcome.reason}
            report.remaining.append(left)
        yield report
    yield report
