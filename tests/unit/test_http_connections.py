"""The HTTP client's connections: which are kept, whose they are, and that nothing of one response reaches the next call."""

from __future__ import annotations

import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import Bulkhead, Deadline, HttpClient, connection
from gateway.http.client import LARGEST_BODY
from tests.support.scripted_server import OK, answering, lasting, listening, once


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def http():
    http = HttpClient(allow_private=True)
    yield http
    http.close()


def test_connections_are_kept(http, listen):
    """
    Twenty exchanges one after the other are one connection.
    """
    provider = listen(answering(OK))

    assert [b"ok"] * 20 == [http.request("GET", provider.url()).body for _ in range(20)]
    assert 1 == provider.connections


def test_a_connection_that_the_server_closed_meanwhile_does_not_fail_the_next_call(http, listen):
    """
    The drop is noticed before anything is sent.
    """
    provider = listen(once(OK))

    for expected in range(1, 4):
        assert b"ok" == http.request("POST", provider.url(), body="a=b").body
        provider.waits_until(provider.idle)
        assert expected == provider.connections


def test_a_connection_that_was_idle_for_long_is_renewed(http, listen, monkeypatch):
    """
    Middleboxes forget idle connections silently; a request over one would hang.
    """
    provider = listen(answering(OK))
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.0)
    http.request("GET", provider.url())
    http.request("GET", provider.url())

    assert provider.connections == 2


@pytest.mark.parametrize("status", [b"103 Early Hints", b"102 Processing", b"100 Continue"])
def test_an_interim_response_is_skipped(http, listen, status):
    """
    RFC 9110 section 15.2: the final response follows on the same connection.
    """
    provider = listen(answering(b"HTTP/1.1 " + status + b"\r\n\r\n" + OK))

    assert [http.request("GET", provider.url()).body for _ in range(2)] == [b"ok"] * 2
    assert provider.connections == 1


def test_a_switch_of_protocols_is_refused_and_leaves_nothing_to_the_next_call(http, listen):
    """
    101 was not asked for.
    """
    provider = listen(answering(b"HTTP/1.1 101 Other\r\n\r\n" + OK))

    for _ in range(2):
        with pytest.raises(ProviderGarbled):
            http.request("GET", provider.url())

    assert provider.connections == 2


ALICES = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice"
WHOLE = {
    "length": OK,
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "large": b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000),
}


@pytest.mark.parametrize("response", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("surplus", [ALICES, b"\r\n", b"{}"])
def test_bytes_that_follow_a_response_never_reach_the_next_call(http, listen, response, surplus):
    """
    They would be its response, with another user's tokens: the connection is closed.
    """
    provider = listen(answering(response + surplus))

    bodies = {http.request("POST", provider.url(), body="a=b").body for _ in range(3)}

    assert len(bodies) == 1
    assert b"alice" not in bodies
    assert provider.connections == 3


def test_bytes_that_come_while_a_connection_is_idle_are_no_response(http, listen):
    """
    The same, a moment later.
    """
    late = threading.Event()

    def script(line):
        line.request()
        line.send(OK)
        late.wait(5)
        line.send(ALICES)
        line.listener.note(b"late")
        line.stay_silent()

    provider = listen(script)
    http.request("GET", provider.url())
    late.set()
    provider.waits_until(lambda: b"late" in provider.requests)

    assert http.request("GET", provider.url()).body == b"ok"
    assert provider.connections == 2


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to count descriptors")
def test_closed_connections_leave_no_descriptor_behind(http, listen):
    """
    Each socket is closed once.
    """
    provider = listen(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"))
    http.request("GET", provider.url())
    provider.waits_until(provider.idle)
    before = descriptors()

    for _ in range(10):
        http.request("GET", provider.url())
    provider.waits_until(provider.idle)

    assert before == descriptors()


def test_a_forked_child_shares_no_connection_with_its_parent(http, listen):
    """
    Two processes that write to one connection would read each other's responses.
    """
    provider = listen(answering(OK))
    http.request("GET", provider.url())
    silent = listen(lambda line: line.stay_silent())

    def child(results):
        results.put(http.request("GET", provider.url()).body)
        try:
            http.request("GET", silent.url(), deadline=Deadline.after(0.3))
        except ProviderUnavailable:
            results.put("in time")

    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=child, args=(results,))
    process.start()
    assert [b"ok", "in time"] == [results.get(timeout=60), results.get(timeout=60)]
    process.join(60)
    http.request("GET", provider.url())

    assert (0, 2) == (process.exitcode, provider.connections)


def test_a_provider_that_hangs_takes_only_its_share_and_the_next_call_is_refused_at_once(listen):
    """
    By provider, whatever hosts it has; another provider is called meanwhile.
    """
    free = threading.Event()

    def hang(line):
        line.request()
        free.wait(60)
        line.send(OK)

    first, second, healthy = listen(hang), listen(hang), listen(answering(OK))
    http = HttpClient(allow_private=True, bulkhead=Bulkhead(budget=8))
    with ThreadPoolExecutor(4) as threads:
        urls = [first.url(), second.url()] * 2
        waiting = [threads.submit(http.request, "GET", url, provider="acme") for url in urls]
        for each in (first, second):
            each.waits_until(lambda each=each: len(each.requests) == 2)
        with lasting(0, 8), pytest.raises(ProviderUnavailable, match="too many") as refused:
            http.request("GET", first.url(), provider="acme")
        assert 2 <= refused.value.retry_after <= 6
        assert http.request("GET", healthy.url(), provider="zoom").body == b"ok"
        free.set()
        assert [call.result(timeout=60).body for call in waiting] == [b"ok"] * 4

    assert http.request("GET", first.url(), provider="acme").body == b"ok"
    http.close()


def test_a_deadline_holds_on_a_kept_connection_too(http, listen):
    """
    Each call brings its own.
    """

    def script(line):
        line.request()
        line.send(OK)
        line.request()
        line.send(b"HTTP/1.1 200 OK\r\n")
        line.drip(b"X: y\r\n")

    provider = listen(script)
    http.request("GET", provider.url())

    with lasting(0.55), pytest.raises(ProviderUnavailable, match="in time"):
        http.request("GET", provider.url(), deadline=Deadline.after(0.6))
    assert 1 == provider.connections


def test_the_connection_of_an_answer_too_large_is_closed_at_once_and_not_used_again(http, listen):
    """
    The rest of it would be the next call's answer; and it does not wait for the garbage collector.
    """
    too_large = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 9) + bytes(LARGEST_BODY + 9)
    provider = listen(answering(too_large))
    gc.disable()
    try:
        for _ in range(2):
            with pytest.raises(ProviderGarbled):
                http.request("GET", provider.url())
        provider.waits_until(provider.idle)
    finally:
        gc.enable()

    assert 2 == provider.connections


def test_a_closed_client_keeps_no_connection_that_is_returned_later(http, listen):
    """
    A call that was under way ends as usual, and its connection is closed.
    """
    provider = listen(answering(OK))
    with http.stream("GET", provider.url()) as response:
        http.close()
        assert b"".join(response.body) == b"ok"
    provider.waits_until(provider.idle)

    assert http.request("GET", provider.url()).body == b"ok"
