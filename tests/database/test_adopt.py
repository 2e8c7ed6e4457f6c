"""
What stood before and what owners write over ours, on a real Postgres, with the played providers.
"""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from rich.console import Console

from gateway.connections import adopt
from gateway.connections.adopt.proof import read_expiry, use_refresh_token
from gateway.connections.sealing import _say, read_names
from gateway.connections.sealing.walk import Left, Report
from gateway.database import apply_schema
from gateway.database.queries.refresh import ClaimedRefresh, claim_refresh
from gateway.errors import DatabaseUnavailable, SettingsRefused
from gateway.http import Deadline
from gateway.worker.loop import Worker
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

PAST = "2024-05-02T10:00:00Z"


@pytest.fixture
def project(cluster):
    with project_from_before(cluster) as made:
        yield made


@pytest.fixture
def rest_project(cluster):
    with project_from_before(cluster, rest=True) as made:
        yield made


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def left(report):
    return {row["id"]: row["outcome"] for row in report["left"]}


def connected(project, account=BERLIN):
    """A connection of somebody's, adopted a moment ago: who, which row, and its tokens at the provider."""
    alice = project.user()
    row, pair = project.location(alice, account)
    assert "sealed" == adopt.adopt(project.rt, project.rt.store.claim_adoption(UUID(row), "ghl")).outcome
    return alice, row, pair


# -- what stood before -----------------------------------------------------------------------------------------------


def test_plaintext_from_before_is_verified_and_sealed_in_its_row(project):
    """
    GHL, Google and RingCentral: the id stays, the profile lists it once, nothing of the token is readable, and it opens.
    """
    alice = project.user()
    project.execute("insert into public.user_profile (user_id_auth, user_name) values (%s, 'Alice')", alice)
    mail, phone = granted(project.state, "google", ALICE_MAIL), granted(project.state, "ringcentral", ALICE_PHONE)
    crm_row, crm = project.location(alice)
    mail_row = project.row(alice, "Google ", 2, mail.access_token, refresh=mail.refresh_token)
    phone_row = project.row(alice, "ringcentral", 3, phone.access_token, refresh=phone.refresh_token)
    apply_schema(project.gateway.dsn)

    code, report = project.seals()

    assert (0, {"sealed": 3}, True) == (code, report["counts"], report["clean"])
    assert 0 == project.plain()
    assert [crm.access_token, crm.refresh_token] == [project.opened(crm_row, name) for name in ("token", "refresh")]
    assert mail.access_token == project.opened(mail_row, "token")
    for row, provider, account in ((crm_row, "ghl", BERLIN.id), (mail_row, "google", ALICE_MAIL.id)):
        stands = project.of(row)
        assert (provider, "active", account) == (
            stands["name"],
            stands["data"]["status"],
            stands["connection"]["account_id"],
        )
    (listed,) = rows(project.gateway.dsn, "select providers from public.user_profile where user_id_auth = %s", alice)
    assert sorted([crm_row, mail_row, phone_row]) == sorted(listed)
    assert "the product's own" == project.of(crm_row)["data"]["note"]


def test_a_second_run_finds_it_done(project):
    """
    Nothing is asked again, nothing written, and the ids stand once.
    """
    alice = project.user()
    row, _ = project.location(alice)
    project.seals()
    before, asked = project.of(row), len(project.state.requests())

    code, report = project.seals()

    assert (0, {"standing": 1}) == (code, report["counts"])
    assert before == project.of(row)
    assert asked == len(project.state.requests())
    assert [[row]] == rows(
        project.gateway.dsn, "select providers from public.user_profile where user_id_auth = %s", alice
    )


def test_a_name_that_nobody_knows_is_listed_until_it_is_mapped(project):
    """
    Free text means what the operator says it means; until then the row stays as it is.
    """
    row, pair = project.location(project.user(), name="Our CRM")

    code, report = project.seals()
    assert (1, {row: "unmapped"}) == (code, left(report))
    assert pair.access_token == project.of(row)["token"]
    code, report = project.seals("--map", "our crm=ghl")

    assert (0, {"sealed": 1}) == (code, report["counts"])
    assert "ghl" == project.of(row)["name"]


