"""
The documented TypeScript, sent by the npm package @supabase/supabase-js as a signed-in user, does what the document says.

Under row-level security as PostgREST applies it; `postgrest_stand_in` simulates that. Without Node it skips outside CI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.database.queries.connections import list_connections
from tests.support.database import rows
from tests.support.postgrest_stand_in import JWT_SECRET, PUBLISHABLE_KEY

NODE = Path(__file__).resolve().parents[1] / "node"
IDENTITY = {
    "id": "00000000-0000-4000-8000-000000000000",
    "provider_id_ref": None,
    "auth_provider_id": None,
    "name": "google",
    "type": 2,
}

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("node") and (NODE / "node_modules" / "@supabase").exists()),
    reason="needs Node and `npm ci` in tests/node; CI always has both",
)


def access_token(user_id: uuid.UUID, **changes: object) -> str:
    claims = {"sub": str(user_id), "aud": "authenticated", "role": "authenticated", "exp": int(time.time()) + 3600}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims | changes, OctKey.import_key(JWT_SECRET))


class Browser:
    """Somebody's supabase-js."""

    def __init__(self, url: str, token: str) -> None:
        command = ["node", "--no-warnings", "documented.mjs", url, PUBLISHABLE_KEY, token]
        self._node = subprocess.Popen(command, cwd=NODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip

    def asks(self, verb: str, **given: Any) -> dict[str, Any]:
        """{data, code, status} of one documented call."""
        self._node.stdin.write(json.dumps({"verb": verb, **given}, default=str) + "\n")
        self._node.stdin.flush()
        return json.loads(self._node.stdout.readline())

    def closes(self) -> None:
        self._node.communicate(timeout=60)


@pytest.fixture
def browser(rest, alice) -> Iterator[Browser]:
    """Alice's."""
    made = Browser(rest.url, access_token(alice.id))
    yield made
    made.closes()


def test_the_own_ghl_row_is_found_as_documented(store, alice, bob, browser):
    """
    One user, one connection of the type: `.single()` finds it, and all of its documented columns.
    """
    mine, _ = alice.connects(store), bob.connects(store)
    alice.connects(store, provider="google", type=2)

    found = browser.asks("find", user=alice.id, type=1)

    assert (200, None, str(mine.id), "ghl", 1) == (
        found["status"], found["code"], found["data"]["id"], found["data"]["name"], found["data"]["type"],
    )  # fmt: skip
    columns = {
        "id",
        "created_at",
        "provider_id_ref",
        "auth_provider_id",
        "name",
        "type",
        "token",
        "refresh",
        "expires",
        "data",
    }
    assert columns == set(found["data"])


def test_no_connection_and_anothers_look_the_same(store, alice, bob, browser):
    """
    `.single()` says PGRST116 for none of the own, and for Bob's.
    """
    bob.connects(store)
    assert [("PGRST116", 406)] * 2 == [
        (found["code"], found["status"])
        for found in (browser.asks("find", user=who.id, type=1) for who in (alice, bob))
    ]
    assert [] == browser.asks("all", table="provider_data")["data"]


def test_the_own_token_is_updated_as_documented(database, store, alice, browser):
    """
    Token and expiry of the own row; the gateway keeps its own account, scope and expiry, and verifies the token before it is used.
    """
    mine = alice.connects(store)
    before = list_connections(store, alice.session)

    said = browser.asks("update", id=mine.id, change={"token": "new", "expires": "2031-01-01T00:00:00Z"})

    assert (204, None) == (said["status"], said["code"])
    assert [("new", "2031-01-01T00:00:00Z")] == rows(database, "select token, expires from public.provider_data")
    (after,) = list_connections(store, alice.session).connections
    assert ("unverified", "owner_wrote_tokens") == (after.status, after.reason)
    assert before.connections == (
        replace(after, status="active", reason=None, updated_at=before.connections[0].updated_at),
    )


def test_anothers_row_is_not_changed(database, store, alice, bob, browser):
    """
    The update finds nothing: no error, no row.
    """
    alice.connects(store)
    his = bob.connects(store)
    before = rows(database, "select * from public.provider_data order by id")

    assert [] == browser.asks("updateShown", id=his.id, change={"token": "stolen"})["data"]
    assert 204 == browser.asks("update", id=his.id, change={"token": "stolen", "expires": "never"})["status"]
    assert before == rows(database, "select * from public.provider_data order by id")


@pytest.mark.parametrize("column", IDENTITY)
def test_identity_columns_refuse(database, store, alice, browser, column):
    """
    Whose row it is, and of what, is not the client's to say.
    """
    mine = alice.connects(store)
    before = rows(database, "select * from public.provider_data")
    value = IDENTITY[column] or str(uuid.uuid4())

    said = browser.asks("update", id=mine.id, change={column: value})

    assert ("42501", 403) == (said["code"], said["status"])
    assert before == rows(database, "select * from public.provider_data")


def test_a_row_is_inserted_for_oneself_only(database, store, alice, bob, browser):
    """
    As the policies of the document say, and under the own profile.
    """
    alice.connects(store)
    bob.connects(store)
    profiles = dict(rows(database, "select user_id_auth, id from public.user_profile"))
    row = {"name": "own", "type": 2, "token": "t"}

    said = browser.asks("insert", row=row | {"auth_provider_id": alice.id, "provider_id_ref": profiles[alice.id]})
    assert (201, None) == (said["status"], said["code"])
    for user, profile in ((bob, bob), (alice, bob), (bob, alice)):
        refused = browser.asks(
            "insert", row=row | {"auth_provider_id": user.id, "provider_id_ref": profiles[profile.id]}
        )
        assert ("42501", 403) == (refused["code"], refused["status"])
    assert 3 == len(rows(database, "select id from public.provider_data"))


def test_a_profile_shows_itself_alone(store, alice, bob, browser):
    """
    With the array that the gateway keeps.
    """
    mine, _ = alice.connects(store), bob.connects(store)
    assert [[str(mine.id)]] == [each["providers"] for each in browser.asks("all", table="user_profile")["data"]]


def test_no_function_of_the_gateway_is_the_users_to_call(database, store, alice, browser):
    """
    Every one of them refuses, by name.
    """
    alice.connects(store)
    arguments = {
        "gateway_session_v1": {"p_session_hash": alice.session},
        "gateway_schema_v1": {},
        "gateway_claim_revocations_v1": {"p_busy": [], "p_provider": None, "p_after": None, "p_most": 1},
    }
    for name, given in arguments.items():
        said = browser.asks("call", name=name, given=given)
        assert ("42501", 403, None) == (said["code"], said["status"], said["data"])


@pytest.mark.parametrize("fault", ["expired", "nobody", "forged"])
def test_without_a_good_token_nothing_is_seen(rest, store, alice, fault):
    """
    Expired, of no user, or signed with another key.
    """
    alice.connects(store)
    token = {
        "expired": access_token(alice.id, exp=1),
        "nobody": access_token(alice.id, role="anon"),
        "forged": jwt.encode({"alg": "HS256"}, {"sub": str(alice.id), "role": "authenticated", "exp": 4e9}, OctKey.import_key("x" * 40)),
    }[fault]  # fmt: skip
    browser = Browser(rest.url, token)
    said = browser.asks("find", user=alice.id, type=1)
    browser.closes()
    assert (None, 401) == (said["data"], said["status"])
