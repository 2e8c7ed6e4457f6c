"""
`connections …` on the command line: looked at, one revoked, all of a provider revoked with a proof; and `events …` beside them.
"""

from __future__ import annotations

import json
import signal
import threading
import uuid
from dataclasses import replace
from types import SimpleNamespace

import psycopg
import pytest
import structlog
from click.testing import CliRunner

from gateway.cli import connections as connections_command
from gateway.cli.demo import demo_settings
from gateway.cli.main import main
from gateway.connections import revoke_provider
from gateway.connections.revoke_provider import prove, revoke_all
from gateway.database import open_rest
from gateway.database.queries import events
from gateway.database.queries import partners as queries
from gateway.database.queries.connections import list_connections, reached_connections
from gateway.database.queries.operator import erase, inspect_connection, provider_holdings
from gateway.errors import DatabaseUnavailable, Frozen
from gateway.events.chain import assign_positions
from gateway.models import OPERATOR
from gateway.sandbox import make_server
from gateway.services import build_runtime
from gateway.settings import read_settings
from tests.support.database import Person, rows
from tests.support.event_fixtures import end, seal
from tests.support.postgrest_stand_in import SECRET_KEY


@pytest.fixture(autouse=True)
def own_log():
    """The commands set the log up for their process, on a stream that is theirs."""
    yield
    structlog.reset_defaults()


def left(here):
    """How many connections there are at zoom."""
    return provider_holdings(here.rt.database, "zoom").connections


@pytest.fixture(scope="module")
def sandbox():
    with make_server(gateway="http://localhost:8000") as made:
        yield made


@pytest.fixture
def here(database, tmp_path, sandbox):
    """The Runtime, the environment of a command, and simulated providers."""
    sandbox.state.reset()
    environ = demo_settings(tmp_path, "http://localhost:8000", sandbox.origin, database)
    rt = build_runtime(read_settings(environ))
    yield SimpleNamespace(rt=rt, environ=environ, sandbox=sandbox, database=database)
    rt.database.close()
    rt.http.close()


def run(here, *arguments, code=0, **options):
    """What a command printed, and the exit code it has to end with."""
    done = CliRunner().invoke(main, [str(each) for each in arguments], env=here.environ, **options)
    assert code == done.exit_code, done.output + repr(done.exception)
    return done.stdout


def connect(here, count=1, *, provider="zoom", name="alice"):
    """That many connections of one user, one account each."""
    person, made = Person(name), []
    person.signs_in(here.rt.database)
    for number in range(count):
        account = f"{name}-{provider}-{number}"
        grant = person.encrypted(
            here.rt.vault, access_token=f"token-of-{account}", refresh_token=f"refresh-of-{account}", provider=provider, type=3,
            many_accounts=True, account_id=account, account_label=account,
        )  # fmt: skip
        made.append(person.connects(here.rt.database, grant, add_account=True).id)
    return made


def revoked_there(here, provider="zoom"):
    """The revocations that the provider received."""
    return {each["form"].get("token") for each in here.sandbox.state.requests(provider, "revoke")}


# -- looking ---------------------------------------------------------------------------------------------------------


def test_connections_are_listed_page_by_page_and_narrowed(here, monkeypatch):
    """
    All of everybody's, and no secret among them; a summary instead of thousands of lines.
    """
    monkeypatch.setattr("gateway.cli.connections.PAGE", 2)
    held = connect(here, 5) + connect(here, 1, provider="ringcentral", name="bob")
    listed = [json.loads(line) for line in run(here, "connections", "list", "--json").splitlines()]

    assert sorted(map(str, held)) == [row["id"] for row in listed]
    assert 1 == len(run(here, "connections", "list", "--provider", "ringcentral", "--json").splitlines())
    (alice,) = rows(here.database, "select user_id from gateway.connection where id = %s", held[0])
    assert 5 == len(run(here, "connections", "list", "--user", alice).splitlines())
    assert "" == run(here, "connections", "list", "--status", "needs_reauthorization")
    assert "alice-zoom-0" in run(here, "connections", "list")
    assert "gAAAA" not in json.dumps(listed)
    monkeypatch.setattr("gateway.cli.connections.MOST_LINES", 3)
    brief = CliRunner().invoke(main, ["connections", "list"], env=here.environ)
    summary = [" ".join(line.split()) for line in brief.stderr.splitlines()]
    assert (3, ["6 connections.", "1 ringcentral active", "5 zoom active"]) == (
        len(brief.stdout.splitlines()),
        summary[:3],
    )


