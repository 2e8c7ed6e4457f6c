"""
Every error of the gateway, in one tree.

    GatewayError
    ├── SettingsRefused        the process does not start; lists every problem
    ├── FlowRefused            one attempt to connect fails
    │   ├── AccessDenied  StateInvalid  BrowserMismatch  UserMismatch
    │   └── IssuerMismatch  ReturnToRefused
    ├── ProviderFailed         the provider breaks its protocol
    │   └── ProviderUnavailable (ProviderBusy)  ProviderGarbled  ClientRejected
    ├── GrantUnusable          a stored connection cannot be used now
    │   └── NeedsReauthorization  Suspended  Held  Unverified  PendingConfirmation  RefreshInProgress  SecretUnreadable
    ├── RequestRefused         the caller must send something else
    │   ├── BadRequest  NotFound  MethodNotAllowed  TooLarge  UnsupportedMediaType
    │   └── Unauthenticated  Forbidden  Frozen  RateLimited
    └── DatabaseUnavailable  Unexpected

A class has a `slug`, an HTTP `status`, a `title`, a `detail` (what it means and what to do) and a `remedy`: who must act.
The argument of an exception goes to the log only. We write it; it never contains a secret or text from a provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

Remedy = Literal["fix_request", "reconnect", "wait", "operator", "report"]


class GatewayError(Exception):
    """The root: everything that this package raises on purpose."""

    slug: ClassVar[str] = "unexpected"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong here"
    detail: ClassVar[str] = (
        "The gateway has a bug. Nothing was connected or changed. Try again in a moment. If it happens again, tell the operator of this service."
    )
    """What it means, and what to do (RFC 9457)."""
    remedy: ClassVar[Remedy] = "report"
    returned: ClassVar[bool] = False
    """A failed connect returns to the product with `?error=<slug>`; otherwise it ends on a page here."""
    wording: ClassVar[str] = ""
    """The section of a page's texts, where it is not the slug's."""
    retry_after: float | None = None
    """On an instance: seconds until the next try makes sense, where they are known."""
    provider_status: int | None = None
    """On an instance: the HTTP status that the provider answered with."""
    provider_error: str | None = None
    """On an instance: the provider's own name for the error, where it cannot be a secret. For the operator."""

    def facts(self) -> dict[str, int | str]:
        """What the provider answered, for logs and the operator's view: `provider_status`, `provider_error`."""
        named = {"provider_status": self.provider_status, "provider_error": self.provider_error}
        return {name: value for name, value in named.items() if value is not None}


class Unexpected(GatewayError):
    """A bug of ours. The log has the place; the page has no detail."""


class SettingsRefused(GatewayError):
    """The settings are invalid. `problems` has one sentence per problem: the setting and the fix."""

    slug = "settings_refused"
    title = "The settings are invalid"
    remedy = "operator"

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class DatabaseUnavailable(GatewayError):
    """No response in time."""

    slug = "database_unavailable"
    status = 503
    title = "The database is not responding"
    detail = "The gateway could not reach its database. Nothing was connected or changed. Wait a minute and try again."
    remedy = "wait"


class FlowRefused(GatewayError):
    """This attempt to connect fails, and nothing was connected."""

    status = 400
    remedy: ClassVar[Remedy] = "reconnect"


class AccessDenied(FlowRefused):
    """RFC 6749 section 4.1.2.1: the resource owner refused."""

    slug = "access_denied"
    title = "Access was not granted"
    detail = "The provider says that access was refused, or that its page had expired. Nothing was connected. If you did not mean to refuse, connect again and allow access."
    returned = True


class StateInvalid(FlowRefused):
    """RFC 6749 section 10.12: a missing, unknown, expired, used or repeated state."""

    slug = "state_invalid"
    title = "This connection attempt is no longer valid"
    detail = "The link back from the provider was used before, is older than ten minutes, or was not started here. If your account is not among your connections, start again from the connect button."


class BrowserMismatch(FlowRefused):
    """The attempt was started in another browser."""

    slug = "browser_mismatch"
    status = 403
    title = "This was started in another browser"
    detail = "You have to finish a connection in the browser in which you started it. Nothing was connected. Go back to that browser, or start again in this one."


