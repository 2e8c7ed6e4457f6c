"""
Large bodies arrive before the key is checked: what keeps them from filling the disk.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from waitress.adjustments import Adjustments

from gateway import server
from gateway.server import LARGEST_BODY, RequestParser

HEAD = b"POST /v1/connections/1/proxy/files HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def parser():
    made = RequestParser(Adjustments(**server.OPTIONS))
    yield made
    made.close()


def free(monkeypatch, part):
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=int(part * 1000), f_blocks=1000))


def send(parser, size):
    parser.received(HEAD % size)
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
