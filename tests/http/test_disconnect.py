"""
Disconnect and reconnect: what a disconnect erases, revokes and returns; and a reconnect that wins over a refresh.
"""

from __future__ import annotations

import re
import threading
import time

import psycopg
import pytest
import requests

from tests.support.gateway_process import fields_in, told, without_request_id
from tests.support.patience import held as no_response
from tests.support.patience import wait_for

AGENCY = "NorthwindAgency00001"
BERLIN = "NorthwindBerlin00001"
NOBODYS = "00000000-0000-4000-8000-000000000000"
RECEIPT = {"connection_id", "provider", "account", "erased_at", "revocation", "event_id"}


@pytest.fixture
def alice(gateway):
    gateway.sandbox.state.faults.clear()
    yield gateway.person("Alice Winter")
    gateway.sandbox.state.faults.clear()


def asks(person, path, method="GET", **query):
    headers = {"Authorization": f"Bearer {person.token()}"}
    return requests.request(method, f"{person.gateway.url}/v1{path}", headers=headers, params=query, timeout=30)


def erases(person, connection, **query):
    return asks(person, f"/connections/{connection}", "DELETE", **query)


def value(gateway, query, *given):
    with psycopg.connect(gateway.dsn) as connection:
        return connection.execute(query, given).fetchone()


def uninstalls(gateway):
    return gateway.sandbox.state.requests("ghl", "uninstall")


def panel(person, connection):
    page = person.get("/connections").text
    return page.split(f'action="/connections/{connection}/disconnect"')[1].split("</form>")[0]


def leaves(person, connection, **more):
    form = fields_in(panel(person, connection)) | more
    return person.post(f"/connections/{connection}/disconnect", form)


@pytest.mark.parametrize(
    "query",
    ["disconnected=done&provider=ghl", "sharing=ended&provider=ghl", "disconnected=done&provider=ghl&uninstalled=done"],
)
def test_a_link_cannot_claim_that_something_was_disconnected(gateway, alice, query):
    """
    The notice is signed for the session that disconnected, and for these words.
    """
    bob = gateway.person("Bob Stone")
    bob.signs_in()
    real = leaves(alice, alice.connects("google")["connection"]).headers["Location"]

    assert "is disconnected" in alice.get(real).text
    for forged in (f"/connections?{query}", real.replace("google", "microsoft"), f"{real}&uninstalled=done"):
        for page in (alice.get(forged).text, bob.get(forged).text):
            assert "is disconnected" not in page
            assert "no longer shared" not in page
    bob.browser.cookies.set("gateway-notice", alice.browser.cookies["gateway-notice"])
    assert "is disconnected" not in bob.get(real).text


# -- uninstalling ----------------------------------------------------------------------------------------------------


def test_only_a_provider_that_can_uninstall_offers_it(gateway, alice):
    """
    A checkbox with its label and its warning, empty at first; none where there is nothing to ask for.
    """
    held = alice.connects("ghl")["connection"]
    form = panel(alice, held)
    box = re.search(
        r'<input type="checkbox" name="uninstall" value="1" id="([^"]+)"\s+aria-describedby="([^"]+)">', form
    )

    assert f'<label for="{box[1]}">Also uninstall the app at HighLevel</label>' in form
    assert f'id="{box[2]}"' in form
    assert "uninstall" not in panel(alice, alice.connects("google")["connection"])


def test_a_grant_that_may_not_uninstall_is_not_offered_it(gateway, alice):
    """
    HighLevel asks for oauth.write: without it the box would promise what cannot be kept.
    """
    held = alice.connects("ghl")["connection"]
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute("update gateway.connection set scope = '{contacts.readonly}' where id = %s", [held])

    assert "uninstall" not in panel(alice, held)


@pytest.mark.parametrize(("account", "body"), [(BERLIN, {"locationId": BERLIN}), (AGENCY, {"companyId": AGENCY})])
def test_the_app_is_uninstalled_when_the_user_asks(gateway, alice, account, body):
    """
    For the account that was connected, location or company, with the connection's own token; and erased here as ever.
    """
    held = alice.connects("ghl", account)["connection"]
    before = len(uninstalls(gateway))

    answer = leaves(alice, held, uninstall="1")

    seen = uninstalls(gateway)[before:]
    assert [(body, 200)] == [(one["form"], one["status"]) for one in seen]
    assert "/marketplace/app/64a000000000000000000000/installations" in seen[0]["path"]
    assert ("done", "done") == (told(answer)["disconnected"], told(answer)["uninstalled"])
    assert "the app is uninstalled at HighLevel" in alice.get(answer.headers["Location"]).text
    assert value(gateway, "select from public.provider_data where id = %s", held) is None
    assert ("app.uninstalled",) == value(
        gateway, "select type from gateway.event where connection_id = %s and type like 'app.%%'", held
    )


