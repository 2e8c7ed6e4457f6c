"""Who is asking: one project's access tokens are believed, and nothing that only looks like one."""

from __future__ import annotations

import hmac
import json
import time
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from joserfc import jwe, jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from gateway.errors import ProviderUnavailable, Unauthenticated
from gateway.http import HttpClient, Response
from gateway.identity import Identity
from gateway.protocol.issuers import Issuers
from gateway.settings import read_settings

PROJECT = "https://alices-project.supabase.co"
ISSUER = f"{PROJECT}/auth/v1"
SECRET = "the-project's-shared-secret-of-old-days"
SHARED = OctKey.import_key(SECRET)
CURVED = ECKey.generate_key("P-256", {"kid": "ec-1"})
ROUND = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ALICE = UUID("5c1f0e7e-0000-4000-8000-00000000a11c")
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
AT = int(NOW.timestamp())
CLAIMS = {
    "iss": ISSUER,
    "aud": "authenticated",
    "sub": str(ALICE),
    "role": "authenticated",
    "exp": AT + 3600,
    "iat": AT,
    "email": "alice@example.com",
}


class Project:
    """The project's JWKS endpoint, as an http that counts."""

    def __init__(self, *keys) -> None:
        self.page: object = {"keys": [key.as_dict(private=False) for key in keys]}
        self.asked: list[str] = []

    def request(self, method, url, *, headers, deadline, body=None, **_: object) -> Response:
        """As the real one; only reads are expected."""
        assert ("GET", None, "application/json") == (method, body, headers["Accept"])
        assert deadline.remaining() <= 10
        self.asked.append(url)
        if isinstance(self.page, Exception):
            raise self.page
        return Response(200, {}, json.dumps(self.page).encode())


@pytest.fixture
def project():
    return Project(CURVED, ROUND)


def believing(
    project: object,
    *,
    secret: str | None = SECRET,
    url: str | None = PROJECT,
    clock=time.monotonic,
    anonymous_users: bool = False,
) -> Identity:
    environ = {"GATEWAY_KEYS": Fernet.generate_key().decode(), "GATEWAY_ANONYMOUS_USERS": str(int(anonymous_users))}
    environ |= {"SUPABASE_URL": url} if url else {}
    environ |= {"SUPABASE_JWT_SECRET": secret} if secret else {}
    return Identity(read_settings(environ), Issuers(project, clock))


@pytest.fixture
def identity(project):
    return believing(project)


def token(changes=(), key=CURVED, alg="ES256", **header) -> str:
    claims = {name: value for name, value in {**CLAIMS, **dict(changes)}.items() if value is not ...}
    named = {} if key is SHARED else {"kid": key.kid}
    return jwt.encode({"alg": alg, "typ": "JWT", **named, **header}, claims, key, algorithms=[alg])


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def handmade(header: dict[str, object], secret: bytes | None = None, claims: object = CLAIMS) -> str:
    """A token as no library would make it, signed with HMAC or not at all."""
    message = f"{part(header)}.{part(claims)}"
    return f"{message}.{part(hmac.digest(secret, message.encode(), 'sha256')) if secret else ''}"


def refuses(identity: Identity, value: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        identity.read_access_token(value, now=NOW)
    assert Unauthenticated is type(refused.value)
    assert str(ALICE) not in str(refused.value)


# -- believed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "alg"), [(SHARED, "HS256"), (CURVED, "ES256"), (ROUND, "RS256")], ids=["HS256", "ES256", "RS256"]
)
def test_an_access_token_of_the_project_proves_its_user(identity, key, alg):
    """
    `sub` is who it is, the e-mail is how to call them, `exp` is until when.
    """
    proof = identity.read_access_token(token(key=key, alg=alg), now=NOW)

    assert (ALICE, "alice@example.com", NOW + timedelta(hours=1)) == (proof.user.id, proof.user.label, proof.expires_at)


