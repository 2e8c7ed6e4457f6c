"""
The server: slow bodies, idle connections, foreign cookies, several processes, stopping.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import psutil
import pytest
import requests

from gateway import server
from gateway.partners.keys import make_key
from gateway.server import CONNECTIONS, LARGEST_BODY, THREADS, connection_limit
from tests.support.gateway_process import free_port, whole_gateway
from tests.support.patience import held, wait_for


@pytest.fixture
def slow(gateway):
    """Opens a connection that sends the head of a form and `sent` of its body."""
    with ExitStack() as stack:

        def opened(sent=b"access_token=", length=100):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            sender.sendall(
                b"POST /session HTTP/1.1\r\nHost: localhost\r\nOrigin: %b\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\n\r\n" % (gateway.url.encode(), length) + sent
            )
            sender.settimeout(30)
            return sender

        yield opened


def status(sender):
    return int(sender.recv(4096).split(b" ", 2)[1])


# -- bodies ----------------------------------------------------------------------------------------------------------


def test_a_slow_or_missing_body_holds_no_thread(gateway, slow):
    """
    More of them than there are threads: reads, and other forms, are answered at once.
    """
    for _ in range(THREADS + 64):
        slow(sent=b"")
    time.sleep(0.5)

    assert requests.get(f"{gateway.url}/healthz", timeout=30).status_code == 200
    assert requests.get(f"{gateway.url}/v1/connections", timeout=30).status_code == 401
    assert gateway.person().signs_in().status_code == 303


def test_a_body_that_comes_in_pieces_is_whole(gateway, slow):
    body = f"access_token={gateway.person().token()}&next=/connections".encode()
    sender = slow(sent=body[:7], length=len(body))
    time.sleep(0.2)
    sender.sendall(body[7:40])
    time.sleep(0.2)
    sender.sendall(body[40:])

    assert status(sender) == 303


def test_a_body_in_chunks_is_whole(gateway):
    body = f"access_token={gateway.person().token()}&next=/connections".encode()
    parts = (body[at : at + 100] for at in range(0, len(body), 100))
    headers = {"Origin": gateway.url, "Content-Type": "application/x-www-form-urlencoded"}
    answer = requests.post(f"{gateway.url}/session", parts, headers=headers, allow_redirects=False, timeout=60)

    assert answer.status_code == 303


def test_half_a_body_does_nothing(gateway, slow):
    """
    The client goes away in the middle: the application never sees the request.
    """
    body = f"access_token={gateway.person().token()}&next=/connections".encode()
    before = gateway.log.read_text().count('"route": "/session"')
    with slow(sent=body, length=len(body) + 1):
        time.sleep(0.2)
    time.sleep(0.3)

    assert gateway.log.read_text().count('"route": "/session"') == before


@pytest.mark.parametrize("length", [64 * 1024 + 1, LARGEST_BODY + 1, 99_999_999])
def test_too_large_a_body_is_refused(gateway, slow, length):
    """
    By the application, or unread by the server.
    """
    sent = b"a" * length if length <= LARGEST_BODY else b""
    assert status(slow(sent=sent, length=length)) == 413


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The server in two processes, with an application that says what it got, and streams."""
    port = free_port()
    script = f"""
import time
from types import SimpleNamespace
from flask import Flask, request
from gateway import server
app = Flask("bare")
@app.route("/stream")
def stream():
    return (time.sleep(0.3) or b"%d " % number for number in range(8)), 200
@app.route("/", defaults={{"path": ""}}, methods=["GET", "POST", "OPTIONS"])
@app.route("/<path:path>", methods=["GET", "POST", "OPTIONS"])
def echo(path):
    size = 0
    while block := request.stream.read(65536):
        size += len(block)
    return f"{{request.method}} {{request.path}} {{size}} "
app.extensions["gateway"] = SimpleNamespace(settings=SimpleNamespace(public_url="https://connect.example"))
server.build_served_app, server.start_worker = lambda: app, lambda _, stops, work: []
server.run_server("127.0.0.1", {port}, 2)
"""
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        wait_for(lambda: raw(port, b"GET / HTTP/1.0\r\n\r\n"))
        yield port, process
        process.terminate()


