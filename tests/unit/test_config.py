"""Settings: judged once and together, their secrets shown nowhere."""

from __future__ import annotations

import base64
import hmac
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from pydantic import ValidationError

from gateway import create_app
from gateway.errors import SettingsRefused
from gateway.services import checked_catalog
from gateway.settings import (
    SECRETS,
    forget_secrets,
    is_loopback,
    near_misses,
    process_environment,
    read_settings,
)

KEY = Fernet.generate_key().decode()
OLDER_KEY = Fernet.generate_key().decode()
JWT_SECRET = "a-shared-secret-of-more-than-32-bytes"


def settings(**environ):
    return read_settings({"GATEWAY_KEYS": KEY, **environ})


def problems(**environ) -> list[str]:
    with pytest.raises(SettingsRefused) as refused:
        settings(**environ)
    return refused.value.problems


def key_of(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


# -- values ----------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_documented_ones():
    """
    One setting is enough, and it is the keys.
    """
    found = settings()

    assert "http://localhost:8000" == found.public_url
    assert (Path("var"), 365, 0) == (found.data, found.events_days, found.trusted_proxies)
    assert (True, True, False) == (found.owner_tokens, found.journal, found.allow_private_hosts)
    assert ((), {}, {}, None) == (found.app_origins, found.clients, found.scopes, found.supabase_url)


def test_settings_cannot_be_changed_once_they_were_judged():
    """
    Frozen: what was judged at the start holds until the end.
    """
    with pytest.raises(ValidationError):
        settings().public_url = "https://elsewhere.example"


def test_origins_are_kept_as_browsers_send_them():
    """
    Lower case, without a default port or a slash (RFC 6454 section 6.2), so that they can be compared as text.
    """
    found = settings(
        GATEWAY_APP_ORIGINS="HTTPS://App.Example.com:443/, http://localhost:3000,https://[2001:DB8::1]:8443"
    )

    assert ("https://app.example.com", "http://localhost:3000", "https://[2001:db8::1]:8443") == found.app_origins


def test_a_registration_enables_a_provider_by_its_lower_case_id():
    """
    `GHL_WHITE_LABEL_CLIENT_ID` belongs to `ghl_white_label`; its scope may be written with spaces or commas.
    """
    found = settings(GHL_WHITE_LABEL_CLIENT_ID="id", GHL_WHITE_LABEL_CLIENT_SECRET="s", GOOGLE_SCOPE="openid, email")

    assert {"ghl_white_label"} == set(found.clients)
    assert ("id", "s") == (found.clients["ghl_white_label"].client_id, found.clients["ghl_white_label"].client_secret)
    assert {"google": ("openid", "email")} == found.scopes


@pytest.mark.parametrize("value", ["a\\b", 'a"b', "caf\u00e9"])
def test_a_scope_that_no_provider_could_read_is_refused(value):
    """
    RFC 6749 section 3.3 holds for `<PROVIDER>_SCOPE` as it does for the catalogue's own; other products' names may hold anything.
    """
    found = settings(GOOGLE_SCOPE=value, ANOTHER_PRODUCTS_SCOPE=value)

    assert [True] == ["GOOGLE_SCOPE" in problem for problem in checked_catalog(found)[1]]


def test_every_secret_may_come_from_a_file(tmp_path):
    """
    `NAME_FILE` for each secret, trimmed as an editor leaves it.
    """
    contents = {
        "GATEWAY_KEYS": f"{KEY},{OLDER_KEY}",
        "DATABASE_URL": "postgresql://alice:pw@db.example/gateway",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "GATEWAY_METRICS_TOKEN": "metrics",
        "GHL_CLIENT_SECRET": "client-secret",
    }
    environ = {"SUPABASE_URL": "https://p.supabase.co", "GHL_CLIENT_ID": "id"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content + "\n")
        environ[name + "_FILE"] = str(tmp_path / name)

    found = read_settings(environ)

    assert [KEY, OLDER_KEY] == [key.get_secret_value() for key in found.keys]
    shown = (found.database_url, found.supabase_secret_key, found.supabase_jwt_secret, found.metrics_token)
    assert list(contents.values())[1:5] == [secret.get_secret_value() for secret in shown]
    assert "client-secret" == found.clients["ghl"].client_secret


def test_a_secret_file_that_cannot_be_read_stops_the_start(tmp_path):
    """
    A mistyped path does not mean "no secret".
    """
    assert any("DATABASE_URL_FILE" in problem for problem in problems(DATABASE_URL_FILE=str(tmp_path / "gone")))


def test_the_file_in_the_working_directory_is_read_and_the_environment_wins(tmp_path, monkeypatch):
    """
    `.env`, also where the environment names a secret by its file and `.env` by its value.
    """
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("GATEWAY_") or name in SECRETS:
            monkeypatch.delenv(name)
    (tmp_path / "key").write_text(KEY)
    lines = [
        f"GATEWAY_KEYS={OLDER_KEY}",
        "GATEWAY_EVENTS_DAYS=7",
        "GATEWAY_DATA='a folder'  # kept",
        "GOOGLE_CLIENT_ID=id",
    ]
    (tmp_path / ".env").write_text("\n".join(lines))
    monkeypatch.setenv("GATEWAY_KEYS_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("GATEWAY_EVENTS_DAYS", "30")

    found = read_settings()

    assert ([KEY], 30, Path("a folder")) == (
        [key.get_secret_value() for key in found.keys],
        found.events_days,
        found.data,
    )
    assert "id" == found.clients["google"].client_id


# -- what stops the start --------------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_each_with_its_setting():
    """
    The operator mends everything in one go.
    """
    with pytest.raises(SettingsRefused) as refused:
        read_settings({
            "GATEWAY_PUBLIC_URL": "connect.example.com",
            "GATEWAY_JOURNAL": "yes",
            "GATEWAY_EVENTS_DAYS": "-1",
            "GATEWAY_APP_ORIGINS": "https://app.example.com/path",
            "GATEWAY_CATALOG": "no-such-folder",
            "GATEWAY_CA_BUNDLE": "no-such-file",
            "DATABASE_URL": "mysql://db",
            "SUPABASE_JWT_SECRET": "short",
            "SUPABASE_SECRET_KEY": "sb_secret_x",
        })  # fmt: skip

    told = " ".join(refused.value.problems)
    for name in (
        *("GATEWAY_KEYS", "GATEWAY_PUBLIC_URL", "GATEWAY_JOURNAL", "GATEWAY_EVENTS_DAYS", "GATEWAY_APP_ORIGINS"),
        *("GATEWAY_CATALOG", "GATEWAY_CA_BUNDLE", "DATABASE_URL", "SUPABASE_JWT_SECRET", "SUPABASE_SECRET_KEY"),
    ):
        assert name in told


def test_the_application_lists_settings_registrations_and_the_database_at_once(tmp_path):
    """
    For a server that imports `wsgi.py`; what is wrong is not called missing as well.
    """
    (tmp_path / "own.toml").write_text("[acme]\nnaem = 'x'\n")
    given = {"GATEWAY_BRAND_COLOR": "red", "GHL_CLIENT_ID": "x", "GATEWAY_CATALOG": str(tmp_path)}

    with pytest.raises(SettingsRefused) as refused:
        create_app(dict(given))
    with pytest.raises(SettingsRefused) as otherwise:
        create_app({**given, "GATEWAY_KEYS": KEY, "DATABASE_URL": "mysql://a:b@c/d"})

    starts = (
        "GATEWAY_KEYS is missing",
        "GATEWAY_BRAND_COLOR",
        "own.toml: [acme]",
        "GHL_CLIENT_SECRET",
        "DATABASE_URL is missing",
    )
    for start in starts:
        assert any(problem.startswith(start) for problem in refused.value.problems), start
    assert [1] == [sum(problem.startswith("DATABASE_URL") for problem in otherwise.value.problems)]


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("GATEWAY_APP_ORIGIN", "did you mean GATEWAY_APP_ORIGINS?"),
        ("GATEWAY_METRICS_TOKENS_FILE", "did you mean GATEWAY_METRICS_TOKEN_FILE?"),
        ("GATEWAY_PUBLIC_URI", "did you mean GATEWAY_PUBLIC_URL?"),
        ("GATEWAY_DATA_FILE", "did you mean GATEWAY_DATA?"),
        ("GATEWAY_VERBOSE", "remove it."),
    ],
)
def test_a_setting_that_does_not_exist_stops_the_start_and_the_nearest_is_named(name, fix):
    """
    A misspelt setting would change nothing, and say nothing.
    """
    assert [f"{name} is not a setting: {fix}"] == problems(**{name: "canary"})


