"""What issuers publish: fetched seldom, believed only of themselves, kept while they fail; and the id_tokens they sign."""

from __future__ import annotations

import hmac
import json
import threading
from base64 import urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OctKey, OKPKey, RSAKey

from gateway.catalog import Provider
from gateway.errors import IssuerMismatch, ProviderGarbled, ProviderUnavailable
from gateway.http import Deadline, HttpClient, Response
from gateway.models import Client
from gateway.protocol.issuers import Issuers, key_id_of, read_keys, signed_claims
from tests.support.scripted_server import answering, listening

ISSUER = "https://login.acme.example"
CONFIGURATION = f"{ISSUER}/.well-known/openid-configuration"
METADATA = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "userinfo_endpoint": f"{ISSUER}/me",
    "jwks_uri": f"{ISSUER}/jwks",
}
JWKS = METADATA["jwks_uri"]
NOW = 1_790_000_000.0
CLIENT = Client("client-id", "client-secret")
SIGNING = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ROTATED = RSAKey.generate_key(2048, {"kid": "rsa-2"})
CURVED = ECKey.generate_key("P-256", {"kid": "ec-1"})


class Published:
    """An http that answers from a dictionary and counts; a value may be a body, a status or an error to raise."""

    def __init__(self, pages: dict[str, object]) -> None:
        self.pages = pages
        self.asked: list[str] = []

    def request(self, method, url, *, headers, deadline, body=None, **_: object) -> Response:
        """As the real one; only reads are expected."""
        assert ("GET", None, "application/json") == (method, body, headers["Accept"])
        assert deadline is None or deadline.remaining() <= 10
        self.asked.append(url)
        page = self.pages.get(url, 404)
        if isinstance(page, Exception):
            raise page
        if isinstance(page, int):
            return Response(page, {}, b"")
        return Response(200, {}, page if isinstance(page, bytes) else json.dumps(page).encode())


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """As time.monotonic."""
        return self.now


def public(*keys) -> dict[str, object]:
    return {"keys": [key.as_dict(private=False) for key in keys]}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def published():
    return Published({CONFIGURATION: METADATA, JWKS: public(SIGNING, CURVED)})


@pytest.fixture
def issuers(published, clock):
    return Issuers(published, clock)


def acme(**more) -> Provider:
    return Provider(
        **{"id": "acme", "name": "Acme", "type": 2, "slug": "acme", "issuer": ISSUER, "scope": ("openid",), **more}
    )


def kids(keys: KeySet) -> set[str]:
    return {key.kid for key in keys}


# -- metadata --------------------------------------------------------------------------------------------------------


def test_what_was_left_out_is_discovered_and_what_was_given_stays(issuers):
    """
    RFC 8414 section 2; the catalogue has precedence over metadata.
    """
    found = issuers.complete(acme(token_endpoint="https://own.acme.example/token"))

    assert "https://own.acme.example/token" == found.token_endpoint
    for name in ("authorization_endpoint", "revocation_endpoint", "userinfo_endpoint", "jwks_uri"):
        assert METADATA[name] == getattr(found, name)


def test_nothing_is_asked_when_nothing_is_missing(issuers, published):
    """
    An entry that says everything works without its issuer.
    """
    whole = acme(**{name: url for name, url in METADATA.items() if name != "issuer"})

    assert whole is issuers.complete(whole)
    assert [] == published.asked


def test_discovery_also_fills_what_one_could_do_without(issuers):
    """
    "Discovery fills what is not given": without the revocation endpoint a disconnect would leave the grant alive.
    """
    given = {name: METADATA[name] for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}

    found = issuers.complete(acme(**given))

    assert (METADATA["revocation_endpoint"], METADATA["userinfo_endpoint"]) == (
        found.revocation_endpoint,
        found.userinfo_endpoint,
    )


