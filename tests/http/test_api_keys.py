"""
Providers whose users enter a key: every form of the catalogue, walked against the sandbox.
"""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import urlencode

import pytest
import requests
from cryptography.fernet import Fernet

from gateway.catalog import ApiKeyProvider, load_catalog
from gateway.sandbox.derived import is_oauth, key_table, oauth_table, read_entries
from gateway.sandbox.for_gateway import moved
from gateway.sandbox.generic import ACCOUNTS, add_tables
from gateway.sandbox.generic import TABLES as OAUTH_TABLES
from gateway.sandbox.keys import TABLES, made_up_key, new_key, revoke_keys
from gateway.sandbox.response_faults import PLANTED
from gateway.services import checked_catalog
from gateway.settings import read_settings
from tests.support.commands import run_command
from tests.support.database import rows
from tests.support.gateway_process import fields_in, places_with, told, whole_gateway
from tests.support.link_partner import new_partner
from tests.support.patience import wait_for

ENTRIES = {name: entry for name, entry in load_catalog().entries.items() if isinstance(entry, ApiKeyProvider)}
PAIRS = [name for name, entry in ENTRIES.items() if entry.is_pair]
FAULT = re.compile(r'<p class="fault" id="field-(\w+)-fault">.*?<span>(.*?)</span>', re.DOTALL)
ALICE, DESK = ACCOUNTS[:2]


ACME = """
[acme]
name = "Acme Phone"
type = 3
authorization_endpoint = "ORIGIN/zoom/{area}/authorize"
token_endpoint = "ORIGIN/zoom/{area}/token"
revocation_endpoint = "ORIGIN/zoom/{area}/revoke"
revocation_tokens = ["access_token", "refresh_token"]
userinfo_endpoint = "ORIGIN/zoom/v2/users/me"
account = { id = "id", label = "email" }
api_base_url = "ORIGIN/zoom/{area}"
fields.area = { label = "Account name in the address", pattern = "oauth|[a-z]{3}" }
"""
"""Speaks OAuth at addresses that its user has to complete."""


ONE_TABLE = {
    "discovered": """
name = "Five lines"
type = 2
issuer = "https://login.five.example"
scope = ["openid", "email", "offline_access"]
""",
    "plain": """
name = "Plain CRM"
type = 4
authorization_endpoint = "https://plain.example/oauth/authorize"
token_endpoint = "https://plain.example/oauth/token"
revocation_endpoint = "https://plain.example/oauth/revoke"
token_endpoint_auth_method = "client_secret_post"
userinfo_endpoint = "https://api.plain.example/me"
account = { id = ["data.0.company.id", "data.0.id"], label = "data.0.email" }
api_base_url = "https://api.plain.example"
scope = ["contacts:read", "deals:read"]
scope_separator = ","
""",
    "hosted": """
name = "Phones of each tenant"
type = 3
authorization_endpoint = "https://{tenant}.hosted.example/authorize"
token_endpoint = "https://{tenant}.hosted.example/token"
json_token_requests = true
userinfo_endpoint = "{api}/me"
account = { id = "id", label = "email" }
api_base_url = "{api}/v1"
token_placement = { prefix = "Token " }
fields.tenant = { label = "Tenant", pattern = "[a-z]{3,9}" }
values.api = { field = "api_url", pattern = 'https://api[0-9]\\.hosted\\.example' }
""",
    "keyed": """
name = "A key in the query"
type = 2
auth = "api_key"
token_placement = { query = "key" }
userinfo_endpoint = "https://{region}/v1/me"
account = { id = "id", label = "name" }
api_base_url = "https://{region}/v1"
fields.region = { label = "Region", options = { "eu.keyed.example" = "Europe", "us.keyed.example" = "United States" } }
fields.key = { label = "Key", secret = true, pattern = "k_[0-9a-f]{32}" }
""",
    "paired": """
name = "A pair"
type = 3
auth = "basic"
credential = "{user}:{password}"
userinfo_endpoint = "https://paired.example/account/{user}.json"
valid_path = "is_active"
account = { id = "{user}" }
api_base_url = "https://paired.example/v2"
headers = { X-Version = "2" }
fields.user = { label = "User" }
fields.password = { label = "Password", secret = true }
""",
}
"""Providers that an operator adds, or the repository: a table each, and nothing else."""


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """The folder with these tables. The sandbox simulates them from there, as it does a table of the repository without one of its own."""
    folder = tmp_path_factory.mktemp("catalog")
    for name, lines in ONE_TABLE.items():
        (folder / f"{name}.toml").write_text(f"[{name}]{lines}", encoding="utf-8")
    for name, entry in read_entries(folder).items():
        if is_oauth(entry):
            add_tables({name: oauth_table(name, entry)})
        else:
            TABLES[name] = key_table(entry)
    return folder


