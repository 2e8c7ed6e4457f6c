"""GATEWAY_HTTPS_PROXY: calls by https go through the proxy, which resolves the names."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

import pytest
from pydantic import SecretStr

from gateway.errors import ProviderUnavailable
from gateway.http import HttpClient
from tests.support.scripted_server import OK, answering, listening
from tests.unit.test_http_tls import Authority


class ConnectProxy:
    """An HTTP proxy that tunnels every host to one port of this machine, or answers with `refusal`."""

    def __init__(self, target: int = 0, refusal: bytes = b"") -> None:
        self.asked: list[bytes] = []
        self._target, self._refusal = target, refusal
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.asked.append(head)
        with client:
            if self._refusal:
                client.sendall(self._refusal)
                return
            with socket.create_connection(("127.0.0.1", self._target)) as upstream:
                client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n")
                forward = threading.Thread(target=_copy, args=(client, upstream), daemon=True)
                forward.start()
                _copy(upstream, client)
                forward.join(5)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def client(authority, port: int, user: str = "") -> HttpClient:
    def resolve(name: str):
        if name == "proxy.corp":
            return ["127.0.0.1"]
        raise OSError(f"{name} is known to the proxy alone")

    proxy = SecretStr(f"http://{user}proxy.corp:{port}")
    return HttpClient(ca_bundle=authority.bundle, https_proxy=proxy, resolve=resolve)


def test_calls_by_https_go_through_the_proxy_which_resolves_the_name(authority):
    """
    The proxy gets the name, and its user and password; the provider's certificate is still checked against the name.
    """
    with listening() as listen:
        provider = listen(answering(OK, OK), tls=authority.context("login.acme.example"))
        proxy = ConnectProxy(provider.port)
        http = client(authority, proxy.port, "alice:p%40ss@")

        assert b"ok" == http.request("POST", "https://login.acme.example/token", body="code=1").body
        (asked,) = proxy.asked
        assert asked.startswith(b"CONNECT login.acme.example:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic YWxpY2U6cEBzcw==\r\n" in asked
        assert not any(b"Proxy-Authorization" in request for request in provider.requests)
        http.close()
        proxy.stop()


def test_a_certificate_of_another_name_is_refused_behind_a_proxy(authority):
    """
    The proxy cannot read the calls.
    """
    with listening() as listen:
        proxy = ConnectProxy(listen(answering(OK), tls=authority.context("other.example")).port)
        http = client(authority, proxy.port)
        with pytest.raises(ProviderUnavailable, match="certificate was not accepted"):
            http.request("GET", "https://login.acme.example/token")
        http.close()
        proxy.stop()


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", r"refuses to connect \(407\)"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\ncanary", r"refuses to connect \(403\)"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n", r"refuses to connect \(502\)"),
        (b"SSH-2.0-canary\r\n\r\n", "refuses to connect"),
        (b"x", "does not answer as an HTTP proxy"),
        (b"a" * 40_000, "does not answer as an HTTP proxy"),
    ],
)
def test_a_proxy_that_refuses_is_named(authority, refusal, told):
    """
    It is not the provider that is down.
    """
    proxy = ConnectProxy(refusal=refusal)
    http = client(authority, proxy.port, "alice:canary@")
    with pytest.raises(ProviderUnavailable, match=told) as refused:
        http.request("GET", "https://login.acme.example/token")
    assert re.search("GATEWAY_HTTPS_PROXY", str(refused.value))
    assert "canary" not in str(refused.value)
    http.close()
    proxy.stop()


def test_addresses_that_are_written_out_are_judged_before_the_proxy_sees_them(authority):
    """
    Only names are the proxy's to judge.
    """
    proxy = ConnectProxy()
    http = client(authority, proxy.port)
    for url in (
        "https://169.254.169.254/",
        "https://10.0.0.1/",
        "https://metadata.internal/",
        "http://login.acme.example/",
    ):
        with pytest.raises(ProviderUnavailable, match="address refused"):
            http.request("GET", url)
    assert [] == proxy.asked
    http.close()
    proxy.stop()
