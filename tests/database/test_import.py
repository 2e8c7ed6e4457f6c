"""Tokens that the gateway did not write: rows from before, and what owners write into their rows; with the simulated providers."""

from __future__ import annotations

import signal
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest

from gateway.cli.connections import _import_lines
from gateway.connections.import_existing import Report
from gateway.database.migrate import apply_schema
from gateway.database.queries.connections import finish_import
from gateway.database.queries.tokens import finish_refresh
from gateway.errors import NeedsReauthorization, Unverified
from gateway.models import Caller
from gateway.protocol.oauth import parse_time
from gateway.tokens.read import fresh_grant
from gateway.worker.jobs import UNIT_JOBS
from gateway.worker.loop import UnitWorker
from tests.support.database import rows
from tests.support.legacy_project import (
    AGENCY,
    ALICE_MAIL,
    ALICE_PHONE,
    BERLIN,
    DESK_MAIL,
    LISBON,
    ended,
    granted,
    project_from_before,
)
from tests.support.patience import held, wait_for
from tests.support.units import import_next

PAST = "2024-05-02T10:00:00Z"


@pytest.fixture
def project(cluster):
    with project_from_before(cluster) as made:
        yield made


@pytest.fixture
def rest_project(cluster):
    with project_from_before(cluster, rest=True) as made:
        yield made


def remaining(report):
    return {row["id"]: row["outcome"] for row in report["remaining"]}


def connected(project, account=BERLIN):
    """A connection that was imported a moment ago: whose, which row, and its tokens at the provider."""
    alice = project.user()
    row, pair = project.location(alice, account)
    assert import_next(project.rt)
    assert status(project, row) == "active"
    return alice, row, pair


def status(project, row):
    return project.of(row)["connection"]["status"]


# -- rows from before ------------------------------------------------------------------------------------------------


def test_plaintext_from_before_is_encrypted_in_its_row_and_verified(project):
    """GHL, Google and RingCentral: the id stays, the profile lists it once, no token is readable, and it decrypts."""
    alice = project.user()
    project.execute("insert into public.user_profile (user_id_auth, user_name) values (%s, 'Alice')", alice)
    mail, phone = granted(project.state, "google", ALICE_MAIL), granted(project.state, "ringcentral", ALICE_PHONE)
    crm_row, crm = project.location(alice)
    mail_row = project.row(alice, "Google ", 2, mail.access_token, refresh=mail.refresh_token)
    phone_row = project.row(alice, "ringcentral", 3, phone.access_token, refresh=phone.refresh_token)
    apply_schema(project.gateway.dsn)

    code, report = project.imports()

    assert (code, report["counts"], report["clean"]) == (0, {"imported": 3}, True)
    assert project.plain() == 0
    assert [project.opened(crm_row, name) for name in ("token", "refresh")] == [crm.access_token, crm.refresh_token]
    assert project.opened(mail_row, "token") == mail.access_token
    for row, provider, account in ((crm_row, "ghl", BERLIN.id), (mail_row, "google", ALICE_MAIL.id)):
        stored = project.of(row)
        assert (stored["name"], stored["data"]["status"]) == (provider, "active")
        assert stored["connection"]["account_id"] == stored["data"]["account"]["id"] == account
    (listed,) = rows(project.gateway.dsn, "select providers from public.user_profile where user_id_auth = %s", alice)
    assert sorted(listed) == sorted([crm_row, mail_row, phone_row])
    assert project.of(crm_row)["data"]["note"] == "the product's own"


def test_rows_that_were_there_before_the_schema_are_queued(cluster):
    with project_from_before(
        cluster, before="insert into public.provider_data (id, token) values (gen_random_uuid(), 'x')"
    ) as project:
        assert len(rows(project.gateway.dsn, "select id from gateway.import_queue")) == 1


def test_a_worker_imports_without_a_command(project):
    """Within a minute: it looks every few seconds."""
    row, pair = project.location(project.user())

    worker = UnitWorker(project.rt, UNIT_JOBS)
    assert worker.once()
    assert worker.finish(20)
    assert (status(project, row), project.opened(row, "token")) == ("active", pair.access_token)
    assert rows(project.gateway.dsn, "select type from gateway.event where connection_id = %s", row) == [
        "connection.imported"
    ]


