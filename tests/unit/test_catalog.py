"""The catalogue: what our entries claim, what an operator's file may say, and what stops the process."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from gateway.catalog import ENDPOINTS, TYPES, ApiKeyProvider, Provider, load_catalog
from gateway.catalog.provider import TokenPlacement
from gateway.errors import Forbidden, ProviderGarbled, SettingsRefused
from gateway.models import Client
from gateway.protocol.oauth import build_authorization_request
from gateway.proxy.request import check_target
from gateway.texts import read_texts

ROOT = Path(__file__).resolve().parents[2]

ACME = """
[acme]
name = "Acme Mail"
type = 2
docs_url = "https://acme.example/docs"
issuer = "https://login.acme.example"
authorization_endpoint = "https://login.acme.example/authorize"
token_endpoint = "https://login.acme.example/token"
revocation_endpoint = "https://login.acme.example/revoke"
userinfo_endpoint = "https://login.acme.example/me"
jwks_uri = "https://login.acme.example/jwks"
token_endpoint_auth_method = "client_secret_post"
scope = ["openid", "mail.read"]
scope_separator = " "
authorization_params = { prompt = "consent" }
pkce = "S256"
accounts = "one"
slug = "acme"
account = { id = "sub", label = "email" }
api_base_url = "https://api.acme.example"
headers = { Accept = "application/json" }
"""
SMALL = """
[acme_mail]
name = "Acme Mail"
type = 2
authorization_endpoint = "https://acme.example/authorize"
token_endpoint = "https://acme.example/token"
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str, name: str = "own.toml", **named):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_catalog(tmp_path, **named)

    return load


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        *[
            ("twilio", f"/2010-04-01/Accounts{rest}")
            for rest in (".json", "", "/AC1", "/AC1.xml", "/AC1.csv", ".JSON?x=1")
        ],
        *[("aircall_key", "/webhooks"), ("aircall_key", "/webhooks/1"), ("mailjet", "/REST/apikey/1")],
        *[("campaign_monitor_key", "/clients/1.xml"), ("campaign_monitor_key", "/apikey.xml")],
        *[("campaign_monitor", "/clients/1.xml"), ("postmark", "/servers/1"), ("resend", "/api-keys/1")],
    ],
)
def test_the_proxy_calls_no_path_whose_response_holds_keys(ours, provider, path):
    """
    In whatever format: a key of a sub-account is one that the caller must not have.
    """
    with pytest.raises(Forbidden):
        check_target(ours.named[provider], path)


def test_paths_beside_those_are_called(ours):
    for provider, path in (("twilio", "/2010-04-01/Accounts/AC1/Messages.json"), ("campaign_monitor", "/clients.json")):
        check_target(ours.named[provider], path)


def test_the_documented_file_asks_for_one_version_of_an_app_in_the_same_tab(load):
    """
    In the white-label entry, whose other keys stay.
    """
    section = (ROOT / "docs" / "highlevel.md").read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    entry = load(textwrap.dedent(section)).entries["ghl_white_label"]
    given = {"redirect_uri": "https://connect.example/crm/partner/callback", "state": "s", "code_verifier": "v" * 43}
    query = parse_qs(urlsplit(build_authorization_request(entry, Client("c"), **given, nonce="n")).query)

    assert (["64a000000000000000000009"], ["self"]) == (query["version_id"], query["loginWindowOpenMode"])
    assert ("Client portal", "partner", True) == (entry.name, entry.public_id, entry.white_label)


@pytest.fixture
def problems(load):
    def problems(text: str, **named) -> str:
        with pytest.raises(SettingsRefused) as refused:
            load(text, **named)
        return "\n".join(refused.value.problems)

    return problems


# -- our own entries -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours():
    return load_catalog()


def test_our_entries_are_the_promised_ones(ours):
    """
    HighLevel alone is of type 1; e-mail, phone and other apps have sixty more providers.
    """
    types = {number: {each.id for each in ours.providers.values() if each.type == number} for number in TYPES}

    assert {"ghl", "ghl_white_label"} == types[1]
    assert {"google", "microsoft", "yahoo", "mailchimp", "klaviyo"} < types[2]
    assert {"ringcentral", "zoom", "dialpad", "webex", "outreach"} < types[3]
    assert {"hubspot", "salesforce", "pipedrive", "zoho_crm", "monday"} < types[4]
    assert (20, 19, 25) == tuple(len(types[number]) for number in (2, 3, 4))