STUCK = """
from flask import Flask
from gateway import server
app, ended = Flask("stuck"), []
@app.route("/endless")
def endless():
    def pieces():
        try:
            for _ in range(10_000):
                yield bytes(65536)
        finally:
            ended.append(True)
    return pieces(), 200
@app.route("/ended")
def count():
    return str(len(ended))
server.OPTIONS["channel_timeout"] = 2
app.extensions["gateway"] = None
server.build_served_app, server.start_worker = lambda: app, lambda _, stops, work: []
server.run_server("127.0.0.1", {port}, 1)
"""


def test_a_client_that_stops_reading_is_cut_off():
    """
    Its response ends, and with it the thread and the provider's slot; here after two seconds, else after 75.
    """
    port = free_port()
    asked = b"GET /ended HTTP/1.0\r\n\r\n"
    with subprocess.Popen([sys.executable, "-c", STUCK.format(port=port)]) as process:
        try:
            wait_for(lambda: raw(port, asked))
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert raw(port, asked).endswith(b"\r\n\r\n0")
                wait_for(lambda: raw(port, asked).endswith(b"\r\n\r\n1"))
        finally:
            process.terminate()


def raw(port, sent, end=None):
    """All that the server answers to these bytes, until it closes the connection or has sent `end`."""
    answer = b""
    with (
        contextlib.suppress(TimeoutError, ConnectionError),
        socket.create_connection(("127.0.0.1", port), timeout=60) as sender,
    ):
        sender.sendall(sent)
        sender.settimeout(30)
        while not (end and end in answer) and (block := sender.recv(65536)):
            answer += block
    return answer