def test_a_second_run_finds_nothing_to_do(project):
    alice = project.user()
    row, _ = project.location(alice)
    project.imports()
    before, asked = project.of(row), len(project.state.requests())

    assert project.imports() == (0, {"total": 0, "counts": {}, "remaining": [], "interrupted": False, "clean": True})
    assert before == project.of(row)
    assert asked == len(project.state.requests())


def test_an_unknown_name_is_listed_until_it_is_mapped(project):
    row, pair = project.location(project.user(), name="Our CRM")

    code, report = project.imports()
    assert (code, remaining(report)) == (1, {row: "unmapped"})
    project.execute("update gateway.import_queue set due_at = now(), claimed_until = null")
    assert import_next(replace(project.rt, enabled={}))  # where no provider is enabled, every name is unknown
    assert project.of(row)["token"] == pair.access_token
    assert not import_next(project.rt)
    code, report = project.imports("--map", "our crm=ghl")

    assert (code, report["counts"]) == (0, {"imported": 1})
    assert project.of(row)["name"] == "ghl"


@pytest.mark.parametrize("name", ["GHL", "Go High Level", "highlevel", None, ""])
def test_the_names_in_the_documents_mean_highlevel(project, name):
    """Type 1 has always meant it."""
    row, _ = project.location(project.user(), name=name)
    import_next(project.rt)

    assert status(project, row) == "active"


@pytest.mark.parametrize("written", ["2999-01-01T00:00:00Z", "never", None])
def test_what_an_owner_wrote_about_the_end_of_a_token_counts_for_an_hour(project, written):
    """Then a refresh brings the true one: no caller gets a token that has long expired."""
    row, _ = project.location(project.user(), expires=written)
    import_next(project.rt)

    ends = datetime.fromisoformat(project.of(row)["connection"]["expires_at"])
    assert (status(project, row), ends <= datetime.now(UTC) + timedelta(hours=1)) == ("active", True)


def test_an_expired_token_is_refreshed_once(project):
    """The refresh verifies the account: the row names it, and the import is an event."""
    row, pair = project.location(project.user(), expires=PAST)

    assert project.imports()[0] == 0
    assert project.refreshes() == 1
    assert project.of(row)["data"]["account"]["id"] == project.of(row)["connection"]["account_id"] == BERLIN.id
    told = rows(project.gateway.dsn, "select type from gateway.event where connection_id = %s", row)
    assert told.count("connection.imported") == 1
    assert project.opened(row, "token") == pair.successor.access_token
    assert project.opened(row, "refresh") == pair.successor.refresh_token
    assert project.of(row)["connection"]["expires_at"] > datetime.now(UTC).isoformat()


def test_a_refused_token_is_refreshed_if_there_is_a_refresh_token(project):
    row, pair = project.location(project.user(), token="long forgotten there")

    assert project.imports()[0] == 0
    assert project.opened(row, "token") == pair.successor.access_token


def test_a_row_that_does_not_say_its_location_is_verified_by_a_refresh(project):
    """The token response names the account, an agency or a location."""
    row, _ = project.location(project.user(), AGENCY, data=None)

    assert project.imports()[0] == 0
    stored = project.of(row)
    assert (stored["connection"]["account_id"], stored["connection"]["facts"]["userType"]) == (AGENCY.id, "Company")


def test_a_revoked_token_needs_reauthorization(project):
    row, pair = project.location(project.user())
    project.state.end(pair.session)

    code, report = project.imports()

    assert (code, remaining(report)) == (1, {row: "refused"})
    assert (status(project, row), project.plain()) == ("needs_reauthorization", 0)


def test_an_id_in_the_data_of_a_row_decides_only_where_to_ask(project):
    """A token for Lisbon does not become Berlin's because its row says so."""
    lisbon = granted(project.state, "ghl", LISBON)
    row, _ = project.location(project.user(), BERLIN, token=lisbon.access_token, refresh=None)

    assert remaining(project.imports()[1]) == {row: "refused"}
    assert status(project, row) == "needs_reauthorization"


