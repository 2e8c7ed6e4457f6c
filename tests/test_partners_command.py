"""
`partners …` on the command line: what the contract prints, and what is said of mistakes.
"""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from partnering import partner

from gateway.cli import main
from gateway.errors import Frozen, Unauthenticated
from gateway.models import Caller
from gateway.partners import read_key


@pytest.fixture
def commands(database, monkeypatch):
    """The command line on that database, with no other setting."""
    monkeypatch.setenv("DATABASE_URL", database)

    def run(*arguments, code=0):
        ended = CliRunner().invoke(main, ["partners", *arguments])
        assert code == ended.exit_code, ended.output
        return ended

    return run


def test_the_command_line_adds_lists_and_ends_partners(commands, store):
    """
    The contract's own line, and each of the others; the key is printed when it is made, and never again.
    """
    made = json.loads(
        commands("add", "Acme", "--scope", "tokens:read", "--provider", "ghl", "--reach", "all", "--json").stdout
    )
    assert {"partner_id", "key"} == set(made)
    assert ("ghl",) == store.caller(Caller(key_hash=read_key(made["key"])))
    second = commands("keys", "Acme", "--new").stdout.strip()
    keys = json.loads(commands("keys", "Acme", "--json").stdout)
    commands("keys", "Acme", "--revoke", keys[0]["id"])
    with pytest.raises(Unauthenticated):
        store.caller(Caller(key_hash=read_key(made["key"])))
    said = commands("list").stdout + commands("list", "--json").stdout + commands("keys", "Acme").stdout
    assert "Acme (live): reach all, ghl" in said
    assert second[8:-4] not in said
    assert made["key"][8:-4] not in said
    commands("revoke", "Acme")
    with pytest.raises(Unauthenticated):
        store.caller(Caller(key_hash=read_key(second)))
    assert "Acme (revoked)" in commands("list").stdout


def test_the_command_line_freezes_and_thaws(commands, store):
    """
    One thing at a time: a partner, a provider or all reads.
    """
    made = partner(store)

    assert {"frozen": True, "changed": True} == json.loads(commands("freeze", made.name, "--json").stdout)
    commands("freeze", "--provider", "ghl")
    commands("freeze", "--reads")
    with pytest.raises(Frozen):
        store.caller(made.caller())
    assert ["provider:ghl", "reads"] == json.loads(commands("list", "--json").stdout)["frozen"]
    assert "frozen: all token reads" in commands("list").stdout
    for what in ((made.name,), ("--provider", "ghl"), ("--reads",)):
        commands("freeze", *what, "--off")
    store.caller(made.caller())
    assert [] == store.partners()["frozen"]


def test_a_command_that_cannot_be_ends_with_what_to_mend(commands, store):
    """
    Exit code 2, one sentence on stderr, and nothing done.
    """
    for arguments in (
        ("add", "Acme", "--scope", "tokens:steal", "--reach", "all"),
        ("add", "Acme", "--scope", "tokens:read", "--provider", "ghll", "--reach", "all"),
        ("keys", "Nobody"),
        ("keys", "Nobody", "--new"),
        ("keys", "Nobody", "--revoke", "00000000-0000-4000-8000-000000000000"),
        ("keys", "Nobody", "--address", "10.0.0.0/8"),
        ("revoke", "Nobody"),
        ("freeze",),
        ("freeze", "Nobody"),
        ("freeze", "--reads", "--provider", "ghl"),
    ):
        assert 1 == commands(*arguments, code=2).stderr.count("\n  - ")
    assert {"partners": [], "frozen": []} == store.partners()
