"""The HTTP client against providers that drip, hang, flood and bomb: no call lasts too long, no response is too large."""

from __future__ import annotations

import gzip
import threading
import time
import tracemalloc
import zlib

import pytest

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import Deadline, HttpClient
from gateway.http.client import LARGEST_BODY
from tests.support.scripted_server import OK, answering, lasting, listening, once

SECONDS = 0.6


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def http():
    http = HttpClient(allow_private=True)
    yield http
    http.close()


# -- time ------------------------------------------------------------------------------------------------------------

SLOW = {
    "silence after accept": lambda line: line.stay_silent(),
    "silence after request": lambda line: (line.request(), line.stay_silent()),
    "dripped status line": lambda line: (line.request(), line.drip(b"HTTP/1.1 200 OK" + b"!" * 999)),
    "dripped headers": lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\n"), line.drip(b"X: y\r\n")),
    "dripped body": lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"), line.drip(b"a")),
    "dripped body that ends with the connection": lambda line: (
        line.request(), line.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), line.drip(b"a")
    ),
    "dripped chunks": lambda line: (
        line.request(), line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), line.drip(b"1\r\na\r\n")
    ),
    "100 Continue for ever": lambda line: (line.request(), line.drip(b"HTTP/1.1 100 Continue\r\n\r\n")),
}  # fmt: skip


@pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
def test_a_call_is_over_at_its_deadline_however_the_provider_delays(http, listen, script):
    """
    The deadline is for all of it: no byte that drips in prolongs it.
    """
    provider = listen(script)

    with lasting(SECONDS - 0.05), pytest.raises(ProviderUnavailable, match="in time"):
        http.request("POST", provider.url(), body="a=b", deadline=Deadline.after(SECONDS))


def test_a_provider_that_does_not_read_is_left_at_the_deadline(http, listen):
    """
    Sending blocks when the other side's window is full.
    """
    provider = listen(lambda line: line.stay_silent())

    with lasting(SECONDS - 0.05), pytest.raises(ProviderUnavailable, match="in time"):
        http.request("POST", provider.url(), body=b"a" * 20_000_000, deadline=Deadline.after(SECONDS))


def test_after_the_deadline_nothing_is_sent(http, listen):
    """
    What is left of a deadline shared by several calls may be nothing.
    """
    provider = listen(answering(OK))

    with pytest.raises(ProviderUnavailable, match="no time"):
        http.request("GET", provider.url(), deadline=Deadline.after(0))

    assert 0 == provider.connections


def test_a_name_lookup_that_hangs_is_left_at_the_deadline_and_asked_once_for_all_who_wait():
    """
    No getaddrinfo can be interrupted: the call goes on without it. At most 64 names are looked up at once.
    """
    asked, answers = [], threading.Event()

    def hanging(host):
        asked.append(host)
        answers.wait(20)
        return ["127.0.0.1"]

    http = HttpClient(allow_private=True, resolve=hanging)
    for _ in range(2):
        with lasting(0.15), pytest.raises(ProviderUnavailable, match="not resolved in time"):
            http.request("GET", "https://login.acme.example/", deadline=Deadline.after(0.2))
    for name in range(80):
        with pytest.raises(ProviderUnavailable):
            http.request("GET", f"https://{name}.acme.example/", deadline=Deadline.after(0.02))
    answers.set()
    http.close()

    assert sorted(asked) == sorted(["login.acme.example", *(f"{name}.acme.example" for name in range(63))])


# -- size ------------------------------------------------------------------------------------------------------------


def endless(head: bytes, piece: bytes):
    def script(line):
        line.request()
        line.send(head)
        while not line.listener.closing.is_set():
            line.send(piece)

    return script