@pytest.mark.parametrize("name", ["GHL", "Go High Level", "highlevel", None, ""])
def test_what_the_documents_call_highlevel_is_highlevel(project, name):
    """
    Type 1 has always meant it.
    """
    project.location(project.user(), name=name)

    assert {"to_verify": 1} == project.seals("--dry-run")[1]["counts"]


def test_a_dry_run_asks_nobody_and_changes_nothing(project):
    """
    It says what would be asked.
    """
    row, _ = project.location(project.user())
    before = project.of(row)

    code, report = project.seals("--dry-run")

    assert (0, {"to_verify": 1}) == (code, report["counts"])
    assert (before, []) == (project.of(row), project.state.requests())


def test_an_expired_token_is_refreshed_once(project):
    """
    One token request; what it brings is what stands then, with the provider's own end of it.
    """
    row, pair = project.location(project.user(), expires=PAST)

    assert 0 == project.seals()[0]

    assert 1 == project.refreshes()
    assert pair.successor.access_token == project.opened(row, "token")
    assert pair.successor.refresh_token == project.opened(row, "refresh")
    assert project.of(row)["connection"]["expires_at"] > datetime.now(UTC).isoformat()


def test_a_refused_token_is_refreshed_where_a_refresh_token_stands(project):
    """
    Though its row says nothing of an end.
    """
    row, pair = project.location(project.user(), token="long forgotten there")

    assert 0 == project.seals()[0]
    assert pair.successor.access_token == project.opened(row, "token")


def test_a_row_that_does_not_say_which_location_is_asked_by_refresh(project):
    """
    HighLevel's token answer names the account; an agency is told from a location.
    """
    row, _ = project.location(project.user(), AGENCY, data=None)

    assert 0 == project.seals()[0]
    assert (AGENCY.id, "Company") == (project.of(row)["connection"]["account_id"], project.of(row)["data"]["userType"])


def test_a_revoked_token_is_listed_and_left_as_it_is(project):
    """
    Nobody is told that it is a connection.
    """
    row, pair = project.location(project.user())
    project.state.end(pair.session)
    before = project.of(row)

    code, report = project.seals()

    assert (1, {row: "refused"}) == (code, left(report))
    assert before == project.of(row)


def test_an_id_in_the_rows_data_is_only_where_to_ask(project):
    """
    A token for Lisbon does not become Berlin's because its row says so.
    """
    lisbon = granted(project.state, "ghl", LISBON)
    row, _ = project.location(project.user(), BERLIN, token=lisbon.access_token, refresh=None)

    assert {row: "refused"} == left(project.seals()[1])
    assert project.of(row)["connection"] is None


def test_of_duplicates_the_oldest_that_holds_is_connected_and_the_rest_reported(project):
    """
    None is deleted; the report has the statement to look at them with.
    """
    alice = project.user()
    dead, pair = project.location(alice, LISBON, created_at="2023-01-01")
    good, _ = project.location(alice, created_at="2023-02-01")
    late, _ = project.location(alice, created_at="2023-03-01")
    project.state.end(pair.session)

    code, report = project.seals()

    assert (1, {dead: "refused", late: "duplicate"}) == (code, left(report))
    (told,) = report["duplicates"]
    assert [dead, good, late] == told["ids"] == [str(row[0]) for row in rows(project.gateway.dsn, told["sql"])]
    assert project.of(good)["connection"]["status"] == "active"
    assert [[good]] == rows(
        project.gateway.dsn, "select providers from public.user_profile where user_id_auth = %s", alice
    )


def test_what_looks_sealed_and_does_not_open_is_listed_untouched(project):
    """
    It may be ours under a key that is missing, or somebody else's: neither is guessed at.
    """
    foreign = project.rt.vault.encrypt("x", column="token", seal_id="elsewhere")
    row = project.row(project.user(), "GHL", 1, foreign, refresh="plain beside it")
    _, known, _ = connected(project)
    project.execute("update public.provider_data set token = %s where id = %s", foreign, known)

    code, report = project.seals()

    assert (1, {row: "unreadable", known: "unreadable"}) == (code, left(report))
    assert (foreign, "plain beside it") == (project.of(row)["token"], project.of(row)["refresh"])


