"""
A Postgres of our own, for when no database is set.

Makes a cluster once, starts it as a direct child that ends when we end, however we end, or joins the one that another command
has running on the same folder. One lock file says who starts. Knows no schema and no table.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
import structlog

from gateway.embedded.paths import Place, find_place
from gateway.errors import DatabaseUnavailable, SettingsRefused

log = structlog.get_logger(__name__)

START_SECONDS = 30.0
"""For making the cluster, for crash recovery and for a predecessor to end."""
STOP_SECONDS = 10.0
_LOOK_SECONDS = 0.01
_LOG_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1

_SETTINGS = {
    "listen_addresses": "",  # no TCP: the folder with the socket is the door, and only we may enter it
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "jit": "off",
    # Nothing but our own lines in the log: neither statements nor the values in an error's detail.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
}


class EmbeddedPostgres:
    """A running server. `dsn` leads to it; `joined` says that somebody else started it and will stop it."""

    def __init__(self, place: Place, child: subprocess.Popen[bytes] | None = None, lock: int | None = None) -> None:
        """`lock` is the descriptor that keeps others from starting; it and the child are ours until `stop`."""
        self.dsn = _dsn(place)
        self.home = place.home
        self.joined = child is None
        self._child = child
        self._lock = lock
        self._owner = os.getpid()
        if child is not None:
            atexit.register(self.stop)
            os.register_at_fork(after_in_child=self._let_go)

    def stop(self) -> None:
        """Shuts the server down cleanly, if we started it. May be called again, and does nothing in a forked child."""
        if self._child is None or os.getpid() != self._owner:
            return
        for sign, patience in ((signal.SIGINT, STOP_SECONDS), (signal.SIGQUIT, STOP_SECONDS), (signal.SIGKILL, None)):
            self._child.send_signal(sign)
            try:
                self._child.wait(patience)
                break
            except subprocess.TimeoutExpired:
                log.warning("database.slow_to_stop", signal=sign.name)
        self._child = None
        atexit.unregister(self.stop)
        self._let_go()

    def _let_go(self) -> None:
        """Closes the lock file. In a forked child too, or it would hold the lock after we are gone."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


@contextlib.contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """The DSN of `start_or_join(folder)`, for as long as the context lasts."""
    with start_or_join(folder) as server:
        yield server.dsn


def start_or_join(folder: Path) -> EmbeddedPostgres:
    """
    The Postgres whose data is in `folder` (GATEWAY_DATA): joined if it runs, else made and started as our child.

    Call it from the main thread, before any worker is forked: Linux ends the server with the *thread* that started it. Raises
    SettingsRefused when it cannot run here, DatabaseUnavailable when it does not come up within START_SECONDS.
    """
    place = find_place(folder)
    deadline = time.monotonic() + START_SECONDS
    lock = os.open(place.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _answers(place):
                os.close(lock)
                return EmbeddedPostgres(place)
            if time.monotonic() > deadline:
                os.close(lock)
                raise DatabaseUnavailable(
                    "the embedded Postgres that another command started does not answer"
                ) from None
            time.sleep(_LOOK_SECONDS)
            continue
        try:
            return EmbeddedPostgres(place, _start(place, deadline), lock)
        except BaseException:
            os.close(lock)
            raise


def _start(place: Place, deadline: float) -> subprocess.Popen[bytes]:
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("an embedded Postgres is started from the main thread, since it ends with the thread")
    if not (place.data / "PG_VERSION").exists():
        _make_cluster(place)
    _check_version(place)
    _retire(place, deadline)
    arguments = [str(place.programs / "postgres"), "-D", str(place.data), "-k", str(place.sockets)]
    for name, value in _SETTINGS.items():
        arguments += ["-c", f"{name}={value}"]
    child = _spawn(place, arguments)
    while _pid_file(place)[0::7] != [str(child.pid), "ready"]:
        if child.poll() is not None:
            raise DatabaseUnavailable(f"the embedded Postgres did not start; why is in {place.home / 'log'}")
        if time.monotonic() > deadline:
            child.kill()
            child.wait()
            raise DatabaseUnavailable(f"the embedded Postgres did not get ready; why is in {place.home / 'log'}")
        time.sleep(_LOOK_SECONDS)
    return child


def _make_cluster(place: Place) -> None:
    """Under another name until it is whole, so that an interrupted start leaves nothing that looks like a cluster."""
    unfinished = place.home / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    place.give(unfinished)
    # `trust`, because the folder of the socket (0700) decides who may connect.
    options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    child = _spawn(place, [str(place.programs / "initdb"), "-D", str(unfinished), *options])
    try:
        failed = child.wait(START_SECONDS) != 0
    except subprocess.TimeoutExpired:
        child.kill()
        failed = child.wait() != 0
    if failed:
        raise DatabaseUnavailable(f"the embedded Postgres could not be made; why is in {place.home / 'log'}")
    unfinished.rename(place.data)


def _check_version(place: Place) -> None:
    made_by = (place.data / "PG_VERSION").read_text().strip()
    said = subprocess.run(  # noqa: S603 -- the server we are about to start
        [place.programs / "postgres", "--version"], capture_output=True, text=True, check=True, timeout=START_SECONDS
    )
    version = said.stdout.split()[2].partition(".")[0]
    if made_by != version:
        raise SettingsRefused(
            [
                f"The database in {place.data} was made by Postgres {made_by}, and {version} is installed: set PG_BINDIR, or dump it."
            ]
        )


def _retire(place: Place, deadline: float) -> None:
    """
    Makes way, while we hold the lock, for a new server.

    Whoever started the last one is gone, so it is ending or has to. A number in a stale pid file may be anybody's by now, and
    Postgres would wait for that process for ever: our own number there tells it that the file is stale, and leaves in place
    what it needs to notice leftover processes of the old server.
    """
    lines = _pid_file(place)
    if not lines or not lines[0].isdigit():
        return
    pid = int(lines[0])
    with contextlib.suppress(OSError):
        if _serves(pid, place):
            os.kill(pid, signal.SIGINT)
    while _serves(pid, place):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable("the embedded Postgres of an earlier command does not end")
        time.sleep(_LOOK_SECONDS)
    path = place.data / "postmaster.pid"
    if path.exists():
        path.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")


def _serves(pid: int, place: Place) -> bool:
    """Whether that process is the server of this place: Postgres works in its data folder."""
    if sys.platform != "linux":
        return _answers(place)
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink() == place.data
    return False


def _pid_file(place: Place) -> list[str]:
    """The lines of postmaster.pid, stripped; the first is the process, the eighth its state. Empty when there is none."""
    try:
        return [line.strip() for line in (place.data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def _spawn(place: Place, arguments: list[str]) -> subprocess.Popen[bytes]:
    """A direct child, as the account, away from the terminal's Ctrl-C and without our environment, which holds secrets."""
    log_path = place.home / "log"
    mode = "ab" if log_path.exists() and log_path.stat().st_size < _LOG_BYTES else "wb"
    account = place.account
    with log_path.open(mode) as output:
        return subprocess.Popen(  # noqa: S603 -- programs found by us, arguments written by us
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_dying_with_us() if sys.platform == "linux" else None,  # noqa: PLW1509 -- before any other thread
        )


def _dying_with_us() -> Callable[[], None]:
    """What the child does before it becomes Postgres: asks for SIGINT, a clean shutdown, at the death of its parent."""
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            os._exit(1)

    return ask


def _answers(place: Place) -> bool:
    if _pid_file(place)[7:8] != ["ready"]:
        return False
    try:
        psycopg.connect(_dsn(place), connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


def _dsn(place: Place) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(place.sockets), safe='')}"