def test_one_connection_is_shown_with_its_partners_and_what_happened(here):
    """
    Also when it is erased; never its tokens.
    """
    (held,) = connect(here)
    partner = rows(
        here.database, "insert into gateway.partner (name, scope, reach) values ('Acme', '{}', 'own') returning id"
    )[0]
    rows(
        here.database,
        "insert into gateway.consent (partner_id, connection_id, made) values (%s, %s, true)", partner, held,
    )  # fmt: skip
    shown = run(here, "connections", "show", held)
    whole = json.loads(run(here, "connections", "show", held, "--json"))

    assert "Acme" in shown
    assert "connection.created" in shown
    assert "gAAAA" not in shown + json.dumps(whole)
    assert [("Acme", True, None)] == [(each["name"], each["made"], each["ended_at"]) for each in whole["partners"]]
    run(here, "connections", "revoke", held, "--yes")
    assert "does not exist any more" in run(here, "connections", "show", held)
    run(here, "connections", "show", uuid.uuid4(), code=1)


# -- one -------------------------------------------------------------------------------------------------------------


def test_one_connection_is_revoked_with_a_receipt(here):
    """
    Erased, revoked and recorded; another connection stays.
    """
    gone, stays = connect(here, 2)
    receipt = json.loads(run(here, "connections", "revoke", gone, "--yes", "--json"))

    assert (str(gone), "done") == (receipt["connection_id"], receipt["revocation"])
    assert {"token-of-alice-zoom-0", "refresh-of-alice-zoom-0"} == revoked_there(here)
    assert [stays] == rows(here.database, "select id from gateway.connection")
    told = rows(
        here.database, "select type, data ->> 'by' from gateway.event where connection_id = %s order by at", gone
    )
    assert [("connection.created", None), ("connection.disconnected", "operator"), ("grant.revoked", None)] == told
    run(here, "connections", "revoke", gone, "--yes", code=1)
    run(here, "connections", "revoke", gone, code=1)


def test_one_or_all_of_a_provider_has_to_be_named(here):
    """
    And never both; an unknown provider is a slip of the pen.
    """
    (held,) = connect(here)
    for arguments in ([], [held, "--provider", "zoom"], [held, "--proof", "x"]):
        run(here, "connections", "revoke", *arguments, code=2)
    run(here, "connections", "revoke", "--provider", "zooom", "--yes", code=2)
    run(here, "connections", "revoke", "--provider", "zoom", code=2)  # without a terminal
    run(here, "connections", "revoke", held, code=2)
    run(here, "connections", "list", "--provider", "zooom", code=2)

    assert [held] == rows(here.database, "select id from gateway.connection")
    assert [] == rows(here.database, "select target from gateway.freeze")


# -- all of a provider -----------------------------------------------------------------------------------------------


def test_all_of_a_provider_is_revoked_with_a_proof(here, tmp_path):
    """
    Hundreds of several users: frozen, erased, every grant revoked; a line each, and another provider unchanged.
    """
    held = [row for name in ("alice", "bob", "carol") for row in connect(here, 70, name=name)]
    (stays,) = connect(here, provider="ringcentral")
    file = tmp_path / "proof.jsonl"
    said = json.loads(run(here, "connections", "revoke", "--provider", "zoom", "--yes", "--json", "--proof", file))
    *lines, last = map(json.loads, file.read_text().splitlines())

    assert (210, 210, 0, 0, 0) == tuple(said[name] for name in ("erased", "done", "queued", "unsupported", "left"))
    assert len(held) == 210
    assert revoked_there(here) == {
        f"{what}-of-{name}-zoom-{number}"
        for name in ("alice", "bob", "carol") for number in range(70) for what in ("token", "refresh")
    }  # fmt: skip
    assert [stays] == rows(here.database, "select id from gateway.connection")
    assert ["provider:zoom"] == rows(here.database, "select target from gateway.freeze")
    assert {str(row) for row in held} == {line["connection_id"] for line in lines}
    assert {"done"} == {line["revocation"] for line in lines}
    assert [(line["event_id"], line["position"]) for line in lines] == rows(
        here.database,
        "select id::text, position from gateway.event where type = 'connection.disconnected' order by at, id",
    )
    chain_end = events.read_chain(here.rt.database).end
    assert tuple(chain_end) == (last["position"], last["hash"]) == (said["position"], said["hash"])
    assert 0o600 == file.stat().st_mode & 0o777
    assert [[], []] == rows(
        here.database, "select providers from public.user_profile where user_name in ('bob', 'carol')"
    )
    assert "gAAAA" not in file.read_text()


