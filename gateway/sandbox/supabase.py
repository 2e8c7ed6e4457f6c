"""
Simulates the product's sign-in service: Supabase Auth's access tokens and keys.

https://supabase.com/docs/guides/auth/jwt-fields
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from flask import Blueprint

from .state import State
from .wire import answer

HOUR = 3600


@dataclass(frozen=True)
class ProductUser:
    """A user of the product. `id` is `auth.users.id`."""

    name: str
    id: str
    email: str
    role: str


USERS = {
    "alice": ProductUser(
        "Alice Winter", "a11ce000-0000-4000-8000-000000000001", "alice@northwind.example", "Operations"
    ),
    "bob": ProductUser("Bob Marsh", "b0b00000-0000-4000-8000-000000000002", "bob@northwind.example", "Sales"),
}


def make_blueprint(state: State) -> Blueprint:
    """The sign-in service's addresses below /auth/v1."""
    rooms = Blueprint("supabase", __name__, url_prefix="/auth/v1")
    rooms.add_url_rule(
        "/.well-known/jwks.json", "jwks", lambda: answer(state.keys.ec_set(), 200, {"Cache-Control": "max-age=600"})
    )
    return rooms


def access_token(state: State, user: ProductUser, **changes: Any) -> str:
    """The user's access token, valid for an hour; `changes` replace claims, None removes one."""
    now = int(state.now())
    claims: dict[str, Any] = {
        "iss": f"{state.origin}/auth/v1",
        "sub": user.id,
        "aud": "authenticated",
        "exp": now + HOUR,
        "iat": now,
        "email": user.email,
        "phone": "",
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "user_metadata": {"full_name": user.name},
        "role": "authenticated",
        "aal": "aal1",
        "session_id": str(uuid.uuid5(uuid.NAMESPACE_URL, user.id)),
        "is_anonymous": False,
    }
    return state.keys.es256({name: value for name, value in (claims | changes).items() if value is not None})