def test_none_of_our_entries_needs_discovery(ours):
    """
    A connect page opens without a network call.
    """
    assert all(() == provider.missing_endpoints() for provider in ours.providers.values())


def test_every_scope_that_we_ask_for_is_explained_to_the_user(ours):
    """
    The catalogue explains a provider's own scopes; OpenID Connect's are explained once, by the texts of the pages.
    """
    openid = {key.removeprefix("scope.") for key in read_texts()["en"] if key.startswith("scope.")}
    asked = {provider.id: set(provider.scope) - set(provider.scope_texts) for provider in ours.providers.values()}

    assert {} == {name: scopes - openid for name, scopes in asked.items() if scopes - openid}


@pytest.mark.parametrize("provider_id", ["ghl", "ghl_white_label"])
def test_highlevel_is_as_its_documentation_says(ours, provider_id):
    """
    Form-posted credentials, a mandatory Version, `user_type`, no PKCE, no RFC 7009, refresh tokens of a year.
    """
    found = ours.providers[provider_id]

    host = {"ghl": "gohighlevel", "ghl_white_label": "leadconnectorhq"}[provider_id]
    assert f"https://marketplace.{host}.com/v2/oauth/chooselocation" == found.authorization_endpoint
    assert "https://services.leadconnectorhq.com/oauth/token" == found.token_endpoint
    assert "https://services.leadconnectorhq.com" == found.api_base_url
    assert ("client_secret_post", "none", None) == (
        found.token_endpoint_auth_method,
        found.pkce,
        found.revocation_endpoint,
    )
    assert ({"Version": "2021-07-28"}, {"user_type": "Location"}) == (found.headers, found.token_params)
    assert (" ", 365 * 86_400, "one") == (found.scope_separator, found.refresh_token_seconds, found.accounts)
    assert {"loginWindowOpenMode": "self"} == found.authorization_params
    assert {"userType", "companyId", "locationId", "userId"} <= set(found.facts)


def test_no_redirect_uri_of_highlevel_mentions_highlevel(ours):
    """
    The portal refuses to save one that does; the documented paths are fixed.
    """
    paths = [f"/{entry.path}/{entry.slug}/callback" for entry in ours.providers.values() if entry.type == 1]

    assert ["/crm/main/callback", "/crm/partner/callback"] == sorted(paths)
    for path in paths:
        assert not any(word in path for word in ("highlevel", "ghl", "leadconnector", "hl"))


def test_gmail_asks_for_what_brings_a_refresh_token(ours):
    """
    Without access_type=offline there is none, and without prompt=consent none the second time.
    """
    found = ours.providers["google"]

    assert {"access_type": "offline", "prompt": "consent"} == found.authorization_params
    assert "https://accounts.google.com" == found.issuer
    assert "https://accounts.google.com/o/oauth2/v2/auth" == found.authorization_endpoint
    assert "https://oauth2.googleapis.com/token" == found.token_endpoint
    assert "https://oauth2.googleapis.com/revoke" == found.revocation_endpoint
    assert "https://openidconnect.googleapis.com/v1/userinfo" == found.userinfo_endpoint
    assert ("openid", "email", "profile", "https://www.googleapis.com/auth/gmail.send") == found.scope
    assert (("sub",), "email", "S256", True) == (found.account.id, found.account.label[0], found.pkce, found.openid)


def test_ringcentral_is_as_its_documentation_says(ours):
    """
    Basic credentials, no scope parameter, PKCE, seven days, and an account that two ids make together.
    """
    found = ours.providers["ringcentral"]
    base = "https://platform.ringcentral.com"

    assert f"{base}/restapi/oauth/authorize" == found.authorization_endpoint
    assert f"{base}/restapi/oauth/token" == found.token_endpoint
    assert f"{base}/restapi/oauth/revoke" == found.revocation_endpoint
    assert f"{base}/restapi/v1.0/account/~/extension/~" == found.userinfo_endpoint
    assert ("client_secret_basic", (), "S256") == (found.token_endpoint_auth_method, found.scope, found.pkce)
    assert (("account.id", "id"), ("name", "contact.email")) == (found.account.id, found.account.label)
    assert (7 * 86_400, base) == (found.refresh_token_seconds, found.api_base_url)


