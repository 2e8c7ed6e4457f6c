"""The HTTP client over TLS: which servers it trusts, how long it waits, and what it does once only."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from gateway.errors import ProviderUnavailable, SettingsRefused
from gateway.http import Deadline, HttpClient
from tests.support.scripted_server import OK, answering, lasting, listening

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority, and server contexts with certificates of its."""

    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        self.bundle = folder / "authority.pem"
        self.bundle.write_bytes(
            self.certificate(self.key, self.name, [], NOW + DAY, ca=True).public_bytes(Encoding.PEM)
        )

    def certificate(self, key, name, names, until, *, ca=False):
        """Signed by this authority, valid for nine days before now."""
        builder = x509.CertificateBuilder(
            self.name, name, key.public_key(), x509.random_serial_number(), NOW - 9 * DAY, until
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def context(self, host="127.0.0.1", until=NOW + DAY):
        """What a server of that name or address needs."""
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        file = self.folder / f"{host}-{until:%Y%m%d}.pem"
        file.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + self.certificate(key, name, [san], until).public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def http(authority):
    http = HttpClient(allow_private=True, ca_bundle=authority.bundle)
    yield http
    http.close()


@pytest.fixture
def listen():
    with listening() as listen:
        yield listen


def test_an_authority_of_the_operators_is_believed_beside_the_public_ones(http, listen, authority):
    """
    GATEWAY_CA_BUNDLE adds, it does not replace.
    """
    provider = listen(answering(OK), tls=authority.context())

    assert b"ok" == http.request("POST", provider.url(), body="a=b").body
    assert len(http._pool._tls.get_ca_certs()) > 100


def distrusted(authority, how, tmp_path):
    (tmp_path / "other").mkdir()
    return {
        "unknown authority": lambda: Authority(tmp_path / "other").context(),
        "another name": lambda: authority.context("login.acme.example"),
        "expired": lambda: authority.context(until=NOW - DAY),
    }[how]()


@pytest.mark.parametrize("how", ["unknown authority", "another name", "expired"])
def test_nothing_is_sent_to_a_server_that_cannot_prove_its_name(http, listen, authority, how, tmp_path):
    """
    The request, with code and secret, is never sent.
    """
    provider = listen(answering(OK), tls=distrusted(authority, how, tmp_path))

    with pytest.raises(ProviderUnavailable, match="certificate was not accepted"):
        http.request("POST", provider.url(), body="code=1")

    assert [] == provider.requests


def test_without_the_operators_bundle_its_authority_is_not_believed(listen, authority, monkeypatch):
    """
    Nor when the environment names it: SSL_CERT_FILE, REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE say nothing here.
    """
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(authority.bundle))
    provider = listen(answering(OK), tls=authority.context())
    http = HttpClient(allow_private=True)

    with pytest.raises(ProviderUnavailable, match="certificate was not accepted"):
        http.request("GET", provider.url())
    http.close()


def test_the_certificate_is_checked_against_the_name_and_not_against_the_pinned_address(listen, authority):
    """
    SNI carries the name too, else a server of many names could not answer.
    """
    asked = []
    context = authority.context("login.acme.example")
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    provider = listen(answering(OK), tls=context)
    http = HttpClient(allow_private=True, ca_bundle=authority.bundle, resolve=lambda _: ["127.0.0.1"])

    assert b"ok" == http.request("GET", f"https://login.acme.example:{provider.port}/").body
    with pytest.raises(ProviderUnavailable, match="certificate was not accepted"):
        http.request("GET", f"https://evil.acme.example:{provider.port}/")
    http.close()

    assert ["login.acme.example", "evil.acme.example"] == asked


def test_a_server_that_speaks_no_tls_is_unavailable(http, listen):
    """
    There is no falling back to plain text.
    """
    provider = listen(lambda line: line.send(b"HTTP/1.1 200 OK\r\n\r\n"))

    with pytest.raises(ProviderUnavailable):
        http.request("POST", f"https://127.0.0.1:{provider.port}/", body="code=1")

    assert [] == provider.requests


def test_tls_older_than_1_2_is_refused(http, listen, authority):
    """
    RFC 8996.
    """
    context = authority.context()
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    provider = listen(answering(OK), tls=context)

    assert http._pool._tls.minimum_version >= ssl.TLSVersion.TLSv1_2
    with pytest.raises(ProviderUnavailable, match="TLS failed"):
        http.request("GET", provider.url())


