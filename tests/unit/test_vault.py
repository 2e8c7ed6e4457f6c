"""Encrypted secrets: they decrypt in their own context, and in no other place and at no other time."""

from __future__ import annotations

import base64
import json
from uuid import UUID

import pytest
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.crypto.vault import Vault, fingerprint
from gateway.errors import SecretUnreadable

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
ALICE, BOB = (UUID(f"5c1f0e7e-0000-4000-8000-00000000{end}") for end in ("a11c", "0b0b"))
SAVE, LATER = UUID(int=1), UUID(int=2)
ALICES = {"column": "token", "user_id": ALICE, "provider": "ghl", "seal_id": SAVE}


@pytest.fixture
def vault():
    return Vault([NEW, OLD])


@pytest.mark.parametrize("secret", ["ya29.a0", "x" * 20_000, "pässword \x00 \U0001f511", ""])
def test_what_was_encrypted_decrypts_in_its_context(vault, secret):
    """
    Tokens of any length, and API keys in any script.
    """
    assert secret == vault.decrypt(vault.encrypt(secret, **ALICES), **ALICES)


def test_an_encrypted_secret_is_a_fernet_token_and_shows_nothing(vault):
    """
    The format that the owner's tools expect; two of one secret differ.
    """
    first, second = vault.encrypt("canary", **ALICES), vault.encrypt("canary", **ALICES)

    assert first.startswith("gAAAA")
    assert first != second
    assert "canary" not in first


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"column": "refresh"},
        {"user_id": BOB},
        {"user_id": None},
        {"provider": "google"},
        {"seal_id": LATER},
        {"column": 'token", "x', "user_id": None},
        {"provider": "", "seal_id": f"ghl{SAVE}"},
    ],
)
def test_a_secret_moved_to_another_column_user_provider_or_save_does_not_decrypt(vault, elsewhere):
    """
    A ciphertext that was copied to another row, or put back after a later save, is of no use.
    """
    sealed = vault.encrypt("canary", **ALICES)

    with pytest.raises(SecretUnreadable) as refused:
        vault.decrypt(sealed, **{**ALICES, **elsewhere})

    assert sealed not in str(refused.value)
    assert "canary" not in str(refused.value)


def test_a_changed_truncated_empty_or_foreign_value_is_unreadable(vault):
    """
    Whatever the column holds, there is one kind of failure.
    """
    sealed = vault.encrypt("canary", **ALICES)
    flipped = sealed[:40] + ("A" if sealed[40] != "A" else "B") + sealed[41:]
    plain_fernet = Fernet(NEW).encrypt(b"canary").decode()

    for value in (flipped, sealed[:-1], sealed[:20], "", "plaintext", plain_fernet, "\u00e9", "\ud800", "gAAAA" * 30):
        with pytest.raises(SecretUnreadable):
            vault.decrypt(value, **ALICES)
        with pytest.raises(SecretUnreadable):
            vault.encrypted_with_old_key(value, **ALICES)


def test_the_newest_key_encrypts_and_every_key_decrypts(vault):
    """
    A key is rotated in without a pause.
    """
    sealed = Vault([OLD]).encrypt("canary", **ALICES)

    assert "canary" == vault.decrypt(sealed, **ALICES)
    assert "canary" == Vault([NEW]).decrypt(vault.encrypt("canary", **ALICES), **ALICES)


def test_a_key_that_was_removed_decrypts_nothing(vault):
    """
    What was not encrypted again before is lost, and says so.
    """
    with pytest.raises(SecretUnreadable):
        Vault([NEW]).decrypt(Vault([OLD]).encrypt("canary", **ALICES), **ALICES)


def test_a_secret_under_an_older_key_is_found_until_it_is_encrypted_again(vault):
    """
    This is how a rotation knows when it is done.
    """
    assert vault.encrypted_with_old_key(Vault([OLD]).encrypt("canary", **ALICES), **ALICES)
    assert not vault.encrypted_with_old_key(vault.encrypt("canary", **ALICES), **ALICES)


def test_the_database_alone_gives_nothing_away(vault):
    """
    Another master key, the right context: unreadable.
    """
    with pytest.raises(SecretUnreadable):
        Vault([Fernet.generate_key().decode()]).decrypt(vault.encrypt("canary", **ALICES), **ALICES)


def test_a_vault_shows_no_key(vault):
    """
    Printed, it says how many it holds.
    """
    assert "Vault(2 keys)" == repr(vault) == str(vault)


def test_a_form_token_belongs_to_its_value_and_its_purpose(vault):
    """
    A form token of one session is none of another, and none of another form.
    """
    token = vault.keyed_hash("alice", purpose="form")

    assert vault.verify_keyed_hash(token, "alice", purpose="form")
    assert not vault.verify_keyed_hash(token, "bob", purpose="form")
    assert not vault.verify_keyed_hash(token, "alice", purpose="session")
    for wrong in ("", token[:-1], token + "=", "\u00e9"):
        assert not vault.verify_keyed_hash(wrong, "alice", purpose="form")


def test_a_form_token_outlives_a_key_rotation(vault):
    """
    A page that was open while the keys changed can still be sent.
    """
    assert vault.verify_keyed_hash(Vault([OLD]).keyed_hash("alice", purpose="form"), "alice", purpose="form")


def test_a_fingerprint_does_not_show_what_it_is_of():
    """
    SHA-256 in hex, the same every time.
    """
    assert "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90" == fingerprint("alice")


def test_the_derivation_is_that_of_rfc_5869():
    """
    What the library's whole HKDF encrypts decrypts, and the other way round.
    """
    master = bytes(range(32))
    context = json.dumps(["oauth-gateway", "token", str(ALICE), "ghl", str(SAVE)])
    derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=context.encode()).derive(master)
    fernet, vault = Fernet(base64.urlsafe_b64encode(derived)), Vault([base64.urlsafe_b64encode(master).decode()])

    assert vault.decrypt(fernet.encrypt(b"at-1").decode(), **ALICES) == "at-1"
    assert fernet.decrypt(vault.encrypt("at-1", **ALICES).encode()) == b"at-1"
