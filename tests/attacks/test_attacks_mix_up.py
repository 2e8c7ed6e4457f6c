"""
A hostile provider beside an honest one: whose code is it, and who would get it.

RFC 9700 section 4.4, RFC 9207, RFC 8414 section 3.3. The honest one is the sandbox's Google, the
hostile one a server made for this.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from tests.support.attack_helpers import asked, owned, problem
from tests.support.gateway_process import told, whole_gateway
from tests.support.hostile_issuer import HostileServer

ISSUERS = ("hostile", "twins", "liar", "promising", "borrower", "scripted", "directive", "markup")
TABLE = """
[{name}]
name = "{label}"
type = 2
slug = "{slug}"
issuer = "{issuer}"
"""


@pytest.fixture(scope="module")
def hostile():
    server = HostileServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mixed(cluster, template, hostile):
    """A gateway whose operator trusted a hostile server, under several names, beside the honest Google."""
    names = [name for name in ISSUERS if name != "twins"] + ["twin_a", "twin_b"]
    clients = {f"{name.upper()}_CLIENT_ID": f"client-of-{name}" for name in names} | {
        "BORROWER_CLIENT_ID": "sandbox-google"
    }
    secrets = {f"{name.upper()}_CLIENT_SECRET": f"secret-of-{name}" for name in names}
    with whole_gateway(cluster, template, settings=clients | secrets) as gateway:
        google = f"{gateway.sandbox.origin}/google"
        hostile.metadata |= {
            "liar": {"issuer": google},
            "promising": {"authorization_response_iss_parameter_supported": True},
            "borrower": {"authorization_endpoint": f"{google}/o/oauth2/v2/auth"},
            "scripted": {"authorization_endpoint": "javascript:alert(1)//"},
            "directive": {"authorization_endpoint": "https://evil.example;sandbox;frame-src/authorize"},
        }
        tables = [
            TABLE.format(
                name=n, label=n.title(), slug=n.replace("_", "-"), issuer=hostile.issuer("twins" if "twin" in n else n)
            )
            for n in names
        ]
        Path(gateway.environ["GATEWAY_CATALOG"], "tenants.toml").write_text("".join(tables))
        yield gateway.start()


@pytest.fixture
def alice(mixed):
    person = mixed.person("Alice Winter")
    person.signs_in()
    return person


@pytest.fixture
def bob(mixed):
    person = mixed.person("Bob Marsh")
    person.signs_in()
    return person


# -- mix-up ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["the honest callback", "the hostile callback"])
def test_an_honest_code_never_reaches_the_hostile_server(mixed, hostile, alice, door):
    """
    The hostile authorization endpoint sends the browser on to the honest one with its client id and the fresh state. Whichever
    callback the honest code arrives at, it is posted nowhere.
    """
    state = asked(alice.begins("hostile"))["state"]
    honest = asked(alice.begins("google"))
    onward = urlencode(honest | {"state": state})
    callback = mixed.sandbox.consents(f"{mixed.sandbox.origin}/google/o/oauth2/v2/auth?{onward}")
    code = asked(callback)["code"]

    query = urlsplit(callback).query
    answer = alice.get(callback if door == "the honest callback" else f"/email/hostile/callback?{query}")

    assert problem(answer) in ("state_invalid", "issuer_mismatch")
    assert [] == hostile.posted(code)
    assert 0 == mixed.sandbox.state.redeemed[code] == owned(mixed, alice)


def test_an_attackers_honest_code_in_a_victims_hostile_attempt_is_refused(mixed, hostile, alice, bob):
    """
    CORF: Bob's own code at the honest callback, with the state of Alice's attempt at another provider.
    """
    code = asked(bob.consents("google"))["code"]
    state = asked(alice.begins("hostile"))["state"]

    answer = alice.get(f"/email/google/callback?code={code}&state={state}")

    assert (400, "state_invalid") == (answer.status_code, problem(answer))
    assert [] == hostile.posted(code)
    assert 0 == mixed.sandbox.state.redeemed[code] == owned(mixed, alice, bob)


def test_metadata_of_another_issuer_is_refused(mixed, hostile, alice):
    """
    RFC 8414 section 3.3: nothing of it is used, and there is no redirect.
    """
    answer = alice.asks("liar")

    assert (400, "issuer_mismatch") == (answer.status_code, problem(answer))
    assert [] == hostile.posted("secret-of-liar")


def test_a_borrowed_authorization_endpoint_gives_no_code_away(mixed, hostile, alice):
    """
    Metadata that name the honest authorization endpoint beside a hostile token endpoint: the honest `iss` ends it.
    """
    callback = mixed.sandbox.consents(alice.begins("borrower"))

    answer = alice.get(callback)

    assert "/email/borrower/callback" == urlsplit(callback).path
    assert (400, "issuer_mismatch") == (answer.status_code, problem(answer))
    assert [] == hostile.posted(asked(callback)["code"])


@pytest.mark.parametrize("name", ["scripted", "directive"])
def test_metadata_cannot_name_what_the_catalogue_may_not(mixed, alice, name):
    """
    What an operator's file may not hold, a script or a directive of our policy, may not come from discovery either.
    """
    shown = alice.asks(name)
    fields = {"csrf": re.search(r'name="csrf" value="([^"]+)"', alice.get("/connections").text)[1]}
    pressed = alice.post(f"/email/{name}/connect", fields)

    assert "evil.example" not in shown.headers["Content-Security-Policy"]
    assert 502 == shown.status_code
    assert "evil.example" not in pressed.headers.get("Location", "")
    assert "alert" not in pressed.headers.get("Location", "")


def test_two_tenants_of_one_issuer_are_not_mixed_up(mixed, hostile, alice):
    """
    Two entries that discover the same issuer keep their own client, redirect URI and secret.
    """
    for name, slug in (("twin_a", "twin-a"), ("twin_b", "twin-b")):
        sent = alice.begins(name)
        answer = alice.get(f"/email/{slug}/callback?code=code-of-{name}&state={asked(sent)['state']}")

        assert (f"client-of-{name}", f"{mixed.url}/email/{slug}/callback") == (
            asked(sent)["client_id"],
            asked(sent)["redirect_uri"],
        )
        assert name == told(answer)["provider"]
        (handed,) = [body for _, body in hostile.posts if f"code-of-{name}" in body]
        basic = base64.b64encode(f"client-of-{name}:secret-of-{name}".encode()).decode()
        assert f"Basic {basic}" in handed


def test_what_a_provider_says_of_an_account_is_text(hostile, alice):
    """
    Ids and labels with markup are shown escaped, on the page and in what the next page repeats.
    """
    hostile.userinfo = {"sub": "1<script>alert(1)</script>", "email": '"><img src=x onerror=alert(1)>\r\n\x00\u202e'}
    sent = alice.begins("markup")
    alice.get(f"/email/markup/callback?code=any-code&state={asked(sent)['state']}")

    for page in (alice.get("/connections").text, alice.asks("markup").text):
        assert "&lt;img src=x onerror=alert(1)&gt;" in page
        assert not re.search(r"<script>|<img src=x|\u202e|\x00", page)


# -- iss ---------------------------------------------------------------------------------------------------------------


def test_the_promised_issuer_has_to_come_exactly(mixed, hostile, alice):
    """
    RFC 9207 section 2.4: compared as a string. Wrong, missing, empty or doubled, and no code is sent anywhere.
    """
    right = hostile.issuer("promising")
    port = urlsplit(right).port
    wrong = [
        "", "iss=", "iss=https://evil.example", f"iss={right}/", f"iss={right.upper()}", f"iss={right}%20", f"iss={right}%00",
        f"iss={right.replace('127.0.0.1', 'localhost')}", f"iss={right}?x", f"iss={right}%23", f"iss={right[:-1]}", "iss=http://[",
        f"iss=http://127.0.0.1:{port}", f"iss={right}&iss={right}", f"iss={right}&iss=https://evil.example", f"ISS={right}",
    ]  # fmt: skip
    for number, given in enumerate(wrong):
        state = asked(alice.begins("promising"))["state"]
        answer = alice.get(f"/email/promising/callback?code=wrong{number}x&state={state}&{given}")

        assert (400, "issuer_mismatch") == (answer.status_code, problem(answer)), given
        assert [] == hostile.posted(f"wrong{number}x")

    state = asked(alice.begins("promising"))["state"]
    assert "connection" in told(alice.get(f"/email/promising/callback?code=right-x&state={state}&iss={quote(right)}"))
    assert 1 == len(hostile.posted("right-x"))


@pytest.mark.parametrize("fault", ["wrong_iss", "repeated_iss"])
@pytest.mark.parametrize("provider", ["google", "ringcentral", "ghl"])
def test_a_foreign_issuer_is_refused_where_none_is_promised(mixed, alice, provider, fault):
    """
    An `iss` that comes all the same is judged all the same.
    """
    mixed.sandbox.state.add_fault(fault, provider, "authorize")
    callback = alice.consents(provider)

    answer = alice.get(callback)

    assert (400, "issuer_mismatch") == (answer.status_code, problem(answer))
    assert 0 == mixed.sandbox.state.redeemed[asked(callback)["code"]] == owned(mixed, alice)


@pytest.mark.parametrize("iss", ["http://[", "http://[::1", "//", "%00", "http://%5B", "x" * 3000])
def test_an_issuer_that_is_no_address_is_refused_like_any_other(mixed, alice, iss):
    """
    Where there is no issuer to compare with, what does not parse is a mismatch and not a defect.
    """
    callback = alice.consents("ringcentral")

    answer = alice.get(f"{callback}&iss={iss}")

    assert (400, "issuer_mismatch") == (answer.status_code, problem(answer))
    assert 0 == mixed.sandbox.state.redeemed[asked(callback)["code"]]
