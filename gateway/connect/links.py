"""
Links that partners make for one user and one provider: created, shown, started, completed.

A link names its user; a browser in which another user is signed in gets no further. Where no user is signed in, the grant waits until the
partner's server has sent the user's id, with the confirmation that only the finishing browser got.
"""

import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gateway.catalog import AnyEntry, ApiKeyProvider
from gateway.connect.attempt import Attempt, Begin, repeat_once
from gateway.connect.confirm import settle
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import (
    Choice,
    Link,
    complete_link,
    create_connect_session,
    find_link,
    start_authorization,
)
from gateway.database.queries.connections import check_caller
from gateway.errors import (
    AccessDenied,
    NotFound,
    StateInvalid,
    Unauthenticated,
    UserMismatch,
)
from gateway.models import Caller, Connection
from gateway.services import Runtime

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""256 bits in URL-safe base64."""
_MASK = "•••"
LINK_SCOPE = "sessions:write"


class LinkExpired(StateInvalid):
    """An unknown, an expired or a used link: the three look the same."""


class LinkNotPossible(NotFound):
    """An unknown provider or user, or another partner's provider."""


@dataclass(frozen=True, slots=True)
class NewLink:
    """A connect session and the URL that starts it, which is not stored."""

    id: uuid.UUID
    url: str = field(repr=False)
    expires_at: datetime


# -- create ----------------------------------------------------------------------------------------------------------


def create(
    rt: Runtime,
    caller: Caller,
    *,
    user_id: uuid.UUID,
    provider_id: str,
    scope: Sequence[str],
    return_to: str | None,
    tags: Mapping[str, str],
) -> NewLink:
    """
    A link for fifteen minutes, to be started once. `scope`: further ones, beside the catalogue's. `return_to` is validated already.

    Raises NotFound for a provider that is not enabled or not the partner's, and on Supabase for an unknown user; and what a key is refused
    with. On plain Postgres the user gets a row in auth.users: there the partner's server says who its users are.
    """
    provider = rt.enabled.get(provider_id)
    if provider is None:
        # Without a valid key the response says nothing about the rest of the request.
        check_caller(rt.database, caller, LINK_SCOPE)
        raise LinkNotPossible("no enabled provider of that id")
    secret = secrets.token_urlsafe(32)
    made = create_connect_session(
        rt.database,
        caller,
        secret_hash=fingerprint(secret),
        user_id=user_id,
        provider=provider_id,
        scope=tuple(dict.fromkeys(scope)),
        return_to=return_to,
        tags=tags,
    )
    if made is None:
        raise LinkNotPossible("not one of the partner's providers, or no such user")
    return NewLink(made.id, f"{rt.settings.public_url}/link/{secret}", made.expires_at)


# -- show and start -------------------------------------------------------------------------------------------------


def show(rt: Runtime, secret: str, *, session: str) -> Link:
    """
    What the link is for. This uses nothing up.

    Raises LinkExpired for an unknown, an expired or a used link, UserMismatch where another user is signed in, Unauthenticated where no user
    is and there is no product to return to, whose server could say who it is.
    """
    link = load(rt, secret, session)
    check_user(link)
    return link


def load(rt: Runtime, secret: str, session: str) -> Link:
    """The link, for any user. Raises LinkExpired."""
    link = find_link(rt.database, secret_hash=_hash(secret), session_hash=fingerprint(session))
    if link is None:
        raise LinkExpired("an unknown, an expired or a used link")
    return link


def check_user(link: Link) -> None:
    """Raises as `show` where this browser's user may not go on."""
    if link.session_user_id is None and link.return_to is None:
        raise Unauthenticated("no user is signed in, and no product could say who it is")
    if link.session_user_id not in (link.user_id, None):
        raise _mismatch(link)


def scope_of(provider: AnyEntry, link: Link) -> tuple[str, ...]:
    """
    The scopes to request: the catalogue's, the partner's, and what is connected already, so that no other partner loses anything.

    What is connected is known where the link's user is signed in; otherwise it is compared on completion. Where neither the catalogue nor the
    partner names a scope, permissions belong to the app there, and none is requested.
    """
    if isinstance(provider, ApiKeyProvider):
        return ()
    asked = dict.fromkeys((*provider.scope, *link.scope))
    return tuple(dict.fromkeys((*asked, *link.scope_of_others))) if asked else ()


def by_link(rt: Runtime, link: Link, secret: str, *, session: str, browser: str) -> Begin:
    """An attempt of the link's user, which uses the link up. Raises what `show` does, if that has changed."""

    def begin(provider: AnyEntry, attempt: Attempt) -> tuple[str, ...]:
        scope = start_authorization(
            rt.database,
            link_hash=_hash(secret),
            session_hash=fingerprint(session),
            state_hash=attempt.state_hash,
            browser_hash=fingerprint(browser),
            encrypted=attempt.encrypted,
            scope=scope_of(provider, link),
        )
        if scope is None:
            raise LinkExpired("the link was started before")
        if scope == "user_mismatch":
            raise _mismatch(link)
        if scope == "unauthenticated":
            raise Unauthenticated("the session has ended, and no product could say who it is")
        return scope

    return begin


def _mismatch(link: Link) -> UserMismatch:
    error = UserMismatch("the link is for another user than the one who is signed in")
    error.meant_for = masked_user(link)
    return error


def masked_user(link: Link) -> str:
    """The user of the link, masked: the link may be in the wrong hands."""
    label = link.user_label or ""
    name, at, domain = label.rpartition("@")
    if at and name and domain:
        return f"{name[0]}{_MASK}@{domain}"
    return f"{label[0]}{_MASK}" if label and label != str(link.user_id) else f"user {_MASK}{str(link.user_id)[-4:]}"


def _hash(secret: str) -> str:
    if not _SECRET.fullmatch(secret):
        raise LinkExpired("not the secret of any link")
    return fingerprint(secret)


# -- complete --------------------------------------------------------------------------------------------------------


def complete(
    rt: Runtime,
    caller: Caller,
    connect_session_id: uuid.UUID,
    *,
    user_id: uuid.UUID,
    confirmation: str,
    choice: Choice | None,
) -> Connection:
    """
    Save the pending grant as the user's connection, shared with the partner. A repeated call within ten minutes gets the same response,
    so that a lost response does no harm. A wrong user or confirmation is final: the grant is revoked, and UserMismatch or StateInvalid
    raised. PendingConfirmation, which uses nothing up, where another account is connected and there is no `choice`, or where the grant
    allows less and the choice is not `replace`. AccessDenied after a no. NotFound for another partner's session and for an unknown one;
    Frozen; and what a key is refused with.
    """
    decided = repeat_once(
        lambda: complete_link(
            rt.database,
            caller,
            connect_session_id=connect_session_id,
            user_id=user_id,
            confirmation_hash=fingerprint(confirmation),
            choice=choice,
        )
    )
    if decided is None:
        raise NotFound("no such session of this partner")
    connection = settle(rt, decided)
    if connection is None:
        raise AccessDenied("the user said no")
    return connection
