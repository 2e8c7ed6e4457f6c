"""
The doctor: each finding broken once, over a real database and the sandbox; and no finding for a sound installation.
Its findings in the catalogues are in test_mutants.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet

from gateway import doctor
from gateway.catalog import load_catalog
from gateway.crypto.vault import Vault
from gateway.database import open_postgres
from gateway.database.queries.connections import erase_own_connection
from gateway.doctor import Finding, environment
from gateway.doctor import database as database_checks
from gateway.errors import DatabaseUnavailable
from tests.support.commands import run_command
from tests.support.database import Person, rows
from tests.support.gateway_process import Gateway, free_port, whole_gateway
from tests.support.hostile_issuer import HostileServer
from tests.support.postgrest_stand_in import SECRET_KEY, PostgRest

PROVIDERS = ("ghl", "ghl_white_label", "google", "microsoft", "ringcentral", "zoom")
NONE_OF_THEM = {f"{provider.upper()}_CLIENT_ID": "" for provider in load_catalog().providers} | {"GATEWAY_ENABLE": ""}


@pytest.fixture(scope="module")
def installed(cluster, template) -> Iterator[Gateway]:
    """Everything set up, with simulated providers; the gateway itself need not run."""
    with whole_gateway(cluster, template) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_faults(installed) -> Iterator[None]:
    yield
    installed.sandbox.state.faults.clear()


def examined(gateway: Gateway, **changes: str) -> list[Finding]:
    """By default without providers, which are asked where a test is about them."""
    return list(doctor.examine({**gateway.environ, **NONE_OF_THEM, "GATEWAY_ALLOW_PRIVATE_HOSTS": "1", **changes}))


def only(provider: str) -> dict[str, str]:
    client = "64a000000000000000000000-sandbox1" if provider.startswith("ghl") else f"sandbox-{provider}"
    return {f"{provider.upper()}_CLIENT_ID": client, f"{provider.upper()}_CLIENT_SECRET": f"sandbox-{provider}-secret"}


def is_sound(findings: list[Finding]) -> bool:
    return all(finding.level != "fail" for finding in findings)


def said(findings: list[Finding], about: str, level: str) -> str:
    return " ".join(finding.message for finding in findings if (finding.about, finding.level) == (about, level))


# -- nothing to fix --------------------------------------------------------------------------------------------------


def test_a_sound_installation_has_nothing_to_fix(installed):
    """
    Every part is looked at and found well, and every provider knows us.
    """
    found = list(doctor.examine(installed.environ))

    assert is_sound(found)
    assert {
        "settings",
        "keys",
        "journal",
        "database",
        "schema",
        "clock",
        "policies",
        "grants",
        "sign-in",
        *PROVIDERS,
    } <= {finding.about for finding in found if finding.level == "ok"}
    assert ["Provider addresses may be private, and plain http on loopback."] == [
        finding.message for finding in found if finding.level not in ("ok", "unseen")
    ]
    unknown = {finding.about for finding in found if finding.level == "unseen"}
    assert unknown == {"twilio"} | {
        name for name, each in load_catalog().providers.items() if "{" in first_address(each)
    }
    for provider in PROVIDERS:
        assert "It knows our registration" in said(found, provider, "ok")


def first_address(provider):
    """The token endpoint with the first of each choice that users have; what they write themselves stays open."""
    return provider.filled(
        {name: next(iter(each.options), "") for name, each in provider.fields.items()}
    ).token_endpoint


def test_the_redirect_uri_is_printed_to_be_copied(installed):
    """
    Exactly as the provider has to know it.
    """
    found = examined(installed, **only("ghl"))
    assert f"{installed.url}/crm/main/callback" in said(found, "ghl", "ok")


def test_a_restored_backup_is_not_taken_for_a_change(installed):
    """
    pg_restore makes triggers from what pg_get_triggerdef says, whose parentheses Postgres then reads differently.
    """
    own = "from pg_trigger where not tgisinternal and tgname ~ '^gateway_'"
    for drop, make in rows(
        installed.dsn,
        f"select format('drop trigger %I on %s', tgname, tgrelid::regclass), pg_get_triggerdef(oid) {own}",
    ):
        rows(installed.dsn, f"{drop}; {make}")

    assert "unchanged" in said(examined(installed), "policies", "ok")


def test_asking_changes_nothing(installed):
    """
    Nothing is connected, stored or used up by an examination.
    """
    counted = "select (select count(*) from gateway.event), (select count(*) from public.provider_data)"
    before = rows(installed.dsn, counted)
    list(doctor.examine(installed.environ))

    assert before == rows(installed.dsn, counted)


# -- settings and keys -----------------------------------------------------------------------------------------------


def test_all_invalid_settings_are_reported(installed):
    """
    At once, and nothing else can be looked at then.
    """
    found = examined(installed, GATEWAY_KEYS="", GATEWAY_PUBLIC_URL="nonsense")

    assert "GATEWAY_KEYS is missing" in said(found, "settings", "fail")
    assert "GATEWAY_PUBLIC_URL" in said(found, "settings", "fail")
    assert not is_sound(found)


def test_a_missing_client_secret_is_a_problem_of_the_settings(installed):
    """
    Before a user meets it.
    """
    found = examined(installed, GOOGLE_CLIENT_ID="x", GOOGLE_CLIENT_SECRET="")
    assert "GOOGLE_CLIENT_SECRET is missing" in said(found, "settings", "fail")


def test_a_missing_front_end_or_brand_is_reported(installed):
    """
    Neither an origin nor a sign-in page; pages without the product's name.
    """
    found = examined(installed, GATEWAY_APP_ORIGINS="", GATEWAY_APP_LOGIN_URL="", GATEWAY_BRAND_NAME=" ")
    assert "No front end can hand over" in said(found, "settings", "warn")
    assert "do not name your product" in said(found, "settings", "warn")


def test_a_setting_that_does_not_exist_is_reported(installed):
    """
    As `serve` reports it, with the nearest name.
    """
    found = examined(installed, GATEWAY_APP_ORIGIN="https://app.example.com")

    assert said(found, "settings", "fail") == "GATEWAY_APP_ORIGIN is not a setting: did you mean GATEWAY_APP_ORIGINS?"


def test_a_secret_without_its_client_id_is_reported(installed):
    """
    The provider is not enabled then, which is a mistake.
    """
    found = examined(
        installed, ZOOM_CLIENT_ID="", ZOOM_CLIENT_SECRET="a secret", OTHER_CLIENT_SECRET="another product's"
    )

    assert "ZOOM_CLIENT_SECRET is set without ZOOM_CLIENT_ID" in said(found, "settings", "warn")
    assert "OTHER" not in said(found, "settings", "warn")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"SUPABASE_SERVICE_ROLE_KEY": "canary"}, "SUPABASE_SERVICE_ROLE_KEY is set, and is not a setting: did you mean SUPABASE_SECRET_KEY?"),
        ({"ZOOM_SCOPES": "canary"}, "did you mean ZOOM_SCOPE?"),
        ({"SUPABASE_JWT_SECERT": "canary"}, "did you mean SUPABASE_JWT_SECRET?"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_a_setting_is_reported(installed, changes, told):
    """
    It does not stop the start, because it may belong to another program.
    """
    assert told in said(examined(installed, **changes), "settings", "warn")


def test_ignored_parameters_of_the_database_url_are_reported(installed):
    """
    With a word, and the rest works.
    """
    dsn = f"{installed.environ['DATABASE_URL']}&connection_limit=1&schema=public"
    found = examined(installed, DATABASE_URL=dsn)

    assert "ignored: connection_limit, schema." in said(found, "settings", "warn")
    assert is_sound(found)


def test_the_proxy_that_is_seen_is_reported(installed):
    """
    The usual variable is not used; ours is, and says who judges addresses.
    """
    assert "HTTPS_PROXY is set, and the gateway does not use it" in said(
        examined(installed, HTTPS_PROXY="http://proxy:3128"), "proxy", "warn"
    )
    ours = examined(installed, GATEWAY_HTTPS_PROXY="http://alice:canary@127.0.0.1:9", HTTPS_PROXY="http://proxy:3128")
    assert "decides which addresses" in said(ours, "proxy", "ok")
    assert "canary" not in str(ours)


@pytest.mark.parametrize(
    "host", ["ghl.example.com", "my-GoHighLevel.example.com", "highlevel-oauth.example.com", "leadconnector.io"]
)
def test_a_host_name_that_highlevel_refuses_is_reported(installed, host):
    """
    HighLevel takes no redirect URI that mentions it.
    """
    found = examined(installed, GATEWAY_PUBLIC_URL=f"https://{host}", **only("ghl"))
    assert "It refuses redirect URIs that contain" in said(found, "ghl", "fail")


def test_a_redirect_path_that_highlevel_refuses_is_reported(installed, tmp_path):
    """
    An operator may have given the entry another slug.
    """
    (tmp_path / "own.toml").write_text('[ghl]\nslug = "my-GHL-app"\n'.lower())
    found = examined(installed, GATEWAY_CATALOG=str(tmp_path), **only("ghl"))
    assert "It refuses redirect URIs that contain" in said(found, "ghl", "fail")


def test_a_key_that_is_older_than_its_provider_advises_is_reported(installed):
    store = open_postgres(installed.dsn)
    alice = Person("alice")
    alice.signs_in(store)
    connection = alice.connects(store, provider="ghl_pit").id
    due = "update gateway.connection set refreshable = false, expires_at = null, refresh_expires_at = now() - interval '1 day'"
    rows(installed.dsn, due)
    found = examined(installed, GATEWAY_ENABLE="ghl_pit")
    erase_own_connection(store, session_hash=alice.session, connection_id=connection)
    store.close()
    assert "1 connections have a key that is older" in said(found, "ghl_pit", "warn")


def test_running_without_the_journal_is_reported(installed):
    """
    The contract wants it so.
    """
    assert "switched off" in said(examined(installed, GATEWAY_JOURNAL="0"), "journal", "warn")


def test_a_lost_key_is_found_before_a_user_finds_it(installed):
    """
    The newest stored tokens are tried, and none of them is shown.
    """
    key = Fernet.generate_key().decode()
    store = open_postgres(installed.dsn)
    alice = Person("alice")
    alice.signs_in(store)
    connection = alice.connects(store, alice.encrypted(Vault([key]), refresh_token=None)).id

    ours = installed.environ["GATEWAY_KEYS"]
    assert "1 of the 1 newest stored tokens do not decrypt." == said(examined(installed), "keys", "fail")
    assert "newest stored tokens decrypt" in said(examined(installed, GATEWAY_KEYS=f"{ours},{key}"), "keys", "ok")
    erase_own_connection(store, session_hash=alice.session, connection_id=connection)
    store.close()


# -- database --------------------------------------------------------------------------------------------------------


def test_an_unavailable_database_is_reported(installed):
    """
    And nothing is believed of it.
    """
    found = examined(installed, DATABASE_URL=f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")

    assert "nothing listens at the port in DATABASE_URL" in said(found, "database", "fail")
    assert not [finding for finding in found if finding.about in ("policies", "grants", "schema")]


def test_a_missing_schema_names_the_command_that_sets_it_up(installed, bare_database):
    """
    Whatever else is in the database.
    """
    found = [finding for finding in examined(installed, DATABASE_URL=bare_database) if finding.level == "fail"]
    assert [("schema", "Run `python -m gateway db apply`.")] == [(finding.about, finding.fix) for finding in found]


def test_a_broken_policy_is_reported_with_its_fix(installed, database):
    """
    All the way from the catalogue.
    """
    rows(database, "alter table public.provider_data disable row level security")
    found = examined(installed, DATABASE_URL=database)

    assert "Row-level security is off on provider_data" in said(found, "policies", "fail")
    assert 1 == printed(found).count(
        "→ Run `python -m gateway db apply`"
    )  # one fix for several findings is printed once
    assert "to fix" in printed(found)


def test_the_gateways_modest_role_can_be_examined_too(installed, database):
    """
    Catalogues may be read by everybody; rows may not, and that is said.
    """
    rows(database, "alter role gateway_app login")
    found = examined(installed, DATABASE_URL=database.replace("postgres@/", "gateway_app@/"))

    assert is_sound(found)
    assert "may not read rows" in said(found, "keys", "unseen")
    assert said(found, "grants", "ok")


def test_over_rest_a_schema_that_is_not_known_names_the_reload(installed, bare_database):
    """
    PostgREST answers PGRST202 both before `db apply` and until it has reloaded its schema.
    """
    project = PostgRest(bare_database, auth=installed.sandbox.origin)
    settings = {"DATABASE_URL": "", "SUPABASE_URL": project.url, "SUPABASE_SECRET_KEY": SECRET_KEY}
    (found,) = [each for each in examined(installed, **settings) if each.level == "fail"]
    project.stop()

    assert "schema" == found.about
    assert "notify pgrst, 'reload schema'" in found.fix
    assert "db apply" in found.fix


def test_over_rest_policies_are_said_to_be_unseen(installed):
    """
    What was not looked at is not passed over; the rest is examined as ever.
    """
    project = PostgRest(installed.dsn, auth=installed.sandbox.origin)
    settings = {"DATABASE_URL": "", "SUPABASE_URL": project.url, "SUPABASE_SECRET_KEY": SECRET_KEY}
    found = examined(installed, **settings)
    project.stop()

    assert is_sound(found)
    assert "cannot be read" in said(found, "policies", "unseen")
    assert said(found, "schema", "ok")
    assert said(found, "sign-in", "ok")


# -- sign-in and clock -----------------------------------------------------------------------------------------------


def test_without_a_project_no_user_can_sign_in(installed):
    """
    Said before a user finds out.
    """
    assert "no user can sign in" in said(examined(installed, SUPABASE_URL=""), "sign-in", "fail")


def test_a_project_that_calls_itself_by_another_name_is_reported():
    """
    Tokens of 127.0.0.1 are not those of localhost.
    """
    body = json.dumps({"issuer": "http://127.0.0.1:54321/auth/v1"}).encode()
    http = SimpleNamespace(request=lambda *_, **__: SimpleNamespace(body=body))
    rt = SimpleNamespace(
        settings=SimpleNamespace(supabase_url="http://localhost:54321"),
        identity=SimpleNamespace(issuers=SimpleNamespace(http=http)),
    )
    (found,) = environment._issuer(rt)

    assert "fail" == found.level
    assert "http://127.0.0.1:54321/auth/v1, and http://localhost:54321/auth/v1 is expected" in found.message


def test_a_users_access_token_is_examined(installed):
    """
    Which claim is wrong, by `doctor --access-token`.
    """
    found = list(doctor.examine({**installed.environ, **NONE_OF_THEM}, access_token="canary.canary.canary"))

    assert "It is refused" in said(found, "access token", "fail")
    assert "canary" not in said(found, "access token", "fail")


def test_unavailable_signing_keys_are_reported(installed):
    """
    A failure, unless the shared secret can still verify tokens.
    """
    away = {"SUPABASE_URL": f"http://127.0.0.1:{free_port()}"}

    assert "cannot be read" in said(examined(installed, **away), "sign-in", "fail")
    assert "cannot be read" in said(examined(installed, **away, SUPABASE_JWT_SECRET="s" * 40), "sign-in", "warn")


@pytest.mark.parametrize(
    ("keys", "secret", "level"), [(0, None, "fail"), (0, "set", "ok"), (1, None, "ok"), (1, "set", "warn")]
)
def test_there_has_to_be_something_that_verifies_tokens(keys, secret, level):
    """
    Published keys or the shared secret; both at once only for as long as it takes to migrate.
    """
    assert level == environment.judge_keys(SimpleNamespace(supabase_jwt_secret=secret), keys).level


@pytest.mark.parametrize(("seconds", "level"), [(0, "ok"), (29, "ok"), (-29, "ok"), (31, "warn"), (-3600, "warn")])
def test_a_clock_that_is_off_by_more_than_half_a_minute_is_reported(seconds, level):
    """
    In either direction, by the Date header of the sign-in service.
    """
    now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    date = (now + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert [level] == [finding.level for finding in environment.compare_clock(date, now)]
    assert [] == list(environment.compare_clock(None, now)) == list(environment.compare_clock("soon", now))


# -- registrations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_wrong_client_secret_is_told_from_a_wrong_code(installed, provider):
    """
    By each provider's own way of saying it.
    """
    found = examined(installed, **(only(provider) | {f"{provider.upper()}_CLIENT_SECRET": "another-secret-than-this"}))

    assert "It refuses our registration" in said(found, provider, "fail")


@pytest.mark.parametrize(
    ("fault", "options", "level", "words"),
    [
        ("status", {"status": 503}, "fail", "cannot be used now"),
        ("error", {"error": "redirect_uri_mismatch"}, "fail", "does not know our redirect URI"),
        ("error", {"error": "invalid_request"}, "warn", "not clear"),
        ("html_200", {}, "warn", "not clear"),
    ],
)
def test_each_answer_of_a_token_endpoint_has_its_sentence(installed, fault, options, level, words):
    """
    An unclear response is reported as unclear, an unreachable provider as unreachable.
    """
    installed.sandbox.state.add_fault(fault, "google", "token", **options)
    assert words in said(examined(installed, **only("google")), "google", level)


@pytest.fixture
def acme(installed, tmp_path) -> Iterator[tuple[HostileServer, dict[str, str]]]:
    """A provider of the operator, found by discovery."""
    server = HostileServer()
    (tmp_path / "acme.toml").write_text(f'[acme]\nname = "Acme"\ntype = 2\nissuer = "{server.issuer("acme")}"\n')
    yield server, {"GATEWAY_CATALOG": str(tmp_path), "ACME_CLIENT_ID": "ours", "ACME_CLIENT_SECRET": "ours-too"}
    server.stop()


def test_a_provider_that_takes_any_code_is_not_to_be_used(installed, acme):
    """
    Every user could connect as any other.
    """
    assert "a token for a made-up code" in said(examined(installed, **acme[1]), "acme", "fail")


def test_metadata_of_another_issuer_is_reported(installed, acme):
    """
    RFC 8414 section 3.3; and nothing of ours is sent there.
    """
    server, settings = acme
    server.metadata["acme"] = {"issuer": "https://accounts.example"}

    assert "names another issuer than the catalogue" in said(examined(installed, **settings), "acme", "fail")
    assert [] == server.posts


def test_unavailable_metadata_is_reported(installed, acme):
    """
    Nor can the rest be asked then.
    """
    server, settings = acme
    server.stop()
    assert "metadata cannot be read" in said(examined(installed, **settings), "acme", "fail")


def test_a_registration_at_an_unknown_provider_is_reported(installed):
    """
    A name with a slip in it would enable nothing, silently.
    """
    found = examined(installed, GOGLE_CLIENT_ID="x")

    assert "there is no provider gogle" in said(found, "providers", "warn")
    assert "None is enabled." in said(found, "providers", "warn")


# -- the command -----------------------------------------------------------------------------------------------------


def printed(found):
    return "\n".join(doctor.lines(found))


def test_the_command_says_the_fix_below_each_finding_and_ends_with_its_exit_code(installed):
    """
    For people, and for scripts with `--json`.
    """
    well = run_command(installed.environ, "doctor")
    wrong = installed.environ | {"GOOGLE_CLIENT_SECRET": "wrong-secret-altogether"}
    ill = run_command(wrong, "doctor", "--json")
    told = json.loads(ill.stdout)

    assert (0, 1) == (well.exit_code, ill.exit_code), well.stderr + ill.stderr
    assert "plain http on loopback.\n                           → Remove GATEWAY_ALLOW_PRIVATE_HOSTS" in well.stdout
    assert "\n0 to fix, 1 to read" in well.stdout
    assert not told["ok"]
    assert [("google", "fail")] == [(f["about"], f["level"]) for f in told["findings"] if f["level"] == "fail"]


def test_no_secret_is_ever_printed(installed):
    """
    Neither when all is well nor when everything fails.
    """
    broken = {
        "DATABASE_URL": f"postgresql://alice:canary-password@127.0.0.1:{free_port()}/x",
        "GOOGLE_CLIENT_SECRET": "canary-secret",
    }
    said_all = [
        run_command(installed.environ, "doctor"),
        run_command(installed.environ, "doctor", "--json"),
        run_command(installed.environ | broken, "doctor", "--json"),
    ]
    secrets = [value for name, value in installed.environ.items() if name.endswith(("_SECRET", "KEYS"))]

    assert len(secrets) > 5
    for run in said_all:
        for secret in [*secrets, "canary", installed.dsn]:
            assert secret not in run.stdout + run.stderr


def test_an_unreachable_database_is_not_a_defect_of_ours():
    """
    Whatever the store raises is a finding.
    """

    def away() -> None:
        raise DatabaseUnavailable("gone")

    found = list(database_checks.examine(SimpleNamespace(database=SimpleNamespace(check=away))))
    assert ["fail"] == [finding.level for finding in found]