def test_what_would_become_a_connection_goes_too(here):
    """
    Pending grants and attempts under way: no connection of the provider appears later.
    """
    alice = Person("alice")
    alice.signs_in(here.rt.database)
    for provider in ("zoom", "ringcentral"):
        grant = alice.encrypted(
            here.rt.vault, provider=provider, confirmation_hash="c", connect_session_id=uuid.uuid4()
        )
        assert alice.saves(here.rt.database, grant) is None
        alice.starts(here.rt.database, provider, provider=provider)
    said = json.loads(run(here, "connections", "revoke", "--provider", "zoom", "--yes", "--json"))

    assert (0, 1, 1) == (said["erased"], said["pending"], said["attempts"])
    assert 2 == len(revoked_there(here))
    assert [("ringcentral", "ringcentral")] == rows(
        here.database, "select p.provider, a.provider from gateway.pending_grant p, gateway.authorization_request a"
    )


def test_a_save_under_way_when_a_run_begins_is_waited_for_and_erased_too(here):
    """
    So that "none is left" is true when it is said.
    """
    alice = Person("alice")
    alice.signs_in(here.rt.database)
    steps = []
    whole = threading.Thread(target=lambda: steps.extend(revoke_all(here.rt, "zoom")))
    with psycopg.connect(here.database) as saving, psycopg.connect(here.database, autocommit=True) as watch:
        saving.execute("select gateway.is_stopped('zoom', null)")  # let through a moment before, as far as it knows
        saving.execute(
            "insert into public.provider_data (id, auth_provider_id, token) values (%s, %s, 't')", [alice.id, alice.id]
        )
        saving.execute(
            "insert into gateway.connection (id, user_id, provider, type, account_id, account_label, generation,"
            " seal_id, refresh_seal_id) values (%s, %s, 'zoom', 3, 'a', 'a', 1, gen_random_uuid(), gen_random_uuid())", [alice.id, alice.id],
        )  # fmt: skip
        whole.start()
        while not watch.execute("select 1 from pg_locks where locktype = 'advisory' and not granted").fetchone():
            assert whole.is_alive()
        saving.commit()
    whole.join()

    assert (1, 0) == (steps[-1].erased, left(here))


def test_nothing_is_connected_at_a_frozen_provider_until_the_thaw(here):
    """
    Nothing is started, pending or saved; other providers work.
    """
    run(here, "connections", "revoke", "--provider", "zoom", "--yes")
    alice = Person("alice")
    alice.signs_in(here.rt.database)
    store = here.rt.database
    for refused in (
        lambda: alice.starts(store, "z", provider="zoom"),
        lambda: alice.saves(store, provider="zoom", confirmation_hash="c"),
        lambda: alice.connects(store, provider="zoom", type=3),
    ):
        with pytest.raises(Frozen):
            refused()
    assert (0, 0, 0) == tuple(rows(here.database, "select (select count(*) from gateway.connection), (select count(*) from"
        " gateway.pending_grant), (select count(*) from gateway.authorization_request)")[0])  # fmt: skip
    assert {"zoom"} == list_connections(store, alice.session).frozen
    assert () == alice.starts(store, "r", provider="ringcentral")
    assert alice.connects(store, provider="ringcentral", type=3)
    queries.freeze(store, provider="zoom", off=True)
    assert alice.connects(store, provider="zoom", type=3)


def test_an_interrupted_run_is_resumed_and_the_proof_is_of_both(here, monkeypatch):
    """
    Ended between two steps, it says so; the next one goes on, and nothing is missing in the end.
    """
    connect(here, 30)
    monkeypatch.setattr(revoke_provider, "BATCH", 10)
    first = next(revoke_all(here.rt, "zoom"))
    assert (10, 20) == (first.erased, left(here))

    *steps, second = revoke_all(here.rt, "zoom")

    assert (20, 0, 30) == (second.erased, left(here), second.outcomes["done"])
    assert len(steps) >= 2
    erased, told = prove(here.rt, second)
    assert (30, 30, 30) == (told["erased"], told["done"], len(erased))


def test_what_the_provider_does_not_take_is_queued_and_told_so(here):
    """
    Erased all the same; workers go on trying, and the proof of a later run knows.
    """
    connect(here, 3)
    here.sandbox.state.add_fault("status", "zoom", "revoke", times=3, status=503)
    said = json.loads(run(here, "connections", "revoke", "--provider", "zoom", "--yes", "--json"))
    assert (3, 0, 3, 0) == tuple(said[name] for name in ("erased", "done", "queued", "left"))

    again = json.loads(run(here, "connections", "revoke", "--provider", "zoom", "--yes", "--json"))
    assert (3, 3, 0, 0) == tuple(again[name] for name in ("erased", "done", "queued", "left"))


