"""
One tree of what can go wrong, and who must act.

    GatewayError
    ├── SettingsRefused        the process does not start; every problem at once
    ├── FlowRefused            this attempt to connect ends here
    │   ├── AccessDenied  StateInvalid  BrowserMismatch  UserMismatch
    │   └── IssuerMismatch  ReturnToRefused
    ├── ProviderFailed         the other side did not do what its protocol says
    │   └── ProviderUnavailable  ProviderGarbled  ClientRejected
    ├── GrantUnusable          a stored connection cannot be used just now
    │   └── NeedsReauthorization  PendingConfirmation  RefreshInProgress  SecretUnreadable
    ├── RequestRefused         the caller must send something else
    │   └── BadRequest  NotFound  MethodNotAllowed  TooLarge  UnsupportedMediaType  Unauthenticated  Forbidden  Frozen  RateLimited
    ├── DatabaseUnavailable
    └── Unexpected             a defect of ours, shown without detail

Each class says its `slug`, HTTP `status`, `title`, the plain sentences `meaning` and `way_on`, and `remedy`: who must act
(fix_request · reconnect · wait · operator · report). Nothing here ever carries a secret or a provider's own words: the
argument of an exception is for the log alone and is written by us.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

Remedy = Literal["fix_request", "reconnect", "wait", "operator", "report"]


class GatewayError(Exception):
    """The root: whatever is raised on purpose in this package."""

    slug: ClassVar[str] = "unexpected"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong here"
    meaning: ClassVar[str] = "The gateway met a condition it was not written for. Nothing was connected or changed."
    way_on: ClassVar[str] = "Try again in a moment. If it happens again, tell whoever runs this service."
    remedy: ClassVar[Remedy] = "report"
    returned: ClassVar[bool] = False
    """Whether a failed connect goes back to the product with `?error=<slug>` rather than showing a page here."""

    retry_after: float | None = None
    """Set on an instance: seconds after which it may be tried again, where somebody said so."""
    left_installed: tuple[str, str | None] | None = None
    """Set on an instance: the provider (name, address of its page) that may still list us though nothing stands here."""


class Unexpected(GatewayError):
    """A defect of ours; the traceback is in the log, nothing of it on the page."""


class SettingsRefused(GatewayError):
    """The settings do not add up. `problems` holds them all, each with its mend."""

    slug = "settings_refused"
    title = "The settings do not add up"
    remedy = "operator"

    def __init__(self, problems: Sequence[str] = ()) -> None:
        """`problems`: one sentence each, naming the setting and what to do."""
        super().__init__("; ".join(problems))
        self.problems = list(problems)


# -- the flow --------------------------------------------------------------------------------------------------------


class FlowRefused(GatewayError):
    """This attempt to connect ends here, and nothing was connected."""

    status = 400
    remedy: ClassVar[Remedy] = "reconnect"


class AccessDenied(FlowRefused):
    """RFC 6749 section 4.1.2.1: the resource owner said no."""

    slug = "access_denied"
    title = "Access was not granted"
    meaning = "The provider told us that access was not allowed, or that the permission had already run out. Nothing was connected."
    way_on = "If that was not what you wanted, connect again and allow access."
    returned = True


class StateInvalid(FlowRefused):
    """RFC 6749 section 10.12: no state of ours, one too old, one already used, or a repeated parameter."""

    slug = "state_invalid"
    title = "This connection attempt is no longer valid"
    meaning = "The link back from the provider was used already, is older than ten minutes, or was not started here."
    way_on = "Start again from the connect button. Nothing was connected."


class BrowserMismatch(FlowRefused):
    """The attempt was started in another browser."""

    slug = "browser_mismatch"
    status = 403
    title = "This was started in another browser"
    meaning = "A connection has to be finished in the browser in which it was started. Nothing was connected."
    way_on = "Go back to that browser, or start again in this one."


class UserMismatch(FlowRefused):
    """The attempt was started by another user, or nobody is signed in any more."""

    meant_for: str | None = None  # set on an instance: whom a link is for, masked
    slug = "user_mismatch"
    status = 403
    title = "This was started by somebody else"
    meaning = "The user who starts a connection has to be the one who finishes it. Nothing was connected."
    way_on = "Sign in as that user, or start again as the one you are now."


class IssuerMismatch(FlowRefused):
    """RFC 9207 section 2.4 and RFC 8414 section 3.3: the answer names another issuer."""

    slug = "issuer_mismatch"
    title = "The answer came from a different service"
    meaning = "The answer names another issuer than the provider you chose. It was refused before anything was sent."
    way_on = "Do not try again. Tell whoever runs this service; somebody may be interfering."
    remedy = "report"


class ReturnToRefused(FlowRefused):
    """`return_to` is not on an origin of the product's own front ends."""

    slug = "return_to_refused"
    title = "That return address is not allowed"
    meaning = "The link asks to send you on to an address that does not belong to this product."
    way_on = "Use an address whose origin is listed in GATEWAY_APP_ORIGINS."
    remedy = "fix_request"


# -- the provider ----------------------------------------------------------------------------------------------------


class ProviderFailed(GatewayError):
    """The provider did not do its part."""

    returned = True


class ProviderUnavailable(ProviderFailed):
    """No answer in time, no connection, a 5xx or a 429."""

    slug = "provider_unavailable"
    status = 504
    title = "The provider is not answering"
    meaning = "The provider did not answer in time or is having trouble."
    way_on = "Wait a minute and try again; what is connected stays connected."
    remedy = "wait"


class ProviderGarbled(ProviderFailed):
    """An answer that the protocol does not allow."""

    slug = "provider_garbled"
    status = 502
    title = "The provider's answer made no sense"
    meaning = "The provider answered something that its protocol does not allow, so it was not believed."
    way_on = "Tell whoever runs this service; trying again will probably not help."
    remedy = "report"


