"""
An attempt to connect that ends here.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.errors.root import GatewayError, Remedy


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
