"""
Connecting: browser sessions, and the authorization requests made in them; the links that partners make for their users; pending grants, kept
for ten minutes until their user, or the partner of their link, has decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from gateway.database import SqlFunction
from gateway.database.queries.connections import Erased, Revocation
from gateway.models import Account, Clock, Connection, Display, Status, User, UtcTime


@dataclass(frozen=True, slots=True)
class Session:
    user: User
    expires_at: UtcTime


open_session = SqlFunction[UUID | None]("open_session")
"""The user's id once they are signed in; None when the user does not exist, or is banned or deleted."""

read_session = SqlFunction[Session | None]("session", "session_hash")
"""The session, or None when it is unknown or has expired, or its user is banned or deleted."""

end_session = SqlFunction[Session | None]("session", "session_hash", end=True)


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """One attempt to connect, taken from the database by the browser and the user that started it."""

    provider: str
    user_id: UUID
    browser_hash: str
    encrypted: str = field(repr=False)
    """The PKCE verifier and the nonce."""
    scope: tuple[str, ...]
    return_to: str | None
    display: Display
    add_account: bool
    """The user asked for one more account, so a new one is no surprise."""
    is_signed_in: bool
    """Whether the user is signed in, in the browser that returned. If not, the request is from a partner's link."""
    has_connection: bool
    """Whether the user had a connection at this provider when the request was taken."""
    clock: Clock
    connect_session_id: UUID | None = None
    """The partner's link that it was started from."""


@dataclass(frozen=True, slots=True)
class EarlierVisit:
    """An attempt that was taken before. `request`: None while that visit is under way; `connection`: None while the grant is pending."""

    request: AuthorizationRequest | None = None
    connection: Connection | None = None


start_authorization = SqlFunction[tuple[str, ...] | Literal["user_mismatch", "unauthenticated"] | None](
    "start_authorization"
)
"""Store an attempt for ten minutes, of the signed-in user, or of the link of `link_hash`, once; the scopes to request, or why there is none."""

take_authorization = SqlFunction[AuthorizationRequest | EarlierVisit | None]("take_authorization")

drop_authorization = SqlFunction[None]("take_authorization", "state_hash", failed=True)
"""The attempt has failed: another visit need not wait for its result."""


# -- partners' links ------------------------------------------------------------------------------------------------


class ConnectSession(NamedTuple):
    id: UUID
    expires_at: datetime


class Existing(NamedTuple):
    account_label: str
    status: Status
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Link:
    """What the page of a link shows. `scope_of_others` and `existing` are known only where the link's user is signed in."""

    id: UUID
    provider: str
    return_to: str | None
    user_id: UUID
    user_label: str | None
    partner: str
    partner_scope: tuple[str, ...]
    partner_reach: Literal["own", "all"]
    scope: tuple[str, ...]
    scope_of_others: tuple[str, ...]
    """The scopes of the user's connections there, and those that other partners asked for."""
    session_user_id: UUID | None
    """The user who is signed in, in this browser."""
    session_label: str | None
    existing: Existing | None


create_connect_session = SqlFunction[ConnectSession | None]("create_connect_session", "caller")
find_link = SqlFunction[Link | None]("link")

end_consent = SqlFunction[Erased | None]("disconnect")
"""End a partner's use of the user's connection; None where it is not the user's or the partner does not use it."""


# -- pending grants -------------------------------------------------------------------------------------------------


Choice = Literal["replace", "both", "no"]


@dataclass(frozen=True, slots=True)
class Decided:
    """The result of a decision. `revocation`: a deleted grant that has to be revoked."""

    ending: Literal["saved", "access_denied", "state_invalid", "user_mismatch", "frozen", "one_account"]
    connection: Connection | None = None
    revocation: Revocation | None = None


@dataclass(frozen=True, slots=True)
class PendingGrant:
    """A grant that waits for its user's decision, as the confirm page shows it. Its tokens stay in the database."""

    id: UUID
    user: User
    provider: str
    account: Account
    return_to: str | None
    display: Display
    clock: Clock
    existing_label: str
    """The account that is connected now."""
    scopes_removed: tuple[str, ...] = ()
    """Scopes that the connection has and this grant does not."""
    shared_with: tuple[str, ...] = ()
    """The names of partners that use the connection."""


pending_grant = SqlFunction[PendingGrant | None]("pending_grant")
decide_pending_grant = SqlFunction[Decided]("decide_pending_grant")
complete_link = SqlFunction[Decided | None]("complete_connect_session", "caller")


@dataclass(frozen=True, slots=True)
class UnclaimedInstall:
    """An installation that was started at the provider. `shared`: its account is connected already."""

    id: UUID
    provider: str
    account_id: str
    encrypted: str = field(repr=False)
    browser_hash: str
    clock: Clock
    shared: bool


unclaimed_install = SqlFunction[UnclaimedInstall | None]("unclaimed_install", "browser_hash")
"""Keep an installation for a browser: `put`. Else its newest; without a browser one that was not claimed in time. `take` removes it."""
