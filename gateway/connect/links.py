"""
Links that partners make for one user and one provider: made, looked at, started, completed.

A link names its user, and whoever is signed in here as somebody else gets no further. Where nobody is, the grant waits until the
partner's server has said who it was, with what the finishing browser alone was told. Knows no Flask, no SQL and no provider by
name.
"""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.catalog import Provider
from gateway.connect import callback, confirm
from gateway.connect.confirm import Answer
from gateway.connections import revoke
from gateway.crypto.vault import fingerprint
from gateway.database import Completion, Link
from gateway.errors import (
    AccessDenied,
    BadRequest,
    Forbidden,
    GatewayError,
    NotFound,
    StateInvalid,
    Unauthenticated,
    Unexpected,
    UserMismatch,
)
from gateway.models import Caller, Connection
from gateway.services import Runtime

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""256 bits in URL-safe base64."""
_MASK = "•••"
LINK_SCOPE = "sessions:write"


class LinkOver(StateInvalid):
    """No such link, an old or a used one: to whoever has it the three look the same."""

    title = "This link is no longer valid"
    meaning = "This link was used before, or is older than 15 minutes."
    next_step = "Ask the sender for a new link. What you have connected is listed under Your connections."
    remedy = "fix_request"


@dataclass(frozen=True, slots=True)
class NewLink:
    """A connect session that was made just now, and the address that starts it, which is kept nowhere."""

    id: uuid.UUID
    url: str = field(repr=False)
    expires_at: datetime


# -- made ------------------------------------------------------------------------------------------------------------


def create(
    rt: Runtime, caller: Caller, *, user_id: uuid.UUID, provider_id: str, scope: Sequence[str], return_to: str | None
) -> NewLink:
    """
    A link for fifteen minutes, to be started once. `scope`: further ones, beside the catalogue's; `return_to` is judged already.

    Raises NotFound for a provider that is not enabled or not the partner's, and on Supabase for a user there is not; and what a
    key is refused with. On plain Postgres whomever the partner names is made known, by a row in auth.users: there the product
    says who its users are, and its server is a partner.
    """
    provider = rt.catalog.get(provider_id)
    if caller.key_hash is None or provider is None or provider_id not in rt.clients:
        judge_caller(rt, caller)
        raise NotFound("no enabled provider of that id")
    secret = secrets.token_urlsafe(32)
    made = rt.store.create_connect_session(
        caller,
        secret_hash=fingerprint(secret),
        user_id=user_id,
        provider=provider_id,
        type=provider.type,
        scope=tuple(dict.fromkeys(scope)),
        return_to=return_to,
    )
    if made is None:
        raise NotFound("not one of the partner's providers, or no such user")
    return NewLink(made.id, f"{rt.settings.public_url}/link/{secret}", made.expires_at)


def judge_caller(rt: Runtime, caller: Caller) -> None:
    """
    Raises what a key is refused with that may make no links, and Forbidden for a user, who needs none.

    For a call that is refused anyway: whoever has no key that serves is told that first.
    """
    rt.store.caller(caller, LINK_SCOPE)
    if caller.key_hash is None:
        raise Forbidden("only partners make links")


# -- looked at and started -------------------------------------------------------------------------------------------


def look(rt: Runtime, secret: str, *, session: str) -> Link:
    """
    What the link is for. Nothing is used up by looking, however often.

    Raises LinkOver for no link, an old or a used one, UserMismatch where somebody else is signed in, Unauthenticated where
    nobody is and there is no product to return to that could say who it was.
    """
    link = _found(rt, secret, session)
    if link.session_user_id is None and link.return_to is None:
        raise Unauthenticated("nobody is signed in, and nobody could say afterwards who it was")
    if link.session_user_id not in (link.user_id, None):
        raise _mismatch(link)
    return link


def _found(rt: Runtime, secret: str, session: str) -> Link:
    link = rt.store.connect_session(secret_hash=_hash(secret), session_hash=fingerprint(session))
    if link is None:
        raise LinkOver("no such link, or an old or a used one")
    return link


def scope_of(provider: Provider, link: Link) -> tuple[str, ...]:
    """
    What is asked for: the catalogue's, the partner's, and what is there already, so that nobody's part is narrowed. What is
    there is known where the link's user is signed in; what an unknown browser brings back is compared when it is completed.

    Where neither of the first two says anything, permissions belong to the app there, and nothing is asked for.
    """
    asked = dict.fromkeys((*provider.scope, *link.scope))
    return tuple(dict.fromkeys((*asked, *link.beside))) if asked else ()


def start(rt: Runtime, secret: str, *, session: str, browser: str) -> str:
    """
    Uses the link up; the provider's URL for the attempt. `browser`: the secret in the cookie that binds it to this browser.

    Raises what `look` does, and what discovery raises before anything is used up.
    """
    link = _found(rt, secret, session)
    provider = rt.issuers.complete(rt.provider(link.provider))
    attempt, scope = callback.make_attempt(rt), scope_of(provider, link)
    ending = rt.store.start_connect_session(
        secret_hash=_hash(secret),
        session_hash=fingerprint(session),
        state_hash=attempt.state_hash,
        browser_hash=fingerprint(browser),
        sealed=attempt.sealed,
        scope=scope,
    )
    if ending is None:
        raise LinkOver("the link was started before")
    if ending == "user_mismatch":
        raise _mismatch(link)
    if ending == "unauthenticated":
        raise Unauthenticated("nobody is signed in any more, and nobody could say afterwards who it was")
    return callback.address_of(rt, provider, attempt, scope)


def _mismatch(link: Link) -> UserMismatch:
    error = UserMismatch("the link is for another user than the one who is signed in")
    error.meant_for = whose(link)
    return error


def whose(link: Link) -> str:
    """Whom the link is for, masked: whoever holds it may be somebody else."""
    label = link.user_label or ""
    name, at, domain = label.rpartition("@")
    if at and name and domain:
        return f"{name[0]}{_MASK}@{domain}"
    return f"{label[0]}{_MASK}" if label and label != str(link.user_id) else f"user {_MASK}{str(link.user_id)[-4:]}"


def _hash(secret: str) -> str:
    if not _SECRET.fullmatch(secret):
        raise LinkOver("not the secret of any link")
    return fingerprint(secret)


# -- completed -------------------------------------------------------------------------------------------------------


def complete(
    rt: Runtime,
    caller: Caller,
    connect_session_id: uuid.UUID,
    *,
    user_id: uuid.UUID,
    confirmation: str,
    answer: Answer | None,
) -> Connection:
    """
    Saves what waits there as the connection of that user, open to that partner.

    Said again within ten minutes it is answered again: an answer that was lost loses nothing. A wrong user or confirmation is
    final: the grant is given back at once, UserMismatch or StateInvalid raised. PendingConfirmation where another account is
    connected and there is no `answer`, or where what came back allows less and the answer is not `replace`: that uses nothing up.
    AccessDenied after a no. NotFound for another partner's session as for none; Frozen; and what a key is refused with.
    """
    if caller.key_hash is None:
        judge_caller(rt, caller)
    said = (caller, connect_session_id, user_id, fingerprint(confirmation))
    claimed = _claimed(rt, *said)
    if claimed.connection is not None and answer != "no":
        return claimed.connection
    if claimed.parked is None:
        revoke.finish_revocation(rt, claimed.revocation)
        error: GatewayError = (
            UserMismatch("completed for another user than the link is for")
            if claimed.ending == "user_mismatch"
            else StateInvalid("nothing waits there, or that was not its confirmation")
        )
        raise error
    parked, provider = claimed.parked, rt.provider(claimed.parked.provider)
    if answer == "both" and provider.accounts == "one":
        raise BadRequest("there is one account of this provider for a user")
    if answer == "no":
        confirm.refuse(rt, parked)
        raise AccessDenied("the partner says that the user does not want it")
    try:
        saved = confirm.accept(rt, provider, parked, answer)
    except StateInvalid:
        # Another call of the same words was quicker.
        again = _claimed(rt, *said).connection
        if again is None:
            raise
        return again
    if saved.connection is None:
        raise Unexpected("saved without its partner")
    return saved.connection


def _claimed(
    rt: Runtime, caller: Caller, connect_session_id: uuid.UUID, user_id: uuid.UUID, confirmation_hash: str
) -> Completion:
    claimed = rt.store.claim_completion(
        caller, connect_session_id=connect_session_id, user_id=user_id, confirmation_hash=confirmation_hash
    )
    if claimed is None:
        raise NotFound("no such session of this partner")
    return claimed