@pytest.fixture(scope="module")
def gateway(cluster, template, added):
    """A gateway that offers all of them, and a provider with a field before the redirect."""
    settings = {
        "GATEWAY_ENABLE": ",".join([*ENTRIES, "keyed", "paired"]),
        "ACME_CLIENT_ID": "sandbox-zoom",
        "ACME_CLIENT_SECRET": "sandbox-zoom-secret",
    }
    for name in ("discovered", "plain", "hosted"):
        settings |= {
            f"{name.upper()}_CLIENT_ID": f"sandbox-{name}",
            f"{name.upper()}_CLIENT_SECRET": f"sandbox-{name}-secret",
        }
    with whole_gateway(cluster, template, settings=settings) as made:
        folder = made.folder / "catalog"
        shutil.copytree(added, folder, dirs_exist_ok=True)
        (folder / "acme.toml").write_text(ACME.replace("ORIGIN", made.sandbox.origin), encoding="utf-8")
        here = "".join(moved(name, entry, made.sandbox.origin) for name, entry in read_entries(added).items())
        (folder / "their_hosts.toml").write_text(here, encoding="utf-8")
        yield made.start()


@pytest.fixture(scope="module")
def acme(gateway):
    return new_partner(gateway, reach="all")


@pytest.fixture
def user(gateway):
    made = gateway.person()
    made.signs_in()
    return made


def enters(person, provider, fields, page=None, **headers):
    """Fills in the form and sends it."""
    page = person.asks(provider) if page is None else page
    form = re.search(r'<form id="(?:connect|link)" method="post" action="([^"]+)"', page.text)
    return person.post(form[1], fields_in(page.text.split(form[0])[1]) | dict(fields), headers=headers)


def faults(answer):
    assert 422 == answer.status_code, answer.text[:2000]
    return dict(FAULT.findall(answer.text))


def stored(gateway, person):
    return rows(gateway.dsn, "select to_jsonb(d) from public.provider_data d where auth_provider_id = %s", person.id)


def connected(gateway, person, answer):
    """The connection that the form led to, confirmed where it is of another account."""
    if "/confirm" in answer.headers["Location"]:
        page = person.get(answer.headers["Location"])
        form = fields_in(page.text.split('<form id="confirm"')[1])
        answer = person.post(answer.headers["Location"], form | {"answer": "replace"})
    assert 303 == answer.status_code, answer.text
    return told(answer)["connection"]


def test_the_sandbox_simulates_every_provider_with_keys():
    """A provider of the catalogue without a table would be walked by nothing."""
    assert ENTRIES.keys() == TABLES.keys() - ONE_TABLE


@pytest.mark.parametrize("provider", ENTRIES)
def test_every_form_of_key_is_verified_used_rotated_checked_and_erased(gateway, acme, user, provider):
    """
    A wrong key is stored nowhere. A good one is encrypted, and the provider accepts it as `/v1` hands it out and through the proxy; a new key
    keeps the row; a key that was deleted there is found by a check, and an outage is none; a disconnect leaves nothing. A secret beside the account in the provider's
    response is kept nowhere.
    """
    state, entry = gateway.sandbox.state, ENTRIES[provider]
    wrong = made_up_key(provider)
    refused = enters(user, provider, wrong)
    assert faults(refused)
    assert not [name for name in entry.secrets if wrong[name] in refused.text]
    assert [] == stored(gateway, user)

    first = new_key(state, provider, ALICE)
    connection = connected(gateway, user, enters(user, provider, first))
    (row,) = stored(gateway, user)
    assert (connection, provider, entry.type, None, None) == (
        row["id"], row["name"], row["type"], row["expires"], row["refresh"],
    )  # fmt: skip
    assert row["token"].startswith("gAAAA")
    assert "active" == row["data"]["status"]
    kept = str(row) + str(rows(gateway.dsn, "select to_jsonb(c) from gateway.connection c where id = %s", connection))
    assert not [name for name in entry.secrets if first[name] in kept]

    answer = acme.token(connection).json()
    calls = api(answer, entry, "v1/things")
    assert 200 == calls.status_code, calls.text
    proxied = acme.calls("GET", f"/v1/connections/{connection}/proxy/v1/things?page=2")
    assert (200, calls.json()["account"]) == (proxied.status_code, proxied.json()["account"]), proxied.text
    assert answer["access_token"] not in proxied.text

    shown = (user.get("/connections"), acme.calls("GET", f"/v1/connections/{connection}"))
    assert [] == places_with(gateway, f"{PLANTED}{provider}", *shown)

    state.add_fault("status", provider, "userinfo", status=503)
    assert 504 == check(acme, connection).status_code
    assert 200 == acme.token(connection).status_code
    rows(gateway.dsn, "update gateway.connection set checked_at = null where id = %s", connection)

    second = new_key(state, provider, ALICE)
    assert connection == connected(gateway, user, enters(user, provider, second))
    revoke_keys(state, provider)
    third = new_key(state, provider, ALICE)
    assert "needs_reauthorization" == check(acme, connection).json()["status"]
    assert 409 == acme.token(connection).status_code
    assert connection == connected(gateway, user, enters(user, provider, third))
    assert 200 == acme.token(connection).status_code
    assert 303 == user.disconnects(connection).status_code
    assert [] == stored(gateway, user)
    assert_no_leak(gateway, first, second, third, names=entry.secrets)


