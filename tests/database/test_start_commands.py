"""
What starts a gateway and its database: `serve`, `worker`, `doctor` and `db` on the same settings.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet

from gateway import __version__
from gateway.cli.main import main
from gateway.database import SCHEMA_VERSION
from tests.support.database import rows
from tests.support.gateway_process import ROOT, free_port, wait_until_ready

KEY = Fernet.generate_key().decode()


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A command with these settings and no others, in a folder without `.env`."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "SUPABASE_", "DATABASE_")):
            monkeypatch.delenv(name)

    def invoke(*arguments, **settings):
        return CliRunner().invoke(main, arguments, env={"GATEWAY_DATA": str(tmp_path / "var"), **settings})

    return invoke


def test_the_version_is_printed(run):
    assert run("--version").output == f"oauth-gateway {__version__}\n"


@pytest.mark.parametrize("command", [("list",), ("show", "ghl"), ("show", "google"), ("show", "twilio")])
def test_the_catalogue_is_shown_before_anything_is_set(run, command):
    """
    With the key that a provider's webhooks are verified with, and without any setting.
    """
    ended = run("providers", *command)

    assert (0, True) == (ended.exit_code, command[-1] in ended.output or command == ("list",)), ended.output


@pytest.mark.parametrize(
    "public", [{"GATEWAY_PUBLIC_URL": "https://connect.example.com"}, {"SUPABASE_URL": "https://p.supabase.co"}]
)
@pytest.mark.parametrize("command", ["serve", "worker", "doctor"])
def test_a_public_gateway_without_a_database_does_not_start(run, tmp_path, command, public):
    """
    A forgotten DATABASE_URL must not look like an empty installation. `doctor` says what `serve` says, and neither makes a database.
    """
    ended = run(command, GATEWAY_KEYS=KEY, **public)

    assert ended.exit_code == (1 if command == "doctor" else 2)
    assert "DATABASE_URL is missing" in ended.output
    assert "--embedded" in ended.output
    assert not (tmp_path / "var").exists()


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_serve_and_doctor_list_the_same_problems_at_once(run, command):
    """
    Of settings and of the database together.
    """
    ended = run(command, GATEWAY_PUBLIC_URL="https://connect.example.com", GATEWAY_APP_ORIGIN="https://app.example.com")

    for problem in ("GATEWAY_KEYS is missing", "GATEWAY_APP_ORIGIN is not a setting", "DATABASE_URL is missing"):
        assert problem in ended.output


def test_embedded_beside_another_database_is_refused(run):
    """
    One of the two was not meant.
    """
    ended = run("serve", "--embedded", GATEWAY_KEYS=KEY, DATABASE_URL="postgresql://db.example/x")

    assert 2 == ended.exit_code
    assert "remove one of the two" in ended.output


def test_a_public_gateway_runs_on_its_own_postgres_if_configured():
    """
    `serve --embedded` makes the database and its schema; the settings come from `.env`, and the port from $PORT.
    """
    with tempfile.TemporaryDirectory(prefix="gateway-tests-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o711)
        lines = [f"GATEWAY_KEYS={KEY}", "GATEWAY_PUBLIC_URL=https://connect.example.com", "GATEWAY_DATA=data"]
        (folder / ".env").write_text("\n".join(lines))
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "PG_BINDIR") if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "serve", "--embedded"],
            cwd=folder, env=environ | {"PORT": str(port), "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            wait_until_ready(process, port, process.stderr.read)
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert (folder / "data" / "postgres" / "data" / "PG_VERSION").exists() or os.geteuid() == 0


def test_a_dry_run_changes_nothing_and_says_what_it_would_do(run, bare_database):
    """
    Each migration by its number; afterwards there is still no schema.
    """
    ended = run("db", "apply", "--dry-run", DATABASE_URL=bare_database)

    assert 0 == ended.exit_code, ended.output
    assert f"run migration {SCHEMA_VERSION}" in ended.output
    assert "Nothing was changed." in ended.output
    assert [None] == rows(bare_database, "select to_regclass('gateway.migration')")
    assert 1 == run("db", "status", DATABASE_URL=bare_database).exit_code


def test_the_schema_is_exported_once_as_a_migration_for_supabase(run, tmp_path):
    """
    Timestamped; the same schema is not written a second time.
    """
    first, second = (run("db", "export", "--supabase") for _ in range(2))

    (file,) = (tmp_path / "supabase" / "migrations").iterdir()
    assert first.output == second.output
    assert file.name in first.output
    assert "gateway_schema_v1" in file.read_text()
