"""
The one client of each simulated provider, and the check of its credentials.
"""

from __future__ import annotations

import hmac

CLIENTS: dict[str, tuple[str, str]] = {
    "ghl": ("64a000000000000000000000-sandbox1", "sandbox-ghl-secret"),
    "ghl_white_label": ("64a000000000000000000000-sandbox1", "sandbox-ghl_white_label-secret"),
    "google": ("sandbox-google", "sandbox-google-secret"),
    "microsoft": ("sandbox-microsoft", "sandbox-microsoft-secret"),
    "ringcentral": ("sandbox-ringcentral", "sandbox-ringcentral-secret"),
    "zoom": ("sandbox-zoom", "sandbox-zoom-secret"),
}
"""Provider id to client id and client secret. HighLevel's client ids are the app's id, a hyphen and eight characters."""


def knows(provider: str, client_id: str) -> bool:
    """Whether this is the provider's client."""
    return CLIENTS[provider][0] == client_id


def proves(provider: str, client_id: str, secret: str) -> bool:
    """RFC 6749 section 2.3.1: the client's id and its secret."""
    return knows(provider, client_id) and hmac.compare_digest(CLIENTS[provider][1].encode(), secret.encode())
