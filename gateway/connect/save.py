"""
How a new grant comes to stand: sealed, and saved by compare-and-set; or parked, where it is another account's.

The seal needs the row's id and generation, so what stands is read first, sealed for, and saved only if it still stands so.
Knows no protocol and no pages.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from gateway.catalog import Provider
from gateway.database import ANSWER_SECONDS, Saved
from gateway.errors import DatabaseUnavailable, SecretUnreadable
from gateway.models import Account, AuthorizationRequest, Clock, Grant, Standing, User
from gateway.services import Runtime

_TRIES = 3


def keep(
    rt: Runtime,
    provider: Provider,
    request: AuthorizationRequest,
    grant: Grant,
    account: Account,
    *,
    confirmation_hash: str | None = None,
) -> uuid.UUID | None:
    """
    Saves `grant` as the connection of the user who made `request`; its id. Or parks it, and None.

    Parked where the user has a connection there and this is none of its accounts, unless they asked for one more; where a link
    asked for less than stands, so that it narrows nobody's part unasked; and with a `confirmation_hash` in any case, until
    somebody brings what it is of.
    """
    if confirmation_hash is not None:
        _park(rt, provider, request, grant, account, confirmation_hash)
        return None
    user = User(request.user_id, request.session_label)
    one_more = request.another and provider.accounts == "many"
    standing: Sequence[Standing] = request.standing
    for _ in range(_TRIES):
        over = _over(standing, account, one_more=one_more)
        if over is None or _unasked(request, over, grant):
            _park(rt, provider, request, grant, account)
            return None
        saved = save(
            rt,
            provider,
            user,
            grant,
            account,
            over,
            clock=request.clock,
            connect_session_id=request.connect_session_id,
        )
        if saved.saved:
            return saved.standing.id
        standing = [saved.standing] if saved.standing.generation else []
    raise DatabaseUnavailable("the row kept changing while it was saved")


def _over(standing: Sequence[Standing], account: Account, *, one_more: bool) -> Standing | None:
    """The row to save over (a new one at generation 0), or None where the user has to be asked."""
    for row in standing:
        if row.account_id in (account.id, None):
            return row
    return Standing(uuid.uuid4(), 0) if one_more or not standing else None


def lost(over: Standing, account: Account, scope: Sequence[str]) -> tuple[str, ...]:
    """What the same account's connection allows, and would no longer with a grant of `scope`."""
    return tuple(name for name in over.scope if name not in scope) if over.account_id == account.id else ()


def _unasked(request: AuthorizationRequest, over: Standing, grant: Grant) -> bool:
    """Whether a link did not even ask for something that stands; what its user did not allow is the user's own word."""
    if request.connect_session_id is None or not request.scope:
        return False
    return any(name not in request.scope and name not in grant.scope for name in over.scope)


def save(
    rt: Runtime,
    provider: Provider,
    user: User,
    grant: Grant,
    account: Account,
    over: Standing,
    *,
    clock: Clock,
    parked_id: uuid.UUID | None = None,
    connect_session_id: uuid.UUID | None = None,
) -> Saved:
    """
    One try to save over what stands, and none that succeeds once it was given up here: the database's `clock` says when.

    Where another account is replaced, its grant is queued to be given back.
    """
    token, refresh = _sealed(rt, grant, account, over)

    def attempt() -> Saved:
        return rt.store.save_connection(
            connection_id=over.id,
            generation=over.generation + 1,
            user_id=user.id,
            user_label=user.label,
            provider=provider.id,
            type=provider.type,
            account_key="" if provider.accounts == "one" else account.id,
            account_id=account.id,
            account_label=account.label,
            scope=grant.scope,
            token=token,
            refresh=refresh,
            expires_at=grant.expires_at,
            refresh_expires_at=grant.refresh_expires_at,
            data=shown(grant, account),
            revoke_old=over.account_id not in (account.id, None),
            parked_id=parked_id,
            expires_seconds=_from_now(rt, grant.expires_at),
            refresh_expires_seconds=_from_now(rt, grant.refresh_expires_at),
            not_after=clock.after(ANSWER_SECONDS),
            connect_session_id=connect_session_id,
        )

    return _for_certain(attempt, over, token)


def _for_certain(attempt: Callable[[], Saved], over: Standing, token: str) -> Saved:
    """
    Tried once more when the database went away before it answered: the save may have happened.

    What then stands is ours if it is what we sealed; a callback beside this one may have saved the same generation.
    """
    try:
        return attempt()
    except DatabaseUnavailable:
        again = attempt()
        ours = (again.standing.id, again.standing.token) == (over.id, token)
        return replace(again, saved=True, created=over.generation == 0, answered=False) if ours else again


def _sealed(rt: Runtime, grant: Grant, account: Account, over: Standing) -> tuple[str, str | None]:
    """Token and refresh token for the generation that follows `over`."""
    row, generation = str(over.id), over.generation + 1
    refresh = grant.refresh_token or _still_good(rt, account, over)
    return (
        rt.vault.seal(grant.access_token, row=row, column="token", generation=generation),
        rt.vault.seal_some(refresh, row=row, column="refresh", generation=generation),
    )


def _from_now(rt: Runtime, moment: datetime | None) -> float | None:
    """Seconds, for the database to add to its own clock: it was this process's that made a time of them."""
    return None if moment is None else (moment - rt.now()).total_seconds()


def _still_good(rt: Runtime, account: Account, over: Standing) -> str | None:
    """The refresh token that stands, for an answer that brings none: Google sends one with the first consent only."""
    if over.account_id != account.id:
        return None
    try:
        return rt.vault.open_some(over.refresh, row=str(over.id), column="refresh", generation=over.generation)
    except SecretUnreadable:
        return None


def shown(grant: Grant, account: Account) -> dict[str, object]:
    """`provider_data.data`: what a front end may show."""
    return {
        **grant.facts,
        "account": {"id": account.id, "label": account.label},
        "scope": list(grant.scope),
        "status": "active",
    }


def _park(
    rt: Runtime,
    provider: Provider,
    request: AuthorizationRequest,
    grant: Grant,
    account: Account,
    confirmation_hash: str | None = None,
) -> None:
    parked_id = uuid.uuid4()
    rt.store.park_grant(
        parked_id=parked_id,
        user_id=request.user_id,
        provider=provider.id,
        browser_hash=request.browser_hash,
        account=account,
        scope=grant.scope,
        token=rt.vault.seal(grant.access_token, row=str(parked_id), column="token", generation=1),
        refresh=rt.vault.seal_some(grant.refresh_token, row=str(parked_id), column="refresh", generation=1),
        expires_at=grant.expires_at,
        refresh_expires_at=grant.refresh_expires_at,
        facts=grant.facts,
        return_to=request.return_to,
        display=request.display,
        not_after=request.clock.after(ANSWER_SECONDS),
        connect_session_id=request.connect_session_id,
        confirmation_hash=confirmation_hash,
    )
