"""
Large bodies arrive before the database checks the key: what keeps them from filling the disk.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from waitress.adjustments import Adjustments

from gateway import server
from gateway.partners.keys import make_key
from gateway.server import LARGEST_BODY, LARGEST_HEAD, RequestParser

KEY = make_key()
HEAD = b"POST /v1/connections/1/proxy/files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nAuthorization: %b\r\n\r\n"


@pytest.fixture
def parser():
    made = RequestParser(Adjustments(**server.OPTIONS))
    yield made
    made.close()


def free(monkeypatch, part):
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(f_bavail=int(part * 1000), f_bfree=0, f_blocks=1000, f_frsize=1)
    )


def send(parser, size):
    parser.received(HEAD % (size, f"Bearer {KEY}".encode()))
    for _ in range(0, size, 65536):
        if parser.completed:
            break
        parser.received(b"x" * 65536)


def test_a_large_body_ends_while_the_disk_is_nearly_full(parser, monkeypatch):
    free(monkeypatch, 0.05)
    send(parser, 8 * LARGEST_BODY)

    assert parser.error.code == 413
    assert parser.body_bytes_received < 2 * LARGEST_BODY


@pytest.mark.parametrize(("part", "size"), [(0.5, 8 * LARGEST_BODY), (0.05, LARGEST_BODY // 2)])
def test_other_bodies_arrive_whole(parser, monkeypatch, part, size):
    free(monkeypatch, part)
    send(parser, size)

    assert (parser.error, parser.completed, parser.body_bytes_received) == (None, True, size)


@pytest.mark.parametrize("begun", [b"", b"1", b"5;a=b", b"2\r\nok\r\n1", b"0\r\nX-Trailer: "])
def test_a_chunk_whose_size_does_not_end_and_a_trailer_without_end_are_refused(parser, begun):
    """
    They are kept in memory, so their size is that of a head.
    """
    chunked = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked%b") % (b"", f"Bearer {KEY}".encode())
    parser.received(chunked)
    for piece in (begun, *[b"1" * 8192] * 100):
        if not parser.completed and piece:
            parser.received(piece)

    assert 431 == parser.error.code
    assert parser.body_bytes_received < 2 * LARGEST_HEAD


def test_a_request_without_a_body_does_not_wait_for_one(parser):
    """
    `Expect` is about a body (RFC 9110 section 10.1.1).
    """
    parser.received(b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")

    assert (True, False) == (parser.completed, parser.expect_continue)


@pytest.mark.parametrize(
    "sent", ["", "Basic a.b.c", "Bearer", "Bearer <key without its end>", "Bearer gw_live_", "Bearer a.b"]
)
def test_without_the_form_of_a_key_or_token_no_body_is_read(parser, sent):
    """
    The request is complete with its head, so that the application refuses it, and the connection ends then.
    """
    parser.received(HEAD % (8 * LARGEST_BODY, sent.replace("<key without its end>", KEY[:-1]).encode()))

    assert (True, None, "0", "close") == (
        parser.completed,
        parser.body_rcv,
        parser.headers["CONTENT_LENGTH"],
        parser.headers["CONNECTION"],
    )


def test_the_body_of_a_users_call_is_read(parser):
    parser.received(HEAD % (8 * LARGEST_BODY, b"Bearer a.b.c"))

    assert (False, None) == (parser.completed, parser.error)
