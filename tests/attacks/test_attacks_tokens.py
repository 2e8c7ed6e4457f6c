"""
Forged access tokens, for sessions and at /v1: the same 401 for all. RFC 8725, RFC 7519, ASVS 9.1 and 9.2.
"""

from __future__ import annotations

import json
import time

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from tests.support.database import rows
from tests.support.gateway_process import without_request_id
from tests.support.token_forger import claimed, hands_over, part, rightly_signed, signed


def wrong_claims(now):
    """One fault each, in tokens that are otherwise in order."""
    return [
        {"exp": None}, {"exp": now - 1}, {"exp": now - 0.5}, {"exp": str(now + 60)}, {"exp": float("inf")}, {"exp": float("nan")},
        {"exp": 10**12}, {"exp": -1}, {"exp": True}, {"exp": [now + 60]}, {"exp": now + 366 * 86400}, {"nbf": now + 3600},
        {"iat": now + 3600}, {"nbf": "soon"}, {"aud": None}, {"aud": ["anon"]}, {"aud": []}, {"aud": "authenticated "},
        {"aud": "AUTHENTICATED"}, {"aud": "anon"}, {"aud": {"authenticated": 1}}, {"iss": None}, {"iss": "https://evil.example/auth/v1"},
        {"iss": "supabase"}, {"iss": ["x"]}, {"sub": None}, {"sub": ""}, {"sub": "alice"}, {"sub": 7}, {"sub": "x' or '1'='1"},
        {"sub": "a11ce000-0000-4000-8000-0000000000aa\x00"}, {"sub": "{a11ce000-0000-4000-8000-0000000000aa}"},
        {"role": "service_role"}, {"role": "anon"}, {"role": None}, {"role": ["authenticated"]},
        {"client_id": "9a8b7c6d-0000-4000-8000-00000000c0de"}, {"client_id": ""}, {"is_anonymous": True},
    ]  # fmt: skip


def forged(gateway):
    """Forged tokens, by name."""
    state, claims = gateway.sandbox.state, claimed(gateway.sandbox.origin)
    keys = state.keys
    public = {"pem": keys.ec.as_pem(private=False), "der": keys.ec.as_der(private=False)}
    public |= {
        "jwk": json.dumps(keys.ec_set()["keys"][0]).encode(),
        "rsa": keys.rsa.as_pem(private=False),
        "empty": b"",
    }
    good = {"alg": "ES256", "kid": "sandbox-ec", "typ": "JWT"}
    mine = ECKey.generate_key("P-256", parameters={"kid": "sandbox-ec"})
    rsa = RSAKey.generate_key(2048, parameters={"kid": "sandbox-ec"})
    head, body, mark = keys.es256(claims).split(".")
    tokens = {
        f"alg {a}": f"{part({**good, 'alg': a})}.{body}." for a in ("none", "None", "nOnE", "NONE", "", "HS256", None)
    }
    tokens |= {f"hs256 with the {n}": signed({**good, "alg": "HS256"}, claims, k) for n, k in public.items()}
    tokens |= {f"es256 by hmac, {n}": signed(good, claims, k) for n, k in public.items()}
    tokens |= {
        "another key of the same name": jwt.encode(good, claims, mine),
        "another key's kind": jwt.encode({**good, "alg": "RS256"}, claims, rsa),
        "embedded jwk": jwt.encode({**good, "jwk": mine.as_dict(private=False)}, claims, mine),
        "embedded jwk alone": jwt.encode({"alg": "ES256", "jwk": mine.as_dict(private=False)}, claims, mine),
        "jku": jwt.encode({**good, "jku": "http://127.0.0.1:1/jwks"}, claims, mine),
        "x5u": jwt.encode({**good, "x5u": "http://127.0.0.1:1/x"}, claims, mine),
        "a provider's id_token": keys.rs256(claims),
        "no kid": rightly_signed(keys, {"alg": "ES256"}, claims),
        "crit": rightly_signed(keys, {**good, "crit": ["unheard-of"], "unheard-of": 1}, claims),
        "crit of nothing": rightly_signed(keys, {**good, "crit": ["unheard-of"]}, claims),
        "unencoded": rightly_signed(keys, {**good, "crit": ["b64"], "b64": False}, claims),
        "es384": rightly_signed(keys, {**good, "alg": "ES384"}, claims),
        "no signature": f"{head}.{body}.",
        "zero signature": f"{head}.{body}.{part(bytes(64))}",
        "changed claims": f"{head}.{part(claims | {'sub': 'b0b00000-0000-4000-8000-0000000000bb'})}.{mark}",
        "jwe": f"{part({'alg': 'dir', 'enc': 'A128GCM'})}..{part(bytes(12))}.{part(b'x')}.{part(bytes(16))}",
        "many parts": ".".join(["e30"] * 4000), "no parts": "x", "dots": "..", "nothing": "", "spaces": "  ", "unicode": "ü.ü.ü",
        "long": f"{head}.{body}{'A' * 40_000}.{mark}", "nul": f"{head}.{body}.{mark}\x00", "deep": f"{part(b'[' * 9000)}.e30.e30",
    }  # fmt: skip
    kids = [
        "../../dev/null",
        "' or 1=1--",
        "x" * 10_000,
        "",
        7,
        None,
        ["sandbox-ec"],
        "sandbox-ec\x00",
        "http://127.0.0.1:1/",
    ]
    return tokens | {f"kid {str(kid)[:20]!r}": rightly_signed(keys, {**good, "kid": kid}, claims) for kid in kids}