def test_keys_are_asked_of_the_project_alone(identity, project):
    """
    At the issuer's well-known place, whatever the token says.
    """
    identity.read_access_token(token(jku="https://attacker.example/jwks", x5u="https://attacker.example/x"), now=NOW)

    assert [f"{ISSUER}/.well-known/jwks.json"] == project.asked


def test_a_shared_secret_needs_no_keys_from_the_network(identity, project):
    """
    A legacy project publishes none.
    """
    identity.read_access_token(token(key=SHARED, alg="HS256"), now=NOW)

    assert [] == project.asked


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"email": "", "phone": "+41790000000"}, "+41790000000"),
        ({"email": ..., "phone": ...}, str(ALICE)),
        ({"email": "a\r\nb"}, str(ALICE)),
        ({"email": "x" * 201}, str(ALICE)),
        ({"email": ["alice"]}, str(ALICE)),
        ({"email": "alice\u202e@example.com"}, str(ALICE)),
    ],
    ids=str,
)
def test_a_label_is_for_people_and_never_strange(identity, changes, label):
    """
    Nothing unprintable reaches a page; without a name the id is shown.
    """
    assert label == identity.read_access_token(token(changes), now=NOW).user.label


def test_small_differences_of_clocks_are_forgiven_for_the_beginning_only(identity):
    """
    A minute into the future for iat and nbf; not a second after exp.
    """
    assert identity.read_access_token(token({"iat": AT + 50, "nbf": AT + 50}), now=NOW)
    refuses(identity, token({"exp": AT}))


# -- not believed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://attacker.supabase.co/auth/v1"},
        {"iss": ISSUER + "/"},
        {"iss": PROJECT},
        {"iss": "supabase"},
        {"iss": [ISSUER]},
        {"iss": ...},
        {"aud": "authenticated "},
        {"aud": "Authenticated"},
        {"aud": "anon"},
        {"aud": ""},
        {"aud": ...},
        {"aud": None},
        {"aud": ["authenticated"]},
        {"aud": ["authenticated", "other"]},
        {"aud": {"authenticated": 1}},
        {"role": "service_role"},
        {"role": "anon"},
        {"role": "supabase_admin"},
        {"role": ...},
        {"role": ["authenticated"]},
        {"sub": ...},
        {"sub": None},
        {"sub": ""},
        {"sub": "alice"},
        {"sub": 7},
        {"sub": str(ALICE) + " "},
        {"sub": ALICE.hex},
        {"sub": "{" + ALICE.hex + "}--"},
        {"sub": "0_0_0_0_-" + ALICE.hex[:24] + "---"},
        {"sub": "urn:" + ALICE.hex},
        {"exp": ...},
        {"exp": None},
        {"exp": AT - 1},
        {"exp": AT},
        {"exp": 0},
        {"exp": -1},
        {"exp": AT + 400 * 86_400},
        {"exp": 10**18},
        {"exp": 10**400},
        {"exp": AT + 3600.5},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": str(AT + 3600)},
        {"exp": True},
        {"nbf": AT + 3600},
        {"nbf": "now"},
        {"nbf": float("nan")},
        {"nbf": None},
        {"iat": AT + 3600},
        {"iat": "now"},
        {"iat": True},
        {"client_id": "9a8b7c6d-0000-4000-8000-00000000c0de"},
        {"client_id": ""},
        {"client_id": ["x"]},
        {"client_id": 0},
        {"client_id": False},
        {"is_anonymous": True},
        {"is_anonymous": "true"},
        {"is_anonymous": 1},
        {"is_anonymous": {"since": 1}},
    ],
    ids=lambda changes: str(changes)[:60],
)
@pytest.mark.parametrize(("key", "alg"), [(SHARED, "HS256"), (CURVED, "ES256")], ids=["HS256", "ES256"])
def test_a_token_with_a_wrong_claim_is_refused_though_its_signature_holds(identity, changes, key, alg):
    """
    RFC 8725 section 3: a right key says who wrote it, not what it is for.
    """
    refuses(identity, token(changes, key, alg))


