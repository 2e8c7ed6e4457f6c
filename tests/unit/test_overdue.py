"""
Which connections are ended, over real sockets: those that wait for their client, and no other.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.web import overdue
from gateway.web.overdue import Overdue


@pytest.fixture
def connected(monkeypatch):
    """Opens a connection to a port of ours: the client's end and the server's."""
    monkeypatch.setattr(overdue, "UNANSWERED_SECONDS", 0.5)
    monkeypatch.setattr(overdue, "IDLE_SECONDS", 1.5)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def opened():
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
            client.settimeout(5)
            server.settimeout(5)
            return client, server

        opened.port = listener.getsockname()[1]
        yield opened


def looks(connected, seconds, meanwhile=lambda: None):
    """How many were ended within that time, looked at ten times a second."""
    looking, end, ended = Overdue(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        meanwhile()
        ended += looking.end({connected.port})
        time.sleep(0.1)
    return ended


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def gone(client):
    client.setblocking(False)
    try:
        return client.recv(10) == b""
    except BlockingIOError:
        return False


def test_half_a_request_is_ended(connected):
    """One that came at once, one behind an answer, one that drips."""
    (first, at_once), (second, kept), (third, drips) = connected(), connected(), connected()
    first.sendall(b"POST")
    second.sendall(b"GET")
    kept.recv(10)
    kept.sendall(b"200")
    second.recv(10)
    time.sleep(0.05)
    second.sendall(b"POST")

    def drip():
        if not gone(third):
            third.setblocking(True)
            third.sendall(b"x")

    assert 3 == looks(connected, 1.2, drip)
    assert all(map(gone, (first, second, third)))
    del at_once, drips


def test_one_that_hides_behind_an_answer_is_ended_later(connected):
    """It came in one packet with a request that was answered, and looks idle for longer than the server lets anything be."""
    client, server = connected()
    client.sendall(b"GETPOST")
    server.recv(10)
    time.sleep(0.05)
    server.sendall(b"200")
    client.recv(10)

    assert 0 == looks(connected, 1.0)
    assert 1 == looks(connected, 1.0)
    assert gone(client)


def test_what_is_answered_in_time_is_left_alone(connected):
    """A busy one; one that was idle for long and has just asked; one of another port; the one that listens."""
    busy, idle, elsewhere = connected(), connected(), socket.create_server(("127.0.0.1", 0))

    def work():
        busy[0].sendall(b"GET")
        busy[1].recv(10)
        busy[1].sendall(b"200")
        busy[0].recv(10)

    with elsewhere, socket.create_connection(elsewhere.getsockname()) as other:
        other.sendall(b"POST")
        idle[0].sendall(b"GET")
        idle[1].recv(10)
        time.sleep(0.05)
        idle[1].sendall(b"200")
        idle[0].recv(10)
        assert 0 == looks(connected, 1.0, work)
        idle[0].sendall(b"GET")
        assert 0 == looks(connected, 0.3, work)
        idle[1].recv(10)
        idle[1].sendall(b"200")
        assert b"200" == idle[0].recv(10)
        assert 0 == looks(connected, 0.4, work)
        assert not gone(other)
    assert connected()


def test_looking_leaves_nothing_open(connected):
    """However many files of whatever kind are open."""
    kept = connected()
    before = open_files()
    looks(connected, 0.5)
    assert before == open_files()
    del kept