def test_two_providers_of_one_issuer_stay_two(issuers):
    """
    Mail and phone may share a login: each keeps its id, its slug, its scopes and its way to authenticate.
    """
    mail = issuers.complete(acme())
    phone = issuers.complete(
        acme(id="acme_phone", slug="calls", type=3, scope=("openid", "calls"), token_endpoint_auth_method="none")
    )

    assert ("acme", 2, ("openid",)) == (mail.id, mail.type, mail.scope)
    assert ("acme_phone", "calls", 3, ("openid", "calls")) == (phone.id, phone.slug, phone.type, phone.scope)
    assert "none" == phone.token_endpoint_auth_method


@pytest.mark.parametrize("issuer", ["https://attacker.example", ISSUER + "/", "https://LOGIN.acme.example", None, 7])
def test_metadata_of_another_issuer_is_refused(issuers, published, issuer):
    """
    RFC 8414 section 3.3: compared as a string, or endpoints could be slipped in.
    """
    published.pages[CONFIGURATION] = {**METADATA, "issuer": issuer}

    with pytest.raises(IssuerMismatch):
        issuers.complete(acme())


def test_a_promise_to_send_iss_is_taken_from_the_metadata(issuers, published):
    """
    RFC 9207 section 3: from then on a response without it is refused.
    """
    published.pages[CONFIGURATION] = {**METADATA, "authorization_response_iss_parameter_supported": True}

    assert issuers.complete(acme()).authorization_response_iss_parameter_supported


def test_metadata_stands_at_the_other_well_known_place_too(issuers, published):
    """
    RFC 8414 section 3.1: between host and path.
    """
    issuer = f"{ISSUER}/tenant"
    published.pages = {f"{ISSUER}/.well-known/oauth-authorization-server/tenant": {**METADATA, "issuer": issuer}}

    assert METADATA["token_endpoint"] == issuers.complete(acme(issuer=issuer)).token_endpoint


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_endpoint": None},
        {"token_endpoint": 7},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://a@b.example"},
        {"authorization_endpoint": "http://login.acme.example/authorize"},
        {"token_endpoint": "http://login.acme.example/token"},
        {"jwks_uri": "http://login.acme.example/jwks"},
        {"jwks_uri": "http://localhost/jwks"},
    ],
    ids=str,
)
def test_metadata_with_unfit_endpoints_is_refused(issuers, published, wrong):
    """
    An https issuer does not send our users, codes or secrets through plain http.
    """
    published.pages[CONFIGURATION] = {**METADATA, **wrong}

    with pytest.raises(ProviderGarbled):
        issuers.complete(acme())


def test_an_issuer_on_loopback_that_was_allowed_may_name_plain_http(published, clock):
    """
    The catalogue allowed it (demo, tests); its endpoints are as near as the issuer.
    """
    here = "http://127.0.0.1:9000"
    published.pages = {
        f"{here}/.well-known/openid-configuration": {name: url.replace(ISSUER, here) for name, url in METADATA.items()}
    }

    assert f"{here}/token" == Issuers(published, clock).complete(acme(issuer=here)).token_endpoint


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (404, ProviderGarbled),
        (500, ProviderUnavailable),
        (429, ProviderUnavailable),
        (302, ProviderGarbled),
        (b"<html>", ProviderGarbled),
        (b"[]", ProviderGarbled),
    ],
)
def test_metadata_that_is_none_says_who_must_act(issuers, published, page, kind):
    """
    Waiting, or reporting.
    """
    published.pages = {CONFIGURATION: page}

    with pytest.raises(kind):
        issuers.complete(acme())


