"""
`partners …` on the command line: what the contract prints, and what is said of mistakes.
"""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli.demo import command_settings, demo_settings
from gateway.cli.main import main
from gateway.database.queries import partners as queries
from gateway.database.queries.connections import check_caller
from gateway.database.queries.events import assign_positions
from gateway.errors import Frozen, Unauthenticated
from gateway.models import Caller
from gateway.partners.keys import read_key
from gateway.sandbox import make_server
from tests.support.partners import partner


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
    assert ("ghl",) == check_caller(store, Caller(key_hash=read_key(made["key"])))
    again = json.loads(commands("keys", "Acme", "--new", "--json").stdout)
    second = again["key"]
    keys = json.loads(commands("keys", "Acme", "--json").stdout)
    assert [again["key_id"]] == [each["id"] for each in keys if each["hint"] == second[-4:]]
    commands("keys", "Acme", "--revoke", keys[0]["id"])
    with pytest.raises(Unauthenticated):
        check_caller(store, Caller(key_hash=read_key(made["key"])))
    said = commands("list").stdout + commands("list", "--json").stdout + commands("keys", "Acme").stdout
    assert "Acme (live): reach all, ghl" in said
    assert second[8:-4] not in said
    assert made["key"][8:-4] not in said
    assert "--yes" in commands("revoke", "Acme", code=2).stderr  # without a terminal
    assert "Acme (live)" in commands("list").stdout
    commands("revoke", "Acme", "--yes")
    with pytest.raises(Unauthenticated):
        check_caller(store, Caller(key_hash=read_key(second)))
    assert "Acme (revoked)" in commands("list").stdout


def test_the_command_line_changes_a_partner_and_shows_its_use(commands, store):
    """
    Options left out stay; `none` removes a limit, `all` names every provider.
    """
    made = partner(store, reach="own", providers=("ghl",))

    line = commands(
        "set", made.name, "--reads-per-hour", "50", "--connections-per-hour", "none", "--provider", "all"
    ).stdout
    assert f"{made.name} (live): reach own, every provider" in line
    assert "this hour 0 reads of 50, 0 connections\n" in line
    changed = json.loads(commands("set", made.name, "--scope", "tokens:read", "--reach", "all", "--json").stdout)
    assert (["tokens:read"], "all", 50) == (changed["scope"], changed["reach"], changed["reads_per_hour"])
    check_caller(store, made.caller())
    for wrong in (
        (),
        ("--reads-per-hour", "-1"),
        ("--reads-per-hour", "0"),
        ("--provider", "ghll"),
        ("--reads-per-hour", "many"),
    ):
        commands("set", made.name, *wrong, code=2)
    commands("set", "Nobody", "--reads-per-hour", "5", code=2)
    kept = queries.list_partners(store, made.name)["partners"][0]
    assert changed | {"keys": None} == kept | {"keys": None}


def test_events_name_the_partner(commands, store):
    """
    By name where a person reads, by id and name where a script does.
    """
    made = partner(store, "Acme Analytics")
    assign_positions(store, limit=100)

    shown, listed = (CliRunner().invoke(main, ["events", "tail", *more]).stdout for more in ((), ("--json",)))
    assert "partner.added" in shown
    assert " partner Acme Analytics " in shown
    assert str(made.id) not in shown
    assert {(str(made.id), "Acme Analytics")} == {
        (event["partner_id"], event["partner"]) for event in map(json.loads, listed.splitlines())
    }
    assert all(datetime.fromisoformat(json.loads(line)["at"]).tzinfo for line in listed.splitlines())


