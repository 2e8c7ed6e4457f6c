"""
Another account came back than the one that stands: asked, and answered once.

The new grant is parked meanwhile, sealed, for ten minutes, for this user in this browser. Replace, keep both where many are
allowed, or no; no and silence give it back, and the standing connection stays untouched.
"""

from __future__ import annotations

import uuid
from typing import Literal

from gateway.catalog import Provider
from gateway.connect import save as grants
from gateway.connections import revoke
from gateway.crypto.vault import fingerprint
from gateway.database import Saved
from gateway.errors import DatabaseUnavailable, Frozen, PendingConfirmation, StateInvalid
from gateway.models import Grant, ParkedGrant, Standing
from gateway.services import Runtime

Answer = Literal["replace", "both", "no"]
_TRIES = 3


def question(rt: Runtime, provider: Provider, *, session: str, browser: str) -> ParkedGrant:
    """What is parked there for this user in this browser. Raises StateInvalid when nothing is, or not any more."""
    parked = rt.store.parked_grant(
        session_hash=fingerprint(session), browser_hash=fingerprint(browser), provider=provider.id
    )
    if parked is None:
        raise StateInvalid("nothing is parked for this user in this browser")
    return parked


def answer(rt: Runtime, provider: Provider, parked: ParkedGrant, said: Answer) -> uuid.UUID | None:
    """
    Does what the user said; the connection's id, or None after a no.

    Raises StateInvalid when it was answered already.
    """
    if said == "no":
        refuse(rt, parked)
        return None
    return accept(rt, provider, parked, said).standing.id


def lost(parked: ParkedGrant) -> tuple[str, ...]:
    """What stands of the very account that came back, and would be allowed no longer; empty where it is another one."""
    return next(filter(None, (grants.lost(row, parked.account, parked.scope) for row in parked.standing)), ())


def refuse(rt: Runtime, parked: ParkedGrant) -> None:
    """Gives it back. Raises StateInvalid when it was answered already."""
    refused = rt.store.refuse_parked_grant(parked.id)
    if refused is None:
        raise StateInvalid("it was answered already")
    revoke.finish_revocation(rt, refused)


def accept(rt: Runtime, provider: Provider, parked: ParkedGrant, said: Answer | None) -> Saved:
    """
    Saves it: over what stands, or beside it for `both` where many are allowed, or under its own id where nothing does.

    Raises StateInvalid when it was answered already; PendingConfirmation, which leaves it parked, rather than replace another
    account where nobody `said` anything, or the same one by less than it allows where nobody said `replace`. Frozen where that
    came in between: it is given back then.
    """
    grant = _opened(rt, parked)
    over = _over(parked, both=said == "both" and provider.accounts == "many")
    for _ in range(_TRIES):
        if said is None and over.generation and over.account_id not in (parked.account.id, None):
            raise PendingConfirmation("another account is connected, and nobody said what becomes of it")
        if said != "replace" and grants.lost(over, parked.account, parked.scope):
            raise PendingConfirmation("what is connected allows more, and nobody said to replace it")
        try:
            saved = grants.save(
                rt, provider, parked.user, grant, parked.account, over, clock=parked.clock, parked_id=parked.id
            )
        except Frozen:
            refuse(rt, parked)
            raise
        if saved.saved:
            return saved
        if saved.answered:
            raise StateInvalid("it was answered already")
        over = saved.standing
    raise DatabaseUnavailable("the row kept changing while it was saved")


def _over(parked: ParkedGrant, *, both: bool) -> Standing:
    same = [row for row in parked.standing if row.account_id == parked.account.id]
    if same:
        return same[0]
    return Standing(parked.id, 0) if both or not parked.standing else parked.standing[0]


def _opened(rt: Runtime, parked: ParkedGrant) -> Grant:
    row = str(parked.id)
    token = rt.vault.open(parked.token or "", row=row, column="token", generation=1)
    return Grant(
        access_token=token,
        refresh_token=rt.vault.open_some(parked.refresh, row=row, column="refresh", generation=1),
        token_type="Bearer",  # noqa: S106 - RFC 6750
        scope=parked.scope,
        expires_at=parked.expires_at,
        refresh_expires_at=parked.refresh_expires_at,
        facts=parked.facts,
    )
