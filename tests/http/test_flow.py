"""
The main flows over HTTP, against a real process, a real database and the simulated providers.
"""

from __future__ import annotations

import psycopg
import pytest

from gateway.sandbox.highlevel import COMPANY
from tests.support.gateway_process import told, without_request_id

EVERY = [("ghl", 1), ("google", 2), ("microsoft", 2), ("ringcentral", 3), ("zoom", 3), ("ghl_white_label", 1)]


def rows(gateway, user_id):
    with psycopg.connect(gateway.dsn) as connection:
        return connection.execute(
            "select id::text, name, type, token, refresh, expires, data from public.provider_data"
            " where auth_provider_id = %s order by type",
            [user_id],
        ).fetchall()


def listed(gateway, user_id):
    with psycopg.connect(gateway.dsn) as connection:
        found = connection.execute("select providers from public.user_profile where user_id_auth = %s", [user_id])
        return [ids for (ids,) in found]


@pytest.mark.parametrize(("provider", "number"), EVERY)
def test_a_user_connects_and_finds_the_connection_listed(gateway, provider, number):
    """
    From the link to the list: the row is encrypted, its id in the profile, and the page shows the account.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()

    ended = alice.connects(provider)

    (row,) = rows(gateway, alice.id)
    assert ended == {"connection": row[0], "provider": provider}
    assert (provider, number) == row[1:3]
    assert row[3].startswith("gAAAAA")
    assert row[6]["status"] == "active"
    assert [[row[0]]] == listed(gateway, alice.id)
    assert row[6]["account"]["label"] in alice.get("/connections").text


def test_connecting_twice_leaves_one_row_and_one_id(gateway):
    """
    The id is kept, the generation increases, and the old encrypted values are gone.
    """
    alice = gateway.person("Alice Winter")
    first = alice.connects("ghl")
    (before,) = rows(gateway, alice.id)

    second = alice.connects("ghl")

    (after,) = rows(gateway, alice.id)
    assert first["connection"] == second["connection"] == after[0]
    assert before[3] != after[3]
    assert [[after[0]]] == listed(gateway, alice.id)


def test_a_product_page_gets_its_user_back(gateway):
    """
    return_to on an app origin gets the ids in its query, and keeps its own.
    """
    alice = gateway.person("Alice Winter")
    back = f"{gateway.sandbox.origin}/settings?tab=crm"

    ended = alice.connects("ghl", return_to=back)

    assert {"tab": "crm", "provider": "ghl"}.items() <= ended.items()


def test_saying_no_connects_nothing_and_says_so(gateway):
    """
    access_denied goes back to the product; no row, no token request.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()

    answer = alice.get(alice.consents("google", answer="deny"))

    assert told(answer) == {"error": "access_denied", "provider": "google"}
    assert [] == rows(gateway, alice.id)
    assert "Access was not granted" in alice.get(answer.headers["Location"]).text


def test_two_users_never_see_each_others(gateway):
    """
    Bob's page does not show Alice's account, and her id is to him like none at all.
    """
    alice, bob = gateway.person("Alice Winter"), gateway.person("Bob Marsh")
    connection = alice.connects("ghl")["connection"]
    bob.connects("google")

    assert connection not in bob.get("/connections").text
    page = bob.get("/connections").text
    csrf = page.split('name="csrf" value="')[1].split('"')[0]
    refused = bob.post(f"/connections/{connection}/disconnect", {"csrf": csrf})
    missing = bob.post("/connections/00000000-0000-4000-8000-000000000000/disconnect", {"csrf": csrf})
    assert 404 == refused.status_code == missing.status_code
    assert without_request_id(refused) == without_request_id(missing)
    assert 1 == len(rows(gateway, alice.id))


def test_disconnect_erases_and_revokes(gateway):
    """
    Row and id are gone, and the provider saw the revocation.
    """
    alice = gateway.person("Alice Winter")
    connection = alice.connects("ringcentral")["connection"]
    before = len(gateway.sandbox.state.revocations)

    answer = alice.disconnects(connection)

    assert {"disconnected": "done", "provider": "ringcentral"} == told(answer)
    assert [] == rows(gateway, alice.id)
    assert [[]] == listed(gateway, alice.id)
    assert len(gateway.sandbox.state.revocations) > before


def test_a_highlevel_disconnect_says_where_the_app_stays_installed(gateway):
    """
    HighLevel has no revocation: the page says that the app has to be removed there.
    """
    alice = gateway.person("Alice Winter")
    connection = alice.connects("ghl")["connection"]

    answer = alice.disconnects(connection)

    assert "unsupported" == told(answer)["disconnected"]
    assert "remove the app there" in alice.get(answer.headers["Location"]).text


@pytest.mark.parametrize(
    ("account", "kind", "label"),
    [("NorthwindLisbon00001", "Location", "Northwind Lisbon"), ("agency", "Company", "Northwind Agency")],
)
def test_agency_and_location_are_told_apart_by_user_type(gateway, account, kind, label):
    """
    UserType decides which account is asked for, and the label is that account's name.
    """
    alice = gateway.person("Alice Winter")

    alice.connects("ghl", COMPANY if account == "agency" else account)

    (row,) = rows(gateway, alice.id)
    assert (kind, label) == (row[6]["userType"], row[6]["account"]["label"])


def test_without_a_session_the_product_signs_in(gateway):
    """
    A browser without a session goes to the product's sign-in, and the way back is in next.
    """
    nobody = gateway.person("Alice Winter")

    answer = nobody.asks("ghl", return_to=f"{gateway.sandbox.origin}/")

    assert 303 == answer.status_code
    assert answer.headers["Location"].startswith(f"{gateway.sandbox.origin}/login?next=")
    assert "return_to" in told(answer)["next"]


def test_signing_out_ends_the_session_in_the_database(gateway):
    """
    The cookie that was saved before is worth nothing afterwards.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    saved = alice.browser.cookies.get_dict()
    page = alice.get("/connections").text
    csrf = page.split('name="csrf" value="')[1].split('"')[0]

    alice.post("/session/end", {"csrf": csrf})

    alice.browser.cookies.update(saved)
    assert 303 == alice.get("/connections").status_code
