"""
Starting the server: the schema is looked at first, then granian takes over.

Two bounds that are easily taken for one. 64 threads a process are what requests are worked on by: waiting readers hold threads, and
a provider that hangs must not take them all. Connections are many more, since most are idle: a proxy keeps dozens open, and whoever
is not let in waits until one of them is closed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import resource
import socket
import sys
import termios
import time

import structlog
from flask import Flask

from gateway import create_app
from gateway.errors import GatewayError, SettingsRefused
from gateway.services import Runtime
from gateway.worker.heartbeat import keep_announcing
from gateway.worker.jobs import start_worker

log = structlog.get_logger(__name__)

BLOCKING_THREADS = 64
CONNECTIONS = 2048
"""That a process holds at once, idle ones among them; what comes then waits in the kernel's queue. Granian calls it backpressure."""
_OTHER_FILES = 256
"""Beside them: to the database and to providers, the journal, modules."""
_TOGETHER_SECONDS = 10
IDLE_SECONDS = 75
"""An idle connection is closed after that, and one whose request's head is not there by then: longer than proxies keep theirs (nginx
and AWS 60 s), so that none sends a request on a connection that is just being closed."""


def served_app() -> Flask:
    """The application in one of our own server's processes, with a worker beside it."""
    app = served_app_alone()
    start_worker(app.extensions["gateway"])
    return app


def served_app_alone() -> Flask:
    """The same where workers have processes of their own."""
    app = create_app()
    rt: Runtime = app.extensions["gateway"]
    try:
        rt.store.warm()
    except GatewayError as error:
        log.warning("serving.cold", error=error.slug)  # a database that is away just now is no reason not to serve
    # What stands now stays. Left to the collector it is walked through again and again, 60 ms at a time that everybody waits for: an
    # answer of many small lists is enough to set that off.
    gc.collect()
    gc.freeze()
    keep_announcing(rt)
    if _all_up is not None:
        _all_up.wait()
    return app


class Together:
    """
    Lets the processes of a server begin to listen at one moment. Each has a socket of its own (SO_REUSEPORT): one that listens before
    the others is sent every connection until they do, and keeps those that stay.

    Each puts a byte into a pipe and looks how many there are: whoever dies meanwhile holds nothing that the others wait for.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._seen, self._tell = os.pipe()
        os.set_blocking(self._tell, False)

    def wait(self) -> None:
        """Returns when all are there, or have been before (a process that was started again), or one takes too long."""
        with contextlib.suppress(BlockingIOError):  # so often that the pipe is full
            os.write(self._tell, b".")
        until = time.monotonic() + _TOGETHER_SECONDS
        while self._told() < self._processes and time.monotonic() < until:
            time.sleep(0.01)

    def _told(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._seen, termios.FIONREAD, bytes(4)), sys.byteorder)


_all_up: Together | None = None
"""Made by `run_server` before it forks; where processes are not forked, each begins by itself."""


def require_free(host: str, port: int, option: str) -> None:
    """Raises SettingsRefused if somebody listens there: granian would share the port with them, or panic."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # not REUSEPORT, which is how it would be shared
            try:
                probe.bind(address)
            except OSError as error:
                why = "is in use by another program" if error.errno == errno.EADDRINUSE else "cannot be listened on"
                mend = f"stop that program, or choose another with {option}"
                raise SettingsRefused([f"Port {port} of {host} {why}: {mend}."]) from None


def connections_allowed() -> int:
    """CONNECTIONS, or as many as this process may open files for; its soft limit is raised for them as far as the hard one lets it."""
    wanted = CONNECTIONS + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return (
        CONNECTIONS if soft == resource.RLIM_INFINITY else max(BLOCKING_THREADS, min(CONNECTIONS, soft - _OTHER_FILES))
    )


def run_server(host: str, port: int, workers: int, *, work: bool = True, quiet: bool = False) -> None:
    """Serves until it is told to stop; requests under way are finished. `work`: with a worker in each process."""
    from granian import Granian
    from granian.constants import HTTPModes, Interfaces
    from granian.http import HTTP1Settings
    from granian.log import LogLevels

    global _all_up  # noqa: PLW0603 - what is forked afterwards shares it; granian hands nothing else on
    _all_up = Together(workers) if workers > 1 else None
    Granian(
        "gateway.server:served_app" if work else "gateway.server:served_app_alone",
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        http=HTTPModes.http1,  # of HTTP/2, which no proxy speaks to us, nothing here is bounded: streams, idle connections
        workers=workers,
        blocking_threads=BLOCKING_THREADS,
        backpressure=connections_allowed(),
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000),
        websockets=False,
        log_level=LogLevels.error if quiet else LogLevels.info,
        respawn_failed_workers=True,
        workers_kill_timeout=2 if quiet else 15,
    ).serve()


def python_module(*arguments: str) -> list[str]:
    """The command line of another of our processes, by this interpreter."""
    return [sys.executable, "-m", *arguments]