def test_a_busy_user_does_not_delay_others(here, monkeypatch):
    """
    Passed over, and come back to.
    """
    monkeypatch.setattr(revoke_provider, "BATCH", 10)
    connect(here, 3, name="alice")
    connect(here, 3, name="bob")
    with psycopg.connect(here.database) as busy:
        busy.execute(
            "select pg_advisory_xact_lock(hashtextextended('gateway user ' || c.user_id::text, 0)) from gateway.connection c"
            " where c.account_id = 'bob-zoom-0'"
        )
        steps = revoke_all(here.rt, "zoom")
        assert 3 == next(steps).erased
        busy.rollback()
    *_, ended = steps

    assert (6, 0) == (ended.erased, left(here))


def test_over_rest_the_same_is_done(here, rest):
    """
    One round trip a step there, too; and what is looked at is the same.
    """
    held = connect(here, 5)
    over_rest = replace(here.rt, database=open_rest(rest.url, SECRET_KEY))
    looked = {"provider": "zoom", "wanted": {"status": "active"}, "most": 10}
    try:
        assert reached_connections(here.rt.database, OPERATOR, **looked) == reached_connections(
            over_rest.database, OPERATOR, **looked
        )
        assert inspect_connection(here.rt.database, held[0]) == inspect_connection(over_rest.database, held[0])
        *_, ended = revoke_all(over_rest, "zoom")
        erased, told = prove(over_rest, ended)
        assert (5, 5, 0) == (told["erased"], told["done"], told["left"])
        assert erased == prove(here.rt, ended)[0]
    finally:
        over_rest.database.close()


def test_a_database_that_is_away_for_a_moment_ends_nothing(here, monkeypatch):
    """
    Each step may be repeated, and is; one that stays away ends the run with a sentence.
    """
    connect(here, 2)
    failures = [DatabaseUnavailable("away")] * 2

    def sometimes(*arguments, **options):
        if failures:
            raise failures.pop()
        return erase(*arguments, **options)

    monkeypatch.setattr("gateway.connections.revoke_provider.erase", sometimes)
    monkeypatch.setattr(revoke_provider, "_RETRY_SECONDS", 0)
    list(revoke_all(here.rt, "zoom"))
    assert 0 == left(here)
    failures += [DatabaseUnavailable("away")] * 9
    with pytest.raises(DatabaseUnavailable):
        list(revoke_all(here.rt, "zoom"))


def test_a_proof_is_never_written_over(here, tmp_path):
    """
    A path that cannot be written is reported before anything is erased.
    """
    connect(here)
    file = tmp_path / "proof.jsonl"
    file.write_text("of last time")
    for path in (file, tmp_path / "nowhere" / "proof.jsonl"):
        run(here, "connections", "revoke", "--provider", "zoom", "--yes", "--proof", path, code=2)

    assert "of last time" == file.read_text()
    assert 1 == len(rows(here.database, "select id from gateway.connection"))


def test_an_interrupted_revocation_continues_with_the_same_arguments(here, tmp_path, monkeypatch):
    """
    The proof has its name when it is complete; until then nothing with that name is there.
    """
    connect(here, 30)
    monkeypatch.setattr(revoke_provider, "BATCH", 10)
    file = tmp_path / "proof.jsonl"
    command = ("connections", "revoke", "--provider", "zoom", "--yes", "--proof", file)

    def stopped_soon(rt, provider):
        for report in revoke_all(rt, provider):
            signal.raise_signal(signal.SIGINT)
            yield report

    with monkeypatch.context() as patched:
        patched.setattr(connections_command, "revoke_all", stopped_soon)
        assert "run it again to continue" in run(here, *command, code=1)
    assert not file.exists()
    run(here, *command)

    assert 31 == len(file.read_text().splitlines())
    assert [file] == list(tmp_path.glob("proof*"))


# -- events ------------------------------------------------------------------------------------------------------


def test_events_are_tailed_from_any_position(here):
    """In order, with what they are about; those without a seal too."""
    connect(here, 30)
    assign_positions(here.rt)

    def tailed(*options):
        return [json.loads(line)["position"] for line in run(here, "events", "tail", "--json", *options).splitlines()]

    assert tailed() == list(range(11, 31))
    assert tailed("--after", "2") == list(range(3, 31))
    seal(here.rt)
    assert tailed("--after", "25") == [26, 27, 28, 29, 30]
    assert "connection.created" in run(here, "events", "tail", "--after", "29")