def test_a_revoked_partners_name_can_be_used_again(commands, store):
    """
    The new partner has nothing of the old one; commands mean the new one.
    """
    old = partner(store, "Acme")
    again = ("add", "Acme", "--scope", "tokens:read", "--reach", "own", "--json")
    assert "already" in commands(*again, code=2).stderr
    commands("revoke", "Acme", "--yes")
    assert "revoked" in commands("keys", "Acme", "--new", code=2).stderr

    new = json.loads(commands(*again).stdout)

    assert new["partner_id"] != str(old.id)
    with pytest.raises(Unauthenticated):
        check_caller(store, old.caller())
    assert 2 == commands("list").stdout.count("Acme (")
    commands("freeze", "Acme")
    with pytest.raises(Frozen):
        check_caller(store, Caller(key_hash=read_key(new["key"])))
    assert 1 == len(json.loads(commands("keys", "Acme", "--json").stdout))
    commands("revoke", "Acme", "--yes")
    commands(*again)
    commands("set", "Acme", "--reads-per-hour", "5")
    assert ["revoked", "revoked", "live"] == [
        line.split("(")[1].split(")")[0] for line in commands("list").stdout.splitlines() if line.startswith("Acme")
    ]


def test_the_command_line_freezes_and_thaws(commands, store):
    """
    One thing at a time: a partner, a provider or all reads.
    """
    made = partner(store)

    assert {"frozen": True, "changed": True} == json.loads(commands("freeze", made.name, "--json").stdout)
    commands("freeze", "--provider", "ghl")
    commands("freeze", "--reads")
    with pytest.raises(Frozen):
        check_caller(store, made.caller())
    assert ["provider:ghl", "reads"] == json.loads(commands("list", "--json").stdout)["frozen"]
    assert "frozen: all token reads" in commands("list").stdout
    for what in ((made.name,), ("--provider", "ghl"), ("--reads",)):
        commands("freeze", *what, "--off")
    check_caller(store, made.caller())
    assert [] == queries.list_partners(store)["frozen"]


def test_an_impossible_command_ends_with_what_to_fix(commands, store):
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
    assert {"partners": [], "frozen": [], "frozen_since": {}} == queries.list_partners(store)


def test_who_only_looks_makes_no_database(monkeypatch, tmp_path):
    """
    Nothing is found in one that was made just now: the command says where it looked, and leaves no folder.
    """
    for name in ("DATABASE_URL", "SUPABASE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEWAY_DATA", str(tmp_path / "var"))
    for arguments in (["partners", "list"], ["partners", "keys", "Acme"], ["connections", "list"], ["events", "tail"]):
        ended = CliRunner().invoke(main, arguments)
        assert 2 == ended.exit_code
        assert f"no database in {tmp_path / 'var'}/ yet" in ended.stderr
    assert [] == list(tmp_path.iterdir())


def test_the_demo_leaves_what_other_terminals_need(tmp_path, monkeypatch):
    """
    A file to source: every setting of that gateway from whatever folder, less the key itself and the database's address.
    """
    monkeypatch.chdir(tmp_path)
    with make_server() as sandbox:
        settings = demo_settings(Path("demo"), "http://localhost:8000", sandbox.origin, "postgresql://somewhere")
    file = command_settings(Path("demo"), settings)
    shown = subprocess.run(
        ["/bin/sh", "-c", f". ./{file} && env"], capture_output=True, text=True, check=True, env={"DATABASE_URL": "other"}
    )  # fmt: skip
    there = dict(line.split("=", 1) for line in shown.stdout.splitlines())

    assert {"GATEWAY_KEYS", "DATABASE_URL"} == set(settings) - set(there)
    assert settings["GATEWAY_KEYS"] == Path(there["GATEWAY_KEYS_FILE"]).read_text(encoding="utf-8").strip()
    assert settings["GATEWAY_KEYS"] not in file.read_text(encoding="utf-8")
    assert (str(tmp_path / "demo"), settings["GHL_SCOPE"]) == (there["GATEWAY_DATA"], there["GHL_SCOPE"])


def test_a_second_demo_leaves_the_first_alone(cluster, tmp_path, monkeypatch):
    """
    It would revoke the keys of the first, and change its providers.
    """
    (tmp_path / "demo").symlink_to(cluster.home.parent)
    monkeypatch.setenv("GATEWAY_DATA", str(tmp_path))
    before = sorted(path.name for path in cluster.home.parent.iterdir())
    ended = CliRunner().invoke(main, ["demo", "--port", "0", "--sandbox-port", "0"])

    assert 2 == ended.exit_code
    assert "runs in" in ended.stderr
    assert before == sorted(path.name for path in cluster.home.parent.iterdir())