@pytest.mark.parametrize(
    "name",
    [
        "GATEWAY_SERVICE_HOST",
        "GATEWAY_SERVICE_PORT_HTTP",
        "GATEWAY_PORT",
        "GATEWAY_PORT_8000_TCP_ADDR",
        "GATEWAY_DB_PORT",
    ],
)
def test_what_kubernetes_puts_into_the_environment_stops_nothing(name):
    """
    A service called `gateway` makes such names in every container beside it.
    """
    assert settings(**{name: "tcp://10.0.0.1:8000"})


@pytest.mark.parametrize("value", ["true", "yes", "2", "on", "01"])
@pytest.mark.parametrize(
    "name", ["GATEWAY_JOURNAL", "GATEWAY_OWNER_TOKENS", "GATEWAY_ANONYMOUS_USERS", "GATEWAY_ALLOW_PRIVATE_HOSTS"]
)
def test_a_switch_is_one_or_zero(name, value):
    """
    "on" would be ambiguous.
    """
    assert any(name in problem for problem in problems(**{name: value}))


@pytest.mark.parametrize("value", ["17", "-1", "1.5", "\u0661", "one", "9" * 5000], ids=lambda value: value[:4])
def test_a_number_is_a_whole_one_within_its_bounds(value):
    """
    Also one of five thousand digits is a listed problem, not a traceback.
    """
    assert any("GATEWAY_TRUSTED_PROXIES" in problem for problem in problems(GATEWAY_TRUSTED_PROXIES=value))


