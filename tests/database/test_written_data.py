"""
What owners may write into their rows decides nothing: neither what is asked of a provider nor whether a connection works.
"""

from __future__ import annotations

from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from gateway.connections import uninstall as leave
from gateway.errors import NeedsReauthorization, ProviderUnavailable
from gateway.http import Deadline
from gateway.models import Caller
from gateway.tokens.read import fresh_grant
from tests.support.database import rows
from tests.support.legacy_project import AGENCY, BERLIN, LISBON, granted, project_from_before
from tests.support.units import import_next, refresh_next

FAKE = "gAAAAA-nonsense"
COMPANY = {"userType": "Company", "companyId": LISBON.id}


@pytest.fixture
def project(cluster):
    with project_from_before(cluster) as made:
        yield made


def connected(project, account=BERLIN, **more):
    """An imported connection: its user, its row, and its tokens at the provider."""
    alice = project.user()
    row, pair = project.location(alice, account, **more)
    assert import_next(project.rt)
    assert "active" == status(project, row)
    return alice, row, pair


def status(project, row):
    return project.of(row)["connection"]["status"]


def last_asked(project, endpoint):
    return project.state.requests("ghl", endpoint)[-1]["form"]


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [COMPANY, [1], "text", 7, None])
def test_a_refresh_asks_for_what_the_provider_said_and_not_for_what_the_owner_wrote(project, data):
    """
    The request has the true user_type, whatever `data` says; and a refresh restores `data`.
    """
    alice, row, _ = connected(project)
    project.writes(alice, row, data=Jsonb(data))

    fresh_grant(project.rt, UUID(row), force=True)

    assert "Location" == last_asked(project, "token")["user_type"]
    assert (2, "active") == (project.of(row)["connection"]["generation"], project.of(row)["data"]["status"])


@pytest.mark.parametrize("data", [COMPANY, [1]])
def test_a_refusal_is_noted_whatever_the_owner_wrote(project, data):
    """
    The connection is marked, and `data` says so too.
    """
    alice, row, pair = connected(project)
    project.writes(alice, row, data=Jsonb(data))
    project.state.end(pair.session)

    with pytest.raises(NeedsReauthorization):
        fresh_grant(project.rt, UUID(row), force=True)

    assert "needs_reauthorization" == status(project, row) == project.of(row)["data"]["status"]


@pytest.mark.parametrize(("account", "body"), [(BERLIN, {"locationId": BERLIN.id}), (AGENCY, {"companyId": AGENCY.id})])
def test_an_uninstall_names_what_was_connected(project, account, body):
    """
    A location stays a location, and an agency one.
    """
    facts = {"userType": "Company" if account is AGENCY else "Location", **body}
    alice, row, _ = connected(project, account, data=facts)
    other = {"userType": "Location" if account is AGENCY else "Company"}
    for data in (other, [1]):
        project.writes(alice, row, data=Jsonb(data))

        leave.uninstall_app(
            project.rt, Deadline.after(10), connection_id=UUID(row), session_hash=None, caller=Caller(user_id=alice)
        )

        assert body == last_asked(project, "uninstall")


def test_an_owners_new_token_is_asked_about_by_what_is_believed(project):
    """
    Facts that they write beside it do not lead the question astray, and are not believed afterwards.
    """
    alice, row, _ = connected(project)
    mine = granted(project.state, "ghl", BERLIN)

    project.writes(alice, row, token=mine.access_token, data=Jsonb(COMPANY))
    assert import_next(project.rt)

    assert "active" == status(project, row)
    assert "Location" == project.of(row)["connection"]["facts"]["userType"]


# -- secrets emptied or made up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, ""])
def test_a_token_that_its_owner_emptied_is_fetched_anew_for_who_asks(project, token):
    """
    The very read that finds it gone refreshes it.
    """
    alice, row, pair = connected(project)
    project.writes(alice, row, token=token)

    assert pair.successor is None
    fresh = fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice))

    assert pair.successor.access_token == fresh.access_token
    assert ("active", 2) == (status(project, row), project.of(row)["connection"]["generation"])


def test_an_emptied_token_is_not_better_than_none(project):
    """
    While its provider is down, callers get `wait`, not `secret_unreadable`.
    """
    alice, row, _ = connected(project)
    project.writes(alice, row, token=None)
    project.state.add_fault("status", "ghl", "token", 1, status=503)

    with pytest.raises(ProviderUnavailable):
        fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice))


def test_a_token_that_does_not_decrypt_is_refreshed_by_the_worker(project):
    """
    With our own refresh token, which still decrypts; once.
    """
    alice, row, pair = connected(project)

    project.writes(alice, row, token=FAKE)
    assert import_next(project.rt)
    assert not import_next(project.rt)

    assert "active" == status(project, row)
    assert (
        pair.successor.access_token == project.opened(row, "token") == fresh_grant(project.rt, UUID(row)).access_token
    )
    assert 1 == project.refreshes()


@pytest.mark.parametrize("written", [{"token": None, "refresh": None}, {"token": "", "refresh": ""}])
def test_a_connection_that_its_owner_emptied_has_to_be_made_again(project, written):
    """
    The read that finds it empty says so, and asks no provider.
    """
    alice, row, _ = connected(project)
    asked = len(project.state.requests())

    project.writes(alice, row, **written)

    with pytest.raises(NeedsReauthorization):
        fresh_grant(project.rt, UUID(row), caller=Caller(user_id=alice))
    assert asked == len(project.state.requests())


def test_a_provider_that_is_away_has_not_refused_it(project):
    """
    Put off, though nothing in the row is plaintext: the next try brings it back.
    """
    alice, row, pair = connected(project)
    project.writes(alice, row, token=FAKE)
    project.state.add_fault("status", "ghl", "token", 1, status=503)

    assert import_next(project.rt)
    assert "unverified" == status(project, row)
    project.execute(
        "update gateway.import_queue set due_at = clock_timestamp(); update gateway.connection set not_before = null"
    )
    assert import_next(project.rt)

    assert pair.successor.access_token == project.opened(row, "token")


def test_what_the_gateway_itself_writes_is_not_noted(project):
    """
    Nor what the owner's server does with encrypted values.
    """
    _, row, _ = connected(project)

    fresh_grant(project.rt, UUID(row), force=True)
    project.execute("set role service_role; update public.provider_data set token = refresh")

    assert [] == rows(project.gateway.dsn, "select id from gateway.import_queue")


# -- defects -----------------------------------------------------------------------------------------


def test_a_bug_ends_the_lease_and_delays_the_connection(project, monkeypatch):
    """
    Otherwise the same connection would come up first again and again.
    """
    _, row, _ = connected(project)
    project.execute("update gateway.connection set refresh_at = clock_timestamp() - interval '1 minute'")

    def fails(*_: object, **__: object) -> None:
        raise ValueError("no")

    monkeypatch.setattr("gateway.tokens.refresh_request.build_refresh_request", fails)
    with pytest.raises(ValueError, match="no"):
        refresh_next(project.rt)

    stands = project.of(row)["connection"]
    assert (None, None, "active", 1) == (
        stands["lease_id"], stands["intent_at"], stands["status"], stands["failures"],
    )  # fmt: skip
    assert stands["not_before"] > stands["updated_at"]
    assert not refresh_next(project.rt)