class UserMismatch(FlowRefused):
    """Another user started the attempt, or no user is signed in any more."""

    meant_for: str | None = None  # on an instance: the masked user that a link is for
    slug = "user_mismatch"
    status = 403
    title = "Another user started this"
    detail = "The user who starts a connection has to finish it. Nothing was connected. Sign in as that user, or start again as the user you are signed in as now."


class IssuerMismatch(FlowRefused):
    """RFC 9207 section 2.4 and RFC 8414 section 3.3: the response names another issuer."""

    slug = "issuer_mismatch"
    title = "The response came from a different service"
    detail = "The response does not come from the provider you chose. It was refused before anything was sent. Do not try again. Tell the operator of this service: this can be an attack."
    remedy = "report"


class ReturnToRefused(FlowRefused):
    """`return_to` is not on an origin of the product's front ends."""

    slug = "return_to_refused"
    title = "That return address is not allowed"
    detail = "The link would send you to an address that does not belong to this product. Use an address whose origin is listed in GATEWAY_APP_ORIGINS."
    remedy = "fix_request"


class ProviderFailed(GatewayError):
    """The provider did not do its part."""

    partial: Any = None  # on an instance: the `http.Response` as far as it came
    returned = True


class ProviderUnavailable(ProviderFailed):
    """No response in time, no connection, a 5xx or a 429."""

    slug = "provider_unavailable"
    status = 504
    title = "The provider is not responding"
    detail = "The provider did not respond in time or has a problem. Wait a minute and try again. Existing connections stay connected."
    remedy = "wait"


class ProviderBusy(ProviderUnavailable):
    """The provider was not asked: too many calls wait for it already, or it failed many times in a row."""

    slug = "provider_busy"
    status = 503
    title = "Too many calls are waiting for the provider"
    detail = "The provider is slow or does not respond, so the gateway sends it no more calls at the moment. Nothing was used up. Load this page again after the seconds in Retry-After."
    returned = False


class ProviderGarbled(ProviderFailed):
    """A response that the protocol does not allow."""

    slug = "provider_garbled"
    status = 502
    title = "The provider sent an invalid response"
    detail = "The provider's response breaks its protocol, so the gateway ignored it. Tell the operator of this service. Trying again will probably not help."
    remedy = "report"


class ClientRejected(ProviderFailed):
    """RFC 6749 section 5.2, `invalid_client` and similar: our registration there is wrong. The user can do nothing."""

    slug = "client_rejected"
    status = 502
    title = "The provider refused this service"
    detail = "The provider does not accept this service's registration. It is not your fault. The operator of this service has to check the client id, the secret and the redirect URI at the provider."
    remedy = "operator"


class GrantUnusable(GatewayError):
    """A stored connection that cannot be used now."""


class NeedsReauthorization(GrantUnusable):
    """The provider has refused the stored grant for good."""

    slug = "needs_reauthorization"
    status = 409
    title = "The connection has to be made again"
    detail = "The provider no longer accepts the stored grant: it was revoked at the provider, or it expired. The owner of the connection has to connect again. Its id stays the same."
    remedy = "reconnect"
    provider: str | None = None
    """On an instance: the provider to connect again."""


class Suspended(GrantUnusable):
    """The provider has switched the account off for now; the grant is still valid there."""

    slug = "suspended"
    status = 409
    title = "The account is suspended at the provider"
    detail = "The provider says that the account is not active. The connection is kept. Activate the account at the provider. The connection works again without connecting again."
    remedy = "wait"


class Held(GrantUnusable):
    """The provider refuses many grants at once: an incident there, so none of them is ended."""

    slug = "held"
    status = 503
    title = "The provider has an incident"
    detail = "The provider refuses the grants of many users at the moment. The connection is kept. Wait until the provider works again. The operator of this service has been alerted."
    remedy = "wait"


class Unverified(GrantUnusable):
    """Tokens that the gateway did not write are not confirmed by the provider yet."""

    slug = "unverified"
    status = 409
    title = "The connection is being verified"
    detail = "The stored tokens were written by the owner, or imported, and the provider has not confirmed their account yet. Wait a minute and try again. If the provider does not confirm them, the owner has to connect again."
    remedy = "wait"