@pytest.mark.parametrize("provider", ONE_TABLE)
def test_a_new_provider_is_one_table(gateway, acme, user, added, provider):
    """
    It connects, hands out its token, is refreshed, checked, reached through the proxy and disconnected; a wrong key is refused.
    """
    entry = load_catalog(added).entries[provider]
    if isinstance(entry, ApiKeyProvider):
        assert faults(enters(user, provider, made_up_key(provider)))
        answer = enters(user, provider, new_key(gateway.sandbox.state, provider, ALICE))
    else:
        entered = OAUTH_TABLES[provider]["fields"]
        answer = user.get(gateway.sandbox.consents(enters(user, provider, entered).headers["Location"]))
    connection = connected(gateway, user, answer)

    first = acme.token(connection).json()
    assert first["api_base_url"] is None or first["api_base_url"].startswith(f"{gateway.sandbox.origin}/{provider}")
    if isinstance(entry, ApiKeyProvider):
        refused = acme.calls("POST", f"/v1/connections/{connection}/refresh")
        assert (409, True) == (
            refused.status_code,
            refused.json()["detail"].startswith("Nothing is stored that fetches"),
        )
        assert 404 == acme.calls("GET", f"/v1/connections/{connection}/locations").status_code
    else:
        refreshed = acme.calls("POST", f"/v1/connections/{connection}/refresh").json()
        assert refreshed["access_token"] not in (None, first["access_token"])
    assert "active" == check(acme, connection).json()["status"]
    (row,) = stored(gateway, user)
    assert (provider, entry.type, "active") == (row["name"], row["type"], row["data"]["status"])
    assert 303 == user.disconnects(connection).status_code
    assert [] == stored(gateway, user)


def test_a_key_that_its_provider_advises_to_replace_is_announced_once(gateway, acme, user):
    """
    HighLevel's private integration tokens after 90 days: they still work. A new key counts from its own day.
    """
    for _ in range(2):
        key = new_key(gateway.sandbox.state, "ghl_pit", ALICE)
        connection = connected(gateway, user, enters(user, "ghl_pit", key))
        due = "select round(extract(epoch from refresh_expires_at - now()) / 86400)::int from gateway.connection where id = %s"
        assert [90] == rows(gateway.dsn, due, connection)
    rows(
        gateway.dsn,
        "update gateway.connection set refresh_expires_at = now() - interval '1 hour' where id = %s",
        connection,
    )
    for _ in range(2):
        rows(gateway.dsn, "select gateway.announce_ends(100)::text")

    announced = "select type from gateway.event where connection_id = %s and type in ('connection.rotation_due', 'connection.ending')"
    assert ["connection.rotation_due"] == rows(gateway.dsn, announced, connection)
    assert 200 == acme.token(connection).status_code


def api(token, entry, path):
    """A call as a partner makes it, with what a Token says and nothing else."""
    url = f"{token['api_base_url'].rstrip('/')}/{path}"
    if entry.token_placement.query:
        url += "?" + urlencode({token["token_type"]: token["access_token"]})
    return requests.get(url, headers=token["headers"], timeout=60)


def check(partner, connection):
    return partner.calls("POST", f"/v1/connections/{connection}/check")


def assert_no_leak(gateway, *keys, names):
    """Neither in the log nor in an event."""
    text = gateway.log.read_text() + str(rows(gateway.dsn, "select to_jsonb(e) from gateway.event e"))
    assert not [name for key in keys for name in names if key[name] in text]


# -- what cannot be right --------------------------------------------------------------------------------------------

SENDGRID = "SG." + "a" * 22 + "." + "b" * 43


