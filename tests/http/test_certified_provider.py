"""
The flow against a certified OpenID provider that was not written here, added by one TOML table.

npm's oidc-provider: discovery, PKCE required, RS256 id_tokens, `iss` in the answer (RFC 9207), Basic authentication with a
secret that has to be form-encoded, revocation. Without Node it skips outside CI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urljoin

import psycopg
import pytest
import requests

from tests.support.gateway_process import free_port, told, whole_gateway

NODE = Path(__file__).resolve().parents[1] / "node"
SECRET = "a secret/with:reserved+characters"

pytestmark = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("node") and (NODE / "node_modules").exists()),
    reason="needs Node and `npm ci` in tests/node; CI always has both",
)

ACME = """
[acme]
name = "Acme Mail"
type = 2
issuer = "{issuer}"
scope = ["openid", "email", "offline_access"]
authorization_params = {{ prompt = "consent" }}
"""


@pytest.fixture(scope="module")
def acme(cluster, template):
    """A gateway whose catalogue has the one table more, and the provider beside it."""
    settings = {"ACME_CLIENT_ID": "gateway", "ACME_CLIENT_SECRET": SECRET}
    with whole_gateway(cluster, template, settings=settings) as gateway:
        port = free_port()
        table = ACME.format(issuer=f"http://127.0.0.1:{port}")
        Path(gateway.environ["GATEWAY_CATALOG"], "acme.toml").write_text(table, encoding="utf-8")
        command = ["node", "provider.mjs", str(port), f"{gateway.url}/email/acme/callback"]
        with subprocess.Popen(command, cwd=NODE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as provider:
            assert provider.stdout.readline().strip() == b"ready"
            yield gateway.start()
            provider.terminate()


def walked(url: str, gateway_url: str, login: str) -> str:
    """Signs in and consents on the provider's own pages; the callback's address, not opened yet."""
    browser = requests.Session()
    answer = browser.get(url, timeout=60, allow_redirects=False)
    for _ in range(12):
        if answer.is_redirect:
            target = urljoin(answer.url, answer.headers["Location"])
            if target.startswith(gateway_url):
                return target
            answer = browser.get(target, timeout=60, allow_redirects=False)
            continue
        action = re.search(r'action="([^"]+)"', answer.text)[1]
        fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', answer.text))
        fields |= {"login": login, "password": "any"} if "password" in answer.text else {}
        answer = browser.post(urljoin(answer.url, action), fields, timeout=60, allow_redirects=False)
    raise AssertionError(answer.text)


def test_a_certified_provider_connects_by_one_toml_table(acme):
    """
    Discovery, PKCE, id_token, iss and userinfo follow the standards; the row is encrypted.
    """
    alice = acme.person("Alice Winter")
    alice.signs_in()

    answer = alice.get(walked(alice.begins("acme"), acme.url, "alice"))

    assert {"provider": "acme"}.items() <= told(answer).items(), answer.headers
    assert "connection" in told(answer)
    with psycopg.connect(acme.dsn) as connection:
        token, refresh, data = connection.execute(
            "select token, refresh, data from public.provider_data where auth_provider_id = %s", [alice.id]
        ).fetchone()
    assert token.startswith("gAAAAA")
    assert refresh.startswith("gAAAAA")
    assert {"id": "alice", "label": "alice@provider.example"} == data["account"]


def test_its_disconnect_is_taken_by_the_provider(acme):
    """
    RFC 7009 with the discovered endpoint; the receipt says done.
    """
    alice = acme.person("Alice Winter")
    alice.signs_in()
    connection = told(alice.get(walked(alice.begins("acme"), acme.url, "alice")))["connection"]

    assert "done" == told(alice.disconnects(connection))["disconnected"]


def test_a_changed_issuer_in_the_response_is_refused(acme):
    """
    RFC 9207: iss from elsewhere ends the attempt, and no code is redeemed.
    """
    alice = acme.person("Alice Winter")
    alice.signs_in()
    callback = walked(alice.begins("acme"), acme.url, "alice")

    answer = alice.get(re.sub(r"iss=[^&]+", "iss=https%3A%2F%2Fevil.example", callback))

    assert 400 == answer.status_code
    assert 'data-problem="issuer_mismatch"' in answer.text


def test_a_missing_issuer_is_refused_where_the_metadata_promises_it(acme):
    """
    RFC 9207 section 2.4: if iss is promised and missing, it was removed on the way.
    """
    alice = acme.person("Alice Winter")
    alice.signs_in()
    callback = walked(alice.begins("acme"), acme.url, "alice")

    answer = alice.get(re.sub(r"&?iss=[^&]+", "", callback))

    assert 'data-problem="issuer_mismatch"' in answer.text
