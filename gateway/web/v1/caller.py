"""
The caller of `/v1` and its address: a partner with a key, or a user with a Supabase access token.

Reads headers only. The database decides whether a key is valid and what it may do, in the call that does the work.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from flask import g, request

from gateway.errors import Unauthenticated
from gateway.models import Caller
from gateway.partners.admin import KEY_PREFIX, read_key
from gateway.web.session import runtime

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/=-]+)", re.ASCII | re.IGNORECASE)
"""RFC 6750 section 2.1. Two headers that a server joined with a comma do not match."""


def caller() -> Caller:
    """
    The caller of this request.

    Raises Unauthenticated without a well-formed key or a valid access token. The database still has to check the key, and whether
    the user is banned or deleted: pass the Caller on.
    """
    rt = runtime()
    bearer = _BEARER.fullmatch(request.environ.get("HTTP_AUTHORIZATION", ""))
    if bearer is None:
        raise Unauthenticated("no bearer token")
    if bearer[1].startswith(KEY_PREFIX):
        key_hash = read_key(bearer[1])
        g.principal = f"key:{key_hash[:12]}"
        return Caller(key_hash=key_hash, address=client_address())
    user = rt.identity.read_access_token(bearer[1], now=rt.now()).user
    g.principal = f"user:{user.id}"
    return Caller(user_id=user.id, address=client_address())


def client_address() -> str | None:
    """
    The client's IP address; None where the server does not know one.

    Each of the GATEWAY_TRUSTED_PROXIES in front appends the address it saw to X-Forwarded-For. So the client is that many places from
    the right; what is further left can be forged. With fewer addresses the request did not come through the proxies, and the peer
    counts. Some WSGI servers also accept the header as `X_Forwarded_For` (ours does not): there the nearest proxy has to drop it.
    """
    hops = runtime().settings.trusted_proxies
    if hops:
        addresses = request.environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        found = _parse_ip(addresses[-hops].strip()) if len(addresses) >= hops else None
        if found is not None:
            return found
    return _parse_ip(request.environ.get("REMOTE_ADDR", ""))


@lru_cache(maxsize=1024)
def _parse_ip(text: str) -> str | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return None if found.scope_id else str(found.ipv4_mapped or found)
    return str(found)
