"""
The database fails in the middle: nothing is half-stored, the grant is revoked, and the user sees the true result.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from gateway.database.migrate import apply_schema
from gateway.embedded.postgres import start_or_join
from gateway.sandbox.ringcentral import ACCOUNTS
from tests.support.gateway_process import Gateway
from tests.support.patience import PATIENCE, held, wait_for


@pytest.fixture
def place():
    """A folder for a Postgres that a test may stop and start."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-outage-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


def redeemed_without_database(gateway, server, provider):
    """A callback whose database goes while the provider answers; the page that the user gets."""
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = alice.consents(provider)
    pages = []
    waiting = threading.Thread(target=lambda: pages.append(alice.get(callback)))
    with held(gateway.sandbox, provider, "token") as is_asked:
        waiting.start()
        wait_for(is_asked)
        server.stop()
    waiting.join()
    return alice, pages[0]


def test_if_the_row_cannot_be_written_the_grant_is_revoked(place):
    """
    After the code was redeemed: revoked where that can be done, where not the page says where the app stays installed; and
    when the database is back, everything works without a restart.
    """
    server = start_or_join(place)
    apply_schema(server.dsn)
    gateway = Gateway(place / "gateway", server.dsn).start()
    try:
        before = len(gateway.sandbox.state.revocations)
        _, page = redeemed_without_database(gateway, server, "ringcentral")
        assert 503 == page.status_code
        assert 'data-problem="database_unavailable"' in page.text
        assert "Nothing was connected" in page.text
        assert len(gateway.sandbox.state.revocations) > before

        server = start_or_join(place)
        alice, page = redeemed_without_database(gateway, server, "ghl")
        assert "HighLevel may still list" in page.text

        server = start_or_join(place)
        with psycopg.connect(server.dsn) as connection:
            assert (0, 0) == connection.execute(
                "select (select count(*) from public.provider_data), (select count(*) from gateway.connection)"
            ).fetchone()
        assert "connection" in alice.connects("ghl")
    finally:
        gateway.stop()
        server.stop()


@contextlib.contextmanager
def stalled(place):
    """The server of `place` and all of its processes stand still meanwhile, with every socket open."""
    server = int(next(place.rglob("postmaster.pid")).read_text().split()[0])
    found = subprocess.run(["ps", "--ppid", str(server), "-o", "pid="], capture_output=True, text=True, check=True)
    processes = [server, *map(int, found.stdout.split())]
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def settled(gateway, person):
    """The rows of a user, once the server has finished every statement."""
    gateway.process.terminate()
    gateway.process.wait(PATIENCE)
    with psycopg.connect(gateway.dsn, autocommit=True) as connection:
        busy = "select count(*) from pg_stat_activity where application_name = 'gateway'"
        wait_for(lambda: connection.execute(busy).fetchone() == (0,))
        return connection.execute(
            "select (select count(*) from public.provider_data where auth_provider_id = %(id)s),"
            " (select count(*) from gateway.connection where user_id = %(id)s),"
            " (select count(*) from gateway.pending_grant where user_id = %(id)s)",
            {"id": person.id},
        ).fetchone()


def test_a_database_that_stalled_saves_nothing_after_it_was_given_up(place):
    """
    It executes the request later; by then the user saw the failure, and the grant was revoked. For a save and for a
    pending grant, each with its own database.
    """
    places = [place / "save", place / "park"]
    for each in places:
        each.mkdir(mode=0o711)
    servers = [start_or_join(each) for each in places]  # a server ends with the thread that started it
    try:
        with ThreadPoolExecutor(2) as both:
            for done in [both.submit(given_up, *each) for each in zip(places, servers, (False, True), strict=True)]:
                done.result()
    finally:
        for server in servers:
            server.stop()


def given_up(place, server, asked):
    """The database stalls while a grant is saved; `asked`: over another account, so that it would be pending."""
    apply_schema(server.dsn)
    gateway = Gateway(place / "gateway", server.dsn).start()
    try:
        first, second = (each.id for each in ACCOUNTS[:2])
        for _ in range(
            4
        ):  # prepared on every connection, a call is sent as one: otherwise the stall may keep half of it here
            bob = gateway.person("Bob Marsh")
            bob.connects("ringcentral", first)
            bob.get(bob.consents("ringcentral", second))
        alice = gateway.person("Alice Winter")
        alice.signs_in()
        if asked:
            alice.connects("ringcentral", first)
        callback = alice.consents("ringcentral", second)
        before = len(gateway.sandbox.state.revocations)
        pages = []
        waiting = threading.Thread(target=lambda: pages.append(alice.get(callback)))
        with contextlib.ExitStack() as until_the_page:
            with held(gateway.sandbox, "ringcentral", "token") as is_asked:
                waiting.start()
                wait_for(is_asked)
                until_the_page.enter_context(stalled(place))
            waiting.join()
        assert 503 == pages[0].status_code
        assert 'data-problem="database_unavailable"' in pages[0].text
        assert len(gateway.sandbox.state.revocations) > before

        assert ((1, 1, 0) if asked else (0, 0, 0)) == settled(gateway, alice)
    finally:
        gateway.stop()


def test_after_a_database_error_the_grant_is_revoked_too(gateway):
    """
    Whatever the reason: a grant that is not stored is revoked, and the page does not show the reason.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    callback = alice.consents("ringcentral")
    before = len(gateway.sandbox.state.revocations)
    with psycopg.connect(gateway.dsn, autocommit=True) as connection:
        connection.execute("alter function gateway.list_in_profile(uuid, uuid, text) rename to list_gone")
        try:
            page = alice.get(callback)
        finally:
            connection.execute("alter function gateway.list_gone(uuid, uuid, text) rename to list_in_profile")

    assert 500 == page.status_code
    assert "list_" not in page.text
    assert len(gateway.sandbox.state.revocations) > before