@pytest.mark.parametrize(
    "origin",
    [
        "app.example.com",
        "ftp://app.example.com",
        "https://",
        "https://app.example.com/x",
        "https://app.example.com?x",
        "https://app.example.com#x",
        "https://alice@app.example.com",
        "https://app.example.com:0",
        "https://app.example.com:99999",
        "https://[::1",
        "https://app.example.com\\x",
        "https://\u00e4pp.example.com",
        "null",
        "*",
        "https://*.example.com",
        "https://app.example.com;script-src",
        "https://app'example.com",
    ],
)
def test_what_is_no_origin_is_refused(origin):
    """
    A wildcard would never match, and a semicolon would end a directive of the content security policy.
    """
    assert any("GATEWAY_APP_ORIGINS" in problem for problem in problems(GATEWAY_APP_ORIGINS=origin))
    assert any("GATEWAY_PUBLIC_URL" in problem for problem in problems(GATEWAY_PUBLIC_URL=origin))


@pytest.mark.parametrize("name", ["GATEWAY_PUBLIC_URL", "GATEWAY_APP_ORIGINS", "GATEWAY_APP_LOGIN_URL"])
def test_plain_http_is_for_this_machine_alone(name):
    """
    Sessions and access tokens would be sent unencrypted.
    """
    assert any(name in problem for problem in problems(**{name: "http://gateway.example.com"}))
    assert any(name in problem for problem in problems(**{name: "http://192.168.1.5"}))
    for mine in ("http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000"):
        assert settings(**{name: mine})


@pytest.mark.parametrize(
    "host",
    [
        *("localhost:54321", "127.0.0.1:54321", "[::1]:54321", "host.docker.internal:54321", "kong:8000", "supabase_kong_app:8000"),
        *("10.1.2.3", "172.17.0.1:8000", "192.168.1.5:8000", "[fd00::1]:8000", "supabase.local", "db.home.arpa"),
    ],
)  # fmt: skip
def test_a_local_project_needs_no_switch(host):
    """
    `supabase start` and a container's names speak plain http.
    """
    assert settings(SUPABASE_URL=f"http://{host}").supabase_url == f"http://{host}"


@pytest.mark.parametrize(
    "url",
    [
        *("http://p.supabase.co", "http://gateway.example.com", "http://8.8.8.8", "http://0.0.0.0:54321"),
        *("http://127.0.0.1.example.com", "http://localhost.example.com", "http://[2606:4700::1]", "http://kong.example"),
    ],
)  # fmt: skip
def test_a_public_project_has_to_be_https(url):
    """
    Its keys could be forged on the way.
    """
    assert [
        "SUPABASE_URL has to be https, except for a local project (localhost, a private address, a name like kong)."
    ] == (problems(SUPABASE_URL=url))


@pytest.mark.parametrize(
    "url",
    [
        "https://p.supabase.co/auth/v1",
        "https://p.supabase.co/rest/v1/",
        "https://supabase.com/dashboard/project/abcdefghijklmnopqrst",
        "https://p.supabase.co/?apikey=x",
    ],
)
def test_an_address_inside_of_a_project_is_refused(url):
    """
    Copied from the wrong field of the dashboard.
    """
    assert any("write it like https://<project>.supabase.co" in problem for problem in problems(SUPABASE_URL=url))


LOCAL_JWT_SECRET = "super-secret-jwt-token-with-at-least-32-characters-long"


