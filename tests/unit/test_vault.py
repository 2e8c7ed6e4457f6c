"""Sealed secrets: they open where they were put, and nowhere and at no other time."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.crypto.vault import Vault, fingerprint
from gateway.errors import SecretUnreadable

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
ALICES = {"row": "5c1f0e7e-0000-4000-8000-00000000a11c", "column": "token", "generation": 3}
BOBS_ROW = "5c1f0e7e-0000-4000-8000-000000000b0b"


@pytest.fixture
def vault():
    return Vault([NEW, OLD])


@pytest.mark.parametrize("secret", ["ya29.a0", "x" * 20_000, "pässword \x00 \U0001f511", ""])
def test_what_was_sealed_opens_in_its_place(vault, secret):
    """
    Tokens of any length, and API keys in any script.
    """
    assert secret == vault.open(vault.seal(secret, **ALICES), **ALICES)


def test_a_sealed_secret_is_a_fernet_token_and_shows_nothing(vault):
    """
    The format that the owner's tools expect; two seals of one secret differ.
    """
    first, second = vault.seal("canary", **ALICES), vault.seal("canary", **ALICES)

    assert first.startswith("gAAAA")
    assert first != second
    assert "canary" not in first


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"row": BOBS_ROW},
        {"column": "refresh"},
        {"generation": 4},
        {"generation": 2},
        {"generation": -3},
        {"row": ALICES["row"] + "\x00token", "column": ""},
    ],
)
def test_a_secret_moved_to_another_row_column_or_generation_stays_shut(vault, elsewhere):
    """
    Copying a ciphertext, or putting an old one back, gives nobody anything.
    """
    sealed = vault.seal("canary", **ALICES)

    with pytest.raises(SecretUnreadable) as refused:
        vault.open(sealed, **{**ALICES, **elsewhere})

    assert sealed not in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_changed_truncated_empty_or_foreign_value_is_unreadable(vault):
    """
    Whatever the column holds, there is one kind of failure.
    """
    sealed = vault.seal("canary", **ALICES)
    flipped = sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]
    plain_fernet = Fernet(NEW).encrypt(b"canary").decode()

    for value in (flipped, sealed[:-1], sealed[:20], "", "plaintext", plain_fernet, "\u00e9", "\ud800", "gAAAA" * 30):
        with pytest.raises(SecretUnreadable):
            vault.open(value, **ALICES)
        with pytest.raises(SecretUnreadable):
            vault.stale(value, **ALICES)


def test_the_newest_key_seals_and_every_key_opens(vault):
    """
    A key is rotated in without a pause.
    """
    sealed = Vault([OLD]).seal("canary", **ALICES)

    assert "canary" == vault.open(sealed, **ALICES)
    assert "canary" == Vault([NEW]).open(vault.seal("canary", **ALICES), **ALICES)


def test_a_key_that_was_taken_out_opens_nothing_any_more(vault):
    """
    What was not sealed anew before is lost, and says so.
    """
    with pytest.raises(SecretUnreadable):
        Vault([NEW]).open(Vault([OLD]).seal("canary", **ALICES), **ALICES)


def test_a_secret_under_an_older_key_is_stale_until_it_is_sealed_again(vault):
    """
    This is how a rotation knows when it is done.
    """
    assert vault.stale(Vault([OLD]).seal("canary", **ALICES), **ALICES)
    assert not vault.stale(vault.seal("canary", **ALICES), **ALICES)


def test_the_database_alone_gives_nothing_away(vault):
    """
    Another master key, the right place: shut.
    """
    with pytest.raises(SecretUnreadable):
        Vault([Fernet.generate_key().decode()]).open(vault.seal("canary", **ALICES), **ALICES)


def test_a_vault_shows_no_key(vault):
    """
    Printed, it says how many it holds.
    """
    assert "Vault(2 keys)" == repr(vault) == str(vault)


def test_a_mark_belongs_to_its_value_and_its_purpose(vault):
    """
    A form token of one session is none of another, and none of another form.
    """
    mark = vault.mark("alice", purpose="form")

    assert vault.marked("alice", mark, purpose="form")
    assert not vault.marked("bob", mark, purpose="form")
    assert not vault.marked("alice", mark, purpose="session")
    for wrong in ("", mark[:-1], mark + "=", "\u00e9"):
        assert not vault.marked("alice", wrong, purpose="form")


def test_a_mark_outlives_a_key_rotation(vault):
    """
    A page that was open while the keys changed can still be sent.
    """
    assert vault.marked("alice", Vault([OLD]).mark("alice", purpose="form"), purpose="form")


def test_a_fingerprint_does_not_show_what_it_is_of():
    """
    SHA-256 in hex, the same every time.
    """
    assert "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90" == fingerprint("alice")


def test_the_derivation_is_that_of_rfc_5869():
    """What was sealed by the library's whole HKDF opens, and the other way round."""
    master, place = bytes(range(32)), "oauth-gateway\0row-1\0token\x003"
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=place.encode()).derive(master)
    fernet, vault = Fernet(base64.urlsafe_b64encode(derived)), Vault([base64.urlsafe_b64encode(master).decode()])
    where = {"row": "row-1", "column": "token", "generation": 3}

    assert "at-1" == vault.open(fernet.encrypt(b"at-1").decode(), **where)
    assert b"at-1" == fernet.decrypt(vault.seal("at-1", **where).encode())