def test_twenty_exchanges_load_no_bundle_and_shake_hands_only_once_a_thread(http, listen, authority, monkeypatch):
    """
    A bundle costs 16 ms of CPU and a handshake some more: every exchange of a naive client pays both.
    """
    loaded = []
    load = ssl.SSLContext.load_verify_locations
    monkeypatch.setattr(
        ssl.SSLContext, "load_verify_locations", lambda *given, **named: (loaded.append(1), load(*given, **named))
    )
    provider = listen(answering(OK), tls=authority.context())

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: http.request("POST", provider.url(), body="a=b").body, range(20)))

    assert [b"ok"] * 20 == answers
    assert 1 <= provider.handshakes <= 4
    assert provider.handshakes == provider.connections
    assert [] == loaded


def test_one_thread_shakes_hands_once(http, listen, authority):
    """
    Session tickets that arrive after the handshake do not look like a dropped connection.
    """
    provider = listen(answering(OK), tls=authority.context())

    for _ in range(5):
        http.request("GET", provider.url())

    assert 1 == provider.handshakes


SLOW = {
    "dripped headers": lambda line: (line.request(), line.send(b"HTTP/1.1 200 OK\r\n"), line.drip(b"X: y\r\n")),
    "dripped body that ends with the connection": lambda line: (
        line.request(), line.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), line.drip(b"a")
    ),
    "silence after request": lambda line: (line.request(), line.stay_silent()),
}  # fmt: skip


@pytest.mark.parametrize("script", SLOW.values(), ids=SLOW)
def test_a_call_over_tls_is_over_at_its_deadline(http, listen, authority, script):
    """
    The socket that is shut down is the one below TLS.
    """
    provider = listen(script, tls=authority.context())

    with lasting(0.55), pytest.raises(ProviderUnavailable, match="in time"):
        http.request("POST", provider.url(), body="a=b", deadline=Deadline.after(0.6))


@pytest.mark.parametrize(
    "script",
    [lambda line: line.stay_silent(), lambda line: (line.send(b"\x16\x03\x03\x40\x00"), line.drip(b"\x02"))],
    ids=["silent", "dripped"],
)
def test_a_stalled_handshake_is_over_at_the_deadline(http, listen, script):
    """
    While it lasts, Python has no handle on the socket but ours.
    """
    provider = listen(script)

    with lasting(0.55), pytest.raises(ProviderUnavailable, match="in time"):
        http.request("GET", f"https://127.0.0.1:{provider.port}/", deadline=Deadline.after(0.6))


@pytest.mark.parametrize("text", [None, "no certificates in here"])
def test_a_bundle_that_cannot_be_used_stops_the_start(tmp_path, text):
    """
    And names the setting.
    """
    bundle = tmp_path / "bundle.pem"
    if text is not None:
        bundle.write_text(text)

    with pytest.raises(SettingsRefused, match="GATEWAY_CA_BUNDLE"):
        HttpClient(ca_bundle=bundle)


INTERIM = b"HTTP/1.1 103 Early Hints\r\nX: " + b"a" * 982 + b"\r\n\r\n"
FIRST, SECOND = INTERIM * 16, INTERIM * 15
PADDING = 32 * 1024 - len(FIRST) - len(SECOND) - len(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: \r\n\r\nbob")
PADDED = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX: " + b"a" * PADDING + b"\r\n\r\nbob"
"""Ends where the limit of a head does, so that what follows in its TLS record stays in OpenSSL."""
SURPLUS = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nalice"


@pytest.mark.parametrize(
    "records",
    [[OK + SURPLUS], [OK, SURPLUS], [FIRST, SECOND, PADDED + SURPLUS]],
    ids=["in the same record", "in the next record", "decrypted and not read"],
)  # fmt: skip
def test_bytes_that_follow_a_response_never_reach_the_next_call_over_tls(http, listen, authority, records):
    """
    They may be in h11, in OpenSSL or in the kernel.
    """

    def script(line):
        line.request()
        for record in records:
            line.send(record)
        line.listener.note(b"sent")
        line.stay_silent()

    provider = listen(script, tls=authority.context())
    bodies = []
    for count in (1, 2):
        bodies.append(http.request("GET", provider.url()).body)
        provider.waits_until(lambda count=count: provider.requests.count(b"sent") == count)

    assert len(set(bodies)) == 1
    assert b"alice" not in bodies
    assert provider.connections == 2