def test_microsoft_is_as_its_documentation_says(ours):
    """
    Every tenant by `common`: the issuer is a pattern, tenant and object make the account, nothing revokes one grant.
    """
    found = ours.providers["microsoft"]
    base = "https://login.microsoftonline.com/common"

    assert f"{base}/oauth2/v2.0/authorize" == found.authorization_endpoint
    assert f"{base}/oauth2/v2.0/token" == found.token_endpoint
    assert "https://graph.microsoft.com/v1.0/me" == found.userinfo_endpoint
    assert (None, None) == (found.issuer, found.revocation_endpoint)
    assert "{tenantid}" in found.issuer_pattern
    assert {"openid", "profile", "email", "offline_access", "User.Read", "Mail.ReadWrite", "Mail.Send"} == set(
        found.scope
    )
    assert (("tid", "oid"), ("mail", "userPrincipalName")) == (found.account.id, found.account.label[:2])
    assert ({"response_mode": "query"}, 90 * 86_400) == (found.authorization_params, found.refresh_token_seconds)


def test_zoom_is_as_its_documentation_says(ours):
    """
    Basic credentials, scopes fixed on the app, a user within an account, and a regional host to keep.
    """
    found = ours.providers["zoom"]

    assert ("https://zoom.us/oauth/authorize", "https://zoom.us/oauth/token") == (
        found.authorization_endpoint,
        found.token_endpoint,
    )
    assert ("https://zoom.us/oauth/revoke", "https://api.zoom.us/v2/users/me") == (
        found.revocation_endpoint,
        found.userinfo_endpoint,
    )
    assert ("client_secret_basic", "S256", ()) == (found.token_endpoint_auth_method, found.pkce, found.scope)
    assert ({"account_id", "id"}, "email") == (set(found.account.id), found.account.label[0])
    assert {"api_url": "https://api-us.zoom.us"} == found.learn("response", {"api_url": "https://api-us.zoom.us"})
    assert {} == found.learn("response", {"api_url": "https://zoom.us.evil.example"})


# -- an operator's own -----------------------------------------------------------------------------------------------


def test_the_documented_example_loads_as_it_stands(load):
    """
    Every key of the contract's example is known, and means what it says there.
    """
    acme = load(ACME).entries.get("acme")

    assert ("Acme Mail", 2, "email", "acme") == (acme.name, acme.type, acme.path, acme.slug)
    assert (("openid", "mail.read"), {"prompt": "consent"}) == (acme.scope, acme.authorization_params)
    assert (("sub",), ("email",)) == (acme.account.id, acme.account.label)
    assert ("client_secret_post", {"Accept": "application/json"}) == (acme.token_endpoint_auth_method, acme.headers)


def test_a_small_entry_gets_safe_defaults(load):
    """
    PKCE on, one account, the secret in the header, and a slug that is the id.
    """
    acme = load(SMALL).entries.get("acme_mail")

    assert ("S256", "one", "client_secret_basic") == (acme.pkce, acme.accounts, acme.token_endpoint_auth_method)
    assert "acme_mail" == acme.slug


def test_one_of_our_entries_is_overridden_key_by_key(load):
    """
    What the operator does not mention stays ours.
    """
    google = load('[google]\nscope = ["openid"]\naccounts = "many"\n').entries.get("google")

    assert (("openid",), "many") == (google.scope, google.accounts)
    assert "https://oauth2.googleapis.com/token" == google.token_endpoint


def test_a_provider_is_found_by_the_path_of_its_redirect_uri(load):
    """
    One redirect URI a provider; the type is part of it.
    """
    catalog = load(SMALL)

    assert "ghl" == catalog.by_slug["crm", "main"].id
    assert ["ghl", "ghl_white_label"] == sorted(each.id for each in catalog.entries.values() if each.type == 1)
    assert catalog.by_slug.get(("email", "main")) is None
    assert catalog.by_slug.get(("crm", "ghl")) is None
    assert catalog.entries.get("nobody") is None


def test_two_providers_cannot_share_a_redirect_uri(problems):
    """
    RFC 9700 section 4.4.2: the redirect URI distinguishes them.
    """
    told = problems(SMALL + 'slug = "google"\n')

    assert "own.toml" in told
    assert "google" in told


def test_the_same_slug_in_another_type_is_another_redirect_uri(load):
    """
    `/crm/google` and `/email/google` cannot be mixed up.
    """
    assert load(SMALL.replace("type = 2", "type = 1") + 'slug = "google"\n').by_slug["crm", "google"].id == "acme_mail"