def test_a_row_of_nobody_is_listed(project):
    """
    There is nobody whose connection it could be.
    """
    row = project.row(None, "GHL", 1, granted(project.state, "ghl", BERLIN).access_token)

    assert {row: "no_user"} == left(project.seals()[1])


def test_a_provider_that_is_away_is_asked_again_and_the_token_is_not_used_twice(project):
    """
    The refresh was answered, the account was not: the next run goes on with what the first one got.
    """
    row, pair = project.location(project.user(), AGENCY, expires=PAST)
    project.state.add_fault("status", "ghl", "company", 1, status=503)

    code, report = project.seals()
    assert (1, {row: "put_off"}) == (code, left(report))
    assert 0 == project.seals()[0]

    assert 1 == project.refreshes()
    assert pair.successor.access_token == project.opened(row, "token")


@pytest.mark.parametrize("rest", [False, True])
def test_pages_show_every_row_once(cluster, rest):
    """
    Rows of one moment, and rows that do not say when they were made, oldest first.
    """
    with project_from_before(cluster, rest=rest) as project:
        when = ["2024-01-02", None, "2024-01-01 10:00:00.123456", "2024-01-02", None, "2024-01-02", None]
        made = [project.row(None, "GHL", 1, "plain", created_at=moment) for moment in when]
        shown, last = [], None
        while page := project.rt.store.adoptable(after=last, most=2, providers=["ghl"]).rows:
            shown += [str(row.id) for row in page]
            last = page[-1]

    assert made[2] == shown[0]
    assert {made[1], made[4], made[6]} == set(shown[-3:])
    assert sorted(made) == sorted(shown)


# -- cut short, and at once ------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_taken_up_where_it_ended(project):
    """
    Ctrl-C finishes the row at hand and says so; the next run does the rest, and no refresh is sent twice.
    """
    for _ in range(5):
        project.location(project.user(), expires=PAST)
    project.state.add_fault("slow", "ghl", "token", 0, seconds=0.3)
    process = project.starts()
    wait_until(lambda: project.refreshes() == 2)

    process.send_signal(signal.SIGINT)
    code, report = ended(process)

    assert (1, True) == (code, report["interrupted"])
    assert 2 <= report["counts"]["sealed"] < 5
    assert 5 - report["counts"]["sealed"] == project.plain()
    assert 0 == project.seals()[0]
    assert (0, 5) == (project.plain(), project.refreshes())


def test_two_runs_at_once_refresh_each_row_once(project):
    """
    Each row is claimed by one of them; both end well.
    """
    for _ in range(4):
        project.location(project.user(), expires=PAST)
    project.state.add_fault("slow", "ghl", "token", 0, seconds=0.4)

    runs = [ended(process) for process in (project.starts(), project.starts())]

    assert [0, 0] == [code for code, _ in runs]
    assert 4 == sum(report["counts"].get("sealed", 0) for _, report in runs)
    assert (0, 4) == (project.plain(), project.refreshes())


def test_a_run_that_died_over_a_row_keeps_it_for_a_minute_only(project):
    """
    Its claim runs out; what it had got for the refresh token is used.
    """
    row, _ = project.location(project.user(), expires=PAST)
    claim = project.rt.store.claim_adoption(UUID(row), "ghl")
    provider = project.rt.provider("ghl")
    use_refresh_token(project.rt, provider, claim, claim.refresh, Deadline.after(5))
    assert project.rt.store.claim_adoption(UUID(row), "ghl") is None

    project.execute("update gateway.adoption set lease_until = clock_timestamp()")

    assert 0 == project.seals()[0]
    assert 1 == project.refreshes()


# -- what owners write over ours -------------------------------------------------------------------------------------


