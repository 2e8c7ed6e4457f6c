"""
The main job with a Supabase project's REST API as the database, and the same address as the sign-in service.

`postgrest_stand_in` simulates PostgREST. What may happen to a connection between the two happens here: the response is lost before or
after the transaction, or the database fails.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import start_or_join
from gateway.sandbox.highlevel import COMPANY
from tests.support.database import database_dsn, rows
from tests.support.gateway_process import Gateway, Person, told, whole_gateway
from tests.support.patience import wait_for
from tests.support.postgrest_stand_in import SECRET_KEY, PostgRest

SAVE, DISCONNECT, TAKE = "gateway_save_connection_v1", "gateway_disconnect_v1", "gateway_take_authorization_v1"


@contextmanager
def over_rest(cluster, template) -> Iterator[tuple[Gateway, PostgRest]]:
    """A gateway that was given no DATABASE_URL, and the project that it uses."""
    with whole_gateway(cluster, template) as gateway:
        project = PostgRest(gateway.dsn, auth=gateway.sandbox.origin)
        del gateway.environ["DATABASE_URL"]
        gateway.environ |= {"SUPABASE_URL": project.url, "SUPABASE_SECRET_KEY": SECRET_KEY}
        yield gateway.start(), project
        project.stop()


@pytest.fixture(scope="module")
def both(cluster, template) -> Iterator[tuple[Gateway, PostgRest]]:
    with over_rest(cluster, template) as made:
        yield made


@pytest.fixture
def gateway(both) -> Gateway:
    return both[0]


@pytest.fixture
def project(both) -> Iterator[PostgRest]:
    yield both[1]
    both[1].fault = lambda _: ""


@pytest.fixture
def alice(gateway) -> Person:
    made = gateway.person("Alice Winter")
    made.signs_in()
    return made


def standing(gateway: Gateway, person: Person) -> list[str]:
    """Ids of rows; the arrays have to name the same."""
    found = sorted(
        map(str, rows(gateway.dsn, "select id from public.provider_data where auth_provider_id = %s", person.id))
    )
    arrays = rows(gateway.dsn, "select providers from public.user_profile where user_id_auth = %s", person.id)
    assert found == sorted(each for ids in arrays for each in ids)
    assert found == sorted(
        map(str, rows(gateway.dsn, "select id from gateway.connection where user_id = %s", person.id))
    )
    return found


def once(function: str, *faults: str) -> Callable[[str], str]:
    """The first calls of `function` meet these; the rest nothing."""
    left, lock = list(faults), threading.Lock()

    def fault(name: str) -> str:
        with lock:
            return left.pop(0) if name == function and left else ""

    return fault


def problem(answer) -> str:
    """The slug that a user sees, on a page or in the address they are returned to."""
    if answer.status_code == 303:
        return told(answer).get("error", "")
    return answer.text.split('data-problem="')[1].split('"')[0]


@pytest.mark.parametrize("provider", ["ghl", "google", "ringcentral"])
def test_a_user_connects_and_disconnects(gateway, alice, provider):
    """
    As over a direct connection: the row is encrypted, its id in the array and on the page; then it is gone and
    revoked.
    """
    ended = alice.connects(provider)
    assert [ended["connection"]] == standing(gateway, alice)
    (token,) = rows(gateway.dsn, "select token from public.provider_data where id = %s", ended["connection"])
    assert token.startswith("gAAAAA")
    assert ended["connection"] in alice.get("/connections").text

    assert {"disconnected", "provider"} == set(told(alice.disconnects(ended["connection"])))
    assert [] == standing(gateway, alice)


def test_connecting_twice_leaves_one_row_and_one_id(gateway, alice):
    """
    The id is kept.
    """
    assert alice.connects("ghl") == alice.connects("ghl")
    assert 1 == len(standing(gateway, alice))


def test_saying_no_connects_nothing_and_says_so(gateway, alice):
    """
    access_denied goes back to the product.
    """
    assert "access_denied" == problem(alice.get(alice.consents("google", answer="deny")))
    assert [] == standing(gateway, alice)


def test_another_account_is_asked_about(gateway, alice):
    """
    Pending over REST too; the first connection stays meanwhile.
    """
    first = alice.connects("ghl", "NorthwindLisbon00001")
    answer = alice.get(alice.consents("ghl", COMPANY))
    assert "/crm/ghl/confirm" in answer.headers["Location"]
    assert [first["connection"]] == standing(gateway, alice)
    assert 200 == alice.get(answer.headers["Location"]).status_code


def test_only_the_secret_key_is_ever_used(gateway, project, alice):
    """
    The user's own token goes to the sign-in check and not to the database.
    """
    alice.connects("ghl")
    asked = [each for each in project.seen if "apikey" in each]
    assert {SECRET_KEY} == {each["apikey"] for each in asked}
    assert not [each for each in asked if "authorization" in each]


def test_ten_people_connect_at_once(gateway):
    """
    Each gets the own row, and the arrays agree.
    """
    people = [gateway.person(f"Person{number} North") for number in range(10)]
    with ThreadPoolExecutor(10) as threads:
        ended = list(threads.map(lambda each: each.connects("google"), people))
    assert [[each["connection"]] for each in ended] == [standing(gateway, person) for person in people]


# -- the database goes away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_save_whose_answer_is_lost_once_ends_as_if_it_was_not(gateway, project, alice, fault):
    """
    The call is repeated: one row, one event, and the user sees the connection.
    """
    callback = alice.consents("ringcentral")
    revoked = len(gateway.sandbox.state.revocations)
    project.fault = once(SAVE, fault)

    ended = told(alice.get(callback))

    assert [ended["connection"]] == standing(gateway, alice)
    assert ["connection.created"] == rows(
        gateway.dsn, "select type from gateway.event where user_id = %s and type like 'connection.%%'", alice.id
    )
    assert revoked == len(gateway.sandbox.state.revocations)


def test_a_save_without_an_answer_is_not_taken_for_another_callbacks(gateway, project, alice):
    """
    Two callbacks over one connection: the one whose save got lost saves again, over the generation that the other one made.
    """
    connection = alice.connects("ringcentral")["connection"]
    lost, faster = (alice.consents("ringcentral") for _ in range(2))
    left = [faster]

    def fault(name: str) -> str:
        if name != SAVE or not left:
            return ""
        assert connection == told(alice.get(left.pop()))["connection"]
        return "before"

    project.fault = fault

    assert connection == told(alice.get(lost))["connection"]
    assert [3] == rows(gateway.dsn, "select generation from gateway.connection where id = %s", connection)


def test_a_save_that_arrives_after_it_was_given_up_saves_nothing(gateway, project, alice, monkeypatch):
    """
    PostgREST still had the call, and the database executes it after the user saw the failure and the grant was
    revoked.
    """
    callback, given_up, ended = alice.consents("ringcentral"), threading.Event(), queue.Queue()
    revoked, really = len(gateway.sandbox.state.revocations), project.database.call

    def late(function: str, *given: object) -> str:
        if function != SAVE:
            return really(function, *given)
        assert given_up.wait(60)
        try:
            return really(function, *given)
        finally:
            ended.put(function)

    monkeypatch.setattr(project.database, "call", late)
    assert "database_unavailable" == problem(alice.get(callback))
    given_up.set()

    assert [SAVE, SAVE] == [ended.get(timeout=60) for _ in range(2)]
    assert [] == standing(gateway, alice)
    # It is revoked in the background: the database used the ten seconds.
    wait_for(lambda: len(gateway.sandbox.state.revocations) > revoked)


@pytest.mark.parametrize("faults", [("before", "before"), ("503", "503"), ("before", "before", "before", "before")])
def test_a_save_that_never_arrives_leaves_nothing(gateway, project, alice, faults):
    """
    The user sees the failure, nothing is saved, and the grant was revoked.
    """
    callback = alice.consents("ringcentral")
    revoked = len(gateway.sandbox.state.revocations)
    project.fault = once(SAVE, *faults)

    assert "database_unavailable" == problem(alice.get(callback))
    assert [] == standing(gateway, alice)
    assert revoked < len(gateway.sandbox.state.revocations)


def test_a_callback_is_not_redeemed_without_the_database(gateway, project, alice):
    """
    The attempt could not be taken: the page says so, and the code was never sent.
    """
    callback = alice.consents("ringcentral")
    project.fault = once(TAKE, "before")
    assert "database_unavailable" == problem(alice.get(callback))
    assert [] == standing(gateway, alice)
    assert [alice.get(callback).status_code] == [303]
    assert 1 == len(standing(gateway, alice))


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_disconnect_whose_answer_is_lost_is_whole_or_not_at_all(gateway, project, alice, fault):
    """
    Either everything is there, or row and id are gone and the grant is queued; the page says that the result is
    unknown.
    """
    connection = alice.connects("ringcentral")["connection"]
    project.fault = once(DISCONNECT, fault)

    assert "database_unavailable" == problem(alice.disconnects(connection))
    assert ([connection] if fault == "before" else []) == standing(gateway, alice)
    queued = rows(gateway.dsn, "select count(*) from gateway.revocation where connection_id = %s", connection)
    assert [0 if fault == "before" else 1] == queued


def test_a_database_that_stops_in_the_middle_leaves_nothing_half_done(gateway, project, alice):
    """
    Every call fails from the save on; when it is back, nothing of the attempt is there, and another one goes through.
    """
    callback, gone = alice.consents("ringcentral"), threading.Event()

    def fault(name: str) -> str:
        if name == SAVE:
            gone.set()
        return "503" if gone.is_set() else ""

    revoked = len(gateway.sandbox.state.revocations)
    project.fault = fault
    assert "database_unavailable" == problem(alice.get(callback))
    assert 503 == alice.get("/readyz").status_code
    assert revoked < len(gateway.sandbox.state.revocations)

    project.fault = lambda _: ""
    assert [] == standing(gateway, alice)
    assert [alice.connects("ringcentral")["connection"]] == standing(gateway, alice)


def test_a_server_that_is_shut_down_leaves_nothing_half_done(cluster):
    """
    A real one, stopped at the very call that would save, and at the one that would erase.
    """
    folder = cluster.home.parent / "stopped"
    folder.mkdir(mode=0o711)
    servers = [start_or_join(folder)]
    apply_schema(database_dsn(servers[0], "template1"))
    with over_rest(servers[0], "template1") as (gateway, project):
        alice = gateway.person("Alice Winter")
        alice.signs_in()
        standing_one = alice.connects("ringcentral")["connection"]
        callback, revoked = alice.consents("zoom"), len(gateway.sandbox.state.revocations)
        for asked, stop_at in (
            (lambda: alice.get(callback), SAVE),
            (lambda: alice.disconnects(standing_one), DISCONNECT),
        ):
            project.fault = lambda name, stop_at=stop_at: servers[-1].stop() or "" if name == stop_at else ""
            assert "database_unavailable" == problem(asked())
            assert 503 == alice.get("/readyz").status_code
            project.fault = lambda _: ""
            servers.append(start_or_join(folder))
            assert [standing_one] == standing(gateway, alice)
        assert revoked < len(gateway.sandbox.state.revocations)
        assert told(alice.disconnects(standing_one))["disconnected"] == "done"
        assert [] == standing(gateway, alice)
    servers[-1].stop()