@pytest.mark.parametrize(
    ("changes", "claim", "told"),
    [
        ({"iss": "http://127.0.0.1:54321/auth/v1"}, "iss", f"found 'http://127.0.0.1:54321/auth/v1', expected {ISSUER}"),
        ({"iss": None}, "iss", f"found none, expected {ISSUER}"),
        ({"aud": "another"}, "aud", "found 'another', expected authenticated"),
        ({"aud": ["authenticated"]}, "aud", "found ['authenticated'], expected authenticated"),
        ({"role": "support_agent"}, "role", "found 'support_agent', expected authenticated"),
        ({"exp": AT - 90}, "exp", "expired 90 s ago by this machine's clock"),
        ({"exp": "soon"}, "exp", "found 'soon', expected seconds since 1970"),
        ({"exp": AT + 10**9}, "exp", "within 30 days"),
        ({"iat": AT + 90}, "iat", "90 s in the future (60 s are tolerated)"),
        ({"nbf": AT + 95}, "nbf", "95 s in the future"),
        ({"sub": "alice"}, "sub", "the id of a user"),
    ],
)  # fmt: skip
def test_a_wrong_claim_is_named_with_what_was_found_and_expected(identity, changes, claim, told):
    """
    In the log. A stranger's response has the name of the claim, and neither value.
    """
    with pytest.raises(Unauthenticated) as refused:
        identity.read_access_token(token(changes), now=NOW)

    assert f"claim {claim}: " in str(refused.value)
    assert told in str(refused.value)
    assert refused.value.detail.startswith(f"The claim `{claim}` of the access token is not accepted here.")
    assert Unauthenticated.detail != refused.value.detail


def test_anonymous_users_are_believed_only_where_a_setting_says_so(project):
    """
    The setting lets no third-party app in, and claims of the usual kind are none of either.
    """
    allowing = believing(project, anonymous_users=True)

    assert ALICE == allowing.read_access_token(token({"is_anonymous": True}), now=NOW).user.id
    refuses(allowing, token({"is_anonymous": True, "client_id": "app"}))
    assert believing(project).read_access_token(token({"is_anonymous": False, "client_id": None}), now=NOW)


@pytest.mark.parametrize(
    ("secret", "key", "alg", "told"),
    [
        (None, SHARED, "HS256", "SUPABASE_JWT_SECRET is not set"),
        ("another-secret-of-at-least-32-bytes!", SHARED, "HS256", "SUPABASE_JWT_SECRET is not the secret"),
        (SECRET, ECKey.generate_key("P-256", {"kid": "ec-1"}), "ES256", "no key that the project in SUPABASE_URL publishes"),
    ],
)  # fmt: skip
def test_a_wrong_signature_names_the_setting_to_check(project, secret, key, alg, told):
    """
    In the log: a forgotten shared secret looks like any forgery to a user.
    """
    with pytest.raises(Unauthenticated, match=told):
        believing(project, secret=secret).read_access_token(token(key=key, alg=alg), now=NOW)


def test_the_public_anon_key_signs_in_no_user(identity):
    """
    It is in every front end, with a valid signature: no user, no audience, another role.
    """
    refuses(
        identity,
        handmade(
            {"alg": "HS256", "typ": "JWT"},
            SECRET.encode(),
            {"iss": "supabase", "ref": "x", "role": "anon", "iat": AT, "exp": AT + 10**8},
        ),
    )
    refuses(identity, handmade({"alg": "HS256"}, SECRET.encode(), {**CLAIMS, "role": "anon", "sub": None}))
    refuses(identity, handmade({"alg": "HS256"}, SECRET.encode(), {**CLAIMS, "role": "service_role"}))


def test_an_id_token_of_a_provider_is_no_access_token(identity):
    """
    Another issuer signed it, for another audience.
    """
    google = RSAKey.generate_key(2048, {"kid": "rsa-1"})

    refuses(identity, token({"iss": "https://accounts.google.com", "aud": "client-id"}, google, "RS256"))
    refuses(identity, token({}, google, "RS256"))


