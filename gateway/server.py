"""
The server: waitress, in one process or in several that share a socket.

waitress reads a request completely before it takes a thread, so a slow or missing body holds none.
"""

import copy
import ctypes
import errno
import gc
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from secrets import token_hex
from shutil import disk_usage
from tempfile import gettempdir
from typing import Any

import structlog
from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.receiver import ChunkedReceiver
from waitress.server import create_server
from waitress.task import ErrorTask
from waitress.utilities import RequestEntityTooLarge, RequestHeaderFieldsTooLarge

from gateway import create_app
from gateway.errors import BadRequest, SettingsRefused, TooLarge
from gateway.partners.keys import is_key
from gateway.settings import LOOPBACK_ONLY, is_loopback
from gateway.worker.loop import UNIT_SECONDS, start_worker

log = structlog.get_logger(__name__)

THREADS = 320
"""More than the callers that may wait for a provider: 208 for a refresh, 64 in other calls. The others never wait for one."""
CONNECTIONS = 2048
"""Per process, most of them idle. Further ones wait in the kernel's queue."""
OTHER_FILES = 256
LARGEST_HEAD = 32 * 1024
LARGEST_BODY = 1024 * 1024
LARGEST_UPLOAD = 2 * 1024**3
"""Of a proxied call. The server stores bodies on disk (`TMPDIR`), never in memory."""
_KEPT_FREE = 0.1
"""The part of that file system which uploads leave free: they come before the database checks the key, and the refresh journal may be there too."""
DRAIN_SECONDS = 15
RESTART_SECONDS = 0.5
"""The pause before a server process that died is replaced."""
OPTIONS: dict[str, Any] = {
    "threads": THREADS,
    # Longer than proxies keep an idle connection (nginx and AWS 60 s), so that no proxy sends a request on one that we close.
    "channel_timeout": 75,
    "cleanup_interval": 10,
    "max_request_header_size": LARGEST_HEAD,
    "max_request_body_size": LARGEST_BODY,  # routes have their own limits below it
    "inbuf_overflow": 64 * 1024,  # a larger body is stored on disk
    "outbuf_high_watermark": 512
    * 1024,  # below `outbuf_overflow`: a streamed response waits for its client, and never on disk
    "clear_untrusted_proxy_headers": False,  # the application decides which of them count (GATEWAY_TRUSTED_PROXIES)
    "asyncore_use_poll": True,  # select() cannot watch file descriptors above 1,023
    "log_socket_errors": False,
    "ident": None,
}
_PROXIED = re.compile(r"/v1/connections/[^/]+/proxy(/|$)")