def test_metadata_is_kept_for_an_hour_and_while_the_issuer_fails(issuers, published, clock):
    """
    The last valid response stays in use; a failing issuer is asked at most every half minute.
    """
    issuers.complete(acme())
    clock.now += 3599
    issuers.complete(acme())
    assert 1 == len(published.asked)

    published.pages = {CONFIGURATION: 500}
    clock.now += 2
    for _ in range(5):
        assert METADATA["token_endpoint"] == issuers.complete(acme()).token_endpoint
    assert 2 == len(published.asked)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_kept_for_ten_minutes(issuers, published, clock):
    """
    Supabase asks for no longer.
    """
    issuers.keys(JWKS)
    clock.now += 599
    issuers.keys(JWKS, key_id="rsa-1")
    assert 1 == len(published.asked)

    published.pages[JWKS] = public(ROTATED)
    clock.now += 2
    assert {"rsa-2"} == kids(issuers.keys(JWKS))
    assert 2 == len(published.asked)


def test_a_rotated_key_is_found_when_the_pause_is_over(issuers, published, clock):
    """
    The first token under a new key does not wait ten minutes.
    """
    issuers.keys(JWKS)
    published.pages[JWKS] = public(ROTATED)
    clock.now += 31

    assert {"rsa-2"} == kids(issuers.keys(JWKS, key_id="rsa-2"))


def test_a_flood_of_unknown_key_ids_causes_one_fetch_in_thirty_seconds(issuers, published, clock):
    """
    Invalid tokens must not flood the issuer.
    """
    for number in range(1000):
        issuers.keys(JWKS, key_id=f"random-{number}")
    assert 1 == len(published.asked)

    clock.now += 30.1
    for number in range(1000):
        issuers.keys(JWKS, key_id=f"more-{number}")
    assert 2 == len(published.asked)


@pytest.mark.parametrize(
    "page",
    [
        500,
        404,
        302,
        b"",
        b"<html>",
        {},
        {"keys": None},
        {"keys": []},
        {"keys": [OctKey.generate_key(256, {"kid": "rsa-1"}).as_dict()]},
        {"keys": [{"kty": "RSA", "kid": "rsa-1"}, 7, None, {"kty": "RSA", "n": "!", "e": 1}]},
        ProviderUnavailable("slow"),
        ProviderGarbled("too large"),
    ],
    ids=lambda page: ascii(page)[:14],
)
def test_the_last_valid_keys_stay_in_use_while_the_issuer_fails(issuers, published, clock, page):
    """
    An error, an empty set or one without a usable key signs nobody out.
    """
    issuers.keys(JWKS)
    published.pages[JWKS] = page
    for _ in range(3):
        clock.now += 700
        assert {"rsa-1", "ec-1"} == kids(issuers.keys(JWKS, key_id="rsa-1"))
    assert 4 == len(published.asked)


def test_a_key_that_is_not_among_the_old_ones_is_unknown_only_where_the_new_ones_are_there(issuers, published, clock):
    """
    While an issuer that may have changed its keys does not respond, a token may be valid or forged.
    """
    issuers.keys(JWKS)
    assert {"rsa-1", "ec-1"} == kids(issuers.keys(JWKS, key_id="new"))

    clock.now += 40
    published.pages[JWKS] = 503
    with pytest.raises(ProviderUnavailable):
        issuers.keys(JWKS, key_id="new")
    with pytest.raises(ProviderUnavailable):
        issuers.keys(JWKS, key_id="new")  # within the pause: no second fetch
    assert {"rsa-1", "ec-1"} == kids(issuers.keys(JWKS, key_id="rsa-1"))


def test_a_caller_without_time_does_not_stop_others_from_fetching(issuers, published, clock):
    """
    An attempt without time is not made: the next one does not have to wait for the pause.
    """
    issuers.keys(JWKS)
    clock.now += 40
    published.pages[JWKS] = public(ROTATED)
    with pytest.raises(ProviderUnavailable):
        issuers.keys(JWKS, key_id="rsa-2", deadline=Deadline.after(0.01))

    assert "rsa-2" in kids(issuers.keys(JWKS, key_id="rsa-2", deadline=Deadline.after(2)))


