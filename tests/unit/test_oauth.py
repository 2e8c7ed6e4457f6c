"""The protocol: what is sent, letter by letter, and what of an answer is believed."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from gateway.catalog import Provider, load_catalog
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    IssuerMismatch,
    NeedsReauthorization,
    ProviderGarbled,
    ProviderUnavailable,
    StateInvalid,
)
from gateway.models import Client
from gateway.protocol.message import parse_json
from gateway.protocol.oauth import (
    build_authorization_request,
    build_code_request,
    build_revocation_request,
    parse_authorization_response,
    parse_revocation_response,
    parse_token_response,
    single_parameter,
)

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
REDIRECT = "https://connect.example/email/acme/callback"
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
CLIENT = Client("client-id", "client-secret")
ODD_CLIENT = Client("id:with colon", "s&e=c+r%t/ö")
GHL = load_catalog().providers.get("ghl")


def acme(**more) -> Provider:
    return Provider(**{
        "id": "acme",
        "name": "Acme",
        "type": 2,
        "issuer": "https://login.acme.example",
        "authorization_endpoint": "https://login.acme.example/authorize",
        "token_endpoint": "https://login.acme.example/token",
        "revocation_endpoint": "https://login.acme.example/revoke",
        "scope": ("mail.read", "mail.send"),
        **more,
    })  # fmt: skip


def sent_on(provider: Provider, client: Client = CLIENT) -> dict[str, list[str]]:
    url = build_authorization_request(
        provider, client, redirect_uri=REDIRECT, state="st", code_verifier=VERIFIER, nonce="no"
    )
    return parse_qs(urlsplit(url).query, keep_blank_values=True)


def answer(body, status: int = 200, provider: Provider | None = None, **named):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_token_response(provider or acme(), status, raw, now=NOW, scope=("mail.read",), **named)


# -- authorization request -------------------------------------------------------------------------------------------


def test_an_authorization_request_says_exactly_what_it_has_to():
    """
    RFC 6749 section 4.1.1 and RFC 7636 section 4.3, with the pair of its appendix B; each parameter once.
    """
    assert {
        "response_type": ["code"],
        "client_id": ["client-id"],
        "redirect_uri": [REDIRECT],
        "scope": ["mail.read mail.send"],
        "state": ["st"],
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],
        "code_challenge_method": ["S256"],
    } == sent_on(acme())


def test_a_nonce_goes_along_with_openid_only():
    """
    OpenID Connect Core section 3.1.2.1.
    """
    assert ["no"] == sent_on(acme(scope=("openid",), jwks_uri="https://login.acme.example/jwks"))["nonce"]
    assert "nonce" not in sent_on(acme())


def test_the_verifier_itself_never_goes_through_the_browser():
    """
    Only its hash does.
    """
    url = build_authorization_request(
        acme(), CLIENT, redirect_uri=REDIRECT, state="st", code_verifier=VERIFIER, nonce="no"
    )

    assert VERIFIER not in url
    assert "client-secret" not in url


def test_an_endpoint_keeps_the_query_that_it_has():
    """
    RFC 6749 section 3.1: the authorization endpoint may bring a query of its own.
    """
    found = sent_on(acme(authorization_endpoint="https://login.acme.example/authorize?tenant=a%20b"))

    assert (["a b"], ["st"]) == (found["tenant"], found["state"])


def test_scopes_are_joined_as_the_provider_wants_them_and_left_out_when_there_are_none():
    """
    Zoho wants commas; RingCentral has none to ask for.
    """
    assert ["mail.read,mail.send"] == sent_on(acme(scope_separator=","))["scope"]
    assert "scope" not in sent_on(acme(scope=()))


def test_highlevel_gets_no_challenge_and_its_own_parameter():
    """
    PKCE is not documented there; the space between scopes must not be a literal %2B.
    """
    url = build_authorization_request(
        GHL, CLIENT, redirect_uri=REDIRECT, state="st", code_verifier=VERIFIER, nonce="no"
    )
    found = parse_qs(urlsplit(url).query)

    assert ["self"] == found["loginWindowOpenMode"]
    assert ["locations.readonly contacts.readonly"] == found["scope"]
    assert not {"code_challenge", "code_challenge_method", "nonce"} & set(found)
    assert "%2B" not in url


# -- authorization response ------------------------------------------------------------------------------------------


def test_the_code_of_a_response_is_returned():
    """
    RFC 6749 section 4.1.2; other parameters are ignored.
    """
    assert "c0de" == parse_authorization_response(acme(), {"code": ["c0de"], "state": ["st"], "expires_in": ["60"]})


@pytest.mark.parametrize(
    ("iss", "more"),
    [
        (["https://attacker.example"], {}),
        (["https://login.acme.example/"], {}),
        (["https://LOGIN.acme.example"], {}),
        (["https://login.acme.example", "https://login.acme.example"], {}),
        (["https://login.acme.example", "https://attacker.example"], {}),
        ([""], {}),
        ([], {"authorization_response_iss_parameter_supported": True}),
        (["https://attacker.example"], {"issuer": None}),
        (["attacker"], {"issuer": None}),
        ([""], {"issuer": None}),
        (["https://[login.acme.example"], {"issuer": None}),
        (["https://login.acme.example@attacker.example"], {"issuer": None}),
        (["https://login.acme.example.attacker.example"], {"issuer": None}),
    ],
    ids=str,
)
def test_a_response_from_another_issuer_is_refused_before_anything_of_it_is_believed(iss, more):
    """
    RFC 9207 section 2.4: compared as a string; missing where it was promised, repeated or unreadable is wrong too.
    """
    for content in ({"code": ["c0de"]}, *([{"error": ["access_denied"]}] if iss else [])):
        with pytest.raises(IssuerMismatch):
            parse_authorization_response(acme(**more), {**content, "iss": iss})


def test_the_provider_s_own_issuer_is_believed():
    """
    And a provider without a configured one may name a host that we would have talked to.
    """
    assert "c" == parse_authorization_response(acme(), {"code": ["c"], "iss": ["https://login.acme.example"]})
    assert "c" == parse_authorization_response(
        acme(issuer=None), {"code": ["c"], "iss": ["https://login.acme.example"]}
    )


@pytest.mark.parametrize("name", ["code", "error", "state"])
def test_a_repeated_parameter_is_refused(name):
    """
    RFC 6749 section 3.1: two parsers would pick two different ones.
    """
    parameters = {"code": ["x"], name: ["x", "x"]}
    with pytest.raises(StateInvalid):
        single_parameter(parameters, name)
    if name != "state":
        with pytest.raises(StateInvalid):
            parse_authorization_response(acme(), parameters)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("access_denied", AccessDenied),
        ("consent_required", AccessDenied),
        ("temporarily_unavailable", ProviderUnavailable),
        ("server_error", ProviderUnavailable),
        ("invalid_request", ClientRejected),
        ("unauthorized_client", ClientRejected),
        ("invalid_scope", ClientRejected),
        ("redirect_uri_mismatch", ClientRejected),
        ("", ProviderGarbled),
        ("<script>canary</script>", ProviderGarbled),
    ],
)
def test_an_error_says_who_must_act_and_never_in_the_provider_s_words(error, kind):
    """
    RFC 6749 section 4.1.2.1: the attacker may write all of it, so none of it is repeated; an error beats a code.
    """
    parameters = {"error": [error], "error_description": ["canary"], "error_uri": ["https://canary"], "code": ["x"]}

    with pytest.raises(GatewayError) as refused:
        parse_authorization_response(acme(), parameters)

    assert kind is type(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("code", [[], [""], ["a\r\nb"], ["a\x00"], ["caf\u00e9"], ["x" * 5000]])
def test_a_code_that_is_none_is_refused(code):
    """
    Missing, empty, with control characters or endless.
    """
    with pytest.raises(ProviderGarbled):
        parse_authorization_response(acme(), {"code": code})


# -- token request ---------------------------------------------------------------------------------------------------


def redeemed(provider: Provider, client: Client = CLIENT):
    return build_code_request(provider, client, code="c0de", redirect_uri=REDIRECT, code_verifier=VERIFIER)


def test_a_token_request_carries_code_redirect_and_verifier():
    """
    RFC 6749 section 4.1.3 and RFC 7636 section 4.5, form-encoded.
    """
    wire = redeemed(acme())

    assert ("POST", "https://login.acme.example/token") == (wire.method, wire.url)
    assert "application/x-www-form-urlencoded" in wire.headers["Content-Type"]
    assert "application/json" == wire.headers["Accept"]
    assert [
        ("code", "c0de"),
        ("code_verifier", VERIFIER),
        ("grant_type", "authorization_code"),
        ("redirect_uri", REDIRECT),
    ] == sorted(parse_qsl(wire.body))


def test_highlevel_is_told_the_user_type_and_no_verifier():
    """
    `user_type` is a hint that it wants; credentials stand in the body.
    """
    found = dict(parse_qsl(redeemed(GHL).body))

    assert ("Location", "client-id", "client-secret") == (
        found["user_type"],
        found["client_id"],
        found["client_secret"],
    )
    assert "code_verifier" not in found


def test_basic_credentials_are_form_encoded_before_they_are_joined():
    """
    RFC 6749 section 2.3.1: otherwise a colon in the id would move the border.
    """
    wire = redeemed(acme(token_endpoint_auth_method="client_secret_basic"), ODD_CLIENT)

    kind, _, credentials = wire.headers["Authorization"].partition(" ")
    client_id, secret = base64.b64decode(credentials).decode().split(":")
    assert ("Basic", ODD_CLIENT.client_id, ODD_CLIENT.client_secret) == (
        kind,
        unquote_plus(client_id),
        unquote_plus(secret),
    )
    assert "client_secret" not in wire.body


def test_posted_credentials_are_encoded_and_stand_nowhere_else():
    """
    RFC 6749 section 2.3.1, second way.
    """
    wire = redeemed(acme(token_endpoint_auth_method="client_secret_post"), ODD_CLIENT)

    found = parse_qs(wire.body)
    assert ([ODD_CLIENT.client_id], [ODD_CLIENT.client_secret]) == (found["client_id"], found["client_secret"])
    assert "Authorization" not in wire.headers
    assert "?" not in wire.url


def test_a_public_client_says_who_it_is_and_shows_no_secret():
    """
    RFC 6749 section 3.2.1.
    """
    wire = redeemed(acme(token_endpoint_auth_method="none"))

    assert ["client-id"] == parse_qs(wire.body)["client_id"]
    assert "client-secret" not in wire.body + str(wire.headers) + wire.url


def test_a_signed_assertion_is_for_the_issuer_alone():
    """
    RFC 7523 section 2.2: an authorization server that points to another's token endpoint cannot use it there.
    """
    key = RSAKey.generate_key(2048)
    client = Client("client-id", key.as_pem(private=True).decode())

    found = parse_qs(redeemed(acme(token_endpoint_auth_method="private_key_jwt"), client).body)
    claims = jwt.decode(found["client_assertion"][0], key, algorithms=["RS256"]).claims

    assert ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"] == found["client_assertion_type"]
    assert ("client-id", "client-id", "https://login.acme.example") == (claims["iss"], claims["sub"], claims["aud"])
    assert claims["jti"]
    assert 0 < claims["exp"] - claims["iat"] <= 3600


def test_no_request_shows_its_secrets_when_printed():
    """
    Headers and body stay out of repr.
    """
    shown = repr(redeemed(acme(token_endpoint_auth_method="client_secret_post")))

    assert "c0de" not in shown
    assert "client-secret" not in shown


# -- token response --------------------------------------------------------------------------------------------------


def test_a_token_response_becomes_a_grant():
    """
    RFC 6749 section 5.1; what is no secret is kept apart from what is.
    """
    found = answer({
        "access_token": "at-1",
        "token_type": "bearer",
        "expires_in": 3600,
        "refresh_token": "rt-1",
        "scope": "mail.read mail.read calendar",
        "id_token": "e.y.J",
        "refresh_token_expires_in": 7200,
        "owner": "alice",
    })  # fmt: skip

    assert ("at-1", "rt-1", "e.y.J") == (found.access_token, found.refresh_token, found.id_token)
    assert ("mail.read", "calendar") == found.scope
    assert (NOW + timedelta(hours=1), NOW + timedelta(hours=2)) == (found.expires_at, found.refresh_expires_at)
    assert "alice" == found.rest["owner"]
    assert not {"access_token", "refresh_token", "id_token"} & set(found.rest)
    assert not any(secret in repr(found) for secret in ("at-1", "rt-1", "e.y.J"))


def test_what_a_response_leaves_out_is_what_was_asked_for_or_unknown():
    """
    RFC 6749 sections 3.3 and 5.1.
    """
    grant = answer({"access_token": "at"})

    assert (("mail.read",), None, None, None) == (
        grant.scope,
        grant.expires_at,
        grant.refresh_token,
        grant.refresh_expires_at,
    )


def test_a_refresh_token_lives_as_long_as_the_answer_or_else_the_catalogue_says():
    """
    HighLevel documents a year and says nothing in the answer.
    """
    body = {"access_token": "at", "refresh_token": "rt"}
    provider = acme(refresh_token_seconds=604_800)

    assert NOW + timedelta(days=7) == answer(body, provider=provider).refresh_expires_at
    assert (
        NOW + timedelta(hours=1)
        == answer({**body, "refresh_token_expires_in": 3600}, provider=provider).refresh_expires_at
    )
    assert answer({"access_token": "at"}, provider=provider).refresh_expires_at is None


@pytest.mark.parametrize(
    "token", ["", "a\r\nb", "a\x00b", "a\nb", "caf\u00e9", "\ud800", 7, None, True, ["a"], {"a": 1}], ids=ascii
)
def test_a_token_that_could_break_a_header_or_a_row_is_refused(token):
    """
    RFC 6749 appendix A.12: visible ASCII.
    """
    with pytest.raises(ProviderGarbled):
        answer({"access_token": token})
    if token not in ("", None):
        with pytest.raises(ProviderGarbled):
            answer({"access_token": "at", "refresh_token": token})


def test_only_facts_that_a_row_and_a_page_can_hold_are_kept():
    """
    JSON values stay JSON values: a front end would take "false" for true. Lists have an end; NUL, surrogates and walls of text are left out.
    """
    provider = acme(facts=("plain", "number", "no", "nul", "half", "long", "list", "object", "missing"))

    facts = answer(
        {
            "access_token": "at",
            "plain": "loc 1",
            "number": 7,
            "no": False,
            "nul": "a\x00b",
            "half": "\ud800",
            "long": "x" * 9000,
            "list": [*(f"loc{number}" for number in range(10_500)), {"a": 1}],
            "object": {"a": 1},
        },
        provider=provider,
    ).facts

    assert {"plain", "number", "no", "list"} == set(facts)
    assert ("loc 1", 7, False) == (facts["plain"], facts["number"], facts["no"])
    assert [f"loc{number}" for number in range(10_000)] == facts["list"]


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "invalid_grant"}, AccessDenied),
        (200, {"error": "bad_verification_code"}, AccessDenied),
        (200, {"error": "invalid_grant", "access_token": "at"}, ProviderGarbled),
        (401, {"error": "invalid_client"}, ClientRejected),
        (400, {"error": "invalid_client"}, ClientRejected),
        (401, b"<html>", ProviderUnavailable),
        (401, b"", ClientRejected),
        (403, b"<html>", ProviderUnavailable),
        (403, b"error code: 1020", ProviderUnavailable),
        (422, {"message": ["grant_type should not be empty"]}, ClientRejected),
        (401, {"detail": "who are you?"}, ClientRejected),
        (403, {"message": "no"}, ClientRejected),
        (400, {"error": "unsupported_grant_type"}, ClientRejected),
        (400, {"error": "canary"}, ProviderGarbled),
        (400, {"error": {"code": "canary"}}, ProviderGarbled),
        (400, {}, ProviderGarbled),
        (404, b"not here", ProviderGarbled),
        (200, b"", ProviderGarbled),
        (200, b"<html>ok</html>", ProviderGarbled),
        (200, {}, ProviderGarbled),
        (302, {"access_token": "at"}, ProviderGarbled),
        (307, {"access_token": "at"}, ProviderGarbled),
        (408, b"", ProviderUnavailable),
        (429, {"error": "invalid_grant"}, ProviderUnavailable),
        (500, {"error": "invalid_grant"}, ProviderUnavailable),
        (502, b"<html>", ProviderUnavailable),
        (503, b"", ProviderUnavailable),
        (400, {"error": "temporarily_unavailable"}, ProviderUnavailable),
    ],
    ids=str,
)
def test_a_refusal_says_who_must_act(status, body, kind):
    """
    A grant that is refused, a registration that is wrong, an answer that is none, and trouble that passes.
    """
    with pytest.raises(GatewayError) as refused:
        answer(body, status)

    assert kind is type(refused.value)
    assert "canary" not in str(refused.value)


def test_what_a_refused_grant_means_is_the_caller_s_to_say():
    """
    At the callback the user starts again; of a stored grant the connection needs reauthorization.
    """
    with pytest.raises(NeedsReauthorization):
        answer({"error": "invalid_grant"}, 400, refused=NeedsReauthorization)
    with pytest.raises(ClientRejected):
        answer({"error": "invalid_client"}, 401, refused=NeedsReauthorization)


def test_highlevel_s_camel_case_answer_is_a_grant_like_any_other():
    """
    Under `Version: v3`; its own facts come along.
    """
    found = answer(
        {
            "accessToken": "at",
            "tokenType": "Bearer",
            "expiresIn": 86399,
            "refreshToken": "rt",
            "userType": "Location",
            "locationId": "loc1",
        },
        provider=GHL,
    )

    assert ("at", "rt", NOW + timedelta(seconds=86399)) == (
        found.access_token,
        found.refresh_token,
        found.expires_at,
    )
    assert {"userType": "Location", "locationId": "loc1"} == dict(found.facts)
    assert not {"accessToken", "refreshToken", "access_token", "refresh_token"} & set(found.rest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"{",
        b'{"a": [' + b"0," * 20_000 + b"0]}",
        b"\xff{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda body: ascii(body[:12]),
)
def test_what_is_not_one_json_object_is_garbled(body):
    """
    RFC 8259; a hundred thousand brackets included.
    """
    with pytest.raises(ProviderGarbled):
        parse_json(body)


# -- revocation ------------------------------------------------------------------------------------------------------


def test_a_revocation_request_names_the_token_and_proves_who_asks():
    """
    RFC 7009 section 2.1.
    """
    wire = build_revocation_request(
        acme(token_endpoint_auth_method="client_secret_post"), CLIENT, token="a+b/c=&d", hint="refresh_token"
    )

    assert "https://login.acme.example/revoke" == wire.url
    assert {
        "token": ["a+b/c=&d"],
        "token_type_hint": ["refresh_token"],
        "client_id": ["client-id"],
        "client_secret": ["client-secret"],
    } == parse_qs(wire.body)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (204, b""),
        (200, b"<html>"),
        (200, b'{"error": false, "status": "success"}'),
        (200, b'{"ok": false, "error": "token_revoked"}'),
        (400, b'{"error": "invalid_token"}'),
        (400, b'{"error": "invalid_grant"}'),
    ],
)
def test_a_token_that_is_gone_is_revoked(status, body):
    """
    RFC 7009 section 2.2: that the server does not know it any more is what was wanted.
    """
    assert parse_revocation_response(acme(), status, body) is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"ok": false, "error": "ratelimited"}', ClientRejected),
        (200, b'{"error": "invalid_client"}', ClientRejected),
        (400, b'{"error": "invalid_client"}', ClientRejected),
        (400, b'{"error": "unsupported_token_type"}', ClientRejected),
        (400, b'{"error": "unauthorized_client"}', ClientRejected),
        (400, b'{"error": "invalid_request"}', ClientRejected),
        (400, b"<html>Bad Request</html>", GatewayError),
        (400, b"", GatewayError),
        (401, b"", ClientRejected),
        (403, b"", ClientRejected),
        (302, b"", GatewayError),
        (404, b"", GatewayError),
        (429, b"", ProviderUnavailable),
        (503, b"", ProviderUnavailable),
    ],
)
def test_a_token_that_may_still_live_does_not_count_as_revoked(status, body, kind):
    """
    A receipt that says "done" has to be true; anything else is tried again.
    """
    with pytest.raises(kind):
        parse_revocation_response(acme(), status, body)