HOST = b"Host: localhost\r\n"
TWO_READINGS = {
    "both lengths": b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both, the other way round": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"POST /a HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\nContent-Length: 6\r\n\r\n",
    "a list of lengths": b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 0, 0\r\n\r\n",
    "a signed length": b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: +0\r\n\r\n",
    "a length in hexadecimal": b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 0x0\r\n\r\n",
    "a chunk with 0x": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a chunk extension with a line end": b"POST /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0;a\nb\r\n\r\n",
    "a carriage return in a header": b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\rb\r\n\r\n",
    "a NUL in a header": b"GET /a HTTP/1.1\r\n" + HOST + b"X: a\0b\r\n\r\n",
    "a line without a colon": b"GET /a HTTP/1.1\r\n" + HOST + b"Xab\r\n\r\n",
    "a header without a name": b"GET /a HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "a bracket in a name": b"GET /a HTTP/1.1\r\n" + HOST + b"X(y: a\r\n\r\n",
    "no host": b"GET /a HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /a HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
    "a space in the address": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "a tab in the address": b"GET /a?b=1\t HTTP/1.1\r\n" + HOST + b"\r\n",
    "a fragment in the address": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the address": b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TWO_READINGS)
def test_a_request_that_a_proxy_may_read_otherwise_is_refused_and_its_connection_closed(bare, name):
    """
    Request smuggling: what follows on the connection is not read as a request.
    """
    answer = raw(bare[0], TWO_READINGS[name] + b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n")

    assert answer.split(b" ", 2)[1] in (b"400", b"501")
    assert answer.count(b"HTTP/1.") == 1
    assert b"/smuggled" not in answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /a HTTP/1.0\r\n",
        b"GET http://evil.example/a HTTP/1.1\r\n" + HOST,
        b"OPTIONS /a HTTP/1.1\r\n" + HOST,
        b"GET /a HTTP/1.1\r\n" + HOST + b"".join(b"X-%d: a\r\n" % number for number in range(2000)),
        b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    ],
    ids=["1.0", "absolute", "options", "many headers", "upgrade"],
)
def test_an_unusual_request_is_an_ordinary_one(bare, head):
    closes = b"" if b"Upgrade" in head else b"Connection: close\r\n"

    assert b" /a 0 " in raw(bare[0], head + closes + b"\r\n", end=b" /a 0 ")


def test_large_bodies_are_for_proxied_calls_alone_and_stay_out_of_memory(bare):
    """
    Sixty megabytes each, by length and in chunks, while other requests are answered; elsewhere one megabyte is the most.
    """
    port, process = bare
    parts, count = b"x" * 65536, 960

    def memory():
        return sum(each.memory_info().rss for each in psutil.Process(process.pid).children())

    before, seen = memory(), []
    path = "/v1/connections/5c1f0e7e-0000-4000-8000-00000000a11c/proxy/files"
    for given in ({"Content-Length": str(len(parts) * count)}, {"Transfer-Encoding": "chunked"}):
        given["Authorization"] = f"Bearer {make_key()}"
        body = (parts for _ in range(count))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", path, body, given, encode_chunked="Transfer-Encoding" in given)
        answer = connection.getresponse().read().decode()
        connection.close()
        seen.append(memory())
        assert f" {len(parts) * count} " in answer
    assert max(seen) - before < 30 * 1024 * 1024
    for elsewhere in ("/v1/connections", "/v1/connections/5c/proxyx", "/session"):
        head = b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n" % (elsewhere.encode(), HOST, LARGEST_BODY + 1)
        answer = raw(port, head)
        assert answer.split(b" ", 2)[1] == b"413"
        is_problem = b"Content-Type: application/problem+json" in answer
        assert is_problem == (b'"type": "https://connect.example/problems/too_large"' in answer)
        assert is_problem == elsewhere.startswith("/v1/")


def test_sigterm_finishes_a_streamed_response_of_any_process(bare):
    """
    Begun before the signal, in two processes: it comes whole. This test is the last with this server.
    """
    port, process = bare
    with ExitStack() as stack:
        senders = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(6)]
        for sender in senders:
            sender.sendall(b"GET /stream HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        responses = [stack.enter_context(sender.makefile("rb")) for sender in senders]
        begun = [response.readline() for response in responses]
        process.terminate()
        rest = [response.read() for response in responses]

    assert {b"HTTP/1.1 200 OK\r\n"} == set(begun)
    assert all(b"7 " in answer for answer in rest)
    assert process.wait(60) == 0


# -- connections and headers -----------------------------------------------------------------------------------------


def test_idle_connections_do_not_block_new_ones(gateway):
    """
    Three times as many as there are threads, each kept open after a response, as a proxy keeps them; then each with half a head.
    """
    with ExitStack() as stack:
        for _ in range(3 * THREADS):
            kept = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            kept.settimeout(30)
            assert kept.recv(4096).startswith(b"HTTP/1.1 200")
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert requests.get(f"{gateway.url}/healthz", timeout=30).status_code == 200


def test_http_2_is_not_spoken(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port)) as sender:
        sender.settimeout(60)
        sender.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        answer = sender.recv(4096)
    assert not answer or b" 4" in answer.splitlines()[0]


@pytest.mark.parametrize(
    "foreign", [b"name=Zo\xc3\xab", b"name=\xff\xfe", b"big=" + b"x" * 7_000, b'a="b; c', b"=;;=,"]
)
def test_a_foreign_cookie_does_not_sign_anybody_out(gateway, foreign):
    """
    Another site of the same parent domain may set cookies that are not ASCII, malformed or large.
    """
    alice = gateway.person("Alice Winter")
    alice.signs_in()
    own = alice.browser.cookies["gateway"].encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sender:
        sender.sendall(
            b"GET /connections HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: %b; gateway=%b\r\n\r\n"
            % (foreign, own)
        )
        page = sender.makefile("rb").read()

    assert page.startswith(b"HTTP/1.1 200")
    assert b"alice@northwind.example" in page