def test_without_a_good_response_the_failure_is_reported_and_not_repeated_by_every_caller(issuers, published, clock):
    """
    Those who queue behind it get the same answer without asking.
    """
    published.pages[JWKS] = 503
    for _ in range(10):
        with pytest.raises(ProviderUnavailable):
            issuers.keys(JWKS)
    assert 1 == len(published.asked)

    published.pages[JWKS] = public(SIGNING)
    clock.now += 3
    assert {"rsa-1"} == kids(issuers.keys(JWKS))


def test_symmetric_encrypting_weak_and_strange_keys_are_left_out(issuers, published):
    """
    With a published symmetric key, everyone could sign (RFC 8725 section 2.1); RFC 7518 section 3.3 requires 2048
    bits.
    """
    modulus = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n  # noqa: S505 - weak on purpose
    weak = {
        "kty": "RSA",
        "kid": "weak",
        "n": urlsafe_b64encode(modulus.to_bytes(128, "big")).rstrip(b"=").decode(),
        "e": "AQAB",
    }
    published.pages[JWKS] = {
        "keys": [
            OctKey.generate_key(256, {"kid": "oct"}).as_dict(),
            {**ROTATED.as_dict(private=False), "kid": "enc", "use": "enc"},
            weak,
            {**public(SIGNING)["keys"][0], "kid": "endless", "n": "w" * 50_000},
            {**public(SIGNING)["keys"][0], "kid": "listed", "key_ops": ["verify"] * 1000},
            {"kty": "ML-DSA", "kid": "new"},
            *public(SIGNING)["keys"],
        ]
    }

    assert {"rsa-1"} == kids(issuers.keys(JWKS))


def test_a_set_of_five_hundred_keys_is_bounded(issuers, published):
    """
    What is believed of it has an end.
    """
    entry = public(CURVED)["keys"][0]
    published.pages[JWKS] = {"keys": [{**entry, "kid": f"k{number}"} for number in range(500)]}

    assert {f"k{number}" for number in range(32)} == kids(issuers.keys(JWKS))


def test_a_usable_key_is_found_behind_broken_ones_of_its_name():
    """
    A set with nothing but broken keys is empty.
    """
    entry = public(CURVED)["keys"][0]
    broken = {**entry, "x": entry["y"], "y": entry["x"]}
    same = {"keys": [*[{**broken, "kid": "same"}] * 3, {**entry, "kid": "same"}]}

    assert {"same"} == kids(read_keys(same))
    assert not read_keys({"keys": [{**broken, "kid": "same"}] * 40})


def test_a_key_without_a_name_goes_by_its_thumbprint_and_a_token_without_one_by_the_only_key():
    """
    RFC 7638; and OpenID Connect Core section 10.1, which lets both leave the name out where there is one key.
    """
    unnamed = {name: value for name, value in public(CURVED)["keys"][0].items() if name != "kid"}
    thumbprint = ECKey.import_key(dict(unnamed)).thumbprint()
    only, one_of_two = read_keys({"keys": [unnamed]}), read_keys({"keys": [unnamed, *public(SIGNING)["keys"]]})
    named, nameless = (
        jwt.encode({"alg": "ES256", **kid}, {"sub": "a"}, CURVED, algorithms=["ES256"])
        for kid in ({"kid": thumbprint}, {})
    )

    assert {thumbprint} == kids(only)
    for token, keys in ((named, only), (named, one_of_two), (nameless, only), (nameless, read_keys(public(CURVED)))):
        assert {"sub": "a"} == signed_claims(token, keys, ("ES256",))
    assert signed_claims(nameless, one_of_two, ("ES256",)) is None