def test_events_are_verified_and_what_was_done_to_them_is_named(here):
    """Exit code 1 then; more is found with the checkpoints of the log."""
    connect(here, 20)
    seal(here.rt)
    position, digest = end(here.rt)
    good = json.loads(run(here, "events", "verify", "--head", f"{position}:{digest}", "--json"))
    assert (good["ok"], good["checked"], good["problems"]) == (True, 20, [])
    assert "Events unchanged: 20," in run(here, "events", "verify")

    assert "its end was cut off" in run(here, "events", "verify", "--head", f"21:{digest}", code=1)
    assert "were replaced" in run(here, "events", "verify", "--head", f"20:1.{'0' * 64}", code=1)
    run(here, "events", "verify", "--head", "20", code=2)
    rows(here.database, "update gateway.event set user_id = gen_random_uuid() where position = 17")
    assert "Events between the positions 1 and 20 were changed" in run(here, "events", "verify", code=1)
    assert json.loads(run(here, "events", "verify", "--json", code=1))["problems"][0]["last"] == 20


# -- registrations ---------------------------------------------------------------------------------------------------


def test_one_providers_registration_is_checked_or_all(here):
    """
    Like the doctor; exit code 1 if something must be fixed.
    """
    assert "It knows our registration" in run(here, "providers", "check", "zoom")
    here.sandbox.state.add_fault("other_client", "zoom", "token")
    said = json.loads(run(here, "providers", "check", "zoom", "--json", code=1))
    assert (False, {"zoom"}) == (said["ok"], {finding["about"] for finding in said["findings"]})
    run(here, "providers", "check", "nowhere", code=2)
    assert "ringcentral" in run(here, "providers", "check")


def test_a_provider_without_a_registration_is_asked_without_credentials(here):
    """
    Its endpoints answer, are gone, or are unknown because they cannot be reached from here or depend on the account.
    """
    del here.environ["HUBSPOT_CLIENT_ID"], here.environ["HUBSPOT_CLIENT_SECRET"], here.environ["TALKDESK_CLIENT_ID"]
    found = json.loads(run(here, "providers", "check", "hubspot", "--json"))["findings"]
    here.sandbox.state.add_fault("status", "hubspot", "token", status=404)
    gone = json.loads(run(here, "providers", "check", "hubspot", "--json"))["findings"]
    here.sandbox.state.add_fault("reset", "hubspot", "token")
    closed = json.loads(run(here, "providers", "check", "hubspot", "--json"))["findings"]

    assert [
        ("ok", "Its authorization_endpoint answers 400 to a request without credentials."),
        ("ok", "Its token_endpoint answers 400 to a request without credentials."),
    ] == [(each["level"], each["message"]) for each in found]
    assert ["ok", "warn"] == [each["level"] for each in gone]
    assert ["ok", "unseen"] == [each["level"] for each in closed]
    assert "depends on the account" in run(here, "providers", "check", "talkdesk")


@pytest.mark.parametrize(
    ("provider", "fault", "level", "message"),
    [
        ("mailjet", {}, "ok", "Its userinfo_endpoint answers 401 to a request without credentials."),
        ("monday_key", {}, "ok", "Its userinfo_endpoint answers 200 to a request without credentials."),
        ("mailgun", {}, "ok", "Its userinfo_endpoint answers 401 to a request without credentials."),
        ("mailjet", {"status": 410}, "warn", "Its userinfo_endpoint answers 410 to a request without credentials."),
        ("mailjet", {"status": 200}, "warn", "Its userinfo_endpoint answers 200 to a request without credentials, as if any key were good."),
        ("twilio", {}, "unseen", "Its userinfo_endpoint depends on the account, or comes from discovery: connect once yourself to be sure."),
    ],
)  # fmt: skip
def test_a_provider_whose_users_enter_a_key_is_asked_without_one(here, provider, fault, level, message):
    """
    Enabled or not: the account endpoint is there, and refuses the request. Where it is in several regions, the first is asked.
    """
    here.environ["GATEWAY_ENABLE"] = "mailjet"
    if fault:
        here.sandbox.state.add_fault("status", provider, "userinfo", **fault)

    (found,) = json.loads(run(here, "providers", "check", provider, "--json"))["findings"]

    assert (provider, level, message) == (found["about"], found["level"], found["message"])
