"""
Ed25519 signatures of webhooks, and the forms in which people paste the key.
"""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.catalog import load_catalog
from gateway.errors import SettingsRefused
from gateway.sandbox.highlevel_webhooks import PUBLIC_KEY, signature
from gateway.services import checked_catalog
from gateway.settings import read_public_key, read_settings
from gateway.webhooks.receive import is_signed

PEM = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAi2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg=\n-----END PUBLIC KEY-----\n"
RAW = "i2HR1srL4o18O8BRa7gVJY7G7bupbN3H9AwJrHCDiOg="
HEX = "8b61d1d6cacbe28d7c3bc0516bb815258ec6edbba96cddc7f40c09ac708388e8"
VECTORS = [
    (
        (
            '{"type":"INSTALL","appId":"64a000000000000000000000","installType":"Location","locationId":"BBBBlocation0000001x",'
            '"companyId":"AAAAcompany00000001x","timestamp":"2026-11-28T10:00:00.000Z","webhookId":"00000000-0000-0000-0000-000000000001"}'
        ),
        "683SfJIAlNHtb+pKgKC4laq+NocK5M9A4J3ioYoPObcMjPKk0GUU97+eI+E2CHD6wlJBZtBNzNaOIsIHAth+CQ==",
    ),
    (
        '{ "type": "UNINSTALL",\n  "appId": "64a000000000000000000000", "companyId": "AAAAcompany00000001x" }\n',
        "1sD5QAV3SqsvhTtqVVQuPmT7uwLCIXEns6I0aal+b5aZdHDFR/PaJJeaMLOLPPknwqM4emPvuMyG7JhjxHyJAw==",
    ),
    (
        (
            '{"type":"ContactCreate","locationId":"BBBBlocation0000001x","name":"Zoë \\u00eb \\/ 1.0","score":1.0,'
            '"webhookId":"00000000-0000-0000-0000-000000000002"}'
        ),
        "YEfW5bQsoWWhR+4Zl39xwmGy9GH/k2+8WsIAvoQV9KwpazkrYlQ7Zs/rBcouYxYW662dEdXsGeepFyjJhebxAA==",
    ),
]


@pytest.mark.parametrize(("body", "signed"), VECTORS)
def test_the_vectors_of_the_official_sdks_verify_and_altered_ones_do_not(body, signed):
    key, raw = Ed25519PublicKey.from_public_bytes(read_public_key(PUBLIC_KEY)), body.encode()

    assert is_signed(key, signed, raw)
    assert signature(raw) == signed
    assert is_signed(key, f" {signed}\n", raw)
    altered = [raw + b" ", raw[:-1], raw.replace(b'"type"', b'"Type"'), raw.replace(b":", b": ", 1), b""]
    assert not any(is_signed(key, signed, each) for each in altered)
    other = ("", "N/A", signed[:-4], signed[::-1], "A" * 88, "é", signed.replace("=", ""), f"{signed},{signed}")
    assert not any(is_signed(key, each, raw) for each in other)
    assert not is_signed(Ed25519PublicKey.from_public_bytes(read_public_key(RAW)), signed, raw)


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\r\n"),
        PEM.replace("\n", " "),
        PEM.splitlines()[1],
        RAW,
        RAW.rstrip("="),
        f"  {RAW}\n",
        HEX,
        HEX.upper(),
        f"302a300506032b6570032100{HEX}",
    ],
)
def test_a_key_is_taken_in_every_form_in_which_it_is_pasted(text):
    assert read_public_key(text).hex() == HEX


def test_a_key_in_the_url_safe_alphabet_is_taken():
    key = bytes(range(190, 222))
    assert read_public_key(base64.urlsafe_b64encode(key).decode()) == key


WRONG = [
    "",
    "key",
    RAW[:-4],
    RAW + RAW,
    HEX[:-2],
    "-----BEGIN PUBLIC KEY-----\n" + "A" * 700 + "\n-----END PUBLIC KEY-----",
    PEM.replace("MCow", "MCox"),
    "é",
    "https://example.com/key.pem",
]


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="Ed25519"):
        read_public_key(text)


def problems(**settings):
    given = {"GATEWAY_KEYS": "k6Wp1R8-9nSxkHM7rX2sQ0b1ZqVfB0n2o3aXcYdTeUg=", **settings}
    return checked_catalog(read_settings(given))[1]


def test_a_wrong_key_in_the_settings_stops_the_process_with_its_name():
    assert problems(GHL_WEBHOOK_PUBLIC_KEY=HEX) == []
    with pytest.raises(SettingsRefused, match="GHL_WEBHOOK_PUBLIC_KEY is no Ed25519"):
        problems(GHL_WEBHOOK_PUBLIC_KEY="x")
    assert ["remove it" in each for each in problems(GOOGLE_WEBHOOK_PUBLIC_KEY=HEX)] == [True]


def test_the_catalogues_keys_are_keys():
    keys = [each.webhooks.public_key for each in load_catalog().providers.values() if each.webhooks]

    assert [each.hex() for each in keys] == [HEX] * 2