class RequestParser(HTTPRequestParser):  # type: ignore[misc]
    """
    waitress's parser, stricter where a proxy in front may see another request than we do (RFC 9112 sections 3.2, 6.1 and 6.3).

    A proxied call may have a larger body than any other request, which is not read where the caller has no key.
    """

    path = ""
    """Until the request line was read; it never is where the head cannot be parsed."""
    completed = expect_continue = False

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError for two lengths of one body, any number of hosts but one, and what a URL cannot hold."""
        super().parse_header(header_plus)
        if "TRANSFER_ENCODING" in self.headers or (self.chunked and "CONTENT_LENGTH" in self.headers):
            raise ParsingError("Content-Length and Transfer-Encoding")
        host = self.headers.get("HOST")
        if "," in (host or "") or (host is None and self.version == "1.1"):
            raise ParsingError("Host")
        if "\t" in self.request_uri or "#" in self.request_uri:  # waitress would leave out the tab, and what follows #
            raise ParsingError("the URL has a tab or a fragment")
        if _PROXIED.match(self.path):
            self.adj: Any = copy.copy(self.adj)
            self.adj.max_request_body_size = LARGEST_UPLOAD
            has_body = self.chunked or self.headers.get("CONTENT_LENGTH", "0") != "0"
            if has_body and not _may_be_known(self.headers.get("AUTHORIZATION", "")):
                self.body_rcv = None  # the application refuses the request without it
                self.content_length = 0
                self.headers |= {"CONTENT_LENGTH": "0", "CONNECTION": "close"}

    def received(self, data: bytes) -> int:
        """Ends a large body when the disk is nearly full, and what is kept in memory of one in chunks when it is longer than a head."""
        consumed, body = int(super().received(data)), self.body_rcv
        if isinstance(body, ChunkedReceiver) and len(body.control_line + body.trailer) > LARGEST_HEAD:
            self.error = RequestHeaderFieldsTooLarge("The trailer, or the size of a chunk.")
        elif (
            self.body_bytes_received > LARGEST_BODY
            and (disk := disk_usage(gettempdir())).free < _KEPT_FREE * disk.total
        ):
            self.error = RequestEntityTooLarge("Large bodies are refused until there is space again.")
        self.completed = self.completed or self.error is not None
        self.expect_continue = self.expect_continue and not self.completed  # waitress would wait for a body
        return consumed


def _may_be_known(authorization: str) -> bool:
    """Whether this may be a key or an access token, by its form alone."""
    scheme, _, credential = authorization.partition(" ")
    is_bearer, credential = scheme.lower() == "bearer", credential.strip()
    return is_bearer and (is_key(credential) or re.fullmatch(r"[^.]*(\.[^.]*){2}", credential) is not None)


class _Refusal(ErrorTask):  # type: ignore[misc]
    """What waitress refuses before the application sees it: under `/v1` problem+json (RFC 9457) like any other error."""

    def execute(self) -> None:
        refused, path = self.request.error, self.request.path
        if path in ("", "/") or path.startswith("/v1/"):  # the first two where waitress cannot read the path
            kind = TooLarge if refused.code == TooLarge.status else BadRequest
            origin = self.channel.server.application.extensions["gateway"].settings.public_url
            problem = {"type": f"{origin}/problems/{kind.slug}", "title": kind.title, "status": refused.code}
            problem |= {"detail": kind.detail, "code": kind.slug, "remedy": kind.remedy, "request_id": token_hex(12)}
            log.info("request.refused", error=kind.slug, status=refused.code, request_id=problem["request_id"])
            head = (f"{refused.code} {refused.reason}", [("Content-Type", "application/problem+json")])
            refused.to_response = lambda _: (*head, json.dumps(problem).encode())
        super().execute()


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = RequestParser
    error_task_class = _Refusal

    def readable(self) -> bool:
        """Also during a proxied call, so that it ends when its client goes away. A client that stops reading is cut off."""
        if self._is_stuck():
            with self.outbuf_lock:  # the response's thread may just have sent something
                if self._is_stuck():
                    self.handle_close()
                    return False
        if len(self.requests) != 1 or not _PROXIED.match(self.requests[0].path):
            return bool(super().readable())
        return not (self.will_close or self.close_when_flushed or self.total_outbufs_len)

    def _is_stuck(self) -> bool:
        return bool(self.total_outbufs_len) and time.time() - self.last_activity > OPTIONS["channel_timeout"]


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that does not listen before a process is ready. Raises SettingsRefused when the port is taken or not allowed."""
    fix = "--host takes an address of this machine, like 127.0.0.1 or 0.0.0.0, and the port is at most 65535"
    no_address = SettingsRefused(f"{host} port {port} is no address: {fix}.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError, OverflowError):
        raise no_address from None
    bound = socket.socket(family, kind)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise no_address from None
        reason = os.strerror(error.errno or 0).lower()
        raise SettingsRefused(
            f"Port {port} of {host}: {reason}. Stop that program, or choose another {option}."
        ) from None
    return bound


def run_server(host: str, port: int, workers: int, *, work: bool = True) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are finished. `work`: each process also runs a worker."""
    with bind(host, port) as listener:
        app = build_served_app()
        if workers == 1:
            serve(app, listener, work=work)
        else:
            _supervise(app, listener, workers, work=work)


def build_served_app() -> Flask:
    """The application, prepared for many requests at once."""
    app = create_app()
    for name in app.jinja_env.list_templates():  # otherwise each of many first requests compiles the same one
        app.jinja_env.get_template(name)
    gc.collect()
    gc.freeze()  # otherwise each full collection walks through all modules and stops every request for 60 ms
    return app


def serve(app: Flask, listener: socket.socket, *, work: bool) -> None:
    """Run waitress, and a worker, until a signal. Then accept nothing new, answer what has arrived, and finish the worker's units."""
    app.config[LOOPBACK_ONLY] = is_loopback(listener.getsockname()[0])
    logging.getLogger("waitress").setLevel(
        logging.CRITICAL
    )  # its messages contain paths, and with them secrets of links
    server: Any = create_server(app, sockets=[listener], connection_limit=connection_limit(), **OPTIONS)
    server.channel_class = _Channel
    stopped = _signals(server.pull_trigger)
    log.info("server.ready")
    stops = threading.Event()
    working = start_worker(app.extensions["gateway"], stops, work=work)
    while not stopped:
        wasyncore.loop(1, use_poll=True, map=server._map, count=1)  # noqa: SLF001 - where waitress keeps its sockets
    stops.set()
    wasyncore.dispatcher.close(server)
    units_end, end = time.monotonic() + UNIT_SECONDS, time.monotonic() + DRAIN_SECONDS
    while server.active_channels and time.monotonic() < end:
        wasyncore.loop(0.1, use_poll=True, map=server._map, count=1)  # noqa: SLF001
        for channel in list(server.active_channels.values()):
            if not (channel.requests or channel.request or channel.total_outbufs_len):
                channel.handle_close()
    for thread in working:
        thread.join(max(0.0, units_end - time.monotonic()))


def _signals(wake: Callable[[], None] = lambda: None) -> list[int]:
    """The SIGTERMs and SIGINTs received, in a list that grows."""
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        received.append(number)
        wake()

    signal.signal(signal.SIGTERM, receive)
    signal.signal(signal.SIGINT, receive)
    return received


def connection_limit() -> int:
    """CONNECTIONS, or what the limit of open files allows; raises the soft limit as far as needed and possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS
    wanted = CONNECTIONS + OTHER_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(THREADS, min(CONNECTIONS, soft - OTHER_FILES))


def _supervise(app: Flask, listener: socket.socket, workers: int, *, work: bool) -> None:
    """Keep `workers` processes running until a signal, and stop them then."""
    stopped, fork, parent = _signals(), multiprocessing.get_context("fork"), os.getpid()

    def start() -> BaseProcess:
        process = fork.Process(target=_run_child, args=(app, listener, parent), kwargs={"work": work})
        process.start()
        return process

    running = [start() for _ in range(workers)]
    while not stopped:
        wait([process.sentinel for process in running], timeout=0.5)
        ended = [process for process in running if not process.is_alive()]
        if ended and not stopped:
            log.error("server.process_died", exit_codes=[process.exitcode for process in ended])
            time.sleep(RESTART_SECONDS)  # where none can run, they would be started all the time
            running = [*(process for process in running if process not in ended), *(start() for _ in ended)]
    for process in running:
        process.terminate()
    for process in running:
        process.join()


def _run_child(app: Flask, listener: socket.socket, parent: int, *, work: bool) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: the child ends when its parent dies
    if os.getppid() == parent:
        serve(app, listener, work=work)