@pytest.mark.parametrize(
    "alg", ["none", "None", "nOnE", "NONE", "", None, 7, "HS512", "HS384", "RS384", "ES512", "PS256", "EdDSA", "dir"]
)
@pytest.mark.parametrize("secret", [None, SECRET.encode()], ids=["unsigned", "signed"])
def test_an_algorithm_that_is_not_ours_is_refused(identity, alg, secret):
    """
    RFC 8725 section 3.1: which algorithms count is not the token's to say.
    """
    for named in ({}, {"kid": "rsa-1"}, {"kid": "ec-1"}):
        refuses(identity, handmade({"alg": alg, **named}, secret))
    refuses(identity, handmade({"kid": "rsa-1"}, secret))


@pytest.mark.parametrize("secret", [None, SECRET], ids=["by JWKS", "with a shared secret"])
def test_a_public_key_is_no_shared_secret(project, secret):
    """
    Signing HS256 with what everybody can fetch: as PEM, DER or JWK.
    """
    identity = believing(project, secret=secret)
    for key in (ROUND, CURVED):
        entry = key.as_dict(private=False)
        forms = (
            key.as_pem(private=False),
            key.as_pem(private=False).strip(),
            key.as_der(private=False),
            json.dumps(entry).encode(),
        )
        for form in forms:
            refuses(identity, handmade({"alg": "HS256", "kid": key.kid}, form))
            refuses(identity, handmade({"alg": "HS256"}, form))


def test_a_key_counts_only_with_an_algorithm_of_its_kind(identity):
    """
    RFC 8725 section 3.2: an RSA key under an ES256 header, and the other way round.
    """
    for alg, kid in (("ES256", "rsa-1"), ("RS256", "ec-1"), ("HS256", "rsa-1")):
        head, _, signature = token().split(".")
        refuses(identity, f"{part({'alg': alg, 'kid': kid})}.{part(CLAIMS)}.{signature}")
        refuses(identity, f"{head}.{part(CLAIMS)}.")


def test_a_key_that_the_token_brings_along_is_not_used(identity):
    """
    CVE-2026-27962: `jwk`, `jku` and `x5u` are the attacker's to write.
    """
    theirs = ECKey.generate_key("P-256", {"kid": "ec-1"})
    for extra in (
        {"jwk": theirs.as_dict(private=False)},
        {"jku": "https://attacker.example/jwks"},
        {"x5u": "https://attacker.example/x"},
        {"x5c": ["MIIB"]},
    ):
        refuses(identity, token({}, theirs, **extra))


def test_an_extension_that_we_do_not_understand_is_refused(identity):
    """
    RFC 7515 section 4.1.11, also where the signature holds.
    """
    for header in (
        {"alg": "HS256", "crit": ["x"], "x": 1},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "crit": "x"},
        {"alg": "HS256", "crit": {"x": 1}},
    ):
        refuses(identity, handmade(header, SECRET.encode()))


@pytest.mark.parametrize(
    "kid",
    ["../../dev/null", "' or 1=1 --", "k" * 10_240, "", 7, None, ["ec-1"], {"a": 1}, "\x00", "ec-1 "],
    ids=lambda kid: ascii(kid)[:20],
)
def test_a_strange_key_id_finds_no_key(identity, kid):
    """
    It is compared, and never a path or a query.
    """
    _, claims, signature = token().split(".")
    refuses(identity, f"{part({'alg': 'ES256', 'kid': kid})}.{claims}.{signature}")


def test_a_changed_token_is_refused(identity):
    """
    Header, claims or signature.
    """
    head, claims, signature = token().split(".")
    refuses(identity, f"{head}.{part({**CLAIMS, 'sub': str(UUID(int=7))})}.{signature}")
    refuses(identity, f"{part({'alg': 'ES256', 'kid': 'ec-1', 'x': 1})}.{claims}.{signature}")
    refuses(identity, f"{head}.{claims}.{signature[:-4]}AAAA")
    refuses(identity, f"{head}.{claims}.")