@pytest.mark.parametrize(
    ("entered", "said"),
    [
        ("", "fill this in"),
        ("   ", "fill this in"),
        (f" {SENDGRID}", "spaces or line breaks"),
        (f"{SENDGRID}\t", "spaces or line breaks"),
        (f"{SENDGRID}\r\n", "spaces or line breaks"),
        (f"\u00a0{SENDGRID}", "spaces or line breaks"),
        (f"{SENDGRID[:30]}\n{SENDGRID[30:]}", "spaces or line breaks"),
        (f"{SENDGRID[:30]} {SENDGRID[30:]}", "spaces or line breaks"),
        (f'"{SENDGRID}"', "quotation marks"),
        (f"'{SENDGRID}'", "quotation marks"),
        (f"“{SENDGRID}”", "quotation marks"),
        (f"`{SENDGRID}`", "quotation marks"),
        (f"<{SENDGRID}>", "quotation marks"),
        (f"{SENDGRID}'", "quotation marks"),
        (f"Bearer {SENDGRID}", "without the words before it"),
        (f"bearer  {SENDGRID}", "without the words before it"),
        (f"AccessKey {SENDGRID}", "without the words before it"),
        (f"Authorization: Bearer {SENDGRID}", "without the words before it"),
        (f"SENDGRID_API_KEY={SENDGRID}", "without the words before it"),
        (f"x-api-key: {SENDGRID}", "without the words before it"),
        (f"{SENDGRID[:30]}\u200b{SENDGRID[30:]}", "characters that cannot"),
        (f"{SENDGRID[:-1]}\u00e9", "characters that cannot"),
        (f"{SENDGRID[:-1]}\x00", "characters that cannot"),
        (SENDGRID[:-1], "does not look like"),
        (SENDGRID * 40, "does not look like"),
        ("https://app.sendgrid.com/api_keys", "This is an address"),
        (f"{SENDGRID[:30]}{'*' * 39}", "shortened"),
        (f"{SENDGRID[:30]}…", "shortened"),
        (f"API key: {SENDGRID}", "without the words before it"),
        (f'{{"api_key": "{SENDGRID}"}}', "without the words before it"),
        (f'-H "Authorization: Bearer {SENDGRID}"', "without the words before it"),
        ("me@example.com", "does not look like"),
        ("<script>alert(1)</script>", "quotation marks"),
    ],
)
def test_what_is_pasted_around_a_key_is_named_beside_the_field(gateway, user, entered, said):
    """
    The provider is not asked, nothing is stored, and what was entered is not repeated on the page.
    """
    asked = len(gateway.sandbox.state.requests("sendgrid"))
    answer = enters(user, "sendgrid", {"api_key": entered})

    assert said in faults(answer)["api_key"]
    assert not entered.strip() or entered not in answer.text
    assert SENDGRID not in answer.text
    assert asked == len(gateway.sandbox.state.requests("sendgrid"))
    assert [] == stored(gateway, user)


@pytest.mark.parametrize(
    ("provider", "field", "entered", "said"),
    [
        ("smartlead", "api_key", "https://app.smartlead.ai/app/settings/profile", "This is an address"),
        ("lemlist", "api_key", "8f3a****************", "shortened"),
        ("justcall", "api_secret", "8f3a91c0...", "shortened"),
        ("bandwidth", "password", "••••••••", "shortened"),
        ("vonage", "api_secret", "API secret: 8f3a91c08f3a91c0", "without the words before it"),
        ("customerio_track", "site_id", "https://fly.customer.io/workspaces/1", "does not look like"),
        ("agilecrm", "email", "https://acme.agilecrm.com/#api", "does not look like"),
        ("odoo", "server", "https://localhost:8069/web", "does not look like"),
        ("infobip", "base_host", "https://portal.infobip.com/dev/api-keys", "does not look like"),
        ("whatsapp", "phone_number_id", "+49 30 1234567", "spaces or line breaks"),
        ("mailgun", "api_key", "a" * 10_240, "does not look like"),
    ],
)
def test_a_value_that_cannot_be_right_is_named_where_no_form_is_known(gateway, user, provider, field, entered, said):
    """Fields whose form no source describes: the provider is not asked."""
    asked = len(gateway.sandbox.state.requests(provider))

    found = faults(enters(user, provider, made_up_key(provider) | {field: entered}))

    assert said in found.pop(field)
    assert {} == found
    assert asked == len(gateway.sandbox.state.requests(provider))


@pytest.mark.parametrize("provider", PAIRS)
def test_two_halves_that_are_swapped_are_refused_and_named(gateway, user, provider):
    """
    Where their forms differ, before the provider is asked; else the provider refuses them, and the page says what may be wrong.
    """
    entry, key = ENTRIES[provider], new_key(gateway.sandbox.state, provider)
    first, second = [name for name in entry.fields if f"{{{name}}}" in entry.credential]

    found = faults(enters(user, provider, key | {first: key[second], second: key[first]}))

    assert "swapped" in " ".join(found.values())
    assert [] == stored(gateway, user)


def test_swapped_halves_are_found_without_asking_the_provider(gateway, user):
    """
    Twilio's have different forms, so both fields say so, and what is no secret stays in its field.
    """
    key = made_up_key("twilio")
    answer = enters(user, "twilio", {"account_sid": key["auth_token"], "auth_token": key["account_sid"]})

    assert {"account_sid", "auth_token"} == faults(answer).keys()
    assert all("swapped" in said for said in faults(answer).values())
    assert f'value="{key["auth_token"]}"' not in answer.text


def test_the_messages_are_in_the_language_of_the_reader(user):
    """German, with the field's own name."""
    answer = enters(user, "sendgrid", {"api_key": f'"{SENDGRID}"'}, **{"Accept-Language": "de"})

    assert "Anführungszeichen" in faults(answer)["api_key"]
    assert "API-Schlüssel" in answer.text


