"""
A request whose sender must send something else.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.errors.root import GatewayError, Remedy


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