def test_of_duplicates_the_oldest_that_is_confirmed_is_connected(project):
    """None is deleted."""
    alice = project.user()
    dead, pair = project.location(alice, LISBON, id="00000000-0000-4000-8000-000000000001")
    good, _ = project.location(alice, id="00000000-0000-4000-8000-000000000002")
    late, _ = project.location(alice, id="00000000-0000-4000-8000-000000000003")
    project.state.end(pair.session)

    code, report = project.imports()

    assert (code, remaining(report)) == (1, {dead: "refused", late: "duplicate"})
    assert (status(project, good), project.of(late)["connection"]) == ("active", None)


def test_an_encrypted_value_that_does_not_decrypt_stays_as_it_is(project):
    """It may be ours, under a key that is missing."""
    row = project.row(project.user(), "GHL", 1, "gAAAAAforeign", refresh="plain beside it")

    assert remaining(project.imports()[1]) == {row: "unreadable"}
    assert (project.of(row)["token"], project.of(row)["refresh"]) == ("gAAAAAforeign", "plain beside it")


def test_a_row_of_no_user_is_listed(project):
    row = project.row(None, "GHL", 1, granted(project.state, "ghl", BERLIN).access_token)

    assert remaining(project.imports()[1]) == {row: "no_user"}


def test_a_provider_that_is_down_is_asked_again_and_no_refresh_token_is_used_twice(project):
    """The refresh had a response, the account, which it does not name, had none: the next run continues with that response."""
    pair = granted(project.state, "ringcentral", ALICE_PHONE)
    row = project.row(project.user(), "ringcentral", 3, pair.access_token, refresh=pair.refresh_token, expires=PAST)
    project.state.add_fault("status", "ringcentral", "userinfo", 1, status=503)

    assert remaining(project.imports()[1]) == {row: "later"}
    project.execute("update gateway.connection set not_before = null")
    assert project.imports()[0] == 0

    assert project.refreshes("ringcentral") == 1
    assert project.opened(row, "token") == pair.successor.access_token


# -- interrupted, and at once ----------------------------------------------------------------------------------------


def test_an_interrupted_run_is_continued(project):
    """Ctrl-C finishes the current row and says so; the next run does the rest, and no refresh is sent twice."""
    for _ in range(5):
        project.location(project.user(), expires=PAST)
    with held(project, "ghl", "token") as is_asked:
        process = project.starts()
        wait_for(is_asked)

        process.send_signal(signal.SIGINT)
    code, report = ended(process)

    assert (code, report["interrupted"]) == (1, True)
    assert report["counts"]["imported"] == 1
    assert project.plain() == 4
    assert project.imports()[0] == 0
    assert (project.plain(), project.refreshes()) == (0, 5)


def test_two_runs_at_once_refresh_each_row_once(project):
    for _ in range(4):
        project.location(project.user(), expires=PAST)
    project.state.add_fault("slow", "ghl", "token", 0, seconds=0.4)

    runs = [ended(process) for process in (project.starts(), project.starts())]

    assert sum(report["counts"].get("imported", 0) for _, report in runs) == 4
    assert (project.plain(), project.refreshes()) == (0, 4)


def test_a_row_whose_process_crashed_is_taken_up_after_a_minute(project):
    row, _ = project.location(project.user())
    project.execute("update gateway.import_queue set claimed_until = clock_timestamp() + interval '1 minute'")
    assert not import_next(project.rt)

    project.execute("update gateway.import_queue set claimed_until = clock_timestamp()")
    assert import_next(project.rt)
    assert status(project, row) == "active"


# -- what owners write -----------------------------------------------------------------------------------------------


def test_what_an_owner_wrote_is_not_used_until_it_is_confirmed(project):
    """From the moment it was written; whatever it is."""
    alice, row, _ = connected(project)
    for written in (granted(project.state, "ghl", BERLIN).access_token, "gAAAAA-nonsense"):
        project.writes(alice, row, token=written)

        assert status(project, row) == "unverified"
        with pytest.raises(Unverified):
            fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice))
        assert import_next(project.rt)
        assert fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice)).access_token