def test_a_slow_issuer_holds_up_one_caller_and_no_other(issuers, published, clock):
    """
    While one fetches anew, everybody else goes on with the keys that are there; whose key is not among them is not called a forger.
    """
    issuers.keys(JWKS)
    clock.now += 700
    asked, answer = threading.Event(), threading.Event()
    fast = published.request

    def slow(*given, **named):
        asked.set()
        assert answer.wait(10)
        return fast(*given, **named)

    published.request = slow
    first = threading.Thread(target=issuers.keys, args=(JWKS,))
    first.start()
    try:
        assert asked.wait(10)
        assert {"rsa-1", "ec-1"} == kids(issuers.keys(JWKS, key_id="rsa-1"))
        with pytest.raises(ProviderUnavailable):
            issuers.keys(JWKS, key_id="unknown")
    finally:
        answer.set()
        first.join(10)
    assert 2 == len(published.asked)


def test_twenty_first_callers_share_one_fetch(published):
    """
    A cold start asks once.
    """
    issuers, together, seen = Issuers(published), threading.Barrier(20), []

    def read():
        together.wait(10)
        seen.append(kids(issuers.keys(JWKS)))

    threads = [threading.Thread(target=read) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert [{"rsa-1", "ec-1"}] * 20 == seen
    assert 1 == len(published.asked)


def test_keys_come_over_the_real_wire_and_never_over_plain_http_unless_allowed():
    """
    On loopback with the operator's leave; otherwise the address is refused and nothing is sent.
    """
    body = json.dumps(public(SIGNING)).encode()
    page = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with listening() as listen:
        server, strict, lenient = listen(answering(page)), HttpClient(), HttpClient(allow_private=True)
        try:
            with pytest.raises(ProviderUnavailable):
                Issuers(strict).keys(server.url("/jwks"))
            assert 0 == server.connections
            assert {"rsa-1"} == kids(Issuers(lenient).keys(server.url("/jwks")))
        finally:
            strict.close()
            lenient.close()


# -- id_tokens -------------------------------------------------------------------------------------------------------

CLAIMS = {
    "iss": ISSUER,
    "aud": "client-id",
    "sub": "alice-1",
    "nonce": "n-1",
    "exp": NOW + 3600,
    "iat": NOW,
    "email": "alice@acme.example",
}


def signed(changes=(), key=SIGNING, alg="RS256", **header) -> str:
    claims = {name: value for name, value in {**CLAIMS, **dict(changes)}.items() if value is not ...}
    return jwt.encode({"alg": alg, "kid": key.kid, **header}, claims, key, algorithms=[alg])


def read(issuers, token: str, **provider):
    whole = acme(**{**{name: url for name, url in METADATA.items() if name != "issuer"}, **provider})
    return issuers.read_id_token(whole, CLIENT, token, nonce="n-1", now=NOW, deadline=None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aud": ["client-id"]},
        {"aud": ["client-id", "other"], "azp": "client-id"},
        {"azp": "client-id"},
        {"exp": NOW - 59},
        {"iat": NOW + 300},
        {"exp": NOW + 0.5},
    ],
    ids=str,
)
def test_a_sound_id_token_is_believed(issuers, changes):
    """
    OpenID Connect Core section 3.1.3.7, with a minute for clocks.
    """
    assert "alice-1" == read(issuers, signed(changes))["sub"]


def test_every_algorithm_that_the_catalogue_allows_verifies(issuers, published):
    """
    RS256, PS256, ES256 and EdDSA, each with a key of its kind.
    """
    edwards = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})
    published.pages[JWKS] = public(SIGNING, CURVED, edwards)
    for key, alg in ((SIGNING, "RS256"), (SIGNING, "PS256"), (CURVED, "ES256")):
        assert read(issuers, signed(key=key, alg=alg))
    with pytest.warns(match="EdDSA"):
        assert read(issuers, signed(key=edwards, alg="EdDSA"))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://attacker.example"},
        {"iss": ISSUER + "/"},
        {"iss": ...},
        {"iss": [ISSUER]},
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": ...},
        {"aud": {"client-id": 1}},
        {"aud": ["client-id", "other"]},
        {"aud": ["client-id", "other"], "azp": "other"},
        {"azp": "other"},
        {"exp": NOW - 61},
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": str(int(NOW + 60))},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"iat": NOW + 3600},
        {"iat": ...},
        {"iat": "now"},
        {"iat": float("nan")},
        {"nonce": "n-2"},
        {"nonce": ""},
        {"nonce": ...},
        {"nonce": ["n-1"]},
        {"sub": ""},
        {"sub": ...},
        {"sub": 7},
    ],
    ids=str,
)
def test_an_id_token_with_a_wrong_claim_is_refused(issuers, changes):
    """
    Each claim by itself; the message names the claim and repeats no value.
    """
    with pytest.raises(ProviderGarbled) as refused:
        read(issuers, signed(changes))

    assert "attacker" not in str(refused.value)


