"""
The embedded Postgres: started, joined, found again, and stopped when its starter ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from gateway.embedded.postgres import start_or_join
from gateway.errors import DatabaseUnavailable
from tests.support.patience import wait_for

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from pathlib import Path
from gateway.embedded.postgres import start_or_join
server = start_or_join(Path(sys.argv[1]))
print(server.dsn, "joined" if server.joined else "started", flush=True)
sys.stdin.readline()
server.stop()
"""
patient = pytest.mark.skipif(sys.platform != "linux", reason="the server's end is tied to ours by a Linux call")


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def holder(folder) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that start or join the server in `folder`, and stay until they are stopped."""
    running: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        running.append(
            subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdin=-1, stdout=-1, text=True, cwd=ROOT)
        )
        return running[-1]

    yield start
    for process in running:
        process.communicate("")
    wait_for(lambda: postmaster(folder) is None)


def postmaster(folder: Path) -> int | None:
    """The process in the pid file, while it lives."""
    try:
        pid = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else pid


def keeps_a_row(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists kept (n int)")
        connection.execute("insert into kept values (1)")


def kept_rows(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select count(*) from kept").fetchone()[0]


def test_rows_survive_a_clean_stop_and_a_warm_start(folder):
    """
    The cluster is made once; the second start finds it.
    """
    with start_or_join(folder) as server:
        dsn = server.dsn
        keeps_a_row(dsn)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn, connect_timeout=2)
    with start_or_join(folder) as server:
        dsn = server.dsn
        assert 1 == kept_rows(dsn)


def test_only_we_reach_it_and_nothing_of_ours_reaches_it(folder, monkeypatch):
    """
    No TCP, a socket in a folder of 0700, no root, and none of our environment, which holds the keys.
    """
    monkeypatch.setenv("GATEWAY_KEYS", "canary")
    with start_or_join(folder) as server:
        pid = postmaster(folder)
        environment = Path(f"/proc/{pid}/environ").read_bytes() if sys.platform == "linux" else b""
        owner = (folder / "postgres" / "data").stat().st_uid
        with psycopg.connect(server.dsn) as connection:
            assert ("",) == connection.execute("show listen_addresses").fetchone()

        assert b"canary" not in environment
        assert 0o700 == stat.S_IMODE((folder / "postgres" / "run").stat().st_mode)
        assert owner != 0
        assert owner == (os.geteuid() or owner)


@patient
def test_it_ends_with_a_parent_that_is_killed(folder, holder):
    """
    After SIGKILL the server shuts down by itself, cleanly, and starts again with its rows.
    """
    parent = holder()
    dsn, _ = parent.stdout.readline().split()
    keeps_a_row(dsn)
    parent.kill()
    log = folder / "postgres" / "log"
    wait_for(lambda: "database system is shut down" in log.read_text() and postmaster(folder) is None)

    with start_or_join(folder) as server:
        dsn = server.dsn
        assert 1 == kept_rows(dsn)


@patient
def test_a_server_that_is_killed_recovers(folder):
    """
    The postmaster is killed; the next start replays its log.
    """
    server = start_or_join(folder)
    keeps_a_row(server.dsn)
    os.kill(postmaster(folder), signal.SIGKILL)
    server.stop()

    with start_or_join(folder) as server:
        dsn = server.dsn
        assert 1 == kept_rows(dsn)


@pytest.mark.parametrize("pid", ["dead", "alive"])
def test_a_stale_pid_file_is_no_obstacle(folder, pid):
    """
    Not even when its number is by now that of a live process of the same user.
    """
    with start_or_join(folder) as server:
        dsn = server.dsn
        keeps_a_row(dsn)
        stale = (folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()
    with somebody(folder) as stranger:
        number = stranger if pid == "alive" else 2**22 - 1
        (folder / "postgres" / "data" / "postmaster.pid").write_text("\n".join([str(number), *stale[1:]]) + "\n")
        with start_or_join(folder) as server:
            dsn = server.dsn
            assert 1 == kept_rows(dsn)


@contextmanager
def somebody(folder: Path) -> Iterator[int]:
    """An unrelated process of the server's account."""
    owner = (folder / "postgres" / "data").stat()
    as_account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen(["sleep", "60"], **as_account)
    yield process.pid
    assert process.poll() is None
    process.kill()
    process.wait()


def test_of_two_starters_one_starts_and_the_other_joins(holder):
    """
    At the same moment, on a folder where nothing is yet; both lead to the same place.
    """
    first, second = holder(), holder()
    said = [process.stdout.readline().split() for process in (first, second)]

    assert said[0][0] == said[1][0]
    assert ["joined", "started"] == sorted(word for _, word in said)


def test_who_joined_stops_nothing_and_may_start_it_later(folder, holder):
    """
    The server belongs to the process that started it; the lock ends with its holder, also by SIGKILL.
    """
    starter = holder()
    starter.stdout.readline()
    with start_or_join(folder) as joined:
        assert joined.joined
        keeps_a_row(joined.dsn)
    assert 1 == kept_rows(joined.dsn)

    starter.kill()
    starter.wait()
    with start_or_join(folder) as started:
        assert not started.joined
        assert 1 == kept_rows(started.dsn)


@patient
def test_it_is_not_started_from_a_thread_that_may_end(folder):
    """
    Linux would end the server with the thread.
    """
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            start_or_join(folder).stop()
        except RuntimeError as error:
            raised.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()

    assert ["main thread" in str(error) for error in raised] == [True]


def test_a_cluster_of_another_version_is_named_and_left_alone(folder):
    """
    Postgres cannot read it, and we must not make another in its place.
    """
    with start_or_join(folder):
        pass
    version = folder / "postgres" / "data" / "PG_VERSION"
    kept = version.read_text()
    version.write_text("12\n")

    with pytest.raises(DatabaseUnavailable, match=r"incompatible with server.* set PG_BINDIR"):
        start_or_join(folder)
    version.write_text(kept)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_stops_nothing_and_keeps_no_lock(folder):
    """
    Server processes are forked after the start; when one ends, the database stays, and none of them holds the lock.
    """
    with start_or_join(folder) as server:
        keeps_a_row(server.dsn)
        pid = os.fork()
        if pid == 0:
            server.stop()
            os._exit(0 if server._lock is None else 1)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert 1 == kept_rows(server.dsn)