def test_an_owners_token_of_the_same_account_becomes_the_next_generation(project):
    """The documented update of token and expires: the worker encrypts and verifies it, and our refresh token stays."""
    alice, row, pair = connected(project)
    mine = granted(project.state, "ghl", BERLIN)

    project.writes(alice, row, token=mine.access_token, expires=(datetime.now(UTC) + timedelta(hours=2)).isoformat())
    assert import_next(project.rt)

    stored = project.of(row)
    assert (stored["connection"]["generation"], stored["data"]["status"]) == (2, "active")
    assert project.opened(row, "token") == mine.access_token
    assert project.opened(row, "refresh") == pair.refresh_token
    assert (project.plain(), project.refreshes()) == (0, 0)
    assert not import_next(project.rt)


def test_an_owners_token_of_another_account_needs_reauthorization(project):
    alice, row, _ = connected(project)

    project.writes(alice, row, token=granted(project.state, "ghl", LISBON).access_token)
    assert import_next(project.rt)

    assert (status(project, row), project.of(row)["data"]["status"], project.plain()) == (
        "needs_reauthorization", "needs_reauthorization", 0,
    )  # fmt: skip
    query = "select type from gateway.event where connection_id = %s order by at"
    assert rows(project.gateway.dsn, query, row)[-1] == "connection.needs_reauthorization"


def test_an_owners_refresh_token_of_another_account_is_not_believed_beside_a_good_token(project):
    """It would bring tokens of the other account one day: it is used once, and judged by what it brings."""
    alice, row, _ = connected(project)
    mine, other = granted(project.state, "ghl", BERLIN), granted(project.state, "ghl", LISBON)

    project.writes(alice, row, token=mine.access_token, refresh=other.refresh_token)
    assert import_next(project.rt)

    assert (status(project, row), project.plain()) == ("needs_reauthorization", 0)


def test_an_openid_account_is_compared_too(project):
    """Google's userinfo says whose token it is."""
    alice = project.user()
    row = project.row(alice, "google", 2, granted(project.state, "google", ALICE_MAIL).access_token)
    import_next(project.rt)

    project.writes(alice, row, token=granted(project.state, "google", DESK_MAIL).access_token)
    assert import_next(project.rt)

    assert status(project, row) == "needs_reauthorization"


@pytest.mark.parametrize(
    "written",
    [
        {"refresh": "two\r\nlines"},
        {"refresh": "gAAAAA-nonsense"},
        {"token": "gAAAAA-nonsense", "refresh": "gAAAAA-nonsense"},
    ],
)
def test_nonsense_needs_reauthorization_without_a_request(project, written):
    """A line break would end a header."""
    alice, row, _ = connected(project)
    asked = len(project.state.requests())

    project.writes(alice, row, **written)
    assert import_next(project.rt)

    assert status(project, row) == "needs_reauthorization"
    assert asked == len(project.state.requests())
    with pytest.raises(NeedsReauthorization):
        fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice))


def test_a_provider_that_is_down_decides_nothing(project):
    """The worker does not ask again at once, and the next try verifies it."""
    alice, row, _ = connected(project)
    project.writes(alice, row, token=granted(project.state, "ghl", BERLIN).access_token)
    project.state.add_fault("status", "ghl", "userinfo", 1, status=500)

    assert import_next(project.rt)
    assert not import_next(project.rt)
    assert (status(project, row), project.plain()) == ("unverified", 0)
    project.execute("update gateway.import_queue set due_at = clock_timestamp()")

    assert import_next(project.rt)
    assert status(project, row) == "active"


def test_what_is_written_while_the_provider_is_asked_is_verified_next(project):
    """Compare-and-set: an older confirmation does not count for it."""
    alice, row, _ = connected(project)
    second = granted(project.state, "ghl", LISBON)
    project.writes(alice, row, token=granted(project.state, "ghl", BERLIN).access_token)
    with held(project, "ghl", "userinfo") as is_asked:
        worker = project.thread(lambda: import_next(project.rt))
        wait_for(is_asked)
        assert project.plain() == 0
        project.writes(alice, row, token=second.access_token)
    worker.join()

    assert status(project, row) == "unverified"
    assert import_next(project.rt)
    assert status(project, row) == "needs_reauthorization"