def test_an_encrypted_token_is_refused(identity):
    """
    A JWE is something else, even under our secret.
    """
    key = OctKey.import_key(SECRET.encode()[:32])
    refuses(identity, jwe.encrypt_compact({"alg": "dir", "enc": "A128CBC-HS256"}, json.dumps(CLAIMS), key))


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            ".",
            "..",
            "...",
            "....",
            "a",
            "a.b",
            "a.b.c",
            "a.b.c.d.e",
            " ",
            "\x00",
            "\u00e9.\u00e9.\u00e9",
            "\ud800.a.b",
        ),
        "eyJhbGciOiJIUzI1NiJ9..",
        "e30.e30.e30",
        "bnVsbA.bnVsbA.bnVsbA",
        "W10.W10.W10",
        part(b"[" * 5000) + ".e30.e30",
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_garbage_is_refused_like_any_other_token(identity, value):
    """
    One kind of failure, no traceback.
    """
    refuses(identity, value)


@pytest.mark.parametrize("claims", [b"[]", b"null", b'"x"', b"7", b"\xff", b"{", b"[" * 3000], ids=ascii)
def test_claims_that_are_no_object_are_refused_under_a_good_signature(identity, claims):
    """
    Also those nested without end.
    """
    refuses(identity, handmade({"alg": "HS256"}, SECRET.encode(), claims))
    refuses(identity, jws.serialize_compact({"alg": "ES256", "kid": "ec-1"}, claims, CURVED))


def test_an_endless_token_is_refused_at_once(identity):
    """
    CVE-2025-61920: its length is judged before anything of it is decoded.
    """
    endless = "A" * 5_000_000
    spent = []
    for _ in range(3):
        began = time.thread_time()
        for value in (
            f"{endless}.e30.e30",
            f"eyJhbGciOiJIUzI1NiJ9.{endless}.AA",
            f"eyJhbGciOiJIUzI1NiJ9.e30.{endless}",
        ):
            refuses(identity, value)
        spent.append(time.thread_time() - began)
    assert min(spent) < 0.5


# -- the project's keys ----------------------------------------------------------------------------------------------


def test_a_thousand_strangers_cause_one_fetch(identity, project):
    """
    Random key ids, one after the other.
    """
    identity.read_access_token(token(), now=NOW)
    for number in range(1000):
        refuses(identity, handmade({"alg": "ES256", "kid": f"random-{number}"}))

    assert 1 == len(project.asked)


def test_a_symmetric_key_in_the_published_set_signs_nothing(project):
    """
    Everybody could read it there.
    """
    published = OctKey.generate_key(256, {"kid": "oct-1"})
    project.page = {"keys": [published.as_dict(), *project.page["keys"]]}
    identity = believing(project, secret=None)

    assert identity.read_access_token(token(), now=NOW)
    refuses(identity, token({}, published, "HS256"))


def test_users_stay_signed_in_while_the_project_s_keys_cannot_be_had(project):
    """
    The last valid set stays in use; without one, the error is the project's and not the user's.
    """
    seconds = [0.0]
    identity = believing(project, clock=lambda: seconds[0])
    assert identity.read_access_token(token(), now=NOW)

    project.page = ProviderUnavailable("slow")
    seconds[0] += 86_400
    assert identity.read_access_token(token(), now=NOW)
    assert 2 == len(project.asked)
    with pytest.raises(ProviderUnavailable):
        believing(project).read_access_token(token(), now=NOW)


def test_keys_are_never_fetched_over_plain_http_without_leave():
    """
    Even on loopback the operator has to allow it; the connection is not made.
    """
    http = HttpClient()
    try:
        with pytest.raises(ProviderUnavailable):
            believing(http, secret=None, url="http://127.0.0.1:9").read_access_token(
                token({"iss": "http://127.0.0.1:9/auth/v1"}), now=NOW
            )
    finally:
        http.close()


def test_without_a_project_no_token_is_accepted(project):
    """
    No SUPABASE_URL, no issuer, no user.
    """
    refuses(believing(project, secret=None, url=None), token())
    refuses(believing(project, secret=None), token(key=SHARED, alg="HS256"))
    assert len(project.asked) <= 1
