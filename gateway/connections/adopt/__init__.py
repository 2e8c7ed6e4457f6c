"""
What stood before, and what owners write over ours: believed once its provider confirms it, and sealed then as a new generation.

One row at a time, claimed in the database. The provider is asked whose the access token is; where that does not suffice, the
refresh token is used, once, and what it brings is kept before anything is made of it. What is not confirmed is marked where it
is a connection, and left alone where it is not. Knows no provider by name; walking all rows is another room's work.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from gateway.catalog import Provider
from gateway.connections.adopt.proof import Written, prove, read_written
from gateway.crypto.vault import fingerprint
from gateway.database import ClaimedAdoption
from gateway.errors import (
    AccessDenied,
    NeedsReauthorization,
    NotFound,
    ProviderFailed,
    ProviderGarbled,
    SecretUnreadable,
)
from gateway.models import Account, Grant
from gateway.services import Runtime

log = structlog.get_logger(__name__)

_GARBLED_AT_MOST = 5

Outcome = Literal[
    "sealed", "standing", "duplicate", "refused", "unreadable", "no_user", "put_off", "unmapped", "to_verify"
]


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of one row, and why, in words for whoever runs the gateway."""

    outcome: Outcome
    reason: str = ""


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
                again=ended.outcome == "put_off" and claim.account_id is not None,
            )
    return ended


def _ended(rt: Runtime, claim: ClaimedAdoption) -> Ended:
    try:
        written = read_written(rt, claim)
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


def _believed(rt: Runtime, claim: ClaimedAdoption, written: Written) -> Ended:
    provider = rt.issuers.complete(rt.provider(claim.provider))
    if claim.beside and claim.account_id is None and provider.accounts == "one":
        return Ended("duplicate", "another row of this user and provider is connected")
    grant, account = prove(rt, provider, claim, written)
    return _save(rt, provider, claim, grant, account)


def _hash(value: str | None) -> str | None:
    return None if value is None else fingerprint(value)


# -- saving ----------------------------------------------------------------------------------------------------------


def _save(rt: Runtime, provider: Provider, claim: ClaimedAdoption, grant: Grant, account: Account) -> Ended:
    seal_id = uuid.uuid4()
    encrypt = partial(rt.vault.encrypt, user_id=claim.user_id, provider=provider.id, seal_id=seal_id)
    why = rt.store.adopt_connection(
        claim,
        token_hash=_hash(claim.token),
        refresh_hash=_hash(claim.refresh),
        type=provider.type,
        account_key=claim.account_key if claim.account_key is not None else _key(provider, account),
        account=account,
        scope=grant.scope,
        token=encrypt(grant.access_token, column="token"),
        refresh=grant.refresh_token and encrypt(grant.refresh_token, column="refresh"),
        seal_id=seal_id,
        expires_at=grant.expires_at,
        refresh_expires_at=grant.refresh_expires_at,
        data={
            **grant.facts,
            "account": {"id": account.id, "label": account.label},
            "scope": list(grant.scope),
            "status": "active",
        },
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