def test_an_owners_token_of_the_same_account_becomes_the_next_generation(project):
    """
    The documented update of token and expires: the worker verifies and seals it, and our refresh token stays.
    """
    alice, row, pair = connected(project)
    mine = granted(project.state, "ghl", BERLIN)
    soon = (datetime.now(UTC) + timedelta(hours=2)).isoformat()

    project.writes(alice, row, token=mine.access_token, expires=soon)
    assert Worker(project.rt).once()

    stands = project.of(row)
    assert (2, "active") == (stands["connection"]["generation"], stands["data"]["status"])
    assert mine.access_token == project.opened(row, "token")
    assert pair.refresh_token == project.opened(row, "refresh")
    assert (0, 0) == (project.plain(), project.refreshes())
    assert not adopt.work_once(project.rt)


def test_an_owners_token_of_another_account_is_marked_and_taken_out(project):
    """
    The connection has to be made again; what was sealed beside it stays, and nothing is readable.
    """
    alice, row, _ = connected(project)

    project.writes(alice, row, token=granted(project.state, "ghl", LISBON).access_token)
    assert adopt.work_once(project.rt)

    stands = project.of(row)
    assert ("needs_reauthorization", "needs_reauthorization", None, 1) == (
        stands["data"]["status"],
        stands["connection"]["status"],
        stands["token"],
        stands["connection"]["generation"],
    )
    assert 0 == project.plain()
    events = rows(project.gateway.dsn, "select type from gateway.event where connection_id = %s order by at", row)
    assert "connection.needs_reauthorization" == events[-1]


def test_an_owners_refresh_token_of_another_account_is_not_believed_beside_a_good_token(project):
    """
    It would bring the other account's tokens one day: it is used once, and judged by what it brings.
    """
    alice, row, _ = connected(project)
    mine, other = granted(project.state, "ghl", BERLIN), granted(project.state, "ghl", LISBON)

    project.writes(alice, row, token=mine.access_token, refresh=other.refresh_token)
    assert adopt.work_once(project.rt)

    assert "needs_reauthorization" == project.of(row)["connection"]["status"]
    assert 0 == project.plain()


def test_an_openid_account_is_compared_too(project):
    """
    Google's userinfo says whose token it is.
    """
    alice = project.user()
    row = project.row(alice, "google", 2, granted(project.state, "google", ALICE_MAIL).access_token)
    project.seals()

    project.writes(alice, row, token=granted(project.state, "google", DESK_MAIL).access_token)
    assert adopt.work_once(project.rt)

    assert "needs_reauthorization" == project.of(row)["connection"]["status"]


def test_nonsense_is_marked_without_asking_anybody(project):
    """
    A line break would end a header.
    """
    alice, row, _ = connected(project)
    asked = len(project.state.requests())

    project.writes(alice, row, token="two\r\nlines")
    assert adopt.work_once(project.rt)

    assert "needs_reauthorization" == project.of(row)["connection"]["status"]
    assert asked == len(project.state.requests())


def test_a_provider_that_is_away_marks_nothing(project):
    """
    It is put off: the worker does not ask again at once, and the next try seals it.
    """
    alice, row, _ = connected(project)
    project.writes(alice, row, token=granted(project.state, "ghl", BERLIN).access_token)
    project.state.add_fault("status", "ghl", "userinfo", 1, status=500)

    assert adopt.work_once(project.rt)
    assert not adopt.work_once(project.rt)
    assert "active" == project.of(row)["connection"]["status"]
    project.execute("update gateway.adoption set due_at = clock_timestamp()")

    assert adopt.work_once(project.rt)
    assert 0 == project.plain()


def test_what_is_written_while_the_provider_is_asked_is_not_overwritten(project):
    """
    Compare-and-set: the newer word is asked about next.
    """
    alice, row, _ = connected(project)
    first, second = granted(project.state, "ghl", BERLIN), granted(project.state, "ghl", BERLIN)
    project.writes(alice, row, token=first.access_token)
    claim = project.rt.store.claim_adoption()
    project.writes(alice, row, token=second.access_token)

    assert "put_off" == adopt.adopt(project.rt, claim).outcome
    assert second.access_token == project.of(row)["token"]
    assert adopt.work_once(project.rt)
    assert second.access_token == project.opened(row, "token")


