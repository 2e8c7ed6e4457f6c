"""
Who calls `/v1`: a user by their Supabase access token, or a partner by its key; and from where.

Reads headers alone. Whether a key stands, and what it may do, is said by the database in the call that does it.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from flask import request

from gateway.errors import Unauthenticated
from gateway.models import Caller
from gateway.partners.admin import KEY_PREFIX, read_key
from gateway.services import Runtime
from gateway.web.session import runtime

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.ASCII | re.IGNORECASE)
"""RFC 6750 section 2.1. Two headers that a server has joined by a comma are none."""


def caller() -> Caller:
    """Who sends this request; raises as `read_caller`."""
    return read_caller(runtime(), request.environ)


def read_caller(rt: Runtime, environ: WSGIEnvironment) -> Caller:
    """
    Who sends the request of this WSGI environment.

    Raises Unauthenticated where that cannot be; of a key that has the right shape, and of a user who is banned or deleted, the
    database has to say it: pass all of the Caller on to the store.
    """
    bearer = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
    if bearer is None:
        raise Unauthenticated("no bearer token")
    if bearer[1].startswith(KEY_PREFIX):
        return Caller(key_hash=read_key(bearer[1]), address=_address(rt, environ))
    user = rt.identity.read_access_token(bearer[1], now=rt.now()).user
    return Caller(user_id=user.id, address=_address(rt, environ))


def address() -> str | None:
    """Where this request comes from."""
    return _address(runtime(), request.environ)


def _address(rt: Runtime, environ: WSGIEnvironment) -> str | None:
    """
    The client's IP address; None where the server does not know one.

    The peer's own, unless GATEWAY_TRUSTED_PROXIES says how many proxies stand in front: each of them has appended whom it saw to
    X-Forwarded-For, so that the client is that many places from the right, and what stands further left is anybody's invention.
    Where the header does not have that many addresses, it did not come through them: the peer it is. Several lines are one list, in
    their order (RFC 9110 section 5.3). A server hands over `X_Forwarded_For` by the same name (PEP 3333), the later one standing, and
    nothing here can tell: the nearest proxy has to drop it.
    """
    hops = rt.settings.trusted_proxies
    if hops:
        seen = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        found = _ip(seen[-hops].strip()) if len(seen) >= hops else None
        if found is not None:
            return found
    return _ip(environ.get("REMOTE_ADDR", ""))


@lru_cache(maxsize=1024)
def _ip(text: str) -> str | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    if isinstance(found, ipaddress.IPv6Address) and found.scope_id:
        return None
    return str(mapped or found)