def test_a_doubt_that_comes_while_an_earlier_verification_ends_is_verified_next(project):
    """The owner connected again meanwhile, and a refresh named another account: the end of the earlier verification says nothing of that."""
    _, row, _ = connected(project)
    claimed = (
        "insert into gateway.import_queue (id, attempts, claimed_until) values (%s, 1, now() + interval '1 minute')"
    )
    project.execute(claimed, row)
    encrypt = partial(project.rt.vault.encrypt, user_id=uuid4(), provider="ghl", seal_id=uuid4())
    given = {
        "token": encrypt("t", column="token"),
        "refresh": encrypt("r", column="refresh"),
        "seal_id": uuid4(),
        "scope": (),
        "account": None,
    }
    given |= {"facts": {}, "expires_seconds": 60.0, "refresh_expires_seconds": None, "renewed": True}

    generation = project.of(row)["connection"]["generation"]
    assert finish_refresh(project.rt.database, UUID(row), generation, doubt="another_account", **given) == "saved"
    finish_import(project.rt.database, UUID(row), "confirmed", seal_id=uuid4())

    assert status(project, row) == "unverified"
    assert import_next(project.rt)


def test_what_the_gateway_and_the_owners_server_write_is_not_queued(project):
    _, row, _ = connected(project)
    fresh_grant(project.rt, UUID(row), force=True)
    project.execute("set role service_role; update public.provider_data set token = refresh")

    assert rows(project.gateway.dsn, "select id from gateway.import_queue") == []


def test_all_of_it_works_over_rest(rest_project):
    project = rest_project
    alice = project.user()
    row, _ = project.location(alice)
    dated, pair = project.location(project.user(), created_at=None, expires=PAST)

    assert project.imports()[1]["counts"] == {"imported": 2}
    project.writes(alice, row, token=granted(project.state, "ghl", LISBON).access_token)
    assert import_next(project.rt)

    assert status(project, row) == "needs_reauthorization"
    assert project.opened(dated, "token") == pair.successor.access_token
    assert project.plain() == 0


# -- output ----------------------------------------------------------------------------------------------------------


def test_no_secret_is_shown(project):
    """Neither report nor log contains a token."""
    pairs = [project.location(project.user(), expires=expires)[1] for expires in (None, PAST)]
    project.state.end(pairs[0].session)

    said = "".join(project.starts().communicate(timeout=60))

    for pair in pairs:
        assert pair.access_token not in said
        assert pair.refresh_token not in said


def test_a_name_cannot_control_the_operators_terminal():
    """Users may insert rows, and write any text as the name."""
    row = {"id": "id", "name": "\x1b[2J\x07CRM", "outcome": "unmapped", "reason": "why"}
    text = "\n".join(_import_lines(Report(remaining=[row]), interrupted=False))

    assert "CRM" in text
    assert not {"\x1b", "\x07"} & set(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-05-02T10:00:00Z", datetime(2024, 5, 2, 10, tzinfo=UTC)),
        ("2024-05-02T12:00:00+02:00", datetime(2024, 5, 2, 10, tzinfo=UTC)),
        ("2024-05-02 10:00:00", datetime(2024, 5, 2, 10, tzinfo=UTC)),
        ("1714644000", datetime(2024, 5, 2, 10, tzinfo=UTC)),
        ("1714644000000", datetime(2024, 5, 2, 10, tzinfo=UTC)),
        ("3600 s", None),
        ("9" * 40, None),
        ("", None),
        (None, None),
    ],
)
def test_an_expiry_is_read_as_it_was_written(text, moment):
    """ISO 8601, seconds, milliseconds; nonsense is none."""
    assert parse_time(text) == moment


def test_a_map_that_makes_no_sense_is_refused_with_all_problems(project):
    process = project.starts("--map", "GHL", "--map", "x=nobody")
    _, complained = process.communicate(timeout=60)

    assert process.returncode == 2
    assert complained.count("--map") >= 2