def signed(secret: str, **claims: object) -> str:
    """As the published anon and service_role keys are made."""
    head, body = (key_of(json.dumps(part).encode()).rstrip("=") for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    digest = hmac.digest(secret.encode(), f"{head}.{body}".encode(), "sha256")
    return f"{head}.{body}.{key_of(digest).rstrip('=')}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SUPABASE_JWT_SECRET", LOCAL_JWT_SECRET),
        ("SUPABASE_JWT_SECRET", f"your-{LOCAL_JWT_SECRET}"),
        ("SUPABASE_SECRET_KEY", signed(LOCAL_JWT_SECRET, iss="supabase-demo", role="service_role", exp=1983812996)),
        ("SUPABASE_SECRET_KEY", signed(f"your-{LOCAL_JWT_SECRET}", iss="supabase", role="service_role")),
        ("SUPABASE_SECRET_KEY", "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"),
        ("DATABASE_URL", "postgresql://postgres:your-super-secret-and-long-postgres-password@db.example/postgres"),
    ],
)
def test_a_published_secret_is_for_a_local_gateway_alone(name, value):
    """
    With Supabase's published secret anybody can make an access token of any user.
    """
    local = {"SUPABASE_URL": "http://127.0.0.1:54321", name: value}
    assert settings(**local)

    (problem,) = problems(**local, GATEWAY_PUBLIC_URL="https://connect.example.com")
    assert name in problem
    assert "published" in problem
    assert value not in problem


@pytest.mark.parametrize(
    "key", ["sb_publishable_x", signed("x" * 40, role="anon"), signed("x" * 40, role="authenticated")]
)
def test_the_public_key_is_told_from_the_secret_one(key):
    """
    They stand side by side in the dashboard.
    """
    assert any(
        "public (anon) key" in each for each in problems(SUPABASE_URL="https://p.supabase.co", SUPABASE_SECRET_KEY=key)
    )


@pytest.mark.parametrize(
    "value", ["proxy:3128", "https://proxy:3128", "socks5://proxy:1080", "http://proxy", "http://p:x", "http://p:1/a"]
)
def test_a_proxy_is_an_http_proxy_with_a_port(value):
    """
    Nothing else would be understood.
    """
    assert any("GATEWAY_HTTPS_PROXY" in problem for problem in problems(GATEWAY_HTTPS_PROXY=value))
    assert settings(GATEWAY_HTTPS_PROXY="http://alice:pw@proxy.example.com:3128").https_proxy


@pytest.mark.parametrize("content", [b"GATEWAY_DATA=\xff", None], ids=["not UTF-8", "a folder"])
def test_an_unreadable_env_file_is_a_listed_problem(tmp_path, monkeypatch, content):
    """
    Not a traceback.
    """
    monkeypatch.chdir(tmp_path)
    if content is None:
        (tmp_path / ".env").mkdir()
    else:
        (tmp_path / ".env").write_bytes(content)
    with suppress(SettingsRefused):
        process_environment()


def test_names_that_are_nearly_settings_are_found():
    """
    Also those that other products use for the same thing; other programs' names are left alone.
    """
    environ = {
        "SUPABASE_SERVICE_ROLE_KEY": "x",
        "DATABASE_URI": "x",
        "GHL_CLIENTID": "x",
        "GHL_CLIENT_SECERT": "x",
        "PATH": "x",
    }

    assert {
        "SUPABASE_SERVICE_ROLE_KEY": "SUPABASE_SECRET_KEY",
        "DATABASE_URI": "DATABASE_URL",
        "GHL_CLIENTID": "GHL_CLIENT_ID",
        "GHL_CLIENT_SECERT": "GHL_CLIENT_SECRET",
    } == dict(near_misses(environ, ["ghl", "google"]))


@pytest.mark.parametrize("name", ["SUPABASE_JWT_SECRET", "SUPABASE_SECRET_KEY"])
def test_a_supabase_secret_needs_the_project_it_belongs_to(name):
    """
    Without SUPABASE_URL nothing says whose tokens are believed.
    """
    assert any("SUPABASE_URL" in problem for problem in problems(**{name: JWT_SECRET}))
    assert (
        settings(**{name: JWT_SECRET, "SUPABASE_URL": "https://p.supabase.co/"}).supabase_url == "https://p.supabase.co"
    )