@pytest.mark.parametrize(
    ("provider", "fields"),
    [
        ("messagebird", {"access_key": "test_gshuPaZoeEG6ovbc8M79w0QyM"}),
        ("postmark", {"server_token": "POSTMARK_API_TEST"}),
        ("resend", {"api_key": "re_test_123456789012"}),
        ("twilio", None),
        ("aircall_key", {"api_id": "abc123", "api_token": "sk_test_abc123"}),
    ],
)
def test_a_key_of_the_test_mode_is_refused_as_such(gateway, user, provider, fields):
    """By its form, or by the words of the provider's refusal."""
    fields = fields or new_key(gateway.sandbox.state, provider, is_test=True)

    (said,) = faults(enters(user, provider, fields)).values()

    assert "test mode" in said
    assert [] == stored(gateway, user)


def test_the_host_of_a_provider_is_made_of_checked_fields_alone(gateway, user):
    """A field that is part of an address cannot lead the key elsewhere."""
    state, key = gateway.sandbox.state, made_up_key("activecampaign")
    asked = len(state.requests())
    for host in ("evil.example", "https://evil.example/acme.api-us1.com", "https://acme.api-us1.com@evil.example", "https://acme.api-us1.com.evil.example", "https://evil.example\\\\@acme.api-us1.com", "https:acme.api-us1.com", "acme.api-us1.com.evil.example", "acme.api-us1.com/x", "x@acme.api-us1.com", "ACME.api-us1.com", "127.0.0.1"):  # fmt: skip
        assert "account_host" in faults(enters(user, "activecampaign", key | {"account_host": host}))
    assert {"region"} == faults(enters(user, "mailgun", made_up_key("mailgun") | {"region": "evil.example"})).keys()
    assert asked == len(state.requests())


@pytest.mark.parametrize(
    ("provider", "field", "pasted"),
    [
        ("activecampaign", "account_host", "https://{}/"),
        ("activecampaign", "account_host", " HTTPS://{}/app/settings/developer?a=1#b\r\n"),
        ("freshsales", "bundle", "https://{}.myfreshworks.com/crm/sales/contacts/view/1"),
        ("braze", "instance", "https://rest.{}"),
        ("insightly", "pod", "https://crm.{}.insightly.com/list/contact/"),
        ("signalwire", "space", "http://{}.signalwire.com:443"),
        ("infobip", "base_host", "https://{}?x"),
    ],
)
def test_of_an_address_that_is_pasted_whole_the_part_that_is_asked_for_is_taken(gateway, user, provider, field, pasted):
    """As a browser or the provider's settings show it."""
    key = new_key(gateway.sandbox.state, provider)

    connected(gateway, user, enters(user, provider, key | {field: pasted.format(key[field])}))

    assert key[field] == stored(gateway, user)[0]["data"][field]


# -- who may ---------------------------------------------------------------------------------------------------------


def test_keys_can_be_tried_only_in_a_session(gateway, user):
    """Without a CSRF token, from another site, and after signing out: the provider is not asked."""
    key, asked = new_key(gateway.sandbox.state, "loops"), len(gateway.sandbox.state.requests("loops"))
    page = user.asks("loops")

    without_token = user.post("/email/loops/connect", key)
    from_elsewhere = enters(user, "loops", key, page, Origin="https://evil.example")
    rows(gateway.dsn, "delete from gateway.session where user_id = %s", user.id)
    ended = enters(user, "loops", key, page)

    assert [403, 403, 303] == [each.status_code for each in (without_token, from_elsewhere, ended)]
    assert "/login" in ended.headers["Location"]
    assert asked == len(gateway.sandbox.state.requests("loops"))
    assert [] == stored(gateway, user)


def test_a_key_of_another_account_waits_for_its_user(gateway, user):
    """As with OAuth: no keeps what is connected, and the new key is erased."""
    state = gateway.sandbox.state
    connection = connected(gateway, user, enters(user, "twilio", new_key(state, "twilio", ALICE)))
    (before,) = stored(gateway, user)

    question = enters(user, "twilio", new_key(state, "twilio", DESK))
    page = user.get(question.headers["Location"])
    assert "The key belongs to another" in page.text
    form = fields_in(page.text.split('<form id="confirm"')[1])
    told_no = user.post(question.headers["Location"], form | {"answer": "no"})

    assert "access_denied" == told(told_no)["error"]
    assert [before] == stored(gateway, user)
    assert connection == before["id"]
    assert [0] == rows(gateway.dsn, "select count(*) from gateway.revocation where user_id = %s", user.id)


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_partners_link_asks_for_a_key(gateway, signed_in):
    """
    A wrong key does not use the link up. Where no user is signed in, the partner's server says whose it is.
    """
    partner, person = new_partner(gateway), gateway.person()
    if signed_in:
        person.signs_in()
    link = partner.makes(person, "mailjet")

    assert faults(enters(person, "mailjet", made_up_key("mailjet"), person.get(link["url"])))
    ended = enters(person, "mailjet", new_key(gateway.sandbox.state, "mailjet"), person.get(link["url"]))
    result = told(ended)
    if not signed_in:
        assert [] == stored(gateway, person)
        done = partner.completes(result["connect_session"], person, result["confirmation"])
        assert 200 == done.status_code, done.text
        result = {"connection": done.json()["id"]}

    assert "Basic" == partner.token(result["connection"]).json()["token_type"]
    assert 400 == person.get(link["url"]).status_code


