"""
Codes that were not meant for the attempt they come with, and the challenge that finds it out.

RFC 7636, RFC 9700 sections 4.5 and 4.8.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
import requests

from tests.support.attack_helpers import asked, owned
from tests.support.gateway_process import HIDDEN, told, whole_gateway


@pytest.mark.parametrize("provider", ["google", "ringcentral"])
def test_every_attempt_has_a_fresh_verifier(gateway, alice, provider):
    """
    S256 always, and of a hundred attempts no two share a state, a challenge or a nonce.
    """
    page = alice.asks(provider).text
    action = re.search(r'id="connect" method="post" action="([^"]+)"', page)[1]
    fields = dict(HIDDEN.findall(page.split('id="connect"')[1]))

    sent = [asked(alice.post(action, fields).headers["Location"]) for _ in range(100)]

    assert {"S256"} == {each["code_challenge_method"] for each in sent}
    assert {43} == {len(each["code_challenge"]) for each in sent}
    for name in ("state", "code_challenge", *(["nonce"] if provider == "google" else [])):
        assert 100 == len({each[name] for each in sent})


@pytest.mark.parametrize("provider", ["google", "ringcentral"])
def test_the_verifier_goes_to_the_token_endpoint_alone(gateway, alice, provider):
    """
    RFC 7636 section 4.5: it hashes to the challenge, is long enough, and was in no address.
    """
    url = alice.begins(provider)
    callback = gateway.sandbox.consents(url)
    alice.get(callback)

    code = asked(callback)["code"]
    (form,) = [r["form"] for r in gateway.sandbox.state.requests(provider, "token") if r["form"].get("code") == code]
    verifier = form["code_verifier"]
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    assert asked(url)["code_challenge"] == digest
    assert 43 <= len(verifier) <= 128
    assert verifier not in url + callback


@pytest.mark.parametrize("provider", ["google", "ringcentral"])
def test_anothers_code_in_ones_own_attempt_stores_nothing(gateway, alice, bob, provider):
    """
    Code injection: the provider refuses the verifier, once; there is no second try without it.
    """
    code = asked(bob.consents(provider))["code"]
    own = alice.consents(provider)

    answer = alice.get(own.replace(asked(own)["code"], code))

    assert "access_denied" == told(answer)["error"]
    assert 1 == gateway.sandbox.state.redeemed[code]
    assert 0 == owned(gateway, alice, bob)
    (form,) = [r["form"] for r in gateway.sandbox.state.requests(provider, "token") if r["form"].get("code") == code]
    assert "code_verifier" in form


def test_a_provider_file_cannot_switch_the_challenge_to_plain(cluster, template):
    """
    The catalogue has no value `plain`: the process does not start.
    """
    with whole_gateway(cluster, template) as gateway:
        Path(gateway.environ["GATEWAY_CATALOG"], "weaker.toml").write_text('[google]\npkce = "plain"\n')
        with pytest.raises(AssertionError, match="pkce"):
            gateway.start()
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{gateway.url}/healthz", timeout=2)
