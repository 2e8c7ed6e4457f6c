"""
How the server is started: many connections, most of them idle, and nobody waits for them.
"""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack

import pytest
import requests

from gateway import serving
from gateway.serving import BLOCKING_THREADS, CONNECTIONS, connections_allowed


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
    monkeypatch.setattr(serving.resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(serving.resource, "setrlimit", lambda _, limits: told.append(limits))

    assert allowed == connections_allowed()
    assert ([] if raised is None else [(raised, hard)]) == told
