"""
What somebody wrote into a row, and what its provider says of it.

The access token is asked about as it stands; where that does not suffice, or would prove too little, the refresh token is used,
once, and what it brings is kept before it is looked at. Decides nothing about the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from gateway import protocol
from gateway.account import NotConfirmed, confirm_account, read_account
from gateway.catalog import Provider
from gateway.crypto.vault import fingerprint
from gateway.database import ClaimedAdoption
from gateway.errors import AccessDenied, GatewayError, NeedsReauthorization, ProviderGarbled, SecretUnreadable
from gateway.http import Deadline
from gateway.models import Account, Grant
from gateway.protocol import TokenResponse
from gateway.services import Runtime

ASK_SECONDS = 10.0
"""For each of the at most two rounds with the provider: together well within the minute that a claim lasts."""
_SEALED = "gAAAA"
"""How every Fernet token of this century begins: version byte, and the upper bytes of the time."""
_MILLISECONDS = 100_000_000_000


@dataclass(frozen=True, slots=True)
class Written:
    """What somebody else wrote, and what of ours still stands beside it."""

    token: str | None = field(repr=False)
    refresh: str | None = field(repr=False)
    kept_refresh: str | None = field(repr=False)


# -- what stands there -----------------------------------------------------------------------------------------------


def sealed(value: str) -> bool:
    """Whether it looks like a value of ours; the database judges by the same letters."""
    return value.startswith(_SEALED)


def read_written(rt: Runtime, claim: ClaimedAdoption) -> Written | None:
    """
    None where all is sealed by us. Where a connection's token was emptied or does not open, our own refresh token is used.

    Raises NeedsReauthorization for a connection in which nothing is left to go by; SecretUnreadable for another row in which
    something looks sealed and does not open.
    """
    kept_token, kept_refresh = _opened(rt, claim, "token", claim.token), _opened(rt, claim, "refresh", claim.refresh)
    token = claim.token if claim.token is not None and not sealed(claim.token) else None
    refresh = claim.refresh if claim.refresh is not None and not sealed(claim.refresh) else None
    if claim.refresh is not None and refresh is None and kept_refresh is None:
        raise NeedsReauthorization("what stands there for a refresh token does not open")
    for value in (token, refresh):
        if value is not None and not (value.isascii() and value.isprintable()):
            raise NeedsReauthorization("what stands there is no token")  # RFC 6749 appendix A.12
    if token is None and refresh is None:
        if kept_token is not None or claim.account_id is None:
            return None
        return Written(None, kept_refresh, None)
    return Written(token, refresh, kept_refresh)


def _opened(rt: Runtime, claim: ClaimedAdoption, column: str, value: str | None) -> str | None:
    """A value of ours; None for none, and for one in a connection that does not open: its owner may write what looks like one."""
    if value is None or not sealed(value):
        return None
    try:
        return rt.vault.decrypt(
            value,
            column=column,
            user_id=claim.user_id,
            provider=claim.provider,
            seal_id=(claim.seal_id if column == "token" else claim.refresh_seal_id) or "",
        )
    except SecretUnreadable:
        if claim.account_id is None:
            raise
        return None


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


# -- the provider's word ---------------------------------------------------------------------------------------------


def prove(rt: Runtime, provider: Provider, claim: ClaimedAdoption, written: Written) -> tuple[Grant, Account]:
    """
    The grant, and whose it is in the provider's own words.

    Over a connection a refresh token is believed only when it was used: an access token of the right account beside it says
    nothing about whose tokens the refresh would bring one day.
    """
    answer = _kept(rt, provider, claim, written.refresh)
    confirmed: tuple[Grant, Account] | None = None
    if answer is None and written.token is not None:
        confirmed = _confirmed(rt, provider, claim, written, written.token)
        if confirmed and (written.refresh is None or claim.account_id is None):
            return confirmed
    deadline = Deadline.after(ASK_SECONDS)
    try:
        answer = answer or use_refresh_token(rt, provider, claim, written.refresh, deadline)
    except (NeedsReauthorization, AccessDenied):
        if confirmed is None:
            raise
        return replace(confirmed[0], refresh_token=None), confirmed[1]
    account = read_account(rt, provider, answer, nonce=None, deadline=deadline)
    if claim.account_id not in (None, account.id):
        raise NotConfirmed("the token belongs to another account")
    return answer.grant, account


def _confirmed(
    rt: Runtime, provider: Provider, claim: ClaimedAdoption, written: Written, token: str
) -> tuple[Grant, Account] | None:
    """The access token as it stands, if the provider says whose it is; None where the refresh token has to be used."""
    until = read_expiry(claim.expires)
    over = until is not None and until <= rt.now()
    if over and written.refresh is not None:
        return None
    hints = {
        name: told for name in provider.facts if isinstance(told := claim.data.get(name), str) and told.isprintable()
    }
    grant = Grant(
        access_token=token,
        refresh_token=written.refresh or written.kept_refresh,
        token_type="Bearer",  # noqa: S106 - RFC 6750
        scope=claim.scope,
        expires_at=None if over else until,
        refresh_expires_at=claim.refresh_expires_at if written.refresh is None else None,
        # Where the provider confirms the account at the place that these lead to, they are what it would have said.
        facts=hints,
    )
    try:
        account = confirm_account(
            rt, provider, TokenResponse(grant, hints), claim.account_id, Deadline.after(ASK_SECONDS)
        )
    except NotConfirmed:
        raise
    except NeedsReauthorization:
        if written.refresh is None:
            raise
        return None
    return grant, account


def use_refresh_token(
    rt: Runtime, provider: Provider, claim: ClaimedAdoption, refresh: str | None, deadline: Deadline
) -> TokenResponse:
    """One token request (RFC 6749 section 6). A refresh token may serve once: its answer is kept before it is looked at."""
    if refresh is None:
        raise NeedsReauthorization("the token is not accepted, and there is none to refresh it with")
    wire = protocol.build_refresh_request(provider, rt.clients[provider.id], refresh_token=refresh, facts=claim.data)
    found = rt.http.request(
        wire.method, wire.url, headers=wire.headers, body=wire.body, deadline=deadline, provider=provider.id
    )
    kept = {"status": found.status, "body": found.body.decode("latin-1"), "at": rt.now().isoformat()}
    if found.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3: only such an answer may hold tokens
        rt.store.keep_refreshed(
            claim,
            refresh_hash=fingerprint(claim.refresh or ""),
            sealed=rt.vault.encrypt(json.dumps(kept), **_place(claim)),
        )
    return _judged(provider, claim, refresh, kept)


def _judged(provider: Provider, claim: ClaimedAdoption, refresh: str, kept: Mapping[str, Any]) -> TokenResponse:
    """The grant in an answer, whenever it is looked at: its lifetimes count from when it came."""
    answer = protocol.parse_token_response(
        provider,
        kept["status"],
        kept["body"].encode("latin-1"),
        now=datetime.fromisoformat(kept["at"]),
        scope=claim.scope,
        refused=NeedsReauthorization,
    )
    if answer.grant.refresh_token is None:
        answer = TokenResponse(replace(answer.grant, refresh_token=refresh), answer.rest)
    return answer


def _kept(rt: Runtime, provider: Provider, claim: ClaimedAdoption, refresh: str | None) -> TokenResponse | None:
    """
    What the refresh token that stands there has brought already, in a run that was cut short or could not be finished.

    One that made no sense is judged again: it may to a later version, and the refresh token is used up. Where it was an error
    with a status of 200, nothing was given out, and the provider may be asked again.
    """
    if claim.sealed is None or refresh is None or claim.refresh_hash != fingerprint(claim.refresh or ""):
        return None
    try:
        return _judged(provider, claim, refresh, json.loads(rt.vault.decrypt(claim.sealed, **_place(claim))))
    except ProviderGarbled:
        raise
    except GatewayError:
        return None


def _place(claim: ClaimedAdoption) -> dict[str, Any]:
    return {"column": "adoption", "seal_id": claim.id}
