"""The HTTP client, streamed: large bodies both ways in constant memory, and every way in which one may end early."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import CallerGone, Deadline, HttpClient
from tests.support.scripted_server import OK, answering, lasting, listening

PIECE = bytes(65_536)
PIECES = 512


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def http():
    http = HttpClient(allow_private=True)
    yield http
    http.close()


@pytest.fixture
def peak_memory():
    """The most memory that Python had allocated so far."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def reading_all(line):
    """Reads a body in chunks to its end, and answers with how many bytes it saw."""
    seen, tail = 0, b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        data = line.sock.recv(65_536)
        if not data:
            return
        seen, tail = seen + len(data), (tail + data)[-64:]
    text = str(seen).encode()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))


def test_a_large_response_is_read_in_constant_memory(http, listen, peak_memory):
    """
    32 MiB, piece by piece.
    """

    def script(line):
        while line.request():
            line.send(b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: %d\r\n\r\n" % (PIECES * len(PIECE)))
            for _ in range(PIECES):
                line.send(PIECE)

    provider = listen(script)
    for _ in range(2):
        with http.stream("GET", provider.url()) as response:
            assert (response.status, response.headers["x"]) == (200, "y")
            assert sum(map(len, response.body)) == PIECES * len(PIECE)

    assert provider.connections == 1
    assert peak_memory() < 2_000_000


def test_a_large_request_is_sent_in_constant_memory(http, listen, peak_memory):
    """
    In chunks, as the iterator produces it.
    """
    provider = listen(reading_all)

    with http.stream("POST", provider.url(), body=(PIECE for _ in range(PIECES))) as response:
        assert int(b"".join(response.body)) > PIECES * len(PIECE)

    assert peak_memory() < 2_000_000


def test_a_request_of_known_length_says_so(http, listen):
    """
    Some providers refuse chunks.
    """
    provider = listen(answering(OK))

    with http.stream("PUT", provider.url(), body=iter([b"ab", b"c"]), body_length=3) as response:
        assert b"".join(response.body) == b"ok"

    assert b"\r\nContent-Length: 3\r\n" in provider.requests[0]
    assert provider.requests[0].endswith(b"\r\n\r\nabc")


def test_a_caller_that_goes_away_ends_the_upload(http, listen):
    """
    While the provider does not read on, and while it reads slowly.
    """

    def read_slowly(line):
        while line.sock.recv(4096):
            time.sleep(0.01)

    for script in (SLOW["does not read"], read_slowly):
        provider, gone = listen(script), time.monotonic() + 0.3
        with (
            lasting(0.25),
            pytest.raises(CallerGone),
            http.stream(
                "POST",
                provider.url(),
                body=(PIECE for _ in range(PIECES)),
                deadline=Deadline.after(60),
                idle_seconds=10,
                is_abandoned=lambda gone=gone: time.monotonic() > gone,
            ),
        ):
            pass


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_response_that_comes_before_the_request_was_sent_is_returned(http, listen, hangs_up):
    """
    413 to a large upload: a peer that answers and stops reading would block a client that only sends.
    """

    def script(line):
        line.sock.recv(1000)
        line.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        if not hangs_up:
            line.stay_silent()

    provider = listen(script)
    with (
        lasting(0),
        http.stream(
            "POST", provider.url(), body=(PIECE for _ in range(PIECES)), deadline=Deadline.after(60)
        ) as response,
    ):
        assert (response.status, b"".join(response.body)) == (413, b"no")


def test_a_response_that_is_not_read_to_its_end_closes_its_connection(http, listen):
    """
    The rest would be the next call's response.
    """
    provider = listen(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)))

    with http.stream("GET", provider.url()) as response:
        next(response.body)
    with http.stream("GET", provider.url()) as response:
        assert sum(map(len, response.body)) == 200_000

    assert provider.connections == 2


SLOW = {
    "no head": lambda line: (line.request(), line.stay_silent()),
    "no body": lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), line.stay_silent()),
    "does not read": lambda line: line.stay_silent(),
}  # fmt: skip


@pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
def test_no_single_wait_is_longer_than_allowed(http, listen, script):
    """
    A stream may last for minutes; a peer that has stopped is left much earlier.
    """
    provider = listen(script)
    body = (PIECE for _ in range(PIECES)) if script is SLOW["does not read"] else None

    with (
        lasting(0.25),
        pytest.raises(ProviderUnavailable, match="in time"),
        http.stream("POST", provider.url(), body=body, deadline=Deadline.after(60), idle_seconds=0.3) as response,
    ):
        list(response.body)


def test_a_stream_is_over_at_its_deadline(http, listen):
    """
    However steadily it drips.
    """
    provider = listen(lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\n\r\n"), line.drip(b"a")))

    with (
        lasting(0.45),
        pytest.raises(ProviderUnavailable, match="in time"),
        http.stream("GET", provider.url(), deadline=Deadline.after(0.5)) as response,
    ):
        list(response.body)


def test_a_body_that_its_producer_breaks_off_is_not_sent_as_a_whole(http, listen):
    """
    The producer's own error reaches the caller, and the provider sees no end.
    """
    provider = listen(reading_all)

    def broken():
        yield PIECE
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), http.stream("POST", provider.url(), body=broken()):
        pass
    provider.waits_until(provider.idle)


def test_a_stream_that_breaks_off_is_unavailable_and_malformed_chunks_are_garbled(http, listen):
    """
    Half a body is never taken for a whole one.
    """
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    for rest, error in ((b"", ProviderUnavailable), (b"zz\r\n", ProviderGarbled)):
        provider = listen(lambda line, rest=rest: (line.request(), line.send(head + rest)))
        with pytest.raises(error), http.stream("GET", provider.url()) as response:
            list(response.body)
