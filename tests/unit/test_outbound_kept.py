"""The only socket to the internet: which connections are kept, whose they are, and how many calls wait for one provider."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import MOST_IN_FLIGHT, Deadline, Outbound
from gateway.http import connections as wire
from gateway.http.limits import LARGEST_BODY
from tests.support.scripted_server import OK, answering, lasting, listening, once


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def outbound():
    outbound = Outbound(allow_private=True)
    yield outbound
    outbound.close()


def test_connections_are_kept(outbound, listen):
    """
    Twenty exchanges one after the other are one connection.
    """
    provider = listen(answering(OK))

    assert [b"ok"] * 20 == [outbound.request("GET", provider.url()).body for _ in range(20)]
    assert 1 == provider.connections


def test_a_connection_that_the_server_closed_meanwhile_does_not_fail_the_next_call(outbound, listen):
    """
    The drop is noticed before anything is sent.
    """
    provider = listen(once(OK))

    for expected in range(1, 4):
        assert b"ok" == outbound.request("POST", provider.url(), body="a=b").body
        provider.waits_until(provider.idle)
        assert expected == provider.connections


def test_a_connection_that_was_idle_for_long_is_renewed(outbound, listen, monkeypatch):
    """
    Middleboxes forget idle connections without a word; the request sent over one would hang.
    """
    provider = listen(answering(OK))
    outbound.request("GET", provider.url())
    outbound.request("GET", provider.url())
    assert 1 == provider.connections

    monkeypatch.setattr(wire, "IDLE_SECONDS", 0.0)
    outbound.request("GET", provider.url())

    assert 2 == provider.connections


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 102 Wait\r\n\r\n", b"HTTP/1.1 101 Other\r\n\r\n"]
)
def test_an_interim_answer_never_leaves_the_real_one_to_the_next_call(outbound, listen, interim):
    """
    Else bob's call would be answered with what alice's was: her tokens.
    """
    alices = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice"
    provider = listen(answering(interim + alices))

    for _ in range(2):
        with pytest.raises(ProviderGarbled):
            outbound.request("GET", provider.url())

    assert 2 == provider.connections


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count descriptors")
def test_closed_connections_leave_no_descriptor_behind(outbound, listen):
    """
    The watchdog's second handle on a socket is closed with the first.
    """
    provider = listen(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    outbound.request("GET", provider.url())
    provider.waits_until(provider.idle)
    before = descriptors()

    for _ in range(10):
        outbound.request("GET", provider.url())
    provider.waits_until(provider.idle)

    assert before == descriptors()


def test_a_forked_child_shares_no_connection_with_its_parent(outbound, listen):
    """
    Two processes that write to one connection would read each other's answers. The watchdog's thread is gone there too.
    """
    provider = listen(answering(OK))
    outbound.request("GET", provider.url())
    silent = listen(lambda line: line.stay_silent())

    def child(results):
        results.put(outbound.request("GET", provider.url()).body)
        try:
            outbound.request("GET", silent.url(), deadline=Deadline.after(0.3))
        except ProviderUnavailable:
            results.put("in time")

    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results,))
    process.start()
    assert [b"ok", "in time"] == [results.get(timeout=10), results.get(timeout=10)]
    process.join(10)
    outbound.request("GET", provider.url())

    assert (0, 2) == (process.exitcode, provider.connections)


def test_a_provider_that_hangs_takes_only_its_share_and_the_next_call_is_refused_at_once(outbound, listen):
    """
    48 of 64 threads at most wait for one origin; another origin is served meanwhile.
    """
    free = threading.Event()

    def hang(line):
        line.request()
        free.wait(20)
        line.send(OK)

    hanging, healthy = listen(hang), listen(answering(OK))
    with ThreadPoolExecutor(MOST_IN_FLIGHT) as threads:
        waiting = [threads.submit(outbound.request, "GET", hanging.url()) for _ in range(MOST_IN_FLIGHT)]
        hanging.waits_until(lambda: len(hanging.requests) == MOST_IN_FLIGHT)
        with lasting(0, 0.5), pytest.raises(ProviderUnavailable, match="too many"):
            outbound.request("GET", hanging.url())
        assert b"ok" == outbound.request("GET", healthy.url()).body
        free.set()
        assert [b"ok"] * MOST_IN_FLIGHT == [call.result(timeout=20).body for call in waiting]

    assert b"ok" == outbound.request("GET", hanging.url()).body
    assert not outbound._in_flight


def test_a_deadline_holds_on_a_kept_connection_too(outbound, listen):
    """
    Whoever takes over a connection takes over the line by which it is cut.
    """

    def script(line):
        line.request()
        line.send(OK)
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\n")
        line.drip(b"X: y\r\n")

    provider = listen(script)
    outbound.request("GET", provider.url())

    with lasting(0.55, 0.9), pytest.raises(ProviderUnavailable, match="in time"):
        outbound.request("GET", provider.url(), deadline=Deadline.after(0.6))
    assert 1 == provider.connections


def test_the_connection_of_an_answer_too_large_is_closed_at_once_and_not_used_again(outbound, listen):
    """
    The rest of it would be the next call's answer; and it does not wait for the garbage collector.
    """
    too_large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 9) + bytes(LARGEST_BODY + 9)
    provider = listen(answering(too_large))
    gc.disable()
    try:
        for _ in range(2):
            with pytest.raises(ProviderGarbled):
                outbound.request("GET", provider.url())
        provider.waits_until(provider.idle)
    finally:
        gc.enable()

    assert 2 == provider.connections