def test_a_link_of_another_user_asks_no_provider(gateway, user):
    """Another user is signed in."""
    link = new_partner(gateway).makes(gateway.person("Bob Marsh"), "kit_key")
    asked = len(gateway.sandbox.state.requests())
    page = user.get(link["url"])

    assert 403 == page.status_code
    assert 403 == user.post(link["url"].removeprefix(gateway.url), made_up_key("kit_key")).status_code
    assert asked == len(gateway.sandbox.state.requests())


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"fault": "status", "status": 503}, {"fault": "status", "status": 429}, {"fault": "reset"}, {"fault": "html_200"}])  # fmt: skip
def test_a_provider_that_is_down_says_nothing_about_a_key(gateway, acme, user, fault):
    """
    Connecting fails without storing anything, and a check leaves the connection as it is.
    """
    state = gateway.sandbox.state
    key = new_key(state, "instantly")
    name = fault.pop("fault")
    state.add_fault(name, "instantly", "userinfo", **fault)
    failed = enters(user, "instantly", key)
    assert told(failed)["error"] in ("provider_unavailable", "provider_garbled")
    assert [] == stored(gateway, user)

    connection = connected(gateway, user, enters(user, "instantly", key))
    state.add_fault(name, "instantly", "userinfo", **fault)
    assert check(acme, connection).status_code in (502, 504)
    assert 200 == acme.token(connection).status_code


@pytest.mark.parametrize(
    ("provider", "status", "body"),
    [
        ("instantly", 401, "<!DOCTYPE html><title>Just a moment...</title>"),
        ("aircall_key", 403, "\n<html>Attention Required! | Cloudflare</html>"),
        ("instantly", 403, '{"error":"this key lacks accounts:read"}'),
        ("instantly", 401, '{"error":"insufficient_scope"}'),
        ("sendgrid", 401, '{"errors":[{"message":"Missing scope: user.profile.read"}]}'),
        ("attio_key", 200, '{"error":"internal"}'),
        ("monday_key", 200, '{"errors":[{"message":"Complexity budget exhausted"}]}'),
        ("monday_key", 200, '{"errors":[{"extensions":{"code":"INTERNAL_SERVER_ERROR"}}],"data":null}'),
        ("whatsapp", 400, '{"error":{"type":"OAuthException","code":4,"is_transient":true}}'),
        ("whatsapp", 400, '{"error":{"type":"GraphMethodException","code":100}}'),
    ],
)
def test_only_a_response_that_says_so_ends_a_key(gateway, acme, user, provider, status, body):
    """A firewall's page, a missing permission, a limit and an error are none: nothing is stored, and what there is stays."""
    state = gateway.sandbox.state
    key = new_key(state, provider)
    state.add_fault("status", provider, "userinfo", status=status, body=body)
    enters(user, provider, key)
    assert [] == stored(gateway, user)

    connection = connected(gateway, user, enters(user, provider, key))
    state.add_fault("status", provider, "userinfo", status=status, body=body)
    check(acme, connection)
    assert ["active"] == rows(gateway.dsn, "select status from gateway.connection where id = %s", connection)
    assert 200 == acme.token(connection).status_code


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("bandwidth", '<?xml version="1.0"?><Error><Code>Unauthorized</Code></Error>'),
        ("salesflare", "<html><head><title>401 Authorization Required</title></head><hr>nginx</html>"),
        ("folk", "<!doctype html><title>HTTP Status 401 – Unauthorized</title>"),
        ("loops", "<h1>Invalid API key</h1>"),
        ("front_key", '{"error":"invalid_token","scope":"accounts:read"}'),
        ("kit_key", '{"message":"The token has expired","details":{"scope":"api"}}'),
        ("omnisend", ""),
    ],
)
def test_a_refusal_of_the_key_is_one_whatever_its_form(gateway, acme, user, provider, body):
    """
    XML and a page that says so are no firewall's, and a scope that is only named is not missing.
    """
    key = new_key(gateway.sandbox.state, provider)
    connection = connected(gateway, user, enters(user, provider, key))
    gateway.sandbox.state.add_fault("status", provider, "userinfo", 2, status=401, body=body)

    assert all("does not accept" in said for said in faults(enters(user, provider, key)).values())
    assert "needs_reauthorization" == check(acme, connection).json()["status"]


def retried(gateway, provider):
    ended = run_command(gateway.environ, "connections", "retry", "--provider", provider, "--json")
    counts = json.loads(ended.stdout)["counts"]
    assert ended.exit_code == (set(counts) != {"confirmed"})
    return counts