def test_no_refresh_starts_while_a_row_is_asked_about(project):
    """
    And none that has started is disturbed.
    """
    alice, row, _ = connected(project)
    project.writes(alice, row, token=granted(project.state, "ghl", BERLIN).access_token)
    claim = project.rt.store.claim_adoption()
    asked = {"connection_id": claim.id, "generation": 1, "host": "h", "lease_seconds": 15, "block_seconds": 60}

    assert "leased" == claim_refresh(project.rt.database, **asked).obstacle
    project.rt.store.settle_adoption(claim, refused=False, token_hash=None, refresh_hash=None, error="")
    assert isinstance(claim_refresh(project.rt.database, **asked), ClaimedRefresh)
    project.execute("update gateway.connection set lease_until = clock_timestamp()")
    project.execute("update gateway.adoption set due_at = clock_timestamp()")

    assert project.rt.store.claim_adoption() is None


def test_only_what_is_written_over_a_connection_concerns_the_worker(project):
    """
    Rows from before wait for the operator's word on their names; our own writing is not noted.
    """
    connected(project)
    alice = project.user()
    row, _ = project.location(alice)
    project.execute("update public.provider_data set token = 'other' where id = %s", row)

    assert not adopt.work_once(project.rt)


def test_all_of_it_goes_over_rest_as_well(rest_project):
    """
    PostgREST, played: a project without DATABASE_URL is sealed by the same command, and its worker does the same.
    """
    project = rest_project
    alice = project.user()
    row, _ = project.location(alice)
    dated, pair = project.location(project.user(), created_at=None, expires=PAST)

    code, report = project.seals()
    assert (0, {"sealed": 2}) == (code, report["counts"])
    project.writes(alice, row, token=granted(project.state, "ghl", LISBON).access_token)
    assert adopt.work_once(project.rt)

    assert "needs_reauthorization" == project.of(row)["connection"]["status"]
    assert pair.successor.access_token == project.opened(dated, "token")
    assert 0 == project.plain()


# -- small things ----------------------------------------------------------------------------------------------------


def test_no_secret_is_told(project):
    """
    Neither the report nor the log holds a token, whatever the ends.
    """
    pairs = [project.location(project.user(), expires=expires)[1] for expires in (None, PAST)]
    project.state.end(pairs[0].session)
    process = project.starts()

    said = "".join(process.communicate(timeout=60))

    for pair in pairs:
        assert pair.access_token not in said
        assert pair.refresh_token not in said


def test_a_name_cannot_steer_the_operators_terminal(capsys):
    """
    Users may insert rows, and write what they like into the name.
    """
    _say(Console(width=120), Report(left=[Left("id", "\x1b[2J\x07CRM", None, "unmapped", "why")]))

    said = capsys.readouterr().out
    assert "CRM" in said
    assert not {"\x1b", "\x07"} & set(said)


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
def test_an_end_is_read_as_it_was_written_and_nonsense_is_none(text, moment):
    """
    ISO 8601, seconds, milliseconds.
    """
    assert moment == read_expiry(text)


def test_a_map_that_makes_no_sense_is_refused_with_all_problems(project):
    """
    Before anything is touched.
    """
    with pytest.raises(SettingsRefused) as refused:
        read_names(project.rt.catalog, ["GHL", "x=nobody", "CRM=a=ghl"])

    assert 2 == len(refused.value.problems)
    assert {"CRM=a": "ghl"} == read_names(project.rt.catalog, ["CRM=a=ghl"])


def test_a_claim_is_given_back_when_something_breaks(project, monkeypatch):
    """
    Whatever was raised: the next run does not wait a minute.
    """
    row, _ = project.location(project.user())
    claim = project.rt.store.claim_adoption(UUID(row), "ghl")

    def away(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("gone")

    monkeypatch.setattr(type(project.rt.store), "adopt_connection", away)
    with pytest.raises(DatabaseUnavailable):
        adopt.adopt(project.rt, claim)

    assert project.rt.store.claim_adoption(UUID(row), "ghl") is not None
