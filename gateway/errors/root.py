"""
The root of the tree, and what is of no branch.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class DatabaseUnavailable(GatewayError):
    """The database did not answer, or not in time."""

    slug = "database_unavailable"
    status = 503
    title = "The database is not answering"
    meaning = "The gateway could not reach its database, so nothing was connected or changed."
    way_on = "Wait a minute and try again."
    remedy = "wait"


class Overloaded(GatewayError):
    """This process has as much of one kind to do as it may have at once; what is of another kind goes on."""

    slug = "overloaded"
    status = 503
    title = "Too much at once"
    meaning = "The gateway has more to do just now than it takes at once. Nothing was connected or changed."
    way_on = "Try again in a moment."
    remedy = "wait"
