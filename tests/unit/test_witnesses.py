"""
The catalogue against its witnesses: what independent sources say about each provider.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from gateway.catalog import ApiKeyProvider, load_catalog
from gateway.catalog.provider import AccountRule, FormField, LearnedValue, TokenPlacement
from gateway.catalog.witnesses import WITNESSES, status
from gateway.sandbox.generic import TABLES
from gateway.sandbox.sample import sample

ENTRIES, PROVIDERS = load_catalog().entries, load_catalog().providers
KEYS = sorted((ENTRIES.keys() - PROVIDERS) & WITNESSES.keys())
DOCS = Path(__file__).parents[2] / "docs"
GATEWAY = Path(__file__).parents[2] / "gateway"
HABITS = {"unknown": "rotates", "rotates-old-valid": "old_valid"}
"""How the sandbox simulates what sources say; of what is unknown, the strictest."""


def is_same(ours, theirs):
    """Parts in braces stand for anything within a host or a path."""
    if ours is None or theirs is None:
        return ours is theirs
    pattern = re.sub(r"\\\{[a-z_]+\\\}", "[^/]+(?://[^/]+)?", re.escape(ours))
    return re.fullmatch(pattern, re.sub(r"\{[A-Za-z_]+\}", "x", theirs)) is not None


def is_same_form(ours, theirs):
    """Whether what one regular expression describes matches the other too, by a hundred texts of each."""
    source = random.Random(1)
    return all(
        re.fullmatch(other, sample(each, source))
        for each, other in ((ours, theirs), (theirs, ours))
        for _ in range(100)
    )


def are_same_forms(ours, theirs):
    """Forms that no source describes are free."""
    return ours.keys() >= theirs.keys() and all(
        is_same_form(ours[name].pattern.pattern, form) for name, form in theirs.items() if form
    )


def common_differences(entry, witness):
    """The keys of any entry that are not what the witnesses say, but for its addresses."""
    first, *others = witness.get("key", "Authorization: Bearer {token}").split("; ")
    headers = dict(witness.get("headers", {})) | dict(header.split(": ", 1) for header in others)
    fields = witness.get("fields", {})
    agrees = {
        "placement": first == sent(entry),
        "headers": dict(entry.headers) == headers,
        "fields": entry.fields.keys() == fields.keys() and are_same_forms(entry.fields, fields),
    }
    return {name for name, same in agrees.items() if not same}


def differences(entry, witness):
    """The keys of an OAuth entry that are not what the witnesses say."""
    urls = ("authorization_endpoint", "token_endpoint", "revocation_endpoint", "userinfo_endpoint", "api_base_url")
    methods = ("token_endpoint_auth_method", "refresh_auth_method", "scope_separator")
    lifetime = None if witness["rotation"] == "none" else witness.get("refresh_seconds") or None
    asked = {"response_type": entry.response_type} if entry.response_type != "code" else {}
    asked |= entry.authorization_params
    agrees = {name: is_same(getattr(entry, name), witness.get(name)) for name in urls}
    agrees |= {name: getattr(entry, name) == witness.get(name) for name in methods}
    agrees |= {
        "pkce": (entry.pkce == "none") is (witness["pkce"] == "off"),
        "replay_seconds": entry.replay_seconds == witness.get("replay_seconds", 0),
        "refresh_token_seconds": entry.refresh_token_seconds == lifetime,
        "access_token_seconds": "access_seconds" not in witness or not entry.access_token_seconds,
        "scope": set(entry.scope) == set(witness["scope"]),
        "account": entry.account.id == tuple(witness.get("account_id", ())),
        "authorization_params": asked == witness.get("authorization_params", {}),
        "json_token_requests": entry.json_token_requests is (witness.get("token_body") == "json"),
        "userinfo_token_placement": "userinfo_key" not in witness
        or witness["userinfo_key"] == sent(entry, for_account=True),
        "values": are_same_forms(entry.values, witness.get("learned", {})),
    }
    return common_differences(entry, witness) | {name for name, same in agrees.items() if not same}


@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() & WITNESSES))
def test_an_entry_says_what_its_witnesses_say_or_why_not(provider):
    """
    Endpoints, the base of the API, scope and separator, client authentication, PKCE, lifetimes, parameters, headers, what users enter, the
    hosts that the provider may name, where the token is sent, and which account it is.
    """
    assert differences(PROVIDERS[provider], WITNESSES[provider]) == set(PROVIDERS[provider].differs)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("authorization_endpoint", "https://oauth.pipedrive.com/oauth/authorise"),
        ("token_endpoint", "https://oauth.pipedrive.com.evil.example/oauth/token"),
        ("revocation_endpoint", None),
        ("userinfo_endpoint", "{api_domain}/api/v1/users"),
        ("api_base_url", "{api_domain}/v1"),
        ("token_endpoint_auth_method", "client_secret_post"),
        ("refresh_auth_method", "none"),
        ("scope_separator", ","),
        ("pkce", "none"),
        ("replay_seconds", 10),
        ("refresh_token_seconds", 86400),
        ("access_token_seconds", 60),
        ("account", AccountRule(id=("data.id",))),
        ("scope", ("base",)),
        ("headers", {"Version": "1"}),
        ("authorization_params", {"prompt": "login"}),
        ("response_type", "auth_code"),
        ("json_token_requests", True),
        ("token_placement", TokenPlacement(prefix="Token ")),
        ("fields", {"host": FormField(label="Host")}),
        ("values", {"api_domain": LearnedValue(pattern=r"https://[a-z0-9-]+\.pipedrive\.(com|eu)")}),
    ],
)
def test_a_wrong_fact_of_an_entry_is_noticed(key, wrong):
    """
    Each kind of fact, changed in an entry that agrees with its witnesses.
    """
    entry, witness = PROVIDERS["pipedrive"], WITNESSES["pipedrive"] | {"pkce": "ok", "scope": []}

    assert differences(entry, witness) == set()
    noticed = {"response_type": "authorization_params", "token_placement": "placement"}.get(key, key)
    assert differences(entry.model_copy(update={key: wrong}), witness) == {noticed}


@pytest.mark.parametrize("provider", KEYS)
def test_an_entry_with_keys_says_what_its_witnesses_say_or_why_not(provider):
    """
    Where the key is sent, further headers, what users enter, the call that verifies it, the base URL, and which account it is.
    """
    entry, witness = ENTRIES[provider], WITNESSES[provider]

    assert common_differences(entry, witness) == set(entry.differs) - {"account"}
    assert is_same(entry.userinfo_endpoint, witness["userinfo_endpoint"])
    assert is_same(entry.api_base_url, witness["api_base_url"])
    if "account" not in entry.differs:
        named = tuple(witness.get("account_id", ()))
        assert entry.account.id == named if named else all("{" in path for path in entry.account.id)


def sent(entry, *, for_account=False):
    """Where the token or key is sent, as witnesses say it."""
    placement = (entry.userinfo_token_placement if for_account else None) or entry.token_placement
    is_key = isinstance(entry, ApiKeyProvider)
    credential = (entry.credential or f"{{{entry.secrets[0]}}}") if is_key else "{token}"
    if placement.query:
        return f"query {placement.query}={credential}"
    return f"Basic {credential}" if placement.basic else f"{placement.header}: {placement.prefix}{credential}"


@pytest.mark.parametrize("provider", sorted(TABLES.keys() & WITNESSES))
def test_the_sandbox_does_to_tokens_what_the_witnesses_say(provider):
    """
    Rotation and lifetime.
    """
    table, witness = TABLES[provider], WITNESSES[provider]

    assert table["refresh"] == HABITS.get(witness["rotation"], witness["rotation"])
    assert table.get("access_seconds", 0) == witness.get("access_seconds", 0)


def test_every_witness_has_a_provider_and_an_entry_without_one_is_unsure():
    assert WITNESSES.keys() <= ENTRIES.keys()
    assert {"unsure"} >= {status(ENTRIES[name]) for name in ENTRIES.keys() - WITNESSES}
    assert f"{len(ENTRIES)} of them have an entry" in (DOCS / "providers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("close", "verified"),
        ("pipedrive", "documented"),
        ("zoom", "documented"),
        ("campaign_monitor", "documented"),
        ("lemlist", "documented"),
        ("hubspot", "documented"),
        ("phoneburner", "unsure"),
        ("vonage_business", "documented"),
        ("twilio", "verified"),
        ("keap_key", "documented"),
        ("agilecrm", "unsure"),
    ],
)
def test_the_status_of_an_entry_follows_from_its_witnesses(provider, expected):
    """
    Two independent sources that agree, or the provider's own documents, or neither.
    """
    assert expected == status(ENTRIES[provider])


def test_an_endpoint_that_the_operator_changed_is_unsure():
    changed = PROVIDERS["pipedrive"].model_copy(update={"token_endpoint": "https://oauth.example/token"})

    assert status(changed) == "unsure"


def test_no_name_of_a_provider_is_outside_catalogue_and_sandbox():
    """
    Not in the flow, its pages and scripts, the commands or the database.
    """
    names = {*ENTRIES, "highlevel", "gohighlevel", "leadconnector"}
    common = {"front", "close", "drip", "kit"}
    files = [file for file in GATEWAY.rglob("*") if file.suffix in (".py", ".sql", ".js")]
    files = [file for file in files if not {"catalog", "sandbox", "texts"} & set(file.relative_to(GATEWAY).parts)]
    for file in (*files, *GATEWAY.with_name("templates").rglob("*.html")):
        text = re.sub(r"(?m)^ \* .*|examples=\[.*?\]", "", file.read_text(encoding="utf-8"))
        words = set(re.findall(r"[\"']([a-z][a-z0-9_]*)[\"']", text))
        assert not words & names - common, file