def test_no_forged_token_opens_a_session(gateway):
    """
    Every forgery gets the same 401 and no cookie, also as a bearer of /v1.
    """
    bodies = set()
    for name, token in forged(gateway).items():
        answer = hands_over(gateway, token)
        assert (401, None) == (answer.status_code, answer.headers.get("Set-Cookie")), name
        bodies.add(without_request_id(answer))
        if token.isascii() and token.isprintable():
            read = requests.get(
                f"{gateway.url}/v1/connections", headers={"Authorization": f"Bearer {token}"}, timeout=30
            )
            assert read.status_code == (431 if name == "long" else 401), name  # no header is that long

    assert 1 == len(bodies)


def test_no_claim_may_be_wrong(gateway):
    """
    Rightly signed, and one claim missing, late, early, of another kind or of another project: the same 401.
    """
    bodies = set()
    for changes in wrong_claims(int(time.time())):
        token = gateway.sandbox.state.keys.es256(claimed(gateway.sandbox.origin, **changes))
        answer = hands_over(gateway, token)
        assert (401, None) == (answer.status_code, answer.headers.get("Set-Cookie")), changes
        bodies.add(without_request_id(answer))

    assert 1 == len(bodies)
    assert 303 == hands_over(gateway, gateway.sandbox.state.keys.es256(claimed(gateway.sandbox.origin))).status_code


@pytest.mark.parametrize(
    "claims",
    [
        {"client_id": "9a8b7c6d-0000-4000-8000-00000000c0de"},
        {"client_id": "9a8b7c6d-0000-4000-8000-00000000c0de", "scope": "openid email", "amr": [{"method": "oauth"}]},
        {"is_anonymous": True},
    ],
)
def test_the_token_of_a_third_party_app_or_an_anonymous_user_opens_nothing(gateway, alice, claims):
    """
    Supabase's OAuth server gives apps tokens that have the user's own issuer, audience, role and subject. No session, nothing of /v1, nothing erased.
    """
    held = alice.connects("ghl")["connection"]
    token = alice.token(**claims)
    refused = requests.get(f"{gateway.url}/v1/connections", timeout=30)

    answer = hands_over(gateway, token)
    assert (401, None) == (answer.status_code, answer.headers.get("Set-Cookie"))
    for method, path in [*ROUTES, ("POST", "/connections/{id}/check"), ("GET", "/events")]:
        headers = {"Authorization": f"Bearer {token}"}
        answer = requests.request(method, f"{gateway.url}/v1{path.format(id=held)}", headers=headers, timeout=30)
        assert (401, without_request_id(refused)) == (answer.status_code, without_request_id(answer)), path
    assert [1] == rows(gateway.dsn, "select count(*) from gateway.connection where id = %s", held)


OUT = [
    "update auth.users set banned_until = now() + interval '1 hour' where id = %s",
    "update auth.users set deleted_at = now() where id = %s",
]


@pytest.mark.parametrize("statement", OUT)
def test_a_banned_or_deleted_user_is_out_at_once(gateway, alice, statement):
    """
    No new session, and the existing one ends.
    """
    rows(gateway.dsn, statement, alice.id)

    assert 401 == hands_over(gateway, alice.token()).status_code
    assert 303 == alice.get("/connections").status_code


ROUTES = [
    ("GET", "/connections"),
    ("GET", "/connections/{id}"),
    ("GET", "/connections/{id}/token"),
    ("POST", "/connections/{id}/refresh"),
    ("DELETE", "/connections/{id}"),
    ("DELETE", "/connections/{id}?uninstall=1"),
    ("GET", "/providers"),
]


@pytest.mark.parametrize("statement", OUT)
def test_the_token_of_a_banned_or_deleted_user_opens_nothing_of_v1(gateway, alice, statement):
    """
    The same 401 as for no token, at every address, for an own connection as for none; and nothing is erased.
    """
    held = alice.connects("ghl")["connection"]
    headers, nothing = {"Authorization": f"Bearer {alice.token()}"}, "00000000-0000-4000-8000-000000000000"
    refused = requests.get(f"{gateway.url}/v1/connections", timeout=30)
    rows(gateway.dsn, statement, alice.id)

    for method, path in ROUTES:
        for named in (held, nothing):
            answer = requests.request(method, f"{gateway.url}/v1{path.format(id=named)}", headers=headers, timeout=30)
            assert (401, without_request_id(refused)) == (answer.status_code, without_request_id(answer)), path

    assert [1] == rows(gateway.dsn, "select count(*) from gateway.connection where id = %s", held)


def test_a_user_whom_plain_postgres_does_not_know_yet_is_nobody_with_no_connections(gateway):
    """
    The row is inserted at the sign-in; until then the user has nothing.
    """
    headers = {"Authorization": f"Bearer {gateway.person('Carol Reed').token()}"}
    answer = requests.get(f"{gateway.url}/v1/connections", headers=headers, timeout=30)

    assert (200, []) == (answer.status_code, answer.json()["items"])
