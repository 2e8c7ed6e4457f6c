"""
Token responses that break off, or whose size is wrong, of a provider that rotates: no refresh token in them is lost.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from tests.http.test_connection_status import api, expire
from tests.http.test_odd_responses import connects, state
from tests.support.database import rows
from tests.support.gateway_process import told, whole_gateway
from tests.support.odd_responses import PLAIN, said
from tests.support.patience import wait_for
from tests.support.scripted_server import Line, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ENTRY = """
[acme]
name = "Acme"
type = 2
docs_url = "https://acme.example/docs"
authorization_endpoint = "{0}/authorize"
token_endpoint = "{0}/token"
revocation_endpoint = "{0}/revoke"
userinfo_endpoint = "{0}/me"
token_endpoint_auth_method = "client_secret_post"
scope = ["mail.read"]
starts_installs = true
account = {{ id = "sub", label = "email" }}
"""


def sized(size: int, body: bytes, *more: bytes) -> bytes:
    return OK + b"".join(more) + b"Content-Length: %d\r\n\r\n" % size + body


def chunk(body: bytes) -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body


CODED = b"Content-Encoding: gzip\r\n"
BROKEN = {
    "a length that is too large": lambda body: sized(len(body) + 50, body),
    "a length that is too small": lambda body: sized(len(body) - 20, body),
    "cut": lambda body: sized(len(body), body[:-100]),
    "cut without a length": lambda body: OK + b"Connection: close\r\n\r\n" + body[:-100],
    "a chunk that is cut": lambda body: chunk(body)[:-100],
    "no last chunk": lambda body: chunk(body) + b"\r\n",
    "a chunk without a size": lambda body: chunk(body) + b"\r\nZZ\r\n",
    "gzip that is none": lambda body: sized(len(body), body, CODED),
    "gzip that is cut": lambda body: sized(len(gzip.compress(body)), gzip.compress(body)[:-8], CODED),
    "too large": lambda body: sized(len(body) + 99_000, body + b" " * 99_000),
    "no head at all": lambda body: body,
    "a status line that is none": lambda body: b"200 OK\r\n\r\n" + body,
    "another version of HTTP": lambda body: b"HTTP/2.0 200 OK\r\n\r\n" + body,
    "a header without a colon": lambda body: OK + b"Nonsense\r\n\r\n" + body,
    "a length that is no number": lambda body: OK + b"Content-Length: many\r\n\r\n" + body,
    "two lengths": lambda body: OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + body,
    "an unknown transfer coding": lambda body: OK + b"Transfer-Encoding: rot13\r\n\r\n" + body,
    "a head without an end": lambda body: OK + body,
}


class Rotating:
    """A token endpoint that accepts the newest refresh token alone, and breaks the next response."""

    def __init__(self) -> None:
        self.number, self.seconds, self.revoked = 0, 3600, []
        self.breaks, self.account = None, b"acc-1"
        self.asked = []
        """The refresh tokens that were sent."""

    def __call__(self, line: Line) -> None:
        while request := line.request():
            form = {name: values[0] for name, values in parse_qs(request.partition(b"\r\n\r\n")[2].decode()).items()}
            if request.startswith(b"POST /token"):
                broken, self.breaks = self.breaks, None
                line.send((broken or (lambda body: sized(len(body), body)))(self.issue(form)))
                if broken:
                    return
            elif request.startswith(b"POST /revoke"):
                self.revoked.append(form["token"])
                line.send(sized(2, b"{}"))
            else:
                found = b'{"sub": "%s"}' % self.account
                line.send(sized(len(found), found))

    def issue(self, form: dict[str, str]) -> bytes:
        if form["grant_type"] == "refresh_token":
            self.asked.append(form["refresh_token"])
            if form["refresh_token"] != f"rt-{self.number}":
                return b'{"error": "invalid_grant"}'
        self.number += 1
        tokens = {"access_token": f"at-{self.number}", "refresh_token": f"rt-{self.number}", "expires_in": self.seconds}
        return json.dumps(PLAIN | tokens | {"end": "x" * 200}).encode()


@pytest.fixture(scope="module")
def acme_provider():
    return Rotating()


@pytest.fixture(scope="module")
def acme_gateway(cluster, template, acme_provider):
    folder = Path(tempfile.mkdtemp(prefix="gateway-catalogue-"))
    settings = {"GATEWAY_CATALOG": str(folder), "ACME_CLIENT_ID": "id", "ACME_CLIENT_SECRET": "secret"}
    settings |= {"GATEWAY_UNCLAIMED_INSTALLS": "1"}
    with listening() as listen, whole_gateway(cluster, template, settings=settings) as made:
        (folder / "acme.toml").write_text(ENTRY.format(listen(acme_provider).url("")))
        yield made.start()
    shutil.rmtree(folder)


@pytest.fixture
def alice(acme_gateway):
    person = acme_gateway.person("Alice Winter")
    person.signs_in()
    return person


def connects_acme(person):
    sent = {name: values[0] for name, values in parse_qs(urlsplit(person.begins("acme")).query).items()}
    return told(person.get(f"{sent['redirect_uri']}?code=c-1&state={sent['state']}"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_refresh_token_in_a_broken_response_is_not_lost(acme_gateway, acme_provider, alice, name):
    """
    Used at once where the document is whole, else sent with the next request.
    """
    connection = connects_acme(alice)["connection"]
    expire(acme_gateway, connection)
    acme_provider.breaks = BROKEN[name]
    first = api(alice, f"/connections/{connection}/token")
    assert first.status_code in (200, 502)
    expire(acme_gateway, connection)

    answer = api(alice, f"/connections/{connection}/token")

    assert (200, f"at-{acme_provider.number}") == (answer.status_code, answer.json().get("access_token"))


@pytest.mark.parametrize("account", [b"acc-1", b"acc-2"])
@pytest.mark.parametrize("said", [b'"acc-2"', b'""', b"[]", b'"' + b"x" * 300 + b'"'])
def test_a_refresh_response_for_another_account_is_kept_and_verified_before_a_caller_gets_it(
    acme_gateway, acme_provider, alice, account, said
):
    """
    Its refresh token is the only valid one, and never the old one is sent again. The provider decides whose tokens they are.
    """
    connection = connects_acme(alice)["connection"]
    expire(acme_gateway, connection)
    acme_provider.asked.clear()
    acme_provider.account = account
    acme_provider.breaks = lambda body: sized(len(body) + 8 + len(said), b'{"sub": ' + said + b"," + body[1:])

    assert 409 == api(alice, f"/connections/{connection}/token").status_code

    def verified():
        shown = api(alice, f"/connections/{connection}").json()
        return shown if shown["status"] != "unverified" else None

    shown = wait_for(verified)
    acme_provider.account = b"acc-1"
    assert 1 == len(acme_provider.asked)
    if account == b"acc-2":
        assert ("needs_reauthorization", "another_account") == (shown["status"], shown["reason"])
        return
    expire(acme_gateway, connection)
    answer = api(alice, f"/connections/{connection}/token")
    assert f"at-{acme_provider.number}" == answer.json()["access_token"]
    assert len(set(acme_provider.asked)) == len(acme_provider.asked) == 2


@pytest.mark.parametrize("broken", [lambda _: b"", lambda _: OK, lambda body: sized(len(body), b"")])
def test_a_lost_response_ends_a_connection_only_when_the_provider_refuses(acme_gateway, acme_provider, alice, broken):
    """
    The failure is recorded and passes; the next request sends the token that is stored, and the provider decides.
    """
    connection = connects_acme(alice)["connection"]
    expire(acme_gateway, connection)
    acme_provider.breaks = broken
    assert api(alice, f"/connections/{connection}/token").status_code in (502, 504)
    assert "active" == api(alice, f"/connections/{connection}").json()["status"]
    said = "select data ->> 'error' from gateway.event where type = 'grant.refresh_failed' and connection_id = %s"
    assert {"provider_garbled", "provider_unavailable"} >= set(rows(acme_gateway.dsn, said, connection)) != set()
    expire(acme_gateway, connection)

    assert 409 == api(alice, f"/connections/{connection}/token").status_code
    assert "grant_refused" == api(alice, f"/connections/{connection}").json()["reason"]


def test_tokens_in_a_broken_response_connect_or_are_revoked(acme_gateway, acme_provider, alice):
    """
    The provider has issued them: a whole document connects, half a one is revoked.
    """
    acme_provider.breaks = BROKEN["a length that is too large"]
    assert "connection" in connects_acme(alice)
    bob = acme_gateway.person("Bob Marsh")
    bob.signs_in()
    acme_provider.breaks = BROKEN["cut"]

    assert "provider_garbled" == connects_acme(bob)["error"]

    assert [f"rt-{acme_provider.number}", f"at-{acme_provider.number}"] == acme_provider.revoked[-2:]


def test_an_install_without_a_state_that_cannot_be_kept_is_revoked(acme_gateway, acme_provider, alice):
    """
    The code was redeemed, and the provider names no account.
    """
    acme_provider.account = b""
    answer = alice.get(f"{acme_gateway.url}/email/acme/callback?code=c-1")
    acme_provider.account = b"acc-1"

    assert 502 == answer.status_code
    assert [f"rt-{acme_provider.number}", f"at-{acme_provider.number}"] == acme_provider.revoked[-2:]


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize("error", ["invalid_grant", "slow_down", "invalid_client"])
def test_an_error_beside_tokens_ends_no_connection(gateway, error, status):
    """
    The tokens were issued: the next request sends the refresh token among them.
    """
    person = gateway.person("Alice Winter")
    person.signs_in()
    gateway.sandbox.state.faults.clear()
    connection = connects(person)["connection"]
    for answered, body in ((status, said(error=error)), (200, said(access_token="at-2", refresh_token="rt-2"))):
        expire(gateway, connection)
        gateway.sandbox.state.add_fault("status", "zoom", "token", body=body, status=answered, content_type="text/html")
        answer = api(person, f"/connections/{connection}/token")

    assert (200, "at-2") == (answer.status_code, answer.json().get("access_token"))
    assert (2, "active") == state(gateway, connection)[:2]
    assert "rt-1" == gateway.sandbox.state.requests("zoom", "token")[-1]["form"]["refresh_token"]


def test_tokens_that_wait_for_a_connection_that_is_gone_are_revoked(acme_gateway, acme_provider, alice):
    """
    The journal holds half a response when the user disconnects; nothing else would revoke them.
    """
    connection = connects_acme(alice)["connection"]
    expire(acme_gateway, connection)
    acme_provider.breaks = BROKEN["cut"]
    assert 502 == api(alice, f"/connections/{connection}/token").status_code
    newest = f"rt-{acme_provider.number}"

    assert 200 == api(alice, f"/connections/{connection}", "DELETE").status_code

    wait_for(lambda: newest in acme_provider.revoked)


def test_a_database_from_before_two_refreshes_gets_both_from_the_journal(acme_gateway, acme_provider, alice):
    """
    The older response lasts no longer; the same read goes on to the newer one, and sends nothing.
    """
    connection = connects_acme(alice)["connection"]
    with psycopg.connect(acme_gateway.dsn) as database:
        kept = "create table {0} as select * from {1} where id = %s"
        database.execute(kept.format("kept_connection", "gateway.connection"), [connection])
        database.execute(kept.format("kept_tokens", "public.provider_data"), [connection])
    for acme_provider.seconds in (1, 3600):
        expire(acme_gateway, connection)
        assert 200 == api(alice, f"/connections/{connection}/token").status_code
    issued = acme_provider.number
    with psycopg.connect(acme_gateway.dsn) as database:
        database.execute("set session_replication_role = replica")
        database.execute("delete from gateway.connection where id = %s", [connection])
        database.execute("delete from public.provider_data where id = %s", [connection])
        database.execute("insert into public.provider_data select * from kept_tokens")
        database.execute("insert into gateway.connection select * from kept_connection")
    time.sleep(1)
    expire(acme_gateway, connection)

    answer = api(alice, f"/connections/{connection}/token")

    assert (200, f"at-{issued}") == (answer.status_code, answer.json().get("access_token"))
    assert issued == acme_provider.number


def test_a_connection_whose_provider_is_no_longer_set_up_asks_for_the_operator(acme_gateway, alice):
    """
    It exists, so it is no 404; and its user can do nothing.
    """
    connection = connects_acme(alice)["connection"]
    rows(acme_gateway.dsn, "update gateway.connection set provider = 'ghl_white_label' where id = %s", connection)
    expire(acme_gateway, connection)
    acme_gateway.process.terminate()
    acme_gateway.process.wait(20)
    kept = acme_gateway.environ
    acme_gateway.environ = {name: value for name, value in kept.items() if not name.startswith("GHL_WHITE_LABEL_")}
    acme_gateway.start()

    for path, method in (("token", "GET"), ("refresh", "POST"), ("check", "POST")):
        answer = api(alice, f"/connections/{connection}/{path}", method)
        assert (502, "client_rejected", "operator") == (
            answer.status_code,
            answer.json()["code"],
            answer.json()["remedy"],
        )

    acme_gateway.environ = kept