def test_with_an_issuer_endpoints_may_be_left_to_discovery(load):
    """
    Then they are filled in when the provider is first used.
    """
    acme = load(
        '[acme]\nname = "Acme"\ntype = 3\nissuer = "https://acme.example"\nscope = "openid calls"\n'
    ).entries.get("acme")

    assert ("openid", "calls") == acme.scope
    assert ("authorization_endpoint", "token_endpoint", "jwks_uri") == acme.missing_endpoints()


# -- what stops the process ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('colour = "red"', "colour"),
        ('pkce = "plain"', "pkce"),
        ("pkce = false", "pkce"),
        ("state = false", "state"),
        ("iss = false", "iss"),
        ('accounts = "some"', "accounts"),
        ('scope_separator = ";"', "scope_separator"),
        ('token_endpoint_auth_method = "tls_client_auth"', "token_endpoint_auth_method"),
        ('quirks = "no_such_quirk"', "quirks"),
        ('scope = ["two words"]', "scope"),
        ('slug = "../callback"', "slug"),
        ('slug = "A"', "slug"),
        ("account = { id = [] }", "account"),
        ('account = { name = "x" }', "account"),
        ("refresh_token_seconds = 0", "refresh_token_seconds"),
        ('headers = { Authorization = "Bearer x" }', "Authorization"),
        ('headers = { Cookie = "a=b" }', "Cookie"),
        ('headers = { "X-Bad" = "a\\r\\nB: c" }', "X-Bad"),
        ('id = "other"', "id"),
        ('like = "nobody"', "like"),
        ('like = ["google"]', "like"),
        ("like = 5", "like"),
    ],
)
def test_an_unfit_key_is_refused_with_file_and_key(problems, line, key):
    """
    No key switches `state` or `iss` off, none weakens PKCE, and a typing error is not ignored.
    """
    told = problems(SMALL + line + "\n")

    assert "own.toml" in told
    assert "[acme_mail]" in told
    assert key in told


@pytest.mark.parametrize(
    "name",
    [
        "state",
        "nonce",
        "client_id",
        "redirect_uri",
        "response_type",
        "code_challenge",
        "code_challenge_method",
        "scope",
        "uri",
    ],
)
def test_what_the_gateway_makes_cannot_be_set_in_the_authorization_request(problems, name):
    """
    A fixed state or challenge would undo the protection; a second scope would be a repeated parameter.
    """
    assert name in problems(SMALL + f'authorization_params = {{ {name} = "fixed" }}\n')


@pytest.mark.parametrize(
    "name",
    [
        *("grant_type", "code", "redirect_uri", "code_verifier", "client_id", "client_secret", "refresh_token", "body"),
        *("client_assertion", "client_assertion_type"),
    ],
)
def test_what_the_gateway_makes_cannot_be_set_in_the_token_request(problems, name):
    """
    RFC 6749 section 3.2: no parameter comes twice, and a fixed verifier is none.
    """
    assert name in problems(SMALL + f'token_params = {{ {name} = "fixed" }}\n')


@pytest.mark.parametrize("key", ["authorization_endpoint", "token_endpoint"])
def test_a_missing_endpoint_is_named(problems, key):
    """
    Without an issuer there is nothing to discover it from.
    """
    text = "\n".join(line for line in SMALL.splitlines() if not line.startswith(key))

    assert key in problems(text)


def test_openid_without_an_issuer_needs_the_keys(problems, load):
    """
    An id_token that cannot be verified is not requested.
    """
    assert "jwks_uri" in problems(SMALL + 'scope = ["openid"]\n')
    assert load(SMALL + 'scope = ["openid"]\njwks_uri = "https://acme.example/jwks"\n').entries.get("acme_mail")


@pytest.mark.parametrize("key", [*ENDPOINTS, "issuer", "api_base_url"])
def test_plain_http_is_refused_but_for_loopback_where_the_operator_allows_it(problems, load, key):
    """
    Codes, secrets and keys do not travel in the clear.
    """
    table = "\n".join(line for line in SMALL.splitlines() if not line.startswith(key))

    assert key in problems(f'{table}\n{key} = "http://acme.example/x"\n')
    assert key in problems(f'{table}\n{key} = "http://acme.example/x"\n', allow_private_hosts=True)
    assert key in problems(f'{table}\n{key} = "http://localhost:9000/x"\n')
    assert load(f'{table}\n{key} = "http://localhost:9000/x"\n', allow_private_hosts=True)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example",
        "//a.example",
        "https://a@b.example",
        "https://a.example/#x",
        "https://",
        "https:///x",
        "javascript:1",
        "https://a b",
    ],
)
def test_what_is_no_web_address_is_refused(problems, url):
    """
    Also one without a host, and one that hides its host behind an @.
    """
    assert "token_endpoint" in problems(SMALL.replace("https://acme.example/token", url))


