"""
Refreshes with many readers, outages, crashes and wrong clocks: short forms of the proofs in bench/
(docs/reliability.md).
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import time
import uuid
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from cryptography.fernet import Fernet

from bench import crashes
from bench.due import due
from bench.outage import outage
from bench.stage import staged
from bench.storm import read_beside, storm
from gateway.crypto.vault import Vault
from gateway.errors import SecretUnreadable, SettingsRefused
from gateway.tokens.response_journal import ResponseJournal

KEY = "3q2-7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs="


@pytest.fixture(scope="module")
def stage():
    with staged() as made:
        yield made


def answered(stage, row):
    """A journalled response of a host that crashed before it saved it."""
    with stage.actor() as actor:
        crashes.kill_at(stage, actor, crashes.JOURNALLED, "read", ids=[row])
        actor.gone()


def test_many_readers_cause_one_token_request_for_each_expiry():
    """
    Five expiries, forty readers, two processes, and a provider that revokes the family on reuse: every reader gets a
    token.
    """
    told = storm(5, 40, 2, 0.2, quiet=True)

    assert (5, 1, 0, [2]) == (told["token_requests"], told["most_for_one"], told["revoked"], told["generations"])
    assert {200: 200} == told["statuses"]
    assert 0 == told["expiries_with_two_answers"]


def test_a_healthy_connection_is_read_while_fifty_wait_for_another():
    """
    Every wait is bounded: callers beyond the limit get Retry-After, and no read of another connection waits. A loaded machine gets
    three tries.
    """
    for _ in range(3):
        [told] = read_beside(1, seconds=3)
        assert {200, 503} >= set(told["statuses_of_the_waiting"])
        if told["reads_during"] > 20 and told["p99_during_ms"] < 1500 and told["still_waiting_at_the_end"] >= 30:
            break
    else:
        pytest.fail(str(told))


def test_a_process_killed_over_a_refresh_loses_nothing_where_the_provider_forgives(stage):
    """
    Repeated by the same host or another; if the provider rejects repeated tokens, lost only in one moment, and
    reported.
    """
    rows = crashes.run(stage, 1, (crashes.ASKED, crashes.ANSWERED, crashes.JOURNALLED, crashes.SAVED))

    assert 12 == len(rows)
    assert [] == crashes.failures(rows)


def test_a_process_killed_over_many_refreshes_is_no_incident_of_the_provider(stage):
    """
    What the killed process lost is lost: its owners are asked to connect again, and do not wait for the provider.
    """
    ids, seen = list(stage.connections("strict", 6)), stage.control("stats")["seen"]
    stage.expire(ids)
    with stage.actor("killed") as victim, stage.actor("killed") as rescuer:
        stage.control("delay", seconds=30)
        pid = victim.begin("read", ids=ids)
        while stage.control("stats")["seen"] < seen + 6:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        victim.gone()
        stage.control("delay", seconds=0)
        crashes.age(stage, "killed")
        rescuer.does("work")

    assert {("needs_reauthorization", "response_lost")} == set(
        stage.sql("select status, reason from gateway.connection where id = any (%s::uuid[])", ids)
    )
    assert [] == stage.sql("select provider from gateway.provider_incident where ended_at is null")


def test_a_process_killed_over_a_connect_or_a_disconnect_leaves_nothing_half_done(stage):
    """
    Either everything is saved or nothing; the next process revokes an erased connection.
    """
    assert [] == crashes.failures(
        crashes.run(stage, 1, (crashes.CONNECT[2], crashes.CONNECT[-1], crashes.DISCONNECT[0]))
    )


def test_the_database_away_in_the_middle_of_refreshes_loses_nothing():
    """
    The responses wait in the journal, and a second host does not request what the first may have.
    """
    told = outage(10, 3)

    assert (10, 1, 0) == (told["token_requests"], told["most_for_one"], told["revoked"])
    assert {"active, generation 2": 10} == told["states"]
    assert 10 == told["tokens_the_other_host_got"]


def test_what_is_due_is_refreshed_once_by_two_workers():
    """
    One worker claims each.
    """
    for _ in range(3):  # one of them may have found both cores taken until the other one was done
        told = due(100, quiet=True)

        assert (100, 1, 100, [2]) == (
            told["token_requests"], told["most_for_one"], told["connections_asked_for"], told["generations"],
        )  # fmt: skip
        if min(told["refreshes_by_worker"]) > 0:
            break
    else:
        pytest.fail("one worker did everything")


def test_a_response_that_is_already_saved_is_not_revoked(stage):
    """
    Killed between the commit and the journal's update: the replay finds its own work, and revokes nothing.
    """
    [(row, account)] = stage.connections("strict", 1).items()
    stage.expire([row])
    with stage.actor() as actor:
        crashes.kill_at(stage, actor, crashes.SAVED, "read", ids=[row])
        actor.gone()
    crashes.age(stage, "a")
    with stage.actor() as actor:
        actor.does("work")
        [said] = actor.does("read", ids=[row])

    assert account not in stage.control("stats")["revoked"]
    assert stage.works(said["token"])


def test_a_journalled_response_is_used_before_another_request_is_sent(stage):
    """
    A reader comes before any worker: nothing is sent for a generation with a journalled response.
    """
    [(row, account)] = stage.connections("strict", 1).items()
    stage.expire([row])
    answered(stage, row)
    stage.sql("update gateway.connection set lease_until = clock_timestamp() where id = %s", row)
    with stage.actor() as actor:
        [said] = actor.does("read", ids=[row])

    assert account not in stage.control("stats")["revoked"]
    assert stage.works(said["token"])


def test_a_clock_that_was_ahead_makes_no_token_last_longer(stage):
    """
    The response was journalled a day ahead, before the host's clock was corrected.
    """
    [(row, _)] = stage.connections("strict", 1).items()
    stage.expire([row])
    answered(stage, row)
    with closing(ResponseJournal(Vault([stage.key]), stage.folder / "host-a" / "journal")) as journal:
        response = journal.get(uuid.UUID(row), 1)
        ahead = datetime.fromisoformat(response["received_at"]) + timedelta(days=1)
        journal.put(uuid.UUID(row), 1, {**response, "received_at": ahead.isoformat()})
    stage.sql("update gateway.connection set lease_until = clock_timestamp() where id = %s", row)
    with stage.actor() as actor:
        [said] = actor.does("read", ids=[row])

    assert stage.works(said["token"])
    assert [(True,)] == stage.sql(
        "select expires_at < now() + interval '1 day' from gateway.connection where id = %s", row
    )


def test_a_response_for_a_deleted_connection_is_revoked(stage):
    """
    Not created again, and not left valid at the provider.
    """
    [(row, account)] = stage.connections("strict", 1).items()
    stage.expire([row])
    answered(stage, row)
    stage.sql("delete from public.provider_data where id = %s", row)
    stage.sql("delete from gateway.revocation where connection_id = %s", row)
    crashes.age(stage, "a")
    with stage.actor() as actor:
        actor.does("work")

    assert account in stage.control("stats")["revoked"]
    assert [] == stage.states([row])


def test_a_refusal_is_undone_when_the_response_turns_up(stage):
    """
    Another host stopped waiting and was refused; the host with the response returns: the connection works again.
    """
    [(row, _)] = stage.connections("forgiving", 1).items()
    stage.expire([row])
    answered(stage, row)
    stage.sql(
        "update gateway.connection set status = 'needs_reauthorization', reason = 'grant_refused', intent_at = null, lease_until = null where id = %s",
        row,
    )
    crashes.age(stage, "a")
    with stage.actor() as actor:
        actor.does("work")
        [said] = actor.does("read", ids=[row])

    assert stage.works(said["token"], "forgiving")


def test_one_entry_that_does_not_decrypt_does_not_block_the_others(stage):
    """
    Encrypted with a key that this host lacks: the worker continues, and the entry stays until the key is back.
    """
    [row, other] = stage.connections("strict", 2)
    stage.expire([row, other])
    answered(stage, other)
    with closing(
        sqlite3.connect(stage.folder / "host-a" / "journal" / "responses.sqlite3", isolation_level=None)
    ) as journal:
        strange = "gAAAAAthis-was-encrypted-with-a-key-that-is-not-here"
        journal.execute("insert into response values (?, 1, 1.0, null, ?)", [row, strange])
    crashes.age(stage, "a")
    with stage.actor() as actor:
        actor.does("work")

    assert [(2, "active", False)] == stage.states([other])
    with closing(
        sqlite3.connect(stage.folder / "host-a" / "journal" / "responses.sqlite3", isolation_level=None)
    ) as journal:
        assert [(row,)] == journal.execute("select connection_id from response where committed_at is null").fetchall()
        journal.execute("delete from response where connection_id = ?", [row])


def makes_due(stage, ids):
    stage.sql(
        "update gateway.connection set refresh_at = clock_timestamp() - interval '1 minute', not_before = null, lease_until = null,"
        " intent_at = null where id = any (%s::uuid[])",
        list(ids),
    )


def seconds_until_refreshed(stage, ids, generation):
    """How long a worker of its own takes. It works until the end: on a loaded machine a claim may have to wait for the end of its lease."""
    began = time.monotonic()
    with stage.actor() as actor:
        actor.begin("work", idle=10_000, pause=0.1)
        while {generation} != {found for found, _, _ in stage.states(ids)}:
            assert time.monotonic() - began < 120
            time.sleep(0.05)
    return time.monotonic() - began


def test_a_provider_that_hangs_delays_only_its_own_jobs(stage):
    """
    Fifteen revocations, refreshes and tokens written by their owners are due at a silent provider. Forty refreshes of another
    provider take about as long as alone, in one of three tries: the machine may be loaded.
    """
    others, found = list(stage.connections("strict", 40)), []
    for generation in (2, 4, 6):
        makes_due(stage, others)
        alone = seconds_until_refreshed(stage, others, generation)

        due, written, gone = (list(stage.connections("forgiving", 15)) for _ in range(3))
        stage.control("hang", kinds="forgiving")
        makes_due(stage, due)
        stage.sql(
            "update public.provider_data set token = 'written', expires = null where id = any (%s::uuid[])", written
        )
        stage.sql("delete from public.provider_data where id = any (%s::uuid[])", gone)
        stage.sql("update gateway.revocation set due_at = clock_timestamp() - interval '1 minute'")
        makes_due(stage, others)
        beside = seconds_until_refreshed(stage, others, generation + 1)
        stage.control("hang")
        stage.sql("delete from public.provider_data where name = 'forgiving'")
        stage.sql("delete from gateway.revocation")
        stage.sql("delete from gateway.provider_incident")
        found.append((alone, beside))
        if beside < 3 * alone + 3:  # with the start of a process in it
            return
    pytest.fail(str(found))


@pytest.mark.parametrize("skew", [300, -300])
def test_a_clock_that_is_five_minutes_wrong_makes_no_token_older_or_younger(stage, skew):
    """
    Connected and refreshed by a process whose clock is off: the expiry is the database's time plus what the provider said.
    """
    user, account = str(uuid.uuid4()), f"account-{uuid.uuid4().hex[:8]}"
    lives = "select extract(epoch from expires_at - clock_timestamp())::float from gateway.connection where id = %s"
    with stage.actor() as actor:
        task = {"provider": "strict", "code": account, "user_id": user, "skew": skew}
        row = actor.does("connect", **task)["connection_id"]
        [(connected,)] = stage.sql(lives, row)
        stage.expire([row])
        [said] = actor.does("read", ids=[row], skew=skew)
        [(refreshed,)] = stage.sql(lives, row)

    assert stage.works(said["token"])
    assert 3400 < connected <= 3600
    assert 3400 < refreshed <= 3600


def test_without_a_journal_an_outage_loses_nothing_and_a_crash_is_reported(stage):
    """
    GATEWAY_JOURNAL=0 keeps responses in memory: a crash loses them, and the connection shows it.
    """
    [(row, _)] = stage.connections("strict", 1).items()
    stage.expire([row])
    with stage.actor("c", GATEWAY_JOURNAL="0") as actor:
        crashes.kill_at(stage, actor, crashes.JOURNALLED, "read", ids=[row])
        actor.gone()
    assert not (stage.folder / "host-c" / "journal").exists()
    crashes.age(stage, "c")
    stage.looks_long_up()  # without a journal each process is a host of its own
    with stage.actor("c", GATEWAY_JOURNAL="0") as actor:
        actor.does("work")
        [said] = actor.does("read", ids=[row])

    assert {"error": "needs_reauthorization"} == said
    memory, (told, tells) = ResponseJournal(Vault([KEY]), None), os.pipe()
    memory.put(uuid.UUID(row), 1, {"status": 200})
    assert [(uuid.UUID(row), 1)] == list(memory.pending())
    if (child := os.fork()) == 0:  # a further server process, which does not see what this one remembers
        os.write(tells, memory.host.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(told, 99).decode() != memory.host


def test_a_journal_that_cannot_be_written_stops_the_start(tmp_path):
    """
    Better no start than a lost token; the setting is named.
    """
    (tmp_path / "journal").write_text("a file where the folder should be")

    with pytest.raises(SettingsRefused, match=r"the refresh journal in .* GATEWAY_DATA"):
        ResponseJournal(Vault([KEY]), tmp_path / "journal")


def test_a_damaged_journal_stops_the_start_and_is_not_thrown_away(tmp_path):
    """
    It may hold the only valid refresh tokens.
    """
    file = tmp_path / "responses.sqlite3"
    file.write_bytes(b"damaged" * 1000)

    with pytest.raises(SettingsRefused, match=r"responses.sqlite3 is damaged: move it elsewhere, and keep it"):
        ResponseJournal(Vault([KEY]), tmp_path)
    assert file.read_bytes().startswith(b"damaged")


@pytest.mark.parametrize("folder", ["is there", "cannot be made"])
def test_a_journal_that_was_deleted_meanwhile_is_written_again(tmp_path, folder):
    """
    To the disk, where that works, and else to memory: SQLite alone would write on to the deleted file.
    """
    journal, row = ResponseJournal(Vault([KEY]), tmp_path / "data" / "journal"), uuid.uuid4()
    shutil.rmtree(tmp_path / "data")
    if folder == "cannot be made":
        (tmp_path / "data").write_text("a file")

    journal.put(row, 1, {"status": 200})

    assert {"status": 200} == journal.get(row, 1)
    assert (folder == "is there") == (tmp_path / "data" / "journal" / "responses.sqlite3").is_file()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_server_process_keeps_its_journal_when_the_one_that_forked_it_ends(tmp_path):
    """
    With a connection of the parent it would have none of SQLite's locks: another process would then replace the file under it.
    """
    journal, row, (told, tells) = ResponseJournal(Vault([KEY]), tmp_path), uuid.uuid4(), os.pipe()
    if (child := os.fork()) == 0:
        try:
            journal.put(row, 1, {"status": 200})
            os.write(tells, b"1")
            os.kill(os.getpid(), signal.SIGSTOP)
            journal.put(row, 2, {"status": 200})
        finally:
            os._exit(0)
    os.read(told, 1)
    journal.close()
    ResponseJournal(Vault([KEY]), tmp_path).close()
    os.waitpid(child, os.WUNTRACED)
    os.kill(child, signal.SIGCONT)
    os.waitpid(child, 0)

    assert [1, 2] == sorted(generation for _, generation in ResponseJournal(Vault([KEY]), tmp_path).pending())


def test_a_disk_that_fails_later_loses_no_response(tmp_path):
    """
    The response is kept in memory then, and read and deleted like any other.
    """
    journal, row = ResponseJournal(Vault([KEY]), tmp_path / "journal"), uuid.uuid4()
    with closing(sqlite3.connect(tmp_path / "journal" / "responses.sqlite3", isolation_level=None)) as disk:
        disk.execute("create trigger no_space before insert on response begin select raise(fail, 'disk full'); end")

    journal.put(row, 1, {"status": 200})

    assert {"status": 200} == journal.get(row, 1)
    assert [(row, 1)] == journal.pending()
    journal.delete(row, 1)
    assert journal.get(row, 1) is None


def test_an_entry_stays_a_day_after_its_commit(tmp_path):
    """
    Encrypted, and not pending; the first commit a day later drops it.
    """
    journal, row = ResponseJournal(Vault([KEY]), tmp_path), uuid.uuid4()
    journal.put(row, 1, {"body": "the-refresh-token"})
    journal.mark_committed(row, 1)

    assert {"body": "the-refresh-token"} == ResponseJournal(Vault([KEY]), tmp_path).get(row, 1)
    assert [] == journal.pending()
    assert not [file for file in tmp_path.iterdir() if b"the-refresh-token" in file.read_bytes()]
    with closing(sqlite3.connect(tmp_path / "responses.sqlite3", isolation_level=None)) as entries:
        entries.execute("update response set committed_at = committed_at - 86401")
    journal.mark_committed(uuid.uuid4(), 1)
    assert journal.get(row, 1) is None


def test_an_old_key_still_opens_what_was_journalled_before_a_rotation(tmp_path):
    """
    Entries are not encrypted again; the old key stays in GATEWAY_KEYS for as long as they do.
    """
    row, newer = uuid.uuid4(), Fernet.generate_key().decode()
    ResponseJournal(Vault([KEY]), tmp_path).put(row, 1, {"status": 200})

    assert {"status": 200} == ResponseJournal(Vault([newer, KEY]), tmp_path).get(row, 1)
    with pytest.raises(SecretUnreadable):
        ResponseJournal(Vault([newer]), tmp_path).get(row, 1)


def test_a_database_that_comes_back_without_a_refresh_gets_it_from_the_journal(stage):
    """
    A restored backup or a replica that was behind: the used refresh token is not sent again, so the provider revokes nothing.
    """
    [(row, account)] = stage.connections("strict", 1).items()
    [before] = stage.sql("select generation, seal_id, refresh_seal_id from gateway.connection where id = %s", row)
    [secrets] = stage.sql("select token, refresh, expires from public.provider_data where id = %s", row)
    stage.expire([row])
    with stage.actor() as actor:
        for _ in range(2):
            [said] = actor.does("read", ids=[row])
            asked = stage.control("stats")["asked"]
            stage.expire([row])
        restore = "update gateway.connection set (generation, seal_id, refresh_seal_id) = (%s, %s, %s) where id = %s"
        stage.sql(restore, *before, row)
        stage.sql(
            "update public.provider_data set (token, refresh, expires) = (%s, %s, %s) where id = %s", *secrets, row
        )
        for _ in range(2):
            stage.expire([row])
            [again] = actor.does("read", ids=[row])

    assert said == again
    assert asked == stage.control("stats")["asked"]
    assert account not in stage.control("stats")["revoked"]
    assert stage.works(again["token"])