def test_a_header_with_an_underscore_is_dropped(cluster, template):
    """
    `X_Forwarded_For` reaches a WSGI application under the name of `X-Forwarded-For`.
    """
    with whole_gateway(cluster, template) as gateway:
        gateway.start()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sender:
            sender.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX_Forwarded_For: 203.0.113.9\r\n\r\n")
            assert status(sender) == 200
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        assert requests.get(f"{gateway.url}/metrics", headers=forwarded, timeout=60).status_code == 403


def test_headers_of_endless_length_are_refused(gateway):
    answer = requests.get(f"{gateway.url}/healthz", headers={"X-Long": "x" * 40_000}, timeout=60)
    assert (431, "bad_request") == (answer.status_code, answer.json()["code"])


def test_another_wsgi_server_serves_wsgi_py(gateway):
    """
    The simplest one that there is, one thread and no buffering: pages, the API, and sessions beside a foreign cookie.
    """
    port, alice = free_port(), gateway.person("Alice Winter")
    alice.signs_in()
    script = f"from wsgiref.simple_server import make_server; from wsgi import app; make_server('127.0.0.1', {port}, app).serve_forever()"
    environ = {"PATH": os.environ["PATH"]} | gateway.environ
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: raw(port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"))
            cookie = b"Cookie: name=Zo\xc3\xab; gateway=%b\r\n\r\n" % alice.browser.cookies["gateway"].encode()
            page = raw(port, b"GET /connections HTTP/1.0\r\n" + cookie)
            refused = requests.get(f"http://127.0.0.1:{port}/v1/connections", timeout=30)
        finally:
            process.terminate()

    assert b"alice@northwind.example" in page
    assert refused.status_code == 401


# -- starting and stopping -------------------------------------------------------------------------------------------


def test_sigterm_finishes_the_requests_under_way(cluster, template):
    """
    A callback whose provider has not responded yet ends in a connection; new clients are refused meanwhile, and the process ends with 0.
    """
    with whole_gateway(cluster, template) as gateway:
        gateway.start()
        alice, idle, answers = gateway.person("Alice Winter"), requests.Session(), []
        idle.get(f"{gateway.url}/healthz", timeout=30)
        alice.signs_in()
        callback = alice.consents("google")
        thread = threading.Thread(target=lambda: answers.append(alice.get(callback)))
        with held(gateway.sandbox, "google", "token") as is_asked:
            thread.start()
            wait_for(is_asked)

            gateway.process.terminate()
            wait_for(lambda: refuses(gateway.port))
            assert gateway.process.poll() is None
        thread.join(60)

        assert gateway.process.wait(60) == 0
        assert answers[0].status_code == 303
        assert "connection=" in answers[0].headers["Location"]


def refuses(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@pytest.fixture(scope="module")
def three(cluster, template):
    """A gateway of three processes."""
    with whole_gateway(cluster, template, workers=3) as made:
        yield made.start()


def children(gateway):
    return psutil.Process(gateway.process.pid).children()


def test_a_process_that_died_is_replaced(three):
    first = children(three)[0]
    first.kill()
    first.wait(60)
    wait_for(lambda: len(children(three)) == 3)

    assert requests.get(f"{three.url}/readyz", timeout=30).status_code == 200


def test_the_processes_end_with_their_parent(cluster, template):
    """
    Also when the parent is killed and cannot tell them. A server that is started next gets the port.
    """
    with whole_gateway(cluster, template, workers=2) as made:
        made.start()
        orphans = children(made)
        made.process.kill()
        made.process.wait(60)
        made.start()
        _, alive = psutil.wait_procs(orphans, timeout=60)
        wait_for(lambda: len(children(made)) == 2)  # an orphan may have answered while the next server was starting

    assert len(orphans) == 2
    assert alive == []


def test_where_the_application_cannot_start_no_process_does(tmp_path):
    """
    It is built once, before the processes are forked: one report, and nothing listens.
    """
    port = free_port()
    script = f"""
import os
from gateway import server
def build():
    raise RuntimeError("this one cannot")
server.build_served_app = build
server.run_server("127.0.0.1", {port}, 2)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert 1 == ended.stderr.count("this one cannot\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_port_that_is_taken_is_reported(cluster, template):
    with whole_gateway(cluster, template) as gateway, socket.create_server(("127.0.0.1", gateway.port)):
        environ = {"PATH": os.environ["PATH"]} | gateway.environ
        command = [sys.executable, "-m", "gateway", "serve", "--port", str(gateway.port)]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode != 0
    assert f"Port {gateway.port} of 127.0.0.1: address already in use" in ended.stderr


def test_no_secret_stays_in_the_environment_of_a_server(three):
    """
    Not in the WSGI environ: each process takes its secrets out of os.environ before it serves.
    """
    script = "import os; from gateway import create_app; create_app(); print('GATEWAY_KEYS' in os.environ)"
    environ = {"PATH": os.environ["PATH"]} | three.environ
    told = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() == "False"


def test_a_database_that_is_away_does_not_stop_the_start(tmp_path):
    environ = {
        "PATH": os.environ["PATH"],
        "GATEWAY_KEYS": "3q2-7wABAgMEBQYHCAkKCxyzDQ4PEBESExQVFhcYGRo=",
        "GATEWAY_DATA": str(tmp_path),
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
    }
    script = (
        "import gc; from gateway.server import build_served_app as b; print(b().test_client().get('/healthz').status);"
        "print('frozen', gc.get_freeze_count() > 10_000)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "200 OK" in told.stdout
    assert "frozen True" in told.stdout


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (1024, 4096, CONNECTIONS, CONNECTIONS + 256),
        (1024, 1024, 768, 1024),
        (256, resource.RLIM_INFINITY, CONNECTIONS, CONNECTIONS + 256),
        (200, 200, THREADS, 200),
        (65536, 65536, CONNECTIONS, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, CONNECTIONS, None),
    ],
)
def test_as_many_connections_as_files_may_be_open(monkeypatch, soft, hard, allowed, raised):
    """
    The soft limit of open files is raised as far as the hard one allows, with some left for everything else.
    """
    told = []
    monkeypatch.setattr(server.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(server.resource, "setrlimit", lambda _, limits: told.append(limits))

    assert connection_limit() == allowed
    assert [pair for pair in told if pair != (soft, hard)] == ([] if raised in (None, soft) else [(raised, hard)])


def test_a_second_signal_does_not_cut_a_request_short(cluster, template):
    """
    A process manager may repeat itself.
    """
    with whole_gateway(cluster, template) as gateway:
        gateway.start()
        alice, answers = gateway.person("Alice Winter"), []
        alice.signs_in()
        callback = alice.consents("google")
        thread = threading.Thread(target=lambda: answers.append(alice.get(callback)))
        with held(gateway.sandbox, "google", "token") as is_asked:
            thread.start()
            wait_for(is_asked)
            for _ in range(3):
                gateway.process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
        thread.join(60)

        assert answers[0].status_code == 303


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: nonsense\r\n\r\n",
    ],
)
def test_a_request_that_cannot_be_parsed_ends_its_connection_and_no_other(gateway, head):
    """
    The server answers 4xx, or closes; it goes on for everyone else.
    """
    with socket.create_connection(("localhost", gateway.port), timeout=60) as sender:
        sender.sendall(head)
        answer = sender.recv(4096)

    assert not answer or answer.split()[1].startswith((b"4", b"5"))
    assert requests.get(f"{gateway.url}/healthz", timeout=30).status_code == 200
    assert gateway.process.poll() is None


def test_processes_that_end_at_once_are_started_twice_a_second():
    """
    They would take every core from what still works.
    """
    script = f"""
import os, threading
from gateway import server
server.build_served_app, server.serve = lambda: None, lambda *_, work: os.write(1, b"x") and os._exit(3)
threading.Timer(2, os.kill, (os.getpid(), 15)).start()
server.run_server("127.0.0.1", {free_port()}, 2)
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    assert 2 <= ended.stdout.count(b"x") <= 2 * (1 + (time.monotonic() - began) / server.RESTART_SECONDS)