@pytest.mark.parametrize("provider_id", ["Acme", "1acme", "ac-me", '"ac.me"', "_acme", "a" * 41])
def test_an_id_is_a_plain_lower_case_word(problems, provider_id):
    """
    It is part of settings' names, URLs and rows.
    """
    assert "own.toml" in problems(SMALL.replace("[acme_mail]", f"[{provider_id}]"))


def test_all_problems_of_all_files_are_reported_at_once(load, tmp_path):
    """
    The operator mends everything in one go; a file that is no TOML does not hide the others.
    """
    (tmp_path / "a.toml").write_text("this is not toml")
    (tmp_path / "b.toml").write_text('\ufeffname = "outside"\n')
    (tmp_path / "d.toml").write_text(f"x = {'[' * 3000}{']' * 3000}")
    (tmp_path / "e.toml").write_text("[acme]\n", encoding="utf-16")

    with pytest.raises(SettingsRefused) as refused:
        load("[acme]\ntype = 4\n[brave]\nname = 'x'\n", "c.toml")

    told = "\n".join(refused.value.problems)
    for part in ("a.toml", "d.toml", "e.toml", "b.toml: name", "c.toml: [acme]", "c.toml: [brave]", "type"):
        assert part in told


def test_a_provider_cannot_be_changed_once_it_was_judged(ours):
    """
    Nothing that outlives a request holds request data.
    """
    with pytest.raises(ValidationError):
        ours.providers["ghl"].pkce = "S256"


def test_each_type_has_a_neutral_path_of_its_own():
    """
    The owner's three types.
    """
    assert {1: "crm", 2: "email", 3: "phone", 4: "apps"} == TYPES
    assert {"crm", "email", "phone", "apps"} == {
        Provider(id="a", name="A", type=kind, issuer="https://a.example").path for kind in TYPES
    }


STRIPES = (
    '[stripes]\nauth = "api_key"\nname = "Stripes"\ntype = 2\napi_base_url = "https://api.stripes.example"\n'
    'userinfo_endpoint = "https://{region}.stripes.example/v1/account"\naccount = { id = "{key_id}" }\n'
    'fields.region = { label = "Region" }\n'
    'fields.key = { label = "API key", secret = true, pattern = "(?P<key_id>[a-z]{4})[0-9]{8}" }\n'
)


def test_an_entry_for_api_keys_says_what_is_entered_and_how_it_is_sent(load):
    """
    It has no endpoints of OAuth. A named group of a pattern is public, as are the fields that are no secret.
    """
    catalog = load(STRIPES)
    entry = catalog.entries.get("stripes")
    values = {"region": "eu", "key": "abcd12345678"}

    assert isinstance(entry, ApiKeyProvider)
    assert "stripes" not in catalog.providers
    assert {"region": "eu", "key_id": "abcd"} == entry.public_values(values)
    assert "abcd12345678" == entry.credential_of(values)


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("secret = true, ", "", "secret = true"),
        ("{key_id}", "{key}", "{key}"),
        ("https://{region}", "https://{key}", "{key}"),
        ("https://{region}", "https://{place}", "{place}"),
        ('pattern = "(', 'pattern = "((', "regular expression"),
        ('auth = "api_key"', 'auth = "api_key"\ncredential = "{user}:{key}"', "{user}"),
        ('auth = "api_key"', 'auth = "api_key"\nscope = ["all"]', "scope"),
        ('"Region" }', '"Region", secret = true }', "credential is missing"),
        ("userinfo_endpoint", "#", "userinfo_endpoint"),
        ("fields.region", "fields.csrf", "csrf"),
    ],
)
def test_an_entry_for_api_keys_that_cannot_work_is_refused_with_the_reason(problems, written, instead, told):
    """
    Nothing to enter, a secret that would get into an address or an account, a name that is no field.
    """
    assert written in STRIPES
    assert told in problems(STRIPES.replace(written, instead, 1))


@pytest.mark.parametrize(
    ("line", "told"),
    [('auth = "magic"', "auth"), ('auth = "api_key"\ntoken_endpoint = "https://a.example/t"', "token_endpoint")],
)
def test_how_an_entry_authenticates_decides_which_keys_it_has(problems, line, told):
    """
    A key of another kind of entry is a mistake.
    """
    assert told in problems(f'[stripes]\nname = "Stripes"\ntype = 2\n{line}\n')


