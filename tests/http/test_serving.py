"""
How the server is started: many connections, most of them idle, and nobody waits for them.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
import requests

from gateway import server
from gateway.server import BLOCKING_THREADS, CONNECTIONS, connections_allowed
from tests.support.database import rows
from tests.support.gateway_process import free_port, whole_gateway


def test_idle_connections_keep_nobody_out(gateway):
    """Three times as many as there are threads, each kept after an answer, as a proxy keeps them: a newcomer is answered at once."""
    with ExitStack() as stack:
        for _ in range(3 * BLOCKING_THREADS):
            kept = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            kept.settimeout(5)
            assert kept.recv(4096).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert 200 == requests.get(f"{gateway.url}/healthz", timeout=5).status_code
        assert time.monotonic() - began < 1


def listening(port):
    """How many sockets listen there (proc(5): state 0A)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def test_the_processes_of_a_server_begin_to_listen_together():
    """However long one of them takes to come up; and one that is started later again waits for nobody."""
    together, fork, passed = server.Together(3), multiprocessing.get_context("fork"), multiprocessing.SimpleQueue()

    def come_up(seconds):
        time.sleep(seconds)
        together.wait()
        passed.put(time.monotonic())

    began = time.monotonic()
    processes = [fork.Process(target=come_up, args=(seconds,)) for seconds in (0, 0.3, 1.0)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(10)
    times = [passed.get() - began for _ in processes]
    assert min(times) >= 1.0
    assert max(times) - min(times) < 0.5

    again = fork.Process(target=come_up, args=(0,))
    again.start()
    again.join(5)
    assert 0 == again.exitcode


def test_one_that_dies_while_it_waits_holds_up_nobody():
    """Nor does the one that takes its place."""
    together, fork, passed = server.Together(2), multiprocessing.get_context("fork"), multiprocessing.SimpleQueue()

    def come_up():
        together.wait()
        passed.put(True)

    first = fork.Process(target=come_up)
    first.start()
    time.sleep(0.3)
    first.kill()
    first.join(5)
    for _ in range(2):
        each = fork.Process(target=come_up)
        each.start()
        each.join(5)
        assert (0, True) == (each.exitcode, passed.get())


def test_http_2_is_not_spoken(gateway):
    """Of its streams and idle connections nothing is bounded here."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as sender:
        sender.settimeout(5)
        sender.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        answer = sender.recv(4096)
    assert not answer or answer.startswith(b"HTTP/1.1 4")


def test_one_that_never_comes_up_holds_up_the_others_for_seconds_alone(monkeypatch):
    """They serve without it."""
    monkeypatch.setattr(server, "_TOGETHER_SECONDS", 0.2)
    together, began = server.Together(2), time.monotonic()
    together.wait()
    together.wait()
    assert 0.2 <= time.monotonic() - began < 1


def test_a_process_that_died_is_replaced(cluster, template):
    """All of them listen, and do so again."""
    with whole_gateway(cluster, template, workers=3) as made:
        made.start()
        time.sleep(0.5)
        assert 3 == listening(made.port)
        first = psutil.Process(made.process.pid).children()[0]
        first.kill()
        first.wait(5)  # until then it is counted among those who listen
        end = time.monotonic() + 15
        while listening(made.port) != 3:
            assert time.monotonic() < end
            time.sleep(0.1)
        assert 200 == requests.get(f"{made.url}/readyz", timeout=5).status_code


def test_a_process_is_warm_before_it_listens(gateway):
    """Its database connections are open, and each has called what is called most."""
    opened = rows(
        gateway.dsn,
        "select count(*) >= 4 from pg_stat_activity where application_name = 'gateway' and datname = current_database()",
    )
    assert [True] == opened


def test_a_database_that_is_away_is_no_reason_not_to_serve(tmp_path):
    """What asks for it is told so; a process that died meanwhile is started again all the same."""
    environ = {
        "PATH": os.environ["PATH"],
        "GATEWAY_KEYS": "3q2-7wABAgMEBQYHCAkKCxyzDQ4PEBESExQVFhcYGRo=",
        "GATEWAY_DATA": str(tmp_path),
        "DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
    }
    asks = (
        "import gc; from gateway.server import served_app_alone as s; print(s().test_client().get('/healthz').status);"
        "print('frozen', gc.get_freeze_count() > 10_000)"
    )
    told = subprocess.run(
        [sys.executable, "-c", asks], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "200 OK" in told.stdout
    assert "frozen True" in told.stdout  # what stands is not walked through by the collector while somebody waits
    assert "serving.cold" in told.stdout + told.stderr


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (1024, 4096, CONNECTIONS, CONNECTIONS + 256),
        (1024, 1024, 768, 1024),
        (256, resource.RLIM_INFINITY, CONNECTIONS, CONNECTIONS + 256),
        (200, 200, BLOCKING_THREADS, 200),
        (65536, 65536, CONNECTIONS, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, CONNECTIONS, None),
    ],
)
def test_as_many_connections_as_files_may_be_open(monkeypatch, soft, hard, allowed, raised):
    """The soft limit of open files is raised for them as far as the hard one lets it; with some left for everything else."""
    told = []
    monkeypatch.setattr(server.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(server.resource, "setrlimit", lambda _, limits: told.append(limits))

    assert allowed == connections_allowed()
    assert ([] if raised is None else [(raised, hard)]) == told
