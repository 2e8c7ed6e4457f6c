"""
The store's methods for partners: what the operator decides about them, and what they and users reach through `/v1`.

A caller's key is judged inside of each function, in the same call: a refusal comes back as Unauthenticated, Forbidden, Frozen or
RateLimited.
"""

from __future__ import annotations

from gateway.models import Caller


def asking(caller: Caller | None) -> dict[str, str | None]:
    """The arguments that say who asks; nobody for the gateway itself."""
    if caller is None:
        return {"user_id": None, "key_hash": None, "address": None}
    user_id = None if caller.user_id is None else str(caller.user_id)
    return {"user_id": user_id, "key_hash": caller.key_hash, "address": caller.address}
