"""
Every error of the gateway, in one tree, by who has to change something.

A class has a `slug`, an HTTP `status`, a `title`, a `detail` (what it means and what to do) and a `remedy` (who must act); problems.toml
holds them.
The argument of an exception goes to the log only. We write it; it never contains a secret or text from a provider.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

_PROBLEMS, _REASONS = (
    tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    for name in ("problems", "reasons")
)
Remedy = Literal["fix_request", "reconnect", "wait", "operator", "report"]


def plain_reason(error: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """What is wrong with a value: pydantic's error in the words of reasons.toml. `known`: the fields that exist."""
    values = {**error.get("ctx", {}), "known": ", ".join(known) or "none"}
    words = _REASONS.get(str(values.get("pattern"))) or _REASONS.get(error["type"])
    return str(words.format(**values) if words else error["msg"])


class GatewayError(Exception):
    """The root: everything that this package raises on purpose."""

    slug: ClassVar[str] = "unexpected"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong here"
    detail: str = "The gateway has a bug. Nothing was connected or changed. Try again in a moment. If it happens again, tell the operator of this service."
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

    def __init__(
        self,
        reason: str = "",
        *,
        retry_after: float | None = None,
        provider_status: int | None = None,
        provider: str = "",
        detail: str = "",
    ) -> None:
        """`provider`: the one to connect, where that helps. `detail`: more exactly than its class says it."""
        super().__init__(reason)
        self.detail = detail or self.detail
        self.retry_after = self.retry_after if retry_after is None else retry_after
        self.provider_status, self.provider = provider_status, provider

    def __init_subclass__(cls) -> None:
        """A class that problems.toml describes has what is said there, and a slug of its own unless that names another one."""
        slug = re.sub("(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
        for name, value in ({"slug": slug, **_PROBLEMS[slug]} if slug in _PROBLEMS else {}).items():
            setattr(cls, name, value)

    def facts(self) -> dict[str, int | str]:
        """What the provider answered, for logs and the operator's view: `provider_status`, `provider_error`."""
        named = {"provider_status": self.provider_status, "provider_error": self.provider_error}
        return {name: value for name, value in named.items() if value is not None}


class Unexpected(GatewayError):
    """A bug of ours. The log has the place; the page has no detail."""


class SettingsRefused(GatewayError):
    """The settings are invalid. `problems` has one sentence per problem: the setting and the fix."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class DatabaseUnavailable(GatewayError):
    """No response in time."""


class FlowRefused(GatewayError):
    """This attempt to connect fails, and nothing was connected."""

    status = 400
    remedy: ClassVar[Remedy] = "reconnect"


class AccessDenied(FlowRefused):
    """RFC 6749 section 4.1.2.1: the resource owner refused."""

    returned = True


class StateInvalid(FlowRefused):
    """RFC 6749 section 10.12: a missing, unknown, expired, used or repeated state."""


class InstallNotStarted(StateInvalid):
    """An installation that was started at the provider, where the operator has not switched such installations on."""


class BrowserMismatch(FlowRefused):
    """The attempt was started in another browser."""


class UserMismatch(FlowRefused):
    """Another user started the attempt, or no user is signed in any more."""

    meant_for: str | None = None  # on an instance: the masked user that a link is for


class IssuerMismatch(FlowRefused):
    """RFC 9207 section 2.4 and RFC 8414 section 3.3: the response names another issuer."""


class ReturnToRefused(FlowRefused):
    """`return_to` is not on an origin of the product's front ends."""


class ProviderFailed(GatewayError):
    """The provider did not do its part."""

    partial: Any = None  # on an instance: the `http.Response` as far as it came
    returned = True


class ProviderUnavailable(ProviderFailed):
    """No response in time, no connection, a 5xx or a 429."""


class ProviderBusy(ProviderUnavailable):
    """The provider was not asked: too many calls wait for it already, or it failed many times in a row."""

    returned = False


class ProviderGarbled(ProviderFailed):
    """A response that the protocol does not allow."""


class ClientRejected(ProviderFailed):
    """RFC 6749 section 5.2, `invalid_client` and similar: our registration there is wrong. The user can do nothing."""


class GrantUnusable(GatewayError):
    """A stored connection that cannot be used now."""


class NeedsReauthorization(GrantUnusable):
    """The provider has refused the stored grant for good."""


class Suspended(GrantUnusable):
    """The provider has switched the account off for now; the grant is still valid there."""


class Held(GrantUnusable):
    """The provider refuses many grants at once: an incident there, so none of them is ended."""


class Unverified(GrantUnusable):
    """Tokens that the gateway did not write are not confirmed by the provider yet."""


class PendingConfirmation(GrantUnusable):
    """Connected, but not confirmed yet."""


class RefreshInProgress(GrantUnusable):
    """Another process fetches a new token; `Retry-After` says when to ask again."""

    retry_after = 1.0


class SecretUnreadable(GrantUnusable):
    """A stored value does not decrypt: a key is missing, or the value was moved or changed."""


class RequestRefused(GatewayError):
    """The caller must send something else."""

    remedy: ClassVar[Remedy] = "fix_request"


class BadRequest(RequestRefused):
    """RFC 9110 section 15.5.1. `errors`: (field, reason), in our own names and words, never the caller's."""

    def __init__(self, reason: str = "", errors: Sequence[tuple[str, str]] = ()) -> None:
        at_fault = ", ".join(f"`{field}`" for field, _ in errors[:3])
        super().__init__(reason, detail=f"{self.detail} At fault is {at_fault}: `errors` says why." if errors else "")
        self.errors = tuple(errors)


class NotFound(RequestRefused):
    """The id or address does not exist, or the caller cannot reach it: both look the same."""


class ProviderNotEnabled(NotFound):
    """A provider that is unknown, or where we have no registration."""


class MethodNotAllowed(RequestRefused):
    """RFC 9110 section 15.5.6."""


class TooLarge(RequestRefused):
    """RFC 9110 section 15.5.14."""


class UnsupportedMediaType(RequestRefused):
    """RFC 9110 section 15.5.16."""


class Unauthenticated(RequestRefused):
    """No valid session, access token or API key."""


class NotSigned(Unauthenticated):
    """A webhook without the provider's signature."""


class Forbidden(RequestRefused):
    """A missing scope, or an origin that is not allowed."""


class LacksScope(Forbidden):
    """A connection whose scope does not cover what is asked of it."""


class Frozen(RequestRefused):
    """The operator froze this partner, this provider or all token reads, or banned or deleted the connection's user."""

    returned = True


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit, how much of it is used, and the seconds until that ends."""

    limit: int
    used: int
    seconds: float


counted: ContextVar[Quota | None] = ContextVar("counted", default=None)
"""The limit that the present request counts towards."""


class RateLimited(RequestRefused):
    """RFC 6585 section 4."""

    def __init__(self, reason: str = "", quota: Quota | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(reason, retry_after=quota.seconds if quota else retry_after)
        self.quota = quota


class ProviderLimit(RateLimited):
    """A limit of the provider for the calls of one account."""

    def __init__(self, reason: str = "", kind: str = "", quota: Quota | None = None) -> None:
        super().__init__(reason, quota)
        self.detail = (
            f"The provider's {kind} limit of calls for this account is reached. Wait for the seconds in Retry-After."
        )


def every_problem() -> Iterable[type[GatewayError]]:
    """The first class of each slug: one page below /problems each."""
    found: dict[str, type[GatewayError]] = {}
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        kind = pending.pop(0)
        found.setdefault(kind.slug, kind)
        pending.extend(kind.__subclasses__())
    return found.values()
