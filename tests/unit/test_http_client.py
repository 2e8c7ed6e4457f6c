"""The HTTP client over plain HTTP: what it sends, what it returns, what it never does."""

from __future__ import annotations

import logging
import traceback

import pytest
import requests_mock

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import HttpClient, Response
from tests.support.scripted_server import OK, answering, listening, once


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


@pytest.fixture
def http():
    http = HttpClient(user_agent="oauth-gateway/1.0 (+http://localhost:8000)", allow_private=True)
    yield http
    http.close()


def lines(request: bytes) -> list[str]:
    return request.partition(b"\r\n\r\n")[0].decode().split("\r\n")


# -- what comes back -------------------------------------------------------------------------------------------------


def test_an_answer_has_its_status_its_headers_in_any_case_and_its_whole_body(http, listen):
    """
    Chunks are joined; header names are looked up in any case.
    """
    provider = listen(
        answering(
            b"HTTP/1.1 201 Made\r\nX-Kind: tea\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
    )

    answer = http.request("GET", provider.url())

    assert (201, "tea", "tea", b"abcde") == (
        answer.status,
        answer.headers["x-kind"],
        answer.headers["X-KIND"],
        answer.body,
    )


def test_neither_body_nor_headers_of_an_answer_show_in_its_repr():
    """
    A token that came back does not stand in a traceback's locals.
    """
    assert "Response(status=200)" == repr(Response(200, {"Set-Cookie": "canary"}, b"canary"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 401, 429, 500, 503])
def test_any_status_is_returned_and_no_redirect_is_followed(http, listen, status):
    """
    A token endpoint that redirects would have code and secret sent to where it points (RFC 9700 section 4.12).
    """
    elsewhere = listen(answering(OK))
    answer = f"HTTP/1.1 {status} X\r\nLocation: {elsewhere.url()}\r\nContent-Length: 0\r\n\r\n".encode()
    provider = listen(answering(answer))

    assert status == http.request("POST", provider.url(), body="code=1").status
    assert (1, 0) == (len(provider.requests), elsewhere.connections)


# -- what is sent ----------------------------------------------------------------------------------------------------


def test_a_request_carries_one_honest_user_agent_and_nothing_about_the_connection_from_the_caller(http, listen):
    """
    Framing, host, agent and cookies are ours: a caller's would smuggle or leak.
    """
    provider = listen(answering(OK))
    theirs = {
        "Host": "evil.example",
        "content-length": "1",
        "Transfer-Encoding": "chunked",
        "Cookie": "a=b",
        "User-Agent": "curl",
    }

    http.request("POST", provider.url(), headers={**theirs, "Accept": "application/json"}, body="grant_type=ü")

    head, _, body = provider.requests[0].partition(b"\r\n\r\n")
    assert "grant_type=ü" == body.decode()
    assert sorted(lines(head)[1:]) == [
        "Accept-Encoding: identity",
        "Accept: application/json",
        "Content-Length: 13",
        f"Host: 127.0.0.1:{provider.port}",
        "User-Agent: oauth-gateway/1.0 (+http://localhost:8000)",
    ]


@pytest.mark.parametrize(
    "target", ["/", "//evil.example/a", "/a/../b", "/a%2fb/..%2Fc?x=%20&y=/?z", "/%zz", "/a;b,c?d[]=@"]
)
def test_what_was_checked_is_what_is_sent(http, listen, target):
    """
    No library in between tidies a path up after it was judged.
    """
    provider = listen(answering(OK))

    http.request("GET", provider.url(target))

    assert f"GET {target} HTTP/1.1" == lines(provider.requests[0])[0]


@pytest.mark.parametrize(
    ("name", "value"), [("X", "a\r\nB: c"), ("X", "a\n b"), ("X", "a\0"), ("X\r\nY", "a"), ("X: Y", "a"), ("X", "ü")]
)
def test_a_header_that_would_split_the_request_is_refused_before_anything_is_sent(http, listen, name, value):
    """
    A provider may have given us a token with a line break in it (security: header injection).
    """
    provider = listen(answering(OK))

    with pytest.raises(ProviderGarbled):
        http.request("GET", provider.url(), headers={name: value})

    assert 0 == provider.connections


def test_cookies_of_one_call_are_not_sent_with_the_next(http, listen):
    """
    A kept session would hand one user's cookies to another.
    """
    provider = listen(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: session=alice; Path=/\r\nContent-Length: 0\r\n\r\n"))

    http.request("GET", provider.url())
    http.request("GET", provider.url())

    assert 2 == len(provider.requests)
    assert b"alice" not in b"".join(provider.requests)


def test_proxies_and_credentials_of_the_environment_are_not_used(http, listen, monkeypatch, tmp_path):
    """
    An environment variable or a netrc file must not redirect secrets.
    """
    proxy, provider = listen(answering(OK)), listen(answering(OK))
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password canary\n")
    for name, value in {
        "HTTP_PROXY": proxy.url(""),
        "ALL_PROXY": proxy.url(""),
        "NO_PROXY": "",
        "NETRC": str(netrc),
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)

    http.request("GET", provider.url())

    assert (0, 1) == (proxy.connections, provider.connections)
    assert b"authorization" not in provider.requests[0].lower()


def test_nothing_is_sent_twice(http, listen):
    """
    A code or a refresh token that was sent may have been used: whether to send it again is not decided here.
    """
    provider = listen(once(b""))

    with pytest.raises(ProviderUnavailable):
        http.request("POST", provider.url(), body="code=1")

    assert (1, 1) == (provider.connections, len(provider.requests))


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_refused_connection_is_unavailable(http, listen):
    """
    No server listens there.
    """
    gone = listen(answering(OK))
    gone.close()

    with pytest.raises(ProviderUnavailable, match="refused"):
        http.request("GET", gone.url())


BROKEN = {
    "hung up": lambda line: line.request(),
    "reset": lambda line: (line.request(), line.reset()),
    "body cut short": once(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
    "chunk cut short": once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc"),
    "a greeting of another protocol": once(b"220 mail.example ESMTP\r\n"),
    "no last chunk": once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_off_is_no_answer(http, listen, script):
    """
    Half a token response is never believed.
    """
    provider = listen(script)

    with pytest.raises(ProviderUnavailable):
        http.request("POST", provider.url(), body="a=b")


@pytest.mark.parametrize(
    "words",
    [b"<html>hello</html>\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/2.0 200 OK\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nwhat is this\r\nContent-Length: 2\r\n\r\nok",
     b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"],
)  # fmt: skip
def test_what_is_not_http_is_garbled(http, listen, words):
    """
    Neither another protocol nor HTTP/0.9 is taken for an answer, nor one whose length is said twice (RFC 9112 6.3).
    """
    provider = listen(once(words))

    with pytest.raises(ProviderGarbled):
        http.request("GET", provider.url())


def spoilt_by(listen) -> dict[str, str]:
    bodies = {
        "hung up": b"",
        "garbled": b"canary-b\r\n",
        "headers": b"HTTP/1.1 200 OK\r\ncanary-b\r\nContent-Length: 9\r\n\r\n",
    }
    urls = {name: listen(once(body)).url("/path") for name, body in bodies.items()}
    gone = listen(answering(OK))
    gone.close()
    return {**urls, "refused": gone.url("/path"), "unresolved": "http://name.invalid/path", "plain": "gopher://a/path"}


@pytest.mark.parametrize("how", ["hung up", "garbled", "headers", "refused", "unresolved", "plain"])
def test_no_failure_shows_what_was_sent_or_what_came_back(http, listen, how, caplog):
    """
    The libraries' exceptions and log lines hold URLs with their query; neither they nor their chain get through.
    """
    caplog.set_level(logging.DEBUG)
    url = spoilt_by(listen)[how] + "?token=canary-q"

    with pytest.raises((ProviderUnavailable, ProviderGarbled)) as caught:
        http.request("POST", url, headers={"Authorization": "Bearer canary-h"}, body="secret=canary-s")

    failure = caught.value
    assert "canary" not in str(failure)
    assert "canary" not in caplog.text
    assert "canary-b" not in "".join(traceback.format_exception_only(failure))
    assert failure.__cause__ is None
    assert failure.__suppress_context__ or failure.__context__ is None


def test_success_leaves_no_url_in_the_log_either(http, listen, caplog):
    """
    At debug level httpcore would log response headers.
    """
    caplog.set_level(logging.DEBUG)
    provider = listen(answering(OK))

    http.request("GET", provider.url("/me?access_token=canary"))

    assert "canary" not in caplog.text


# -- other tests --------------------------------------------------------------------------------------------


def test_requests_mock_can_stand_in_for_the_network(http):
    """
    Other tests use it at wire level; addresses are still judged as written.
    """
    with requests_mock.Mocker() as mock:
        mock.post("https://login.acme.example/token", status_code=400, json={"error": "invalid_grant"})
        answer = http.request("POST", "https://login.acme.example/token", headers={"Accept": "x/y"}, body="a=b")

    assert (400, b'{"error": "invalid_grant"}') == (answer.status, answer.body)
    assert ("a=b", "x/y") == (mock.last_request.text, mock.last_request.headers["accept"])
