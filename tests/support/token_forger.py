"""
Access tokens by hand: rightly signed ones with wrong contents, and wrongly signed ones of every kind.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time

import requests
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256


def part(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header, claims, key):
    """A compact JWS with HMAC-SHA-256 under any bytes."""
    text = f"{part(header)}.{part(claims)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), hashlib.sha256))}"


def rightly_signed(keys, header, claims):
    """A compact JWS with the project's own key, whatever its header says."""
    text = f"{part(header)}.{part(claims)}"
    r, s = decode_dss_signature(keys.ec.private_key.sign(text.encode(), ECDSA(SHA256())))
    return f"{text}.{part(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def claimed(issuer, **changes):
    now = int(time.time())
    claims = {
        "iss": f"{issuer}/auth/v1",
        "sub": "a11ce000-0000-4000-8000-0000000000aa",
        "aud": "authenticated",
        "iat": now,
    }
    claims |= {"exp": now + 3600, "role": "authenticated", "email": "alice@northwind.example"} | changes
    return {name: value for name, value in claims.items() if value is not None}


def hands_over(gateway, token, **headers):
    """A browser without cookies hands over `token`."""
    sent = {"Origin": gateway.sandbox.origin} | headers
    data = {"access_token": token, "next": "/connections"}
    return requests.post(f"{gateway.url}/session", data=data, headers=sent, allow_redirects=False, timeout=30)
