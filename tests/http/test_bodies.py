"""
Bodies that never come, against the running server: nobody else waits for them.
"""

from __future__ import annotations

import contextlib
import socket
import time
from contextlib import ExitStack

import pytest
import requests
from flask import request

from gateway.errors import BadRequest
from gateway.web import bodies
from gateway.web.application import Application
from gateway.web.bodies import PLACES
from gateway.web.overdue import UNANSWERED_SECONDS


@pytest.fixture
def slow(gateway):
    """Opens a connection whose body does not come: `/session` takes one from whoever names the right origin."""
    with ExitStack() as stack:

        def opened(sent=b"access_token=", length=100):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            sender.sendall(
                b"POST /session HTTP/1.1\r\nHost: localhost\r\nOrigin: %b\r\nContent-Type: application/x-www-form-urlencoded\r\n"
                b"Content-Length: %d\r\n\r\n" % (gateway.url.encode(), length) + sent
            )
            sender.settimeout(10)
            return sender

        yield opened
    time.sleep(0.5)  # until the server has seen them close


def status(sender):
    return int(sender.recv(4096).split(b" ", 2)[1])


def test_bodies_that_never_come_hold_up_nobody_who_sends_none(gateway, slow):
    """A hundred of them on one process of 64 threads: reads go on at once, and who has no place is told so at once."""
    senders = [slow(sent=b"") for _ in range(100)]
    time.sleep(0.5)

    began = time.monotonic()
    assert 200 == requests.get(f"{gateway.url}/healthz", timeout=5).status_code
    assert 401 == requests.get(f"{gateway.url}/v1/connections", timeout=5).status_code
    took = time.monotonic() - began

    assert took < 1
    end = time.monotonic() + 5
    while (shut := [each for each in senders if _answered(each)]) and len(shut) < len(senders) - PLACES:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(senders) - PLACES == len(shut)
    assert {503} == {status(each) for each in shut}


def _answered(sender):
    sender.setblocking(False)
    try:
        sender.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        sender.settimeout(10)


def test_a_body_that_does_not_come_is_given_up_with_its_connection(gateway, slow):
    """Its place is free again, though the client stays or drips; connections that are in use are left alone."""
    with requests.Session() as busy:
        connected = _connected(busy, gateway)
        dripping, *senders = [slow() for _ in range(PLACES)]
        time.sleep(2)  # until all of them are being read
        assert 503 == gateway.person().signs_in().status_code

        end = time.monotonic() + UNANSWERED_SECONDS + 15
        while time.monotonic() < end and not all(map(_answered, senders)):
            with contextlib.suppress(OSError):
                dripping.sendall(b"x")
            assert connected == _connected(busy, gateway)
            time.sleep(1)

    assert {b""} == {each.recv(4096) for each in senders}
    alice = gateway.person()
    assert {303} == {alice.elsewhere().signs_in().status_code for _ in range(PLACES + 2)}
    assert "bodies.cut_off" in gateway.log.read_text()


def _connected(session, gateway):
    """The client's port of the connection that an answer came on."""
    with session.get(f"{gateway.url}/healthz", timeout=5, stream=True) as answer:
        port = answer.raw.connection.sock.getsockname()[1]
        assert b"ok" in answer.content
    return port


def test_a_body_that_comes_in_pieces_is_whole(gateway, slow):
    """Also where nearly every place is taken by slow ones."""
    for _ in range(PLACES - 1):
        slow()
    body = f"access_token={gateway.person().token()}&next=/connections".encode()
    sender = slow(sent=body[:7], length=len(body))
    time.sleep(0.3)
    sender.sendall(body[7:40])
    time.sleep(0.3)
    sender.sendall(body[40:])

    assert 303 == status(sender)


def test_a_client_that_goes_away_frees_its_place(gateway, slow):
    """What it sent is too short, and nobody is signed in."""
    for sender in [slow() for _ in range(PLACES)]:
        sender.close()
    time.sleep(0.5)

    assert 303 == gateway.person().signs_in().status_code
    senders = [slow() for _ in range(PLACES)]
    time.sleep(0.5)
    assert not any(map(_answered, senders))


def test_too_large_a_body_is_refused_unread(gateway):
    """By its length alone."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as sender:
        sender.settimeout(5)
        sender.sendall(
            b"POST /session HTTP/1.1\r\nHost: localhost\r\nOrigin: %b\r\nContent-Length: 99999999\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" % gateway.url.encode()
        )
        assert 413 == status(sender)


def test_a_body_that_is_cut_short_is_none():
    """Nothing is done by half of a form, whatever that half says."""
    app = Application(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1000
    app.add_url_rule("/", "form", lambda: request.get_data(), methods=["POST"])  # noqa: PLW0108 - of the request that is
    bodies.register(app)
    app.testing = True

    for port in ("80", ""):  # a server on a Unix socket has none
        whole = app.test_client().post("/", data=b"access_token=abc", environ_overrides={"SERVER_PORT": port})
        assert b"access_token=abc" == whole.data
    in_chunks = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    for override, why in (({"CONTENT_LENGTH": "17"}, "cut short"), (in_chunks, "length")):
        with pytest.raises(BadRequest, match=why):
            app.test_client().post("/", data=b"access_token=abc", environ_overrides=override)
    as_json = app.test_client().post("/", data=b"{}", content_type="application/json", environ_overrides=in_chunks)
    assert b"{}" == as_json.data