def test_a_token_is_placed_where_the_catalogue_says():
    """
    A header with a prefix, Basic (RFC 7617), or a query parameter, encoded and beside the caller's.
    """
    assert TokenPlacement().headers("t") == {"Authorization": "Bearer t"}
    assert TokenPlacement(prefix="Zoho-oauthtoken ").headers("t") == {"Authorization": "Zoho-oauthtoken t"}
    assert TokenPlacement(header="X-Shopify-Access-Token", prefix="").headers("t") == {"X-Shopify-Access-Token": "t"}
    assert TokenPlacement(basic=True).headers("user:päss") == {"Authorization": "Basic dXNlcjpww6Rzcw=="}
    assert TokenPlacement(query="key").headers("t") == {}
    assert TokenPlacement(query="key").url("https://api.example/a", "t/&") == "https://api.example/a?key=t%2F%26"
    assert TokenPlacement(query="key").url("https://api.example/a?b=1", "t") == "https://api.example/a?b=1&key=t"
    assert TokenPlacement().url("https://api.example/a", "t") == "https://api.example/a"


# -- addresses that differ between accounts ---------------------------------------------------------------------------

NAMED_ADDRESSES = [
    ("zoho_crm", "accounts_server", "callback", ["https://accounts.zoho.eu", "https://accounts.zohocloud.ca"]),
    ("kommo", "referer", "callback", ["northwind.kommo.com"]),
    ("zoho_crm", "api_domain", "response", ["https://www.zohoapis.eu", "https://www.zohoapis.com.au"]),
    ("salesforce", "instance_url", "response", ["https://northwind.my.salesforce.com", "https://na1.salesforce.com"]),
    ("pipedrive", "api_domain", "response", ["https://northwind.pipedrive.com"]),
    ("gong", "api_base_url_for_customer", "response", ["https://us-1234.api.gong.io", "https://api.gong.io"]),
    ("mailchimp", "dc", "response", ["us6", "us21"]),
    ("superoffice", "webapi_url", "response", ["https://online3.superoffice.com:443/Cust12345/api/"]),
]
HOSTILE = ["{0}.evil.example", "https://evil.example/{0}", "{0}@evil.example", "{0}/..", "{0}#", "{0}?x", "{0}\n", " {0}", "evil.example", "http://127.0.0.1"]  # fmt: skip


@pytest.mark.parametrize(("provider", "name", "source", "good"), NAMED_ADDRESSES)
def test_an_address_that_a_provider_names_is_one_of_its_own(ours, provider, name, source, good):
    """
    The code, tokens and the client secret are sent there.
    """
    entry = ours.providers[provider]
    field = entry.values[name].field or name

    assert [{name: value} for value in good] == [entry.learn(source, {field: value}) for value in good]
    for value in [form.format(value) for form in HOSTILE for value in good]:
        assert name not in entry.known({name: value}) or entry.known({name: value})[name] != value
        with pytest.raises(ProviderGarbled):
            entry.learn(source, {field: value})


def test_the_form_of_every_provider_may_end_where_it_leads(ours):
    """
    A host that depends on the account is no source in a Content-Security-Policy, unless its first labels alone are unknown.
    """
    lacking = {
        provider.id
        for provider in ours.providers.values()
        if re.sub(r"\{\w+\}", "*", provider.authorization_endpoint).split("/")[2].rfind("*") > 0
        and not provider.login_origins
    }

    assert lacking == set()


@pytest.mark.parametrize("provider", ["klaviyo", "outreach"])
def test_discovery_is_off_where_another_service_publishes_there(ours, provider):
    """
    Their well-known documents describe servers for staff, with other endpoints.
    """
    entry = ours.providers[provider]

    assert (False, None) == (entry.discovery, entry.issuer)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('token_endpoint = "https://{host}/token"\n', "host is in braces"),
        ('values.host = { pattern = "(" }\n', "is no regular expression"),
        ('values.account = { pattern = "a" }\n', "account is the name of something else"),
        ('api_base_url = "{host}/api"\nvalues.host = { pattern = "http://.*" }\n', "plain http"),
    ],
)
def test_a_wrong_address_of_an_operators_entry_prevents_the_start(load, table, message):
    """
    The message names file and key.
    """
    lines = SMALL.splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in table]

    with pytest.raises(SettingsRefused, match=message):
        load("\n".join([*kept, table]))
