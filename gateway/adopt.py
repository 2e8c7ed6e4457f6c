"""
What stood before, and what owners write over ours: believed once its provider confirms it, and sealed then as a new generation.

One row at a time, claimed in the database. The provider is asked whose the access token is; where that does not suffice, the
refresh token is used, once, and what it brings is kept before anything is made of it. What is not confirmed is marked where it
is a connection, and left alone where it is not. Knows no provider by name; walking all rows is another room's work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import structlog

from gateway import grants, oauth
from gateway.account import NotConfirmed, confirm_account, read_account
from gateway.catalog import Provider
from gateway.errors import (
    AccessDenied,
    NeedsReauthorization,
    NotFound,
    ProviderFailed,
    ProviderGarbled,
    SecretUnreadable,
)
from gateway.models import Account, Grant
from gateway.oauth import TokenAnswer
from gateway.outbound import Deadline
from gateway.runtime import Runtime
from gateway.store import ClaimedAdoption
from gateway.vault import fingerprint

log = structlog.get_logger(__name__)

ASK_SECONDS = 10.0
"""For each of the at most two rounds with the provider: together well within the minute that a claim lasts."""
_GARBLED_AT_MOST = 5
_SEALED = "gAAAA"
"""How every Fernet token of this century begins: version byte, and the upper bytes of the time."""
_MILLISECONDS = 100_000_000_000

Outcome = Literal[
    "sealed", "standing", "duplicate", "refused", "unreadable", "no_user", "put_off", "unmapped", "to_verify"
]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one row, and why, in words for whoever runs the gateway."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Written:
    """What somebody else wrote, and what of ours still stands beside it."""

    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    kept_refresh: str | None = field(repr=False)


def work_once(rt: Runtime) -> bool:
    """One connection over whose secrets something was written; whether there was any."""
    claim = rt.store.claim_adoption()
    if claim is None:
        return False
    ended = adopt(rt, claim)
    log.info(
        "adoption.ended", connection=str(claim.id), provider=claim.provider, outcome=ended.outcome, reason=ended.reason
    )
    return True


def adopt(rt: Runtime, claim: ClaimedAdoption) -> Ended:
    """
    The claimed row sealed as its next generation; or marked, where it is a connection and its provider does not confirm it.

    Whatever happens, the claim is given back. Raises DatabaseUnavailable.
    """
    ended = Ended("put_off", "it was interrupted")
    try:
        ended = _ended(rt, claim)
    finally:
        if ended.outcome != "sealed":
            rt.store.settle_adoption(
                claim,
                refused=ended.outcome == "refused",
                token_hash=_hash(claim.token),
                refresh_hash=_hash(claim.refresh),
                error="not_confirmed",
            )
    return ended


def _ended(rt: Runtime, claim: ClaimedAdoption) -> Ended:
    try:
        written = _written(rt, claim)
        if written is None:
            return Ended("standing")
        return _believed(rt, claim, written)
    except SecretUnreadable:
        return Ended(
            "unreadable", "a sealed value does not open: a key is missing, or it was moved or sealed by others"
        )
    except (NeedsReauthorization, AccessDenied) as refused:
        return Ended("refused", str(refused))
    except ProviderGarbled as error:
        believed_no = claim.account_id is not None and claim.attempts >= _GARBLED_AT_MOST
        return Ended("refused" if believed_no else "put_off", str(error))
    except (ProviderFailed, NotFound) as error:
        return Ended("put_off", str(error))


def _believed(rt: Runtime, claim: ClaimedAdoption, written: _Written) -> Ended:
    provider = rt.issuers.complete(rt.provider(claim.provider))
    if claim.beside and claim.account_id is None and provider.accounts == "one":
        return Ended("duplicate", "another row of this user and provider is connected")
    grant, account = _proven(rt, provider, claim, written)
    return _save(rt, provider, claim, grant, account)


# -- what stands there -----------------------------------------------------------------------------------------------


def sealed(value: str) -> bool:
    """Whether it looks like a value of ours; the database judges by the same letters."""
    return value.startswith(_SEALED)


def _written(rt: Runtime, claim: ClaimedAdoption) -> _Written | None:
    """None where all is sealed by us. Raises SecretUnreadable for what looks sealed and does not open."""
    opened = {
        column: rt.vault.open(value, row=str(claim.id), column=column, generation=claim.generation)
        for column, value in (("token", claim.token), ("refresh", claim.refresh))
        if value is not None and sealed(value)
    }
    token = None if "token" in opened else claim.token
    refresh = None if "refresh" in opened else claim.refresh
    if token is None and refresh is None:
        return None
    for value in (token, refresh):
        if value is not None and not (value.isascii() and value.isprintable()):
            raise NeedsReauthorization("what stands there is no token")  # RFC 6749 appendix A.12
    return _Written(token, refresh, opened.get("refresh"))


def read_expiry(text: str | None) -> datetime | None:
    """What was written as the end of a token, in UTC: ISO 8601, or Unix seconds or milliseconds. None for anything else."""
    given = (text or "").strip()
    try:
        if given.isascii() and given.isdigit():
            number = int(given[:20])
            return datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
        moment = datetime.fromisoformat(given)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _hash(value: str | None) -> str | None:
    return None if value is None else fingerprint(value)


# -- the provider's word ---------------------------------------------------------------------------------------------


def _proven(rt: Runtime, provider: Provider, claim: ClaimedAdoption, written: _Written) -> tuple[Grant, Account]:
    """
    The grant, and whose it is in the provider's own words.

    Over a connection a refresh token is believed only when it was used: an access token of the right account beside it says
    nothing about whose tokens the refresh would bring one day.
    """
    answer = _kept(rt, claim)
    confirmed: tuple[Grant, Account] | None = None
    if answer is None and written.token is not None:
        confirmed = _confirmed(rt, provider, claim, written, written.token)
        if confirmed and (written.refresh is None or claim.account_id is None):
            return confirmed
    deadline = Deadline.after(ASK_SECONDS)
    try:
        answer = answer or _refreshed(rt, provider, claim, written.refresh, deadline)
    except (NeedsReauthorization, AccessDenied):
        if confirmed is None:
            raise
        return replace(confirmed[0], refresh_token=None), confirmed[1]
    account = read_account(rt, provider, answer, nonce=None, deadline=deadline)
    if claim.account_id not in (None, account.id):
        raise NotConfirmed("the token belongs to another account")
    return answer.grant, account


def _confirmed(
    rt: Runtime, provider: Provider, claim: ClaimedAdoption, written: _Written, token: str
) -> tuple[Grant, Account] | None:
    """The access token as it stands, if the provider says whose it is; None where the refresh token has to be used."""
    until = read_expiry(claim.expires)
    over = until is not None and until <= rt.now()
    if over and written.refresh is not None:
        return None
    grant = Grant(
        access_token=token,
        refresh_token=written.refresh or written.kept_refresh,
        token_type="Bearer",  # noqa: S106 - RFC 6750
        scope=claim.scope,
        expires_at=None if over else until,
        refresh_expires_at=claim.refresh_expires_at if written.refresh is None else None,
    )
    hints = {name: claim.data[name] for name in provider.facts if name in claim.data}
    try:
        account = confirm_account(
            rt, provider, TokenAnswer(grant, hints), claim.account_id, Deadline.after(ASK_SECONDS)
        )
    except NotConfirmed:
        raise
    except NeedsReauthorization:
        if written.refresh is None:
            raise
        return None
    return grant, account


def _refreshed(
    rt: Runtime, provider: Provider, claim: ClaimedAdoption, refresh: str | None, deadline: Deadline
) -> TokenAnswer:
    """One token request (RFC 6749 section 6). A refresh token may serve once: its answer is kept before it is looked at."""
    if refresh is None:
        raise NeedsReauthorization("the token is not accepted, and there is none to refresh it with")
    wire = oauth.refresh_request(provider, rt.clients[provider.id], refresh_token=refresh, facts=claim.data)
    found = rt.outbound.request(wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline)
    answer = oauth.read_token_response(
        provider, found.status, found.body, now=rt.now(), scope=claim.scope, refused=NeedsReauthorization
    )
    if answer.grant.refresh_token is None:
        answer = TokenAnswer(replace(answer.grant, refresh_token=refresh), answer.rest)
    kept = {"grant": asdict(answer.grant), "rest": dict(answer.rest)}
    rt.store.keep_refreshed(
        claim,
        refresh_hash=fingerprint(refresh),
        sealed=rt.vault.seal(json.dumps(kept, default=_iso), **_place(claim)),
    )
    return answer


def _kept(rt: Runtime, claim: ClaimedAdoption) -> TokenAnswer | None:
    """What the refresh token that stands there has brought already, in a run that was cut short or could not be finished."""
    if claim.sealed is None or claim.refresh is None or claim.refresh_hash != fingerprint(claim.refresh):
        return None
    try:
        found: dict[str, Any] = json.loads(rt.vault.open(claim.sealed, **_place(claim)))
    except SecretUnreadable:
        return None
    grant = found["grant"]
    times = {name: _moment(grant[name]) for name in ("expires_at", "refresh_expires_at")}
    return TokenAnswer(Grant(**{**grant, **times, "scope": tuple(grant["scope"])}), found["rest"])


def _place(claim: ClaimedAdoption) -> dict[str, Any]:
    return {"row": str(claim.id), "column": "adoption", "generation": claim.generation}


_iso: Callable[[datetime], str] = datetime.isoformat


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# -- saving ----------------------------------------------------------------------------------------------------------


def _save(rt: Runtime, provider: Provider, claim: ClaimedAdoption, grant: Grant, account: Account) -> Ended:
    row, generation = str(claim.id), claim.generation + 1
    why = rt.store.adopt_connection(
        claim,
        token_hash=_hash(claim.token),
        refresh_hash=_hash(claim.refresh),
        type=provider.type,
        account_key=claim.account_key if claim.account_key is not None else _key(provider, account),
        account=account,
        scope=grant.scope,
        token=rt.vault.seal(grant.access_token, row=row, column="token", generation=generation),
        refresh=rt.vault.seal_some(grant.refresh_token, row=row, column="refresh", generation=generation),
        expires_at=grant.expires_at,
        refresh_expires_at=grant.refresh_expires_at,
        data=grants.shown(grant, account),
    )
    return _SAVED[why]


_SAVED = {
    "adopted": Ended("sealed"),
    "duplicate": Ended("duplicate", "another row of this user holds the same account"),
    "no_user": Ended("no_user", "the row belongs to nobody who may sign in"),
    "changed": Ended("put_off", "it was changed while its provider was asked"),
}


def _key(provider: Provider, account: Account) -> str:
    return account.id if provider.accounts == "many" else ""