def test_an_ordinary_disconnect_leaves_the_app_installed(gateway, alice):
    """
    Others of the account may use it: nothing is asked of HighLevel, and the page says that the app is still there.
    """
    held = alice.connects("ghl")["connection"]
    before = len(uninstalls(gateway))

    answer = leaves(alice, held)

    assert before == len(uninstalls(gateway))
    assert "unsupported" == told(answer)["disconnected"]
    assert "uninstalled" not in told(answer)


@pytest.mark.parametrize("endpoint", ["uninstall", "token"])
def test_an_uninstall_that_fails_is_reported_and_stops_nothing(gateway, alice, endpoint):
    """
    HighLevel is having trouble, at the call itself or at the token it takes: erased here all the same, and said so.
    """
    held = alice.connects("ghl")["connection"]
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute("update gateway.connection set expires_at = clock_timestamp() where id = %s", [held])
    gateway.sandbox.state.add_fault("status", "ghl", endpoint, status=500)

    receipt = erases(alice, held, uninstall="1").json()

    assert RECEIPT | {"uninstall"} == set(receipt)
    assert ("failed", "unsupported") == (receipt["uninstall"], receipt["revocation"])
    assert 404 == asks(alice, f"/connections/{held}").status_code


def test_a_disconnect_is_over_within_ten_seconds_whatever_hangs(gateway, alice):
    """
    The token expired, its refresh takes nearly all the time, and then the uninstall hangs: erased and reported. A loaded machine only adds
    to the time, so the quickest of three counts.
    """
    for _ in range(3):
        held = alice.connects("ghl")["connection"]
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute("update gateway.connection set expires_at = clock_timestamp() where id = %s", [held])
        gateway.sandbox.state.add_fault("slow", "ghl", "token", seconds=7)
        gateway.sandbox.state.add_fault("slow", "ghl", "uninstall", seconds=30)

        began = time.monotonic()
        receipt = erases(alice, held, uninstall="1").json()
        took = time.monotonic() - began

        assert "failed" == receipt["uninstall"]
        assert 404 == asks(alice, f"/connections/{held}").status_code
        if took < 12:
            break
    assert 8 < took < 12  # ten seconds for each of the two would be seventeen


def test_a_token_that_ran_out_is_refreshed_for_the_uninstall(gateway, alice):
    """
    HighLevel would refuse the old one.
    """
    held = alice.connects("ghl")["connection"]
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute("update gateway.connection set expires_at = clock_timestamp() where id = %s", [held])
    before = len(gateway.sandbox.state.requests("ghl", "token"))

    assert "done" == erases(alice, held, uninstall="1").json()["uninstall"]
    assert before + 1 == len(gateway.sandbox.state.requests("ghl", "token"))


def test_a_provider_without_uninstalling_says_so(gateway, alice):
    """
    The grant is revoked as ever.
    """
    receipt = erases(alice, alice.connects("zoom")["connection"], uninstall="1").json()

    assert ("unsupported", "done") == (receipt["uninstall"], receipt["revocation"])


# -- the receipt -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("connected", "kind", "revocation"),
    [
        (["ringcentral"], None, "done"),
        (["ghl", BERLIN], "location", "unsupported"),
        (["ghl", AGENCY], "agency", "unsupported"),
    ],
)
def test_the_receipt_says_what_was_erased_and_what_became_of_the_grant(gateway, alice, connected, kind, revocation):
    """
    Exactly the contract's fields, and the account as it was; its event is the one that partners read; afterwards there is nothing.
    """
    held = alice.connects(*connected)["connection"]
    account = asks(alice, f"/connections/{held}").json()["account"]

    answer = erases(alice, held)

    receipt = answer.json()
    assert (200, RECEIPT) == (answer.status_code, set(receipt))
    assert (held, connected[0], revocation) == (receipt["connection_id"], receipt["provider"], receipt["revocation"])
    assert (account, kind) == (receipt["account"], account["kind"])
    assert ("connection.disconnected",) == value(
        gateway, "select type from gateway.event where id = %s", receipt["event_id"]
    )
    assert 404 == asks(alice, f"/connections/{held}").status_code == erases(alice, held).status_code