class PendingConfirmation(GrantUnusable):
    """Connected, but not confirmed yet."""

    slug = "pending_confirmation"
    status = 409
    title = "The connection is waiting for confirmation"
    detail = "The connection was made in a browser without a session here and is not confirmed yet. Confirm it within ten minutes. After that it is revoked at the provider."
    remedy = "wait"


class RefreshInProgress(GrantUnusable):
    """Another process fetches a new token; `Retry-After` says when to ask again."""

    slug = "refresh_in_progress"
    status = 503
    title = "A new token is being fetched"
    detail = "The stored token has expired and a new one is on its way. Ask again after the seconds in Retry-After."
    remedy = "wait"


class SecretUnreadable(GrantUnusable):
    """A stored value does not decrypt: a key is missing, or the value was moved or changed."""

    slug = "secret_unreadable"
    title = "A stored secret could not be decrypted"
    detail = "The secret was encrypted with a key that this service does not have, or it was changed. It was not used. The operator of this service has to check GATEWAY_KEYS. Connecting again stores a new secret."
    remedy = "operator"


class RequestRefused(GatewayError):
    """The caller must send something else."""

    remedy: ClassVar[Remedy] = "fix_request"


class BadRequest(RequestRefused):
    """RFC 9110 section 15.5.1. `errors`: (field, reason), in our own names and words, never the caller's."""

    slug = "bad_request"
    status = 400
    title = "The request could not be read"
    detail = "Something in the request does not follow its format. Compare the request with the API description."

    def __init__(self, reason: str = "", errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(reason)
        self.errors = tuple(errors)


class NotFound(RequestRefused):
    """The id or address does not exist, or the caller cannot reach it: both look the same."""

    slug = "not_found"
    status = 404
    title = "There is nothing here"
    detail = "The address is wrong, or it names something that does not exist or is not yours. Check the address."


class ProviderNotEnabled(NotFound):
    """A provider that is unknown, or where we have no registration."""

    wording = "provider_not_enabled"


class MethodNotAllowed(RequestRefused):
    """RFC 9110 section 15.5.6."""

    slug = "method_not_allowed"
    status = 405
    title = "That method is not offered here"
    detail = "The address exists, but not for this HTTP method. Look the call up in the API description."


class TooLarge(RequestRefused):
    """RFC 9110 section 15.5.14."""

    slug = "too_large"
    status = 413
    title = "The request is too large"
    detail = "The request body is larger than this address accepts. Send less."


class UnsupportedMediaType(RequestRefused):
    """RFC 9110 section 15.5.16."""

    slug = "unsupported_media_type"
    status = 415
    title = "The body has to be JSON"
    detail = "This address takes a JSON body, and the request declares another type. Send JSON, with Content-Type: application/json."


class Unauthenticated(RequestRefused):
    """No valid session, access token or API key."""

    slug = "unauthenticated"
    status = 401
    title = "Not signed in, or no valid key"
    detail = "The request has no valid session, access token or key: it is missing, wrong, expired or revoked. Sign in again. A program sends a valid access token or key as Authorization: Bearer."


class Forbidden(RequestRefused):
    """A missing scope, or an origin that is not allowed."""

    slug = "forbidden"
    status = 403
    title = "That is not allowed"
    detail = "The request comes from an origin that is not allowed, or its key or access token does not allow it. Send it from the product's own pages, or with a key that has the scope of this call."


class Frozen(RequestRefused):
    """The operator froze this partner, this provider or all token reads, or banned or deleted the connection's user."""

    slug = "frozen"
    status = 403
    title = "The operator froze this"
    detail = "The operator has stopped this kind of access. Ask the operator of this service."
    remedy = "operator"
    returned = True


class RateLimited(RequestRefused):
    """RFC 6585 section 4."""

    slug = "rate_limited"
    status = 429
    title = "Too many requests"
    detail = "There were more requests than the limit allows in this time. Wait for the seconds in Retry-After."
    remedy = "wait"


def every_problem() -> Iterator[type[GatewayError]]:
    """Each class that has a slug of its own: one page below /problems each."""
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        kind = pending.pop(0)
        if "slug" in vars(kind):
            yield kind
        pending.extend(kind.__subclasses__())
