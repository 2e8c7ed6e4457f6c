"""Lenient with what does no harm, strict with what is trusted: token responses, account responses, errors."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from gateway.catalog import Provider, load_catalog
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    NeedsReauthorization,
    ProviderGarbled,
    ProviderUnavailable,
    Suspended,
)
from gateway.protocol.oauth import find_grant, parse_authorization_response, parse_token_response
from tests.support.odd_responses import HARMLESS, HOSTILE, said

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GHL = load_catalog().providers.get("ghl")
ACME = Provider(
    id="acme",
    name="Acme",
    type=2,
    slug="acme",
    authorization_endpoint="https://login.acme.example/authorize",
    token_endpoint="https://login.acme.example/token",
)


def parsed(body: bytes, status: int = 200, provider: Provider = ACME, **named):
    return parse_token_response(provider, status, body, now=NOW, scope=("mail.read",), **named)


@pytest.mark.parametrize("name", HARMLESS)
def test_an_odd_token_response_that_does_no_harm_is_accepted(name):
    """
    The tokens are read as they are; a lifetime that cannot be read is unknown.
    """
    body, lifetime = HARMLESS[name]

    grant = parsed(body)

    assert grant.access_token.startswith("at-1")
    assert grant.refresh_token in ("rt-1", None)
    assert lifetime == (grant.expires_at and (grant.expires_at - NOW).total_seconds())
    assert grant.scope
    assert all(word.isprintable() for word in grant.scope)


@pytest.mark.parametrize("expires", ["Sun, 01 Jan 2027 00:00:00 GMT", "2026-01-01T00:00:00Z", None, "never"])
def test_a_lifetime_that_the_catalogue_knows_counts_where_the_response_has_none_that_can_be_read(expires):
    """
    A token without an end would be handed out when it is long dead.
    """
    provider = ACME.model_copy(update={"access_token_seconds": 7200})

    assert 7200 == (parsed(said("expires_in", expires=expires), provider=provider).expires_at - NOW).total_seconds()
    assert parsed(said(expires_in=0), provider=provider).expires_at is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_response_is_refused(name):
    """
    No token that could break a header or a row, none of two, none of a type that is not sent as Bearer.
    """
    with pytest.raises(GatewayError) as refused:
        parsed(HOSTILE[name])

    assert type(refused.value) in (ProviderGarbled, AccessDenied)
    assert "at-1" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "granted"),
    [
        ("mail.read,mail.send", ("mail.read", "mail.send")),
        (["mail.read", "mail.send"], ("mail.read", "mail.send")),
        (["mail.read mail.send", None], ("mail.read", "mail.send")),
        ("mail.send a\0b", ("mail.send",)),
        ("mail.send;MAIL.READ", ("mail.send", "mail.read")),
        ('["mail.read", "mail.send"]', ("mail.read", "mail.send")),
        ("mail.read|mail.send", ("mail.read", "mail.send")),
        (None, ("mail.read",)),
        ("", ("mail.read",)),
        ([], ("mail.read",)),
        ({"mail": "read"}, ("mail.read",)),
        (7, ("mail.read",)),
    ],
    ids=str,
)
def test_scopes_are_read_in_every_form_and_else_are_those_requested(given, granted):
    """
    RFC 6749 section 3.3.
    """
    assert granted == parsed(said(scope=given)).scope
    assert granted == parsed(said("scope", scopes=given)).scope


def test_an_agency_with_2_800_locations_is_read():
    """
    HighLevel's response grows by 23 bytes for each; what no agency has is cut.
    """
    ids = [f"BBBBlocation{number:08}" for number in range(40_000)]
    body = said(userType="Company", companyId="com1", approvedLocations=ids, isBulkInstallation=True)

    facts = parsed(body, provider=GHL).facts

    assert 900_000 < len(body) < GHL.response_bytes
    assert ("Company", "com1", True) == (facts["userType"], facts["companyId"], facts["isBulkInstallation"])
    assert ids[:10_000] == facts["approvedLocations"]


@pytest.mark.parametrize(
    ("body", "access", "refresh"),
    [
        (b'{"access_token": "a\\/1", "refresh_token": "r-1", "x', "a/1", "r-1"),
        (b'[{"accessToken": "a-1"}]', "a-1", None),
        (b'{"data": {"data": {"access_token": "a-1"}}}', "a-1", None),
        (b'{"access_token": "a\\nb", "refresh_token": "r-1"}', "", "r-1"),
        (b'{"access_token": "a-1", "refresh_token": ["r-1"]}', "a-1", None),
        (b"access_token=a%2B1&x=%zz&=", "a+1", None),
        (b"<html>" + said(), "at-1", "rt-1"),
        (said() + b"\0" * 9, "at-1", "rt-1"),
        (said(error="invalid_grant"), "at-1", "rt-1"),
        (b"{" * 5000 + said(), "at-1", "rt-1"),
        (b"<t><access_token>a-1</access_token><refresh_token>r-1</refresh_token></t>", "a-1", "r-1"),
        (b"access_token: a-1\nrefresh_token: r-1\n", "a-1", "r-1"),
        (b'{"access-token": "a-1", "refresh-token": "r-1"', "a-1", "r-1"),
        (b'{"data": "{\\"access_token\\":\\"a\\\\\\/1\\",\\"refresh_token\\":\\"r\\\\u003d\\"}"}', "a/1", "r="),
    ],
    ids=str,
)
def test_tokens_in_a_response_that_cannot_be_read_are_found_to_be_revoked(body, access, refresh):
    """
    However broken it is: the provider has issued them.
    """
    grant = find_grant(body)

    assert (access, refresh) == (grant.access_token, grant.refresh_token)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{}", b'{"access_token": 7}', b'{"error": "invalid_grant"}', b"\xff\0"),
        *(b"Invalid refresh_token: not found", b"<p>refresh_token: expired</p>", b"refresh_token=rt-1&error=locked"),
    ],
)
def test_a_response_without_tokens_leaves_nothing_to_revoke(body):
    """
    The journal may forget it. A sentence about a refresh token has none, and what is sent next must not be a word of it.
    """
    assert find_grant(body) is None


DEAD = [
    {"error": "invalid_grant"},
    {"error": "INVALID_GRANT"},
    {"error": "invalid-grant"},
    {"error": "InvalidGrant"},
    {"error": "invalid_grant: Token has been expired or revoked."},
    {"error": "invalid_request", "error_code": "refresh_token_expired"},
    {"error": {"code": "INVALID_GRANT", "message": "x"}},
    {"error": {"type": "invalid_request_error", "code": "refresh_token_reused", "message": "x"}},  # OpenAI
    {"errors": [{"code": "token_revoked"}]},
    {"errors": ["invalid_refresh_token"]},
    {"errorCode": "token_expired"},
    {"error_code": "REFRESH_TOKEN_NOT_FOUND"},
    {"code": "expired_token", "message": "x"},
    {"status": "BAD_REFRESH_TOKEN", "message": "missing or unknown refresh token"},  # HubSpot
    {"Code": 122, "Message": "Revoked OAuth Token"},  # Campaign Monitor
    {"ok": False, "error": "invalid_refresh_token"},  # Slack
    {"ok": False, "error": "token_revoked"},
    {"ok": False, "error": "account_inactive"},
    {"error": "invalid_code"},  # Zoho
    {"message": "The refresh token is invalid or expired."},
    {"message": "Refresh token has already been used"},
    {"data": {"error": "refresh_token_revoked"}},
    {
        "error": "invalid_request",
        "error_description": "The provided authorization grant or refresh token is invalid, expired or revoked",
    },  # LinkedIn
    {"fault": {"faultstring": "Invalid Refresh Token", "detail": {"errorcode": "x"}}},  # Apigee, Keap
    {"fault": {"faultstring": "x", "detail": {"errorcode": "refresh_token_expired"}}},
    {"error": "unauthorized_client", "error_description": "refresh_token is invalid"},  # Atlassian
    {"error": "invalid_request", "error_description": "Value passed for the token was invalid."},  # X
    {"error": "invalid_request", "error_description": "This request requires an active refresh_token"},  # Shopify
    {"errors": [{"resource": "RefreshToken", "field": "refresh_token", "code": "invalid"}]},  # Strava
    {"errors": {"refresh_token": ["is invalid"]}},  # Rails
    {"refresh_token": ["This token is invalid."]},  # Django
    {"error": {".tag": "expired_access_token"}},  # Dropbox
    {"error": "Couldn't find that refresh token"},  # Heroku
    {"msg": "Invalid Refresh Token: Refresh Token Not Found"},  # Supabase
    {"detail": "Token is blacklisted", "code": "token_not_valid"},
    {"message": "Refresh token expired at 2026-01-01T00:00:00Z"},
    {"message": "No such refresh token"},
    {"message": "The refresh token could not be found."},
    {"message": "The refresh token you provided has expired"},
    {"message": "Refresh token was already redeemed"},
    {"message": "Cannot find a refresh token for this session"},
    {"error": "invalid_request", "error_description": "expired access/refresh token"},  # Salesforce
    {"errcode": 40030, "errmsg": "invalid refresh_token"},  # WeChat
    {"error": {"error_msg": "Invalid refresh token", "error_name": "unauthorized"}},  # Dropbox Sign
    {"message": "Refresh token is no longer valid"},
    {"message": "Refresh token doesn't exist"},
    {"message": "Refresh token mismatch"},
    {"message": "The user has revoked access to the application"},
    {"error": "refresh_token_invalidated"},
    {"error": "reauthorization_required"},
    {"response": {"error": "invalid_grant"}},
    [{"error": "invalid_grant"}],
    b"Invalid refresh token\n",
    b"error=invalid_grant&error_description=x",
    {"error": "interaction_required"},  # Microsoft
    {"error": "consent_required"},
]


@pytest.mark.parametrize("status", [200, 400, 401, 403])
@pytest.mark.parametrize("body", DEAD, ids=str)
def test_a_dead_grant_is_known_by_every_name_and_shape(body, status):
    """
    Of a stored grant, its user has to connect again.
    """
    with pytest.raises(NeedsReauthorization) as refused:
        parsed(body if isinstance(body, bytes) else json.dumps(body).encode(), status, refused=NeedsReauthorization)

    assert status == refused.value.provider_status


ALIVE = [
    (400, {"error": "invalid_client"}, ClientRejected),
    (400, {"error": "INVALID_CLIENT"}, ClientRejected),
    (
        400,
        {"error": "unauthorized_client", "error_description": "The client may not use this grant type"},
        ClientRejected,
    ),
    (401, {"error": "invalid_client", "error_description": "The refresh token is invalid"}, ClientRejected),
    (400, {"message": "Missing required parameter: refresh_token"}, ClientRejected),
    (400, {"errors": [{"field": "client_id", "code": "invalid"}]}, ClientRejected),
    (
        400,
        {"error": "invalid_request", "message": "Refresh token grant is not enabled: invalid request"},
        ClientRejected,
    ),
    (400, {"message": "Failed to refresh token: app is not found"}, ProviderGarbled),
    (400, {"message": "Could not find the tenant for this refresh token"}, ProviderGarbled),
    (400, {"message": "Invalid host for refresh token"}, ProviderGarbled),
    (400, {"message": "Certificate expired while calling refresh token service"}, ProviderGarbled),
    (400, {"message": "Error while an already used refresh token was looked up"}, ProviderGarbled),
    (400, {"message": "The refresh token is valid, and the user service does not answer"}, ProviderGarbled),
    (401, {"message": "Unable to refresh token: invalid API key"}, ClientRejected),
    (401, {"message": "The token is expired, of the client assertion"}, ClientRejected),
    (404, {"message": "/oauth/refresh_token not found"}, ProviderGarbled),
    (404, {"message": "Cannot POST /refreshToken: not found"}, ProviderGarbled),
    (403, b"<html>The token is invalid</html>", ProviderUnavailable),
    (400, {"error": "bad_client_secret"}, ClientRejected),
    (400, {"error": "incorrect_client_credentials"}, ClientRejected),
    (400, {"error": "unsupported_grant_type"}, ClientRejected),
    (400, {"error": "invalid_grant_type"}, ClientRejected),
    (400, {"error": "invalid_request"}, ClientRejected),
    (400, {"error": {"code": "VALIDATION_ERROR"}}, ClientRejected),
    (400, {"error": "invalid_code_verifier"}, ClientRejected),
    (422, {"message": ["grant_type should not be empty"], "error": "Unprocessable Entity"}, ClientRejected),
    (401, {"message": "Unauthorized"}, ClientRejected),
    (401, b"", ClientRejected),
    (400, {"error": "temporarily_unavailable"}, ProviderUnavailable),
    (400, {"error": "SLOW_DOWN"}, ProviderUnavailable),
    (400, {"error": {"code": "RATE_LIMIT_EXCEEDED"}}, ProviderUnavailable),
    (200, {"ok": False, "error": "ratelimited"}, ProviderUnavailable),
    (
        400,
        {"error": "Access Denied", "error_description": "You have made too many requests continuously."},
        ProviderUnavailable,
    ),  # Zoho
    (429, {"error": "invalid_grant"}, ProviderUnavailable),
    (500, {"error": "invalid_grant"}, ProviderUnavailable),
    (403, b"<!doctype html><title>Attention Required</title>", ProviderUnavailable),
    (401, b"<html>", ProviderUnavailable),
    (403, b"error code: 1020", ProviderUnavailable),
    (502, b"<html>", ProviderUnavailable),
    (400, {"error": "canary"}, ProviderGarbled),
    (400, {"error": {"code": "RESOURCE_NOT_FOUND", "message": "x", "details": {}}}, ProviderGarbled),
    (404, b"<html>", ProviderGarbled),
    (400, {"message": "Missing Authentication Token"}, ProviderGarbled),
    (400, {"error": "invalid_token_type"}, ProviderGarbled),
    (200, {"status": "failure"}, ProviderGarbled),
]


@pytest.mark.parametrize(("status", "body", "kind"), ALIVE, ids=str)
def test_our_faults_their_outages_and_unknown_errors_end_no_grant(status, body, kind):
    """
    Only a refusal of the grant itself ends a connection.
    """
    with pytest.raises(GatewayError) as refused:
        parsed(body if isinstance(body, bytes) else json.dumps(body).encode(), status, refused=NeedsReauthorization)

    assert kind is type(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Invalid grant: refresh token is invalid", NeedsReauthorization),
        ("Invalid parameter: refresh_token", NeedsReauthorization),
        ("Invalid parameter: refreshToken", NeedsReauthorization),
        ("Invalid client: client is invalid", ClientRejected),
        ("Invalid parameter: grantType", ClientRejected),
        ("Missing parameter: clientId", ClientRejected),
        ("Location is not active", Suspended),
        ("location is not active.", Suspended),
        ("The location is not active, please contact support", Suspended),
    ],
)
def test_highlevel_s_sentences_say_who_must_act(message, kind):
    """
    A suspended location comes back to life with the same refresh token.
    """
    body = json.dumps({"statusCode": 400, "message": message, "error": "Bad Request"}).encode()
    with pytest.raises(kind):
        parsed(body, 400, GHL, refused=NeedsReauthorization)
    at_connect = {NeedsReauthorization: AccessDenied, Suspended: ProviderUnavailable}.get(kind, kind)
    with pytest.raises(at_connect):
        parsed(body, 400, GHL)


def test_a_provider_s_own_names_for_a_dead_grant_are_in_the_catalogue():
    """
    Zoom numbers its errors.
    """
    provider = ACME.model_copy(update={"dead_grant": ("4735", "Owner of token is gone")})
    for body in ({"reason": 4735}, {"code": "4735"}, {"error": "owner_of_token_is_gone"}):
        with pytest.raises(NeedsReauthorization):
            parsed(json.dumps(body).encode(), 400, provider, refused=NeedsReauthorization)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ({"error": "invalid_grant"}, "invalid_grant"),
        ({"error": {"code": "RESOURCE_NOT_FOUND", "message": "x"}}, "RESOURCE_NOT_FOUND"),
        ({"error": "invalid_request", "error_code": "refresh_token_expired"}, "refresh_token_expired"),
        ({"error": "AADSTS7000215"}, "AADSTS7000215"),
        ({"error": "Token 3f2b9c4d is unknown"}, None),
        ({"error": "3f2b9c4d5e6f7a8b9c0d3f2b9c4d5e6f7a8b9c0d"}, None),
        ({"error": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2ln"}, None),
        ({"error": "rt-" + "x" * 40}, None),
        ({"error": "<script>"}, None),
        ({"message": "a sentence"}, None),
    ],
    ids=str,
)
def test_an_error_carries_the_provider_s_status_and_a_name_that_is_no_secret(body, shown):
    """
    For the operator: a sentence, or letters and digits that could be a token, stay out.
    """
    with pytest.raises(GatewayError) as refused:
        parsed(json.dumps(body).encode(), 400)

    assert (400, shown) == (refused.value.provider_status, refused.value.provider_error)


@pytest.mark.parametrize(
    "parameters",
    [
        {"error": ["access_denied"]},
        {"error": ["user_cancelled_login"]},  # LinkedIn
        {"error": ["user_cancelled_authorize"]},
        {"error": ["user_denied"]},
        {"error": ["consent_declined"]},
        {"error": ["cancelled"]},
        {"error": ["Canceled"]},
        {"error": ["user-cancel"]},
        {"error": ["authorization_request_declined"]},
        {"error": ["login_aborted"]},
        {"error": ["access_denied"], "error_reason": ["user_denied"]},  # Facebook
        {"error": ["interaction"], "error_subcode": ["cancel"]},  # Microsoft
        {"error_reason": ["user_denied"]},
        {"denied": ["request-token"]},  # Twitter
        {"cancelled": ["1"]},
    ],
    ids=str,
)
def test_a_cancel_by_any_name_is_a_denial(parameters):
    """
    Without the issuer that success must name, too: an error leads to no token request.
    """
    promised = ACME.model_copy(
        update={"issuer": "https://acme.example", "authorization_response_iss_parameter_supported": True}
    )
    for provider in (ACME, promised):
        with pytest.raises(AccessDenied):
            parse_authorization_response(provider, {"state": ["s"], **parameters})
