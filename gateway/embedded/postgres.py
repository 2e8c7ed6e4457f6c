"""
A Postgres server of our own, for the demo, the tests and `serve --embedded`.

Makes a cluster once, starts it as a direct child that ends with this process, or joins the one that another command has started on the
same folder. A lock file decides who starts it.
"""

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
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg
import structlog

from gateway.embedded.paths import Place, find_place
from gateway.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

START_SECONDS = 30.0
"""For making the cluster, for crash recovery and for the end of an earlier server."""
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_LOG_BYTES = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1

_OPTIONS = {
    "listen_addresses": "",  # no TCP: only this account may enter the folder with the socket
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "jit": "off",
    "log_min_error_statement": "panic",  # neither statements nor the values in an error's detail
    "log_error_verbosity": "terse",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
}


class EmbeddedPostgres:
    """A running server at `dsn`. `joined`: another process started it, and will stop it."""

    def __init__(self, place: Place, child: subprocess.Popen[bytes] | None = None, lock: int | None = None) -> None:
        """`lock` is the descriptor that keeps others from starting one."""
        self.dsn = _dsn(place)
        self.home = place.home
        self.joined = child is None
        self._child = child
        self._lock = lock
        if child is not None:
            atexit.register(self.stop)
            os.register_at_fork(after_in_child=self._release)

    def stop(self) -> None:
        """Shut the server down, if we started it. May be called again; does nothing in a forked child."""
        if self._child is None:
            return
        self._child.send_signal(signal.SIGINT)
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("embedded.killed", seconds=STOP_SECONDS)  # the next start recovers it
            self._child.kill()
            self._child.wait()
        atexit.unregister(self.stop)
        self._release()

    def _release(self) -> None:
        """Forget the server, and close the lock file; also in a forked child, which would otherwise stop the one and keep the other."""
        self._child = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_or_join(folder: Path) -> EmbeddedPostgres:
    """
    The Postgres whose data is in `folder` (GATEWAY_DATA): joined if it runs, else made and started as our child.

    Call it from the main thread, before any process is forked: Linux ends the server with the *thread* that started it. Raises
    SettingsRefused when it cannot run here, DatabaseUnavailable when it is not ready within START_SECONDS.
    """
    place = find_place(folder)
    deadline = time.monotonic() + START_SECONDS
    lock = os.open(place.home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try_lock(lock):
            if _is_ready(place):
                os.close(lock)
                return EmbeddedPostgres(place)
            _wait(deadline, "that another command started does not answer")
        return EmbeddedPostgres(place, _start(place, deadline), lock)
    except BaseException:
        os.close(lock)
        raise


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise DatabaseUnavailable(f"the embedded Postgres {problem}")
    time.sleep(_POLL_SECONDS)


def _start(place: Place, deadline: float) -> subprocess.Popen[bytes]:
    if sys.platform == "linux" and threading.current_thread() is not threading.main_thread():
        raise RuntimeError("an embedded Postgres is started from the main thread, since it ends with the thread")
    if not (place.data / "PG_VERSION").exists():
        _make_cluster(place)
    options = [part for name, value in _OPTIONS.items() for part in ("-c", f"{name}={value}")]
    held = os.open(place.home / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _end_earlier_server(place, held, deadline)
        child = _spawn(place, "postgres", "-D", str(place.data), "-k", str(place.sockets), *options, held=held)
    finally:
        os.close(held)  # the server keeps it
    try:
        while _pid_file(place)[0::7] != [str(child.pid), "ready"]:
            if child.poll() is not None:
                words = _last_words(place)
                fix = ": set PG_BINDIR to the programs of its version, or dump it" if "incompatible" in words else ""
                raise DatabaseUnavailable(f"the embedded Postgres did not start: {words}{fix}")
            _wait(deadline, f"is not ready; {place.home / 'log'} has more")
    except BaseException:
        child.kill()
        child.wait()
        raise
    return child


def _end_earlier_server(place: Place, held: int, deadline: float) -> None:
    """
    End the server of a process that is gone. All processes of a server hold the lock `held`.

    With the lock there is no server, so the pid file is stale: its number may belong to another process now, and Postgres would wait for it.
    """
    while not _try_lock(held):
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(int(_pid_file(place)[0]), signal.SIGINT)
        _wait(deadline, "of an earlier command does not end")
    (place.data / "postmaster.pid").unlink(missing_ok=True)


def _make_cluster(place: Place) -> None:
    """Under another name until it is complete, so that an interrupted start leaves nothing that looks like a cluster."""
    unfinished = place.home / "data.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    place.make_private(unfinished)
    # `trust`, because the folder of the socket (0700) decides who may connect.
    options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions")
    child = _spawn(place, "initdb", "-D", str(unfinished), *options)
    try:
        failed = child.wait(START_SECONDS) != 0
    except subprocess.TimeoutExpired:
        child.kill()
        failed = child.wait() != 0
    if failed:
        raise DatabaseUnavailable(f"the embedded Postgres could not be made: {_last_words(place)}")
    unfinished.rename(place.data)


def _last_words(place: Place) -> str:
    """The last error in the log of Postgres; it holds no secret."""
    log_path = place.home / "log"
    with contextlib.suppress(OSError):
        lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if any(word in line for word in ("FATAL", "PANIC", "error:", "No space")):
                return f"{line.strip()[:300]} (see {log_path})"
    return f"see {log_path}"


def _pid_file(place: Place) -> list[str]:
    """The lines of postmaster.pid: the first is the process, the eighth its state. Empty when there is none."""
    try:
        return [line.strip() for line in (place.data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def _spawn(place: Place, program: str, *arguments: str, held: int | None = None) -> subprocess.Popen[bytes]:
    """A direct child under the account, out of reach of the terminal's Ctrl-C and without our environment, which holds secrets."""
    log_path, account = place.home / "log", place.account
    mode = "ab" if log_path.exists() and log_path.stat().st_size < _LOG_BYTES else "wb"
    prctl, parent = (ctypes.CDLL(None).prctl if sys.platform == "linux" else None), os.getpid()

    def end_with_parent() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGINT)  # a clean shutdown
            if os.getppid() != parent:
                os._exit(1)

    with log_path.open(mode) as output:
        return subprocess.Popen(  # noqa: S603 -- programs found by us, arguments written by us
            [place.programs / program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            pass_fds=() if held is None else (held,),
            preexec_fn=end_with_parent,  # noqa: PLW1509 -- before any other thread
        )


def _is_ready(place: Place) -> bool:
    if _pid_file(place)[7:8] != ["ready"]:
        return False
    try:
        psycopg.connect(_dsn(place), connect_timeout=2).close()
    except psycopg.Error:
        return False
    return True


def _dsn(place: Place) -> str:
    return f"postgresql://postgres@/postgres?host={quote(str(place.sockets), safe='')}"