def test_a_shared_jwt_secret_is_as_long_as_its_hash():
    """
    RFC 7518 section 3.2: 31 bytes are too few for HS256, 32 are not.
    """
    given = {"SUPABASE_URL": "https://p.supabase.co"}

    assert any("SUPABASE_JWT_SECRET" in problem for problem in problems(**given, SUPABASE_JWT_SECRET="x" * 31))
    assert settings(**given, SUPABASE_JWT_SECRET="x" * 32)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "keys",
    [
        "",
        " , ",
        "change-me",
        key_of(b"x" * 16),
        key_of(bytes(range(33))),
        KEY[:-2],
        KEY + "=A",
        key_of(bytes(32)),
        key_of(b"\xff" * 32),
        key_of(b"0123456789abcdef" * 2),
        f"{KEY},{KEY}",
        f"{KEY},{OLDER_KEY},{KEY}",
        f"{KEY},short",
    ],
    ids=[
        "missing",
        "blank",
        "a published word",
        "16 bytes",
        "33 bytes",
        "cut off",
        "too long",
        "zeros",
        "ones",
        "repeating",
        "twice the same",
        "the first again",
        "one short",
    ],
)
def test_missing_short_default_or_repeated_keys_stop_the_start(keys):
    """
    Each of them would seal with something that is no secret.
    """
    assert any("GATEWAY_KEYS" in problem for problem in problems(GATEWAY_KEYS=keys))


@pytest.mark.parametrize(
    "raw",
    [bytes(range(32)), bytes(range(1, 33)), b"change-me-change-me-change-me-32", b"my secret key that nobody knows!"],
    ids=["counted", "counted from one", "an example", "a sentence"],
)
def test_a_typed_or_counted_key_is_refused(raw):
    """
    32 random bytes are never all printable and never count up: such a key came from a document or a keyboard.
    """
    assert problems(GATEWAY_KEYS=key_of(raw))


def test_a_published_key_is_refused_in_whatever_spelling():
    """
    Base64 has two alphabets and spare bits; the key is the bytes.
    """
    published = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="

    assert problems(GATEWAY_KEYS=published)
    assert problems(GATEWAY_KEYS=published.replace("_", "/").replace("-", "+"))
    assert problems(GATEWAY_KEYS=published[:-2] + "5=")


def test_keys_are_kept_newest_first():
    """
    The first one seals.
    """
    assert [KEY, OLDER_KEY] == [key.get_secret_value() for key in settings(GATEWAY_KEYS=f" {KEY} , {OLDER_KEY} ").keys]


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_no_problem_repeats_a_secret():
    """
    The list of problems goes to a terminal and to a log.
    """
    told = " ".join(
        problems(GATEWAY_KEYS="canary-key", DATABASE_URL="canary://alice:canary@db", SUPABASE_JWT_SECRET="canary")
    )

    assert "canary" not in told


def test_settings_show_no_secret():
    """
    Neither printed nor in a traceback's locals.
    """
    found = settings(
        DATABASE_URL="postgresql://alice:canary@db/x",
        SUPABASE_URL="https://p.supabase.co",
        SUPABASE_JWT_SECRET="canary" * 8,
        SUPABASE_SECRET_KEY="canary",
        GATEWAY_METRICS_TOKEN="canary",
        GHL_CLIENT_ID="id",
        GHL_CLIENT_SECRET="canary",
    )

    shown = repr(found) + str(found) + repr(found.clients)
    assert "canary" not in shown
    assert KEY not in shown


def test_secrets_and_would_be_headers_are_taken_out_of_the_environment():
    """
    The server copies what stays into every request's environ.
    """
    environ = {
        "PATH": "/bin",
        "GATEWAY_PUBLIC_URL": "https://g.example",
        "GHL_CLIENT_ID": "id",
        "GATEWAY_KEYS": KEY,
        "GATEWAY_KEYS_FILE": "keys",
        "DATABASE_URL": "postgres://",
        "SUPABASE_SECRET_KEY": "x",
        "SUPABASE_JWT_SECRET": "x",
        "GATEWAY_METRICS_TOKEN": "x",
        "GHL_CLIENT_SECRET": "x",
        "GHL_CLIENT_SECRET_FILE": "x",
        "HTTP_X_FORWARDED_FOR": "6.6.6.6",
    }

    forget_secrets(environ)

    assert {"PATH", "GATEWAY_PUBLIC_URL", "GHL_CLIENT_ID"} == set(environ)


@pytest.mark.parametrize(
    ("host", "mine"),
    [
        ("localhost", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("192.168.0.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_loopback_is_told_from_names_that_only_look_like_it(host, mine):
    """
    Plain http rests on this answer.
    """
    assert mine is is_loopback(host)
