"""Named deviations, each as the provider's documentation has it, and whose account a grant is for."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gateway.account import names_another_account, read_account
from gateway.catalog import Provider, load_catalog
from gateway.catalog.deviations import DEVIATIONS, Deviation
from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http import Deadline, Response
from gateway.models import Client, Grant

API = "https://services.leadconnectorhq.com"

highlevel_account = DEVIATIONS["highlevel"].account_lookup


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
    defaults = {name for name in vars(Deviation) if not name.startswith("_")}
    assert all(defaults & set(vars(type(deviation))) for name, deviation in DEVIATIONS.items() if name)


# -- whose account ---------------------------------------------------------------------------------------------------

CATALOG = load_catalog()


def account(
    provider: Provider,
    rest: dict[str, object],
    page: object = 404,
    *,
    claims: dict[str, object] | None = None,
    asked: list | None = None,
):
    """The account behind a token answer, where the account endpoint answers with `page` and the id_token says `claims`."""

    def request(method, url, *, headers, deadline, body=None, **_: object):
        if asked is not None:
            asked.append((method, url, dict(headers)))
        if isinstance(page, int):
            return Response(page, {}, b"")
        if isinstance(page, Response):
            return page
        return Response(200, {}, page if isinstance(page, bytes) else json.dumps(page).encode())

    rt = SimpleNamespace(
        http=SimpleNamespace(request=request),
        issuers=SimpleNamespace(read_id_token=lambda *_, **__: claims),
        clients={provider.id: Client("client-id")},
        now=lambda: SimpleNamespace(timestamp=lambda: 0.0),
    )
    grant = Grant("at-1", id_token="e.y.J" if claims else None)
    found = read_account(rt, provider, replace(grant, rest=rest), nonce="n", deadline=Deadline.after(5))
    return found.id, found.label


def mail(**more) -> Provider:
    return Provider(
        id="acme",
        name="Acme",
        type=2,
        slug="acme",
        issuer="https://acme.example",
        userinfo_endpoint="https://acme.example/me",
        **more,
    )


@pytest.mark.parametrize(
    ("rest", "page", "expected", "url"),
    [
        (
            {"userType": "Location", "locationId": "loc1", "companyId": "com1"},
            {"location": {"name": "Dentist"}},
            ("loc1", "Dentist"),
            f"{API}/locations/loc1",
        ),
        (
            {"userType": "Company", "companyId": "com1"},
            {"company": {"name": "Agency"}},
            ("com1", "Agency"),
            f"{API}/companies/com1",
        ),
        ({"userType": "Location", "locationId": "loc1"}, 401, ("loc1", "loc1"), f"{API}/locations/loc1"),
        ({"userType": "Company", "companyId": "com1"}, 403, ("com1", "com1"), f"{API}/companies/com1"),
        ({"userType": "Location", "locationId": "loc1"}, {"location": {}}, ("loc1", "loc1"), f"{API}/locations/loc1"),
    ],
)
def test_a_highlevel_account_is_asked_by_its_id_with_the_version_that_it_wants(rest, page, expected, url):
    """
    Where the scope for the name is missing the id will do as a label.
    """
    asked = []

    assert expected == account(CATALOG.entries.get("ghl"), rest, page, asked=asked)
    assert [("GET", url)] == [(method, at) for method, at, _ in asked]
    assert ("Bearer at-1", "2021-07-28") == (asked[0][2]["Authorization"], asked[0][2]["Version"])


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"userType": "Location", "companyId": "com1"},
        {"userType": "Company", "locationId": "loc1"},
        {"locationId": True},
    ],
)
def test_a_highlevel_grant_without_its_id_has_no_account(rest):
    """
    The other kind's id does not stand in for it.
    """
    with pytest.raises(ProviderGarbled):
        account(CATALOG.entries.get("ghl"), rest, {"location": {"name": "x"}, "company": {"name": "y"}})


def test_a_ringcentral_account_is_made_of_two_ids():
    """
    An extension's number is unique within its account only.
    """
    page = {"id": 400, "name": "Alice", "account": {"id": "200"}}

    assert ("200/400", "Alice") == account(CATALOG.entries.get("ringcentral"), {}, page)


def test_ids_of_several_parts_never_run_into_each_other():
    """
    Two accounts whose parts hold the separator stay two.
    """
    provider = mail(account={"id": ["a", "b"]})

    assert account(provider, {}, {"a": "1/2", "b": "3"})[0] != account(provider, {}, {"a": "1", "b": "2/3"})[0]


@pytest.mark.parametrize(
    ("one", "other"),
    [("x" * 300 + "1", "x" * 300 + "2"), ("al\u200bice", "alice"), ("alice ", "alice"), ("a\x00b", "ab")],
    ids=ascii,
)
def test_two_ids_that_differ_are_never_taken_for_one_account(one, other):
    """
    An id decides whose grant replaces whose: it is compared exactly or refused, never shortened or tidied.
    """
    found = []
    for value in (one, other):
        try:
            found.append(account(mail(), {}, {"sub": value})[0])
        except ProviderGarbled:
            found.append(None)

    assert None in found or found[0] != found[1]


def test_the_id_token_and_the_account_endpoint_must_speak_of_the_same_user():
    """
    OpenID Connect Core section 5.3.2: otherwise a swapped access token would connect another user's account.
    """
    google = CATALOG.entries.get("google")

    assert ("alice-1", "alice@example.com") == account(
        google, {}, {"sub": "alice-1", "email": "alice@example.com"}, claims={"sub": "alice-1"}
    )
    for named in ({"sub": "bob-1"}, {"sub": "Alice-1"}, {"sub": None}, {"sub": ["alice-1"]}, {}):
        with pytest.raises(ProviderGarbled):
            account(google, {}, named | {"email": "bob@example.com"}, claims={"sub": "alice-1"})


def test_what_was_signed_counts_more_than_what_was_only_said():
    """
    An account answer cannot put another id in place of the id_token's.
    """
    provider = mail(scope=("openid",), jwks_uri="https://acme.example/jwks", account={"id": ["tid", "oid"]})

    page = {"sub": "alice-1", "tid": "t2", "oid": "bob"}
    assert (
        "t1/alice" == account(provider, {"tid": "t3"}, page, claims={"sub": "alice-1", "tid": "t1", "oid": "alice"})[0]
    )


def b64(part):
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


@pytest.mark.parametrize("sub", ["mallory", "alice ", "a\u200bb", "a\0b", "a" * 201, "", True, ["alice"]], ids=repr)
def test_a_refresh_that_names_another_account_or_none_that_can_be_is_refused(sub):
    """
    OpenID Connect Core section 12.2: the same sub. One that no account can have is not the same; one that is not there says nothing.
    """
    id_token = ".".join(b64(part) for part in ({"alg": "RS256"}, {"sub": sub, "exp": 1}, {}))
    grant = Grant("at-1", id_token=id_token)
    for answer in (grant, replace(grant, id_token=None, rest={"sub": sub})):
        assert names_another_account(CATALOG.entries.get("google"), answer, "alice")
    nothing = replace(grant, id_token=None)
    assert not names_another_account(CATALOG.entries.get("google"), nothing, "alice")


def test_an_account_without_the_id_token_that_was_asked_for_is_refused():
    """
    Openid was in the scope: its proof has to come.
    """
    with pytest.raises(ProviderGarbled):
        account(CATALOG.entries.get("google"), {}, {"sub": "alice-1"})


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        (500, ProviderUnavailable),
        (429, ProviderUnavailable),
        (404, ProviderGarbled),
        (302, ProviderGarbled),
        (401, ProviderGarbled),
        (b"<html>", ProviderGarbled),
        ({}, ProviderGarbled),
        ({"sub": ""}, ProviderGarbled),
        ({"sub": None}, ProviderGarbled),
        ({"sub": True}, ProviderGarbled),
        ({"sub": ["alice"]}, ProviderGarbled),
        ({"sub": {"alice": 1}}, ProviderGarbled),
    ],
    ids=str,
)
def test_an_account_endpoint_that_names_no_account_connects_none(page, kind):
    """
    And says whether waiting helps.
    """
    with pytest.raises(kind):
        account(mail(), {}, page)


@pytest.mark.parametrize("status", [201, 202, 203, 206])
def test_an_account_response_with_another_status_of_success_names_the_account(status):
    """
    RFC 9110 section 15.3.
    """
    assert ("u-1", "u-1") == account(mail(), {}, Response(status, {}, b'\xef\xbb\xbf{"sub": "u-1", "email": null}'))


def test_a_label_is_printable_and_short():
    """
    It is shown to people, and it is the provider's text.
    """
    _, label = account(mail(), {}, {"sub": "a", "email": "\u202ealice\r\n\x00" + "x" * 500})

    assert label.startswith("alicex")
    assert 200 == len(label)