def test_many_keys_refused_at_once_are_held_until_the_provider_accepts_one(gateway, acme):
    """
    An incident of the provider, as with refreshes: the first ones come back too, and callers keep their keys. One key alone ends. The operator
    can let all be asked.
    """
    state = gateway.sandbox.state
    held = []
    for number in range(6):
        owner = gateway.person(f"Owner{number} Hill")
        owner.signs_in()
        held.append(connected(gateway, owner, enters(owner, "instantly", new_key(state, "instantly"))))
    rows(gateway.dsn, "delete from gateway.event where type = 'connection.checked'")
    state.add_fault("status", "instantly", "userinfo", 0, status=401, body='{"error":"Unauthorized"}')
    try:
        said = [check(acme, each).json()["status"] for each in held]
        assert ["needs_reauthorization"] * 4 + ["held"] * 2 == said
        assert ["held"] * 6 == statuses(acme, held)
        assert 200 == acme.token(held[0]).status_code
        assert "provider.incident" in gateway.log.read_text()
        assert "held" == check_again(gateway, acme, held[5])
        assert {"held": 6} == retried(gateway, "instantly")
    finally:
        state.faults.clear()
    assert {"confirmed": 6} == retried(gateway, "instantly")
    rows(
        gateway.dsn,
        "update gateway.connection set status = 'held', reason = 'provider_incident' where id = any (%s)",
        held,
    )

    assert "active" == check_again(gateway, acme, held[0])
    assert ["active"] * 6 == statuses(acme, held)


def test_an_incident_ends_no_key_that_was_not_asked_again_and_none_for_ever(gateway, acme):
    """
    A key that is refused after an incident says nothing about those that were held. A key that was refused for a week is no incident.
    """
    state, held = gateway.sandbox.state, []
    for number in range(5):
        owner = gateway.person(f"Owner{number} Marsh")
        owner.signs_in()
        held.append(connected(gateway, owner, enters(owner, "lemlist", new_key(state, "lemlist"))))
    rows(gateway.dsn, "delete from gateway.event where type = 'connection.checked'")
    state.add_fault("status", "lemlist", "userinfo", 0, status=401, body='{"error":"Unauthorized"}')
    week = "update gateway.connection set refused_since = refused_since - interval '8 days' where id = any (%s::uuid[])"
    try:
        for each in held:
            check(acme, each)
        rows(gateway.dsn, week, held[:1])
        assert "needs_reauthorization" == check_again(gateway, acme, held[0])
        rows(gateway.dsn, "delete from gateway.event where type = 'connection.checked'")
        rows(gateway.dsn, "update gateway.provider_incident set began_at = began_at - interval '2 hours'")
        assert "needs_reauthorization" == check_again(gateway, acme, held[1])
    finally:
        state.faults.clear()
    assert ["active"] * 3 == statuses(acme, held[2:])

    assert "active" == check_again(gateway, acme, held[2])
    said = "select refused_since is null from gateway.connection where id = any (%s::uuid[]) order by 1"
    assert [False, False, True] == rows(gateway.dsn, said, held[2:])


def statuses(partner, connections):
    return [partner.calls("GET", f"/v1/connections/{each}").json()["status"] for each in connections]


def check_again(gateway, partner, connection):
    """A check that comes more than a minute after the last one."""
    rows(gateway.dsn, "update gateway.connection set checked_at = null where id = %s", connection)
    return check(partner, connection).json()["status"]


def test_a_proxied_call_that_the_provider_refuses_returns_the_refusal(gateway, acme, user):
    """A 401 of one call ends no connection: only a check does."""
    state = gateway.sandbox.state
    connection = connected(gateway, user, enters(user, "apollo", new_key(state, "apollo")))
    state.add_fault("status", "apollo", "api", status=401)

    answer = acme.calls("GET", f"/v1/connections/{connection}/proxy/v1/x")

    assert (401, "401") == (answer.status_code, answer.headers.get("Gateway-Upstream-Status"))
    assert 200 == acme.token(connection).status_code


@pytest.mark.parametrize(
    ("provider", "status", "body", "said"),
    [
        ("loops", 400, '{"error":"Invalid API key"}', "does not accept this key"),
        ("lemlist", 422, "", "does not accept this key"),
        ("folk", 302, "", "does not accept this key"),
        ("smartlead", 404, '{"message":"Not found"}', "does not accept this key"),
        ("justcall", 400, "{}", "does not accept these values together"),
        ("freshsales", 404, "<html>No such account</html>", "has no account under these values"),
        ("infobip", 404, "{}", "has no account under these values"),
    ],
)
def test_a_refusal_that_is_no_401_is_beside_the_field_that_may_be_wrong(gateway, user, provider, status, body, said):
    """An account that is not there only where the user has entered one."""
    gateway.sandbox.state.add_fault("status", provider, "userinfo", status=status, body=body)

    (shown,) = faults(enters(user, provider, new_key(gateway.sandbox.state, provider))).values()

    assert said in shown
    assert [] == stored(gateway, user)


def test_a_long_list_verifies_a_key_too(gateway, user):
    """Some providers have no other call: what is not read may be long."""
    gateway.sandbox.state.add_fault(
        "status", "retell", "userinfo", status=200, body='[{"agent_id": "a"}]' + " " * 500_000
    )

    assert connected(gateway, user, enters(user, "retell", new_key(gateway.sandbox.state, "retell")))