def test_a_revocation_that_fails_is_repeated_later(gateway, alice):
    """
    Erased here, and the encrypted grant is queued.
    """
    held = alice.connects("zoom")["connection"]
    gateway.sandbox.state.add_fault("status", "zoom", "revoke", status=503)

    assert "queued" == erases(alice, held).json()["revocation"]
    assert (1,) == value(gateway, "select count(*) from gateway.revocation where connection_id = %s", held)


@pytest.mark.parametrize("uninstall", ["0", "1"])
def test_anothers_connection_is_neither_shown_nor_erased_nor_uninstalled(gateway, alice, uninstall):
    """
    Bob's token on Alice's id answers as on no id, and nothing is asked of the provider.
    """
    held = alice.connects("ghl")["connection"]
    bob = gateway.person("Bob Marsh")
    before = len(uninstalls(gateway))

    foreign, missing = (erases(bob, one, uninstall=uninstall) for one in (held, NOBODYS))

    assert (404, without_request_id(foreign)) == (missing.status_code, without_request_id(missing))
    assert 404 == foreign.status_code == asks(bob, f"/connections/{held}").status_code
    assert before == len(uninstalls(gateway))
    assert 200 == asks(alice, f"/connections/{held}").status_code


def test_nobody_erases_without_a_token_and_nonsense_is_refused(gateway, alice):
    """
    401 and 400, and the connection stays.
    """
    held = alice.connects("ghl")["connection"]

    assert 401 == requests.delete(f"{gateway.url}/v1/connections/{held}", timeout=60).status_code
    assert 400 == erases(alice, held, uninstall="yes").status_code
    assert 200 == asks(alice, f"/connections/{held}").status_code


def test_the_products_front_end_may_erase_across_origins(gateway, alice):
    """
    The CORS preflight allows DELETE.
    """
    headers = {"Origin": gateway.sandbox.origin, "Access-Control-Request-Method": "DELETE"}
    answer = requests.options(f"{gateway.url}/v1/connections/{NOBODYS}", headers=headers, timeout=60)

    assert gateway.sandbox.origin == answer.headers["Access-Control-Allow-Origin"]
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]


# -- connecting again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "path"), [("ringcentral", "/restapi/v1.0/account/~/extension/~"), ("zoom", "/v2/users/me")]
)
def test_a_reconnect_wins_over_a_refresh_in_flight(gateway, alice, provider, path):
    """
    The same id, a new generation, at once. The late response is discarded: its tokens (RingCentral) are revoked, and
    a refusal (Zoom ends earlier sessions) is ignored. Waiting callers get the new token, and it works.
    """
    held = alice.connects(provider)["connection"]
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute("update gateway.connection set expires_at = clock_timestamp() where id = %s", [held])
        connection.execute("delete from gateway.revocation")  # of other tests
    state, late = gateway.sandbox.state, []
    revoked = len(state.revocations)
    reader = threading.Thread(target=lambda: late.append(asks(alice, f"/connections/{held}/token")))
    with no_response(gateway.sandbox, provider, "token") as is_asked:
        reader.start()
        wait_for(is_asked)

        assert held == alice.connects(provider)["connection"]
        connected = asks(alice, f"/connections/{held}/token").json()["access_token"]
    reader.join()

    assert (2, "active") == value(gateway, "select generation, status from gateway.connection where id = %s", held)
    assert (
        connected == late[0].json()["access_token"] == asks(alice, f"/connections/{held}/token").json()["access_token"]
    )
    bearer = {"Authorization": f"Bearer {connected}"}
    assert 200 == requests.get(f"{gateway.sandbox.origin}/{provider}{path}", headers=bearer, timeout=60).status_code
    given_back = [one["token"] for one in state.revocations[revoked:] if one["provider"] == provider]
    assert bool(given_back) == (provider == "ringcentral")
    assert connected not in given_back
