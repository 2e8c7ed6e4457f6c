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
    │   ├── BadRequest  NotFound  MethodNotAllowed  TooLarge  UnsupportedMediaType
    │   └── Unauthenticated  Forbidden  Frozen  RateLimited
    ├── DatabaseUnavailable
    ├── Overloaded             this process has as much to do as it may have at once
    └── Unexpected             a defect of ours, shown without detail

Each class says its `slug`, HTTP `status`, `title`, the plain sentences `meaning` and `way_on`, and `remedy`: who must act
(fix_request · reconnect · wait · operator · report). Nothing here ever carries a secret or a provider's own words: the
argument of an exception is for the log alone and is written by us.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.errors.flow import (
    AccessDenied,
    BrowserMismatch,
    FlowRefused,
    IssuerMismatch,
    ReturnToRefused,
    StateInvalid,
    UserMismatch,
)
from gateway.errors.provider import (
    ClientRejected,
    GrantUnusable,
    NeedsReauthorization,
    PendingConfirmation,
    ProviderFailed,
    ProviderGarbled,
    ProviderUnavailable,
    RefreshInProgress,
    SecretUnreadable,
)
from gateway.errors.request import (
    BadRequest,
    Forbidden,
    Frozen,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RequestRefused,
    TooLarge,
    Unauthenticated,
    UnsupportedMediaType,
)
from gateway.errors.root import DatabaseUnavailable, GatewayError, Overloaded, Remedy, SettingsRefused, Unexpected

__all__ = [
    "AccessDenied",
    "BadRequest",
    "BrowserMismatch",
    "ClientRejected",
    "DatabaseUnavailable",
    "FlowRefused",
    "Forbidden",
    "Frozen",
    "GatewayError",
    "GrantUnusable",
    "IssuerMismatch",
    "MethodNotAllowed",
    "NeedsReauthorization",
    "NotFound",
    "Overloaded",
    "PendingConfirmation",
    "ProviderFailed",
    "ProviderGarbled",
    "ProviderUnavailable",
    "RateLimited",
    "RefreshInProgress",
    "Remedy",
    "RequestRefused",
    "ReturnToRefused",
    "SecretUnreadable",
    "SettingsRefused",
    "StateInvalid",
    "TooLarge",
    "Unauthenticated",
    "Unexpected",
    "UnsupportedMediaType",
    "UserMismatch",
    "every_problem",
]


def every_problem() -> Iterator[type[GatewayError]]:
    """Each class with a slug of its own, for the pages below /problems and the tests of the documents."""
    pending: list[type[GatewayError]] = [GatewayError]
    while pending:
        kind = pending.pop(0)
        if "slug" in vars(kind):
            yield kind
        pending.extend(kind.__subclasses__())