def gzipped(*, megabytes: int) -> bytes:
    """A gzip member that inflates to so many megabytes of zeros; made from one block, over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * megabytes


def coded(coding: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FLOODS = {
    "announced": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 300000000\r\n\r\n", b"a" * 65536),
    "until the connection closes": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536),
    "chunks for ever": endless(CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n"),
    "tiny chunks for ever": endless(CHUNKED, b"1;" + b"x" * 60 + b"\r\na\r\n"),
    "a chunk of minus one": endless(CHUNKED + b"-1\r\n", b"a" * 65536),
    "an endless chunk size": endless(CHUNKED, b"0" * 65536),
    "trailers for ever": endless(CHUNKED + b"0\r\n", b"X: y\r\n" * 1000),
    "one header of 10 MB": endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536),
    "many long headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 50_000 + b"\r\n"),
    "many headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 100),
    "100 Continue for ever": endless(b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 100),
    "gzip bomb of 250 MB": once(coded("gzip", gzipped(megabytes=250))),
    "gzip bomb of 300 MB": once(coded("gzip", gzipped(megabytes=300))),
    "deflate bomb": once(coded("deflate", zlib.compress(bytes(50_000_000)))),
}


@pytest.mark.parametrize("script", FLOODS.values(), ids=FLOODS)
def test_a_response_that_is_too_large_is_refused_within_ten_megabytes_of_memory(http, listen, script):
    """
    Decoded size is what counts, and what a library would read without a bound is bounded here.
    """
    provider = listen(script)
    tracemalloc.start()
    try:
        with pytest.raises(ProviderGarbled):  # and no timeout
            http.request("GET", provider.url(), deadline=Deadline.after(60))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 10_000_000


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: multipart/mixed; boundary*=a\0b''x",
        b"Content-Length: -5",
        b"Content-Length: abc",
        b"Content-Length: +2",
        b"Content-Length: 2_0",
        b"Content-Length:",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"X : y",
    ],
    ids=repr,
)
def test_a_head_that_parsers_could_read_differently_is_refused(http, listen, head):
    """
    A length that is none (RFC 9112 section 6.3) is never taken for "until it closes".
    """
    provider = listen(once(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n"))

    with pytest.raises(ProviderGarbled):
        http.request("GET", provider.url(), deadline=Deadline.after(3))


@pytest.mark.parametrize(
    "kind", [b"multipart/mixed; boundary*=undefined''x", b"message/rfc822", b"a/b; c*" + b"9" * 5000 + b"=x"]
)
def test_a_content_type_is_text_and_nothing_in_it_is_decoded(http, listen, kind):
    """
    A parser of mail would (RFC 2231).
    """
    provider = listen(once(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nContent-Length: 2\r\n\r\n{}"))

    assert http.request("GET", provider.url()).body == b"{}"


@pytest.mark.parametrize(
    "answer",
    [CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 8_000 + OK],
    ids=["chunks of a byte", "100 Continue"],
)
def test_a_response_in_tiny_chunks_costs_no_more_than_another(http, listen, answer):
    """
    It is given up after a few thousand of them, in CPU of this thread: the least of three, because a loaded machine only adds to it.
    """
    spent = []
    for _ in range(3):
        provider, began = listen(once(answer)), time.thread_time()
        with pytest.raises(ProviderGarbled, match="too large"):
            http.request("GET", provider.url(), deadline=Deadline.after(30))
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.1


def test_an_answer_of_exactly_the_bound_is_taken_and_one_byte_more_is_not(http, listen):
    """
    64 KiB, plain or gzipped.
    """
    whole, more = bytes(LARGEST_BODY), bytes(LARGEST_BODY + 1)
    for coding, packed in (("identity", bytes), ("gzip", gzip.compress)):
        assert whole == http.request("GET", listen(once(coded(coding, packed(whole)))).url()).body
        with pytest.raises(ProviderGarbled, match="too large"):
            http.request("GET", listen(once(coded(coding, packed(more)))).url())


@pytest.mark.parametrize(
    ("coding", "packed"), [("gzip", gzip.compress), ("X-GZip", gzip.compress), ("deflate", zlib.compress)]
)
def test_an_answer_that_is_compressed_unasked_is_decoded(http, listen, coding, packed):
    """
    Some servers do not read Accept-Encoding.
    """
    provider = listen(answering(coded(coding, packed(b'{"a": 1}'))))

    assert b'{"a": 1}' == http.request("GET", provider.url()).body


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", b"no gzip"), ("gzip", gzip.compress(b"cut short")[:-9]), ("gzip", gzip.compress(b"a") * 2), ("br", b"a"),
     ("gzip, gzip", gzip.compress(gzip.compress(b"a")))],
    ids=["no gzip", "cut short", "goes on", "not asked for", "twice"],
)  # fmt: skip
def test_what_cannot_be_decoded_to_its_end_is_garbled(http, listen, coding, body):
    """
    A body that was cut short inside its compression is no whole body.
    """
    with pytest.raises(ProviderGarbled):
        http.request("GET", listen(once(coded(coding, body))).url())