def test_an_id_token_under_a_foreign_key_or_algorithm_is_refused(issuers):
    """
    Same key id, another key; a symmetric algorithm; one that the catalogue does not name for this provider.
    """
    impostor = RSAKey.generate_key(2048, {"kid": "rsa-1"})
    foreign = [signed(key=impostor), signed(key=ROTATED), "a.b.c", "", "x" * 20_000]
    for secret in (SIGNING.as_pem(private=False), json.dumps(public(SIGNING)["keys"][0]).encode()):
        message = b".".join(
            part.rstrip(b"=")
            for part in (
                urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa-1"}'),
                urlsafe_b64encode(json.dumps(CLAIMS).encode()),
            )
        )
        foreign.append(
            (message + b"." + urlsafe_b64encode(hmac.digest(secret, message, "sha256")).rstrip(b"=")).decode()
        )
    for token in foreign:
        with pytest.raises(ProviderGarbled):
            read(issuers, token)


def test_a_tenant_s_issuer_is_made_from_the_pattern_and_the_token_s_tenant(issuers):
    """
    Microsoft's `common`: the metadata has a placeholder, the token names its tenant; a token without one has no issuer.
    """
    pattern = {"issuer": None, "issuer_pattern": "https://login.acme.example/{tenantid}/v2.0"}

    assert read(issuers, signed({"tid": "t1", "iss": f"{ISSUER}/t1/v2.0"}), **pattern)
    for wrong in (
        {"tid": "t2", "iss": f"{ISSUER}/t1/v2.0"},
        {"tid": "t1", "iss": "https://attacker.example"},
        {"iss": "https://attacker.example"},
        {"tid": 7, "iss": "https://attacker.example"},
    ):
        with pytest.raises(ProviderGarbled):
            read(issuers, signed(wrong), **pattern)


def test_a_key_id_is_read_without_being_believed():
    """
    From a header that may hold anything.
    """
    assert "rsa-1" == key_id_of(signed())
    for token in ("", "a", "a.b.c", "..", "eyJhbGciOiJub25lIn0..", "x" * 20_000):
        assert key_id_of(token) is None


def test_claims_that_are_no_object_are_none():
    """
    A signature over other content proves nothing.
    """
    assert signed_claims("e30.W10.", KeySet([SIGNING]), ("RS256",)) is None


def test_of_several_keys_of_one_name_the_algorithm_says_which():
    """
    RFC 7517 section 4.5 allows keys of different types with one name, and a key may be listed twice for two
    algorithms.
    """
    curved = ECKey.generate_key("P-256", {"kid": "same", "alg": "ES256"})
    twice = [{**SIGNING.as_dict(private=False), "kid": "same", "alg": name} for name in ("PS256", "RS256")]
    keys = read_keys({"keys": [curved.as_dict(private=False), *twice]})
    rsa_key = RSAKey.import_key({**SIGNING.as_dict(private=True), "kid": "same"})

    for key, algorithm in ((curved, "ES256"), (rsa_key, "RS256"), (rsa_key, "PS256")):
        token = jwt.encode({"alg": algorithm, "kid": "same"}, {"sub": "a"}, key, algorithms=[algorithm])
        assert {"sub": "a"} == signed_claims(token, keys, (algorithm,))