def test_a_path_that_shows_secrets_is_not_proxied(gateway, acme, user):
    """Twilio's accounts contain their auth tokens; what is below an account is passed on."""
    key = new_key(gateway.sandbox.state, "twilio")
    connection = connected(gateway, user, enters(user, "twilio", key))

    def status(path):
        return acme.calls("GET", f"/v1/connections/{connection}/proxy/2010-04-01/{path}").status_code

    paths = ["Accounts.json", f"Accounts/{key['account_sid']}.json", "accounts/ACother.json", f"Accounts/{key['account_sid']}/Calls.json"]  # fmt: skip
    assert [403, 403, 403, 200] == [status(path) for path in paths]


def test_a_key_that_its_owner_wrote_is_verified_before_it_is_used(gateway, acme, user):
    """
    Plain text in `provider_data.token` is encrypted, and used once the provider has named the same account.
    """
    state = gateway.sandbox.state
    connection = connected(gateway, user, enters(user, "attio_key", new_key(state, "attio_key")))
    write = "update public.provider_data set token = %s where id = %s"

    rows(gateway.dsn, write, (newer := new_key(state, "attio_key"))["token"], connection)
    wait_for(lambda: acme.token(connection).json().get("access_token") == newer["token"])
    rows(gateway.dsn, write, made_up_key("attio_key")["token"], connection)
    wait_for(lambda: stored(gateway, user)[0]["data"]["status"] == "needs_reauthorization")

    assert stored(gateway, user)[0]["token"].startswith("gAAAA")


# -- fields before a redirect ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entered", [{}, {"area": ""}, {"area": "OAUTH"}, {"area": "evil.example"}, {"area": "oauth/../x"}]
)
def test_a_field_of_an_address_is_checked_before_the_redirect(gateway, user, entered):
    """The page comes back with the field named, and no attempt is kept."""
    assert {"area"} == faults(enters(user, "acme", entered)).keys()
    assert [0] == rows(gateway.dsn, "select count(*) from gateway.authorization_request where user_id = %s", user.id)


def test_a_field_of_an_address_is_remembered_with_the_connection(gateway, acme, user):
    """
    The redirect, the code, the refresh, the check, the API and the revocation go to the address of the user's account; it is filled in when
    the user connects again.
    """
    state = gateway.sandbox.state
    away = enters(user, "acme", {"area": "oauth"})
    assert away.headers["Location"].startswith(f"{gateway.sandbox.origin}/zoom/oauth/authorize?")
    connection = told(user.get(gateway.sandbox.consents(away.headers["Location"])))["connection"]

    (row,) = stored(gateway, user)
    assert "oauth" == row["data"]["area"]
    before = acme.token(connection).json()
    assert f"{gateway.sandbox.origin}/zoom/oauth" == before["api_base_url"]
    after = acme.calls("POST", f"/v1/connections/{connection}/refresh").json()
    assert after["access_token"] != before["access_token"]
    assert "active" == check(acme, connection).json()["status"]
    link = new_partner(gateway).makes(user, "acme")["url"]
    assert all('value="oauth"' in page.text for page in (user.asks("acme"), user.get(link)))
    assert 'value="oauth"' not in user.elsewhere().get(link).text
    user.disconnects(connection)
    assert any(each["known"] for each in state.revocations)


def test_a_choice_is_remembered_with_the_connection(gateway, user):
    """The region is chosen already when the user connects again."""
    connected(gateway, user, enters(user, "mailgun", new_key(gateway.sandbox.state, "mailgun")))

    (chosen,) = re.findall(r'<option value="([^"]*)"\s+selected', user.asks("mailgun").text)

    assert "api.eu.mailgun.net" == chosen


def test_a_partners_link_asks_for_the_field_too(gateway):
    """The link is used up by a form that is right."""
    partner, person = new_partner(gateway), gateway.person()
    person.signs_in()
    link = partner.makes(person, "acme")

    assert faults(enters(person, "acme", {"area": "?"}, person.get(link["url"])))
    away = enters(person, "acme", {"area": "oauth"}, person.get(link["url"]))

    assert told(person.get(gateway.sandbox.consents(away.headers["Location"])))["connection"]


# -- the setting -----------------------------------------------------------------------------------------------------


def test_a_name_in_gateway_enable_that_is_wrong_stops_the_start_with_its_fix():
    """A typing error, an OAuth provider, and something else."""
    environ = {"GATEWAY_KEYS": Fernet.generate_key().decode(), "GATEWAY_ENABLE": "Twilio, twillio,ghl,nothing-like-it"}

    _, problems = checked_catalog(read_settings(environ))

    assert [
        "GATEWAY_ENABLE names twillio, which is no provider with API keys: did you mean twilio?",
        "GATEWAY_ENABLE names ghl, which needs a registration: set GHL_CLIENT_ID instead.",
        "GATEWAY_ENABLE names nothing-like-it, which is no provider with API keys: `python -m gateway providers list` has their names.",
    ] == problems
