"""Named deviations: each does what the provider's documentation says, and leaves everything else alone."""

from __future__ import annotations

import pytest

from gateway.quirks import QUIRKS, camel_case_answers, highlevel_account, message_errors

API = "https://services.leadconnectorhq.com"


def test_camel_case_answers_are_read_as_the_standard_writes_them():
    """
    HighLevel under `Version: v3`: the tokens change their names, its own facts keep theirs.
    """
    answer = {"accessToken": "a", "tokenType": "Bearer", "expiresIn": 86399, "refreshToken": "r", "idToken": "i", "userType": "Location"}

    assert {
        "access_token": "a",
        "token_type": "Bearer",
        "expires_in": 86399,
        "refresh_token": "r",
        "id_token": "i",
        "userType": "Location",
    } == camel_case_answers(answer)


def test_standard_answers_pass_camel_case_untouched():
    """
    Both shapes are taken, since the header decides and not the URL.
    """
    answer = {"access_token": "a", "refresh_token": "r", "refreshTokenId": "64b0", "companyId": "c"}

    assert answer == camel_case_answers(answer)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Invalid grant: refresh token is invalid", "invalid_grant"),
        ("Invalid grant: authorization code is invalid", "invalid_grant"),
        ("Invalid client: client is invalid", "invalid_client"),
        ("Invalid parameter: grantType", "invalid_request"),
        ("Missing parameter: clientId", "invalid_request"),
        ("API endpoint has been removed", "invalid_request"),
        ("Location is not active", "temporarily_unavailable"),
    ],
)
def test_message_errors_say_who_must_act(message, error):
    """
    A suspended location comes back to life with the same refresh token: that is waiting, not reconnecting.
    """
    assert error == message_errors({"statusCode": 400, "message": message})["error"]


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "temporarily_unavailable"])
def test_a_standard_error_with_a_message_beside_it_keeps_its_code(error):
    """
    HighLevel has answered both shapes: the code of the standard is worth more than a sentence.
    """
    answer = {"error": error, "error_description": "x", "message": "refresh token is invalid", "statusCode": 400}

    assert error == message_errors(answer)["error"]


def test_an_http_phrase_in_place_of_an_error_code_is_not_one():
    """
    `"error": "Unauthorized"` beside a message is the status again, in words.
    """
    assert "invalid_grant" == message_errors({"message": "Invalid grant: x", "error": "Bad Request", "statusCode": 400})["error"]


@pytest.mark.parametrize(
    "answer",
    [
        {"access_token": "a", "message": "Invalid grant"},
        {"error": "invalid_grant"},
        {"statusCode": 422, "message": ["grant_type should not be empty"], "error": "Unprocessable Entity"},
        {},
    ],
)
def test_message_errors_leave_everything_else_alone(answer):
    """
    A token answer is never turned into an error.
    """
    assert answer == message_errors(answer)


def test_a_location_and_a_company_are_told_apart_by_user_type_alone():
    """
    Location tokens carry `companyId` too; mistaking one for the other has taken an integrator down.
    """
    location = highlevel_account(API, {"userType": "Location", "locationId": "loc1", "companyId": "com1"})
    company = highlevel_account(API, {"userType": "Company", "companyId": "com1", "locationId": "loc1"})

    assert (f"{API}/locations/loc1", ("locationId",), ("location.name",)) == (location.url, location.id, location.label)
    assert (f"{API}/companies/com1", ("companyId",), ("company.name",)) == (company.url, company.id, company.label)


@pytest.mark.parametrize("hostile", ["../users", "x?y=1", "x#y", "a/b", "a b", "%2e%2e"])
def test_an_id_cannot_leave_its_segment_of_the_path(hostile):
    """
    What the provider calls an id is data in an address, never a piece of it.
    """
    for kind, name in (("Location", "locationId"), ("Company", "companyId")):
        url = highlevel_account(API, {"userType": kind, name: hostile}).url
        segment = url.rsplit("/", 1)[1]
        assert 4 == url.count("/")
        assert not set("?# ") & set(segment)
        assert "%2e%2e" != segment


def test_every_quirk_offers_something():
    """
    A name in the catalogue that does nothing would be a lie.
    """
    assert all(quirk.reshape or quirk.account for quirk in QUIRKS.values())