class ClientRejected(ProviderFailed):
    """RFC 6749 section 5.2: invalid_client and its kin. Our registration there is at fault, not the user."""

    slug = "client_rejected"
    status = 502
    title = "The provider refused this service"
    meaning = "The provider does not accept this service's registration there. It is not your fault."
    way_on = "Whoever runs this service has to check the client id, the secret and the redirect URI at the provider."
    remedy = "operator"


# -- stored connections ----------------------------------------------------------------------------------------------


class GrantUnusable(GatewayError):
    """A stored connection that cannot be used just now."""


class NeedsReauthorization(GrantUnusable):
    """The provider refuses the stored grant for good."""

    slug = "needs_reauthorization"
    status = 409
    title = "The connection has to be made again"
    meaning = "The provider no longer accepts what was granted: it was withdrawn there, or it died of age."
    way_on = "The owner of the connection has to connect again. Its id stays the same."
    remedy = "reconnect"


class PendingConfirmation(GrantUnusable):
    """Connected, but not confirmed yet."""

    slug = "pending_confirmation"
    status = 409
    title = "The connection is waiting to be confirmed"
    meaning = "The connection was made in a browser that is not known here and has not been confirmed yet."
    way_on = "Confirm it within ten minutes; after that it is given back to the provider."
    remedy = "wait"


class RefreshInProgress(GrantUnusable):
    """Another process is getting a new token; `Retry-After` says when to ask again."""

    slug = "refresh_in_progress"
    status = 503
    title = "A new token is being fetched"
    meaning = "The stored token ran out and a new one is on its way."
    way_on = "Ask again after the seconds that Retry-After names."
    remedy = "wait"


class SecretUnreadable(GrantUnusable):
    """A sealed value does not open: a key is missing, or the value was moved or changed."""

    slug = "secret_unreadable"
    title = "A stored secret could not be opened"
    meaning = "The secret was sealed with a key that this service does not have, or it was changed. It was not used."
    way_on = "Whoever runs this service has to look at GATEWAY_KEYS; connecting again makes a new secret."
    remedy = "operator"


# -- the request -----------------------------------------------------------------------------------------------------


class RequestRefused(GatewayError):
    """The caller must send something else."""

    remedy: ClassVar[Remedy] = "fix_request"


class BadRequest(RequestRefused):
    """RFC 9110 section 15.5.1: a request that does not parse."""

    slug = "bad_request"
    status = 400
    title = "The request could not be read"
    meaning = "Something in the request does not follow its format."
    way_on = "Check what was sent against the API description."
    fields: tuple[str, ...] = ()  # set on an instance: which names in the request, of those that are ours


class NotFound(RequestRefused):
    """Nothing there, or nothing of yours: the two look the same."""

    slug = "not_found"
    status = 404
    title = "There is nothing here"
    meaning = "The address is wrong, or what it named does not exist or is not yours."
    way_on = "Check the address."


class MethodNotAllowed(RequestRefused):
    """RFC 9110 section 15.5.6."""

    slug = "method_not_allowed"
    status = 405
    title = "That method is not offered here"
    meaning = "The address exists, but not for this HTTP method."
    way_on = "Look the call up in the API description."


class TooLarge(RequestRefused):
    """RFC 9110 section 15.5.14."""

    slug = "too_large"
    status = 413
    title = "The request is too large"
    meaning = "The request carries more than this address takes."
    way_on = "Send less."


class UnsupportedMediaType(RequestRefused):
    """RFC 9110 section 15.5.16."""

    slug = "unsupported_media_type"
    status = 415
    title = "The body has to be JSON"
    meaning = "This address takes a JSON body, and the request says that it carries something else."
    way_on = "Send JSON, with Content-Type: application/json."


class Unauthenticated(RequestRefused):
    """No valid session, access token or API key."""

    slug = "unauthenticated"
    status = 401
    title = "Not signed in, or no valid key"
    meaning = "The request carries no session, access token or key that is valid: none, a wrong one, or one that ran out or was revoked."
    way_on = "Sign in again; a program sends a valid access token or key, as Authorization: Bearer."


class Forbidden(RequestRefused):
    """A scope that is missing, or an origin that may not."""

    slug = "forbidden"
    status = 403
    title = "That is not allowed"
    meaning = "The request comes from an origin that may not send it, or its key or access token does not allow that."
    way_on = "Send it from the product's own pages, or with a key that has the scope of this call."


class Frozen(RequestRefused):
    """The operator froze this partner, this provider or all token reads."""

    slug = "frozen"
    status = 403
    title = "This was frozen by the operator"
    meaning = "The operator stopped this kind of access."
    way_on = "Ask whoever runs this service."
    remedy = "operator"
    returned = True


class RateLimited(RequestRefused):
    """Too many requests (RFC 6585 section 4)."""

    slug = "rate_limited"
    status = 429
    title = "Too many requests"
    meaning = "More requests came than are allowed in this time."
    way_on = "Wait the seconds that Retry-After names."
    remedy = "wait"


class DatabaseUnavailable(GatewayError):
    """The database did not answer, or not in time."""

    slug = "database_unavailable"
    status = 503
    title = "The database is not answering"
    meaning = "The gateway could not reach its database, so nothing was connected or changed."
    way_on = "Wait a minute and try again."
    remedy = "wait"


def every_problem() -> Iterator[type[GatewayError]]:
    """Each class with a slug of its own, for the pages below /problems and the tests of the documents."""
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        kind = pending.pop(0)
        if "slug" in vars(kind):
            yield kind
        pending.extend(kind.__subclasses__())
