"""A bad environment ends a command with sentences and exit code 2: never with a traceback, never with a secret."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet

from gateway.cli import context
from gateway.cli.main import main
from gateway.embedded import paths
from gateway.errors import SettingsRefused
from tests.support.database import rows
from tests.support.gateway_process import free_port

KEY = Fernet.generate_key().decode()
COMMANDS = (
    *("serve", "worker", "doctor", "db apply", "db status", "partners list", "connections list", "events verify"),
    *("events tail", "keys rotate"),
)
"""Those that ask the database."""
DATABASE = "postgresql://alice:canary@127.0.0.1"


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A command with these settings and no others."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "SUPABASE_", "DATABASE_")):
            monkeypatch.delenv(name)

    def invoke(command: str, **settings: str):
        given = {"GATEWAY_KEYS": KEY, "GATEWAY_DATA": str(tmp_path / "var"), **settings}
        ended = CliRunner().invoke(main, command.split(), env=given)
        assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
        assert "Traceback" not in ended.output
        assert "canary" not in ended.output
        return ended

    return invoke


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"DATABASE_URL": "postgresql://alice:ca%nary@h/d"}, "a % in its password"),
        ({"DATABASE_URL": "postgresql://alice:canary@h"}, "names no database"),
        ({"DATABASE_URL": "mysql://alice:canary@h/d"}, "not a Postgres address"),
        ({"DATABASE_URL": f"{DATABASE}:{{closed}}/d"}, "nothing listens at the port in DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://alice:canary@no-host.invalid/d"}, "host in DATABASE_URL has no address"),
        ({"DATABASE_URL": "postgresql://alice:canary@/d?host=/nowhere"}, "socket in DATABASE_URL"),
        ({"DATABASE_URL": f"{DATABASE}/d?sslmode=verify"}, "sslmode"),
        ({"SUPABASE_URL": "https://p.supabase.co"}, "DATABASE_URL is missing"),
        ({"SUPABASE_URL": "https://p.supabase.co", "DATABASE_URL": " "}, "DATABASE_URL is missing"),
        ({"GATEWAY_PUBLIC_URL": "https://connect.example.com"}, "DATABASE_URL is missing"),
    ],
    ids=[
        *(
            "percent",
            "no database",
            "another kind",
            "nothing listens",
            "no host",
            "no socket",
            "sslmode",
            "project",
            "blank",
        ),
        "public",
    ],
)
def test_a_wrong_database_url_ends_every_command_with_one_sentence(run, tmp_path, command, settings, told):
    """
    The same one everywhere; `doctor` reports it as a failure and ends with 1. A forgotten one makes no embedded database.
    """
    given = {name: value.replace("{closed}", str(free_port())) for name, value in settings.items()}
    ended = run(command, **given)

    assert (1 if command == "doctor" else 2) == ended.exit_code, ended.output
    assert told in ended.output
    assert not (tmp_path / "var" / "postgres").exists()


@pytest.mark.parametrize("command", ["serve", "worker", "doctor"])
@pytest.mark.parametrize(
    "settings",
    [
        {"GATEWAY_DATA": "{file}"},
        {"GATEWAY_DATA": "{file}/below"},
        {"GATEWAY_DATA": "/proc/self/nothing"},
        {"GATEWAY_CATALOG": "{file}"},
        {"GATEWAY_CA_BUNDLE": "{folder}"},
        {"GATEWAY_KEYS": "canary"},
        {"GATEWAY_HTTPS_PROXY": "socks5://alice:canary@proxy:1080"},
        {"gateway_public_url": "https://connect.example.com"},
        {"GHL_CLIENT_ID": "x"},
        {"SUPABASE_URL": "http://project.example.com"},
        {"SUPABASE_URL": "https://p.supabase.co", "DATABASE_URL": ""},
        {"GATEWAY_TRUSTED_PROXIES": "9" * 5000},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_serve_and_doctor_refuse_the_same_environment_with_the_same_words(run, tmp_path, command, settings):
    """
    Each problem of `serve` is a failure of `doctor`, and the other way round.
    """
    (tmp_path / "file").write_text("")
    places = {"{file}": str(tmp_path / "file"), "{folder}": str(tmp_path)}
    given = {"DATABASE_URL": f"{DATABASE}:{free_port()}/d", **settings}
    for place, path in places.items():
        given = {name: value.replace(place, path) for name, value in given.items()}
    refused = [line[4:] for line in run("serve", **given).output.splitlines() if line.startswith("  - ")]
    ended = run(command, **given)

    assert (1 if command == "doctor" else 2) == ended.exit_code
    assert refused
    for problem in refused:
        assert problem in ended.output
    if command == "doctor":
        assert len(refused) == sum(line.startswith("FAIL") for line in ended.output.splitlines())


@pytest.mark.parametrize("command", ["serve", "worker", "doctor"])
def test_wrong_settings_and_wrong_registrations_are_listed_together(run, tmp_path, command):
    """
    The operator fixes everything in one go; a file that cannot be read is no missing secret as well.
    """
    given = {
        "GATEWAY_KEYS": "canary",
        "GATEWAY_BRAND_COLOR": "canary",
        "GATEWAY_ENABLE": "ghl",
        "GHL_CLIENT_ID": "x",
        "ZOOM_CLIENT_ID": "x",
        "ZOOM_CLIENT_SECRET_FILE": str(tmp_path / "nothing"),
        "HUBSPOT_SCOPE": 'a"b',
        "SUPABASE_URL": "canary",
        "SUPABASE_SECRET_KEY": "sb_secret_x",
    }
    shown = run(command, **given).output

    for name in (
        *given.keys() - {"GHL_CLIENT_ID", "ZOOM_CLIENT_ID", "SUPABASE_SECRET_KEY"},
        "GHL_CLIENT_SECRET is missing",
    ):
        assert name in shown, shown
    assert "ZOOM_CLIENT_SECRET is missing" not in shown
    assert "canary" not in shown
    (tmp_path / "own.toml").write_text("[acme]\nnaem = 'x'\n[zoom]\ntype = 'x'\n")
    own = {"GATEWAY_CATALOG": str(tmp_path), "ZOOM_CLIENT_ID": "x", "GATEWAY_ENABLE": "acme"}
    beside = run(command, **{**given, **own}).output
    for name in ("[acme] naem", "[zoom] type", "HUBSPOT_SCOPE", "GHL_CLIENT_SECRET", "GATEWAY_BRAND_COLOR"):
        assert name in beside, beside
    assert "GATEWAY_ENABLE" not in beside, "acme may be in the file that is wrong"
    alone = run(command, **given, GATEWAY_CATALOG=str(tmp_path / "nothing")).output
    assert "GATEWAY_CATALOG" in alone
    assert "GATEWAY_ENABLE" not in alone


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system without a free byte."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = shutil.which("mount")
    if (
        os.geteuid()
        or not mount
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("only root makes a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            return


@pytest.mark.parametrize("journal", ["new", "existing"])
def test_a_full_disk_is_told_by_serve_and_doctor_alike(run, full_disk, journal):
    """
    The journal is tried with as many bytes as a response has, so that a file that is there already proves nothing.
    """
    given = {"GATEWAY_DATA": str(full_disk), "DATABASE_URL": f"{DATABASE}:{free_port()}/d"}
    if journal == "existing":
        subprocess.run(["mount", "-o", "remount,size=1m", full_disk], check=True)
        run("serve", **given)
    _fill(full_disk)
    served, examined = run("serve", **given), run("doctor", **given)

    assert (2, 1) == (served.exit_code, examined.exit_code)
    for ended in (served, examined):
        assert "the refresh journal in" in ended.output
        assert "It can be written" not in ended.output


@pytest.mark.parametrize("command", ["serve", "db apply", "db status", "partners list"])
def test_a_project_that_does_not_answer_names_its_setting(run, command):
    """
    Over REST it is SUPABASE_URL that has to be checked.
    """
    ended = run(command, SUPABASE_URL=f"http://127.0.0.1:{free_port()}", SUPABASE_SECRET_KEY="canary")

    assert 2 == ended.exit_code
    assert "check SUPABASE_URL" in ended.output


def test_a_role_without_rights_is_told_from_a_missing_schema(run, database):
    """
    `db apply` would not help it.
    """
    rows(database, "create role stranger login")
    ended = run("serve", DATABASE_URL=database.replace("postgres@/", "stranger@/"))
    rows(database, "drop role stranger")

    assert 2 == ended.exit_code
    assert "the role in DATABASE_URL may not call the gateway's functions" in ended.output


def test_an_account_without_a_name_is_told_what_postgres_needs(monkeypatch):
    """
    Containers may run under any number.
    """
    monkeypatch.setattr(os, "geteuid", lambda: 4_711_000)
    with pytest.raises(SettingsRefused, match=r"uid 4711000.* has no name in /etc/passwd"):
        paths._account()


def test_a_public_gateway_needs_the_switch_also_where_an_embedded_database_exists(run, monkeypatch):
    """
    It may be that of a trial. Commands that only look join it.
    """
    monkeypatch.setattr(context, "holds_database", lambda _: True)
    ended = run("serve", GATEWAY_PUBLIC_URL="https://connect.example.com")

    assert 2 == ended.exit_code
    assert "DATABASE_URL is missing" in ended.output
    assert "--embedded" in ended.output


def test_a_bug_shows_its_place_and_no_traceback(run, monkeypatch):
    """
    Messages of exceptions may quote secrets.
    """

    def broken(*_: object, **__: object) -> None:
        raise KeyError("canary")

    monkeypatch.setattr(context, "read_settings", broken)
    ended = run("partners list")

    assert 2 == ended.exit_code
    assert "KeyError. This is a bug of the gateway" in ended.output


@pytest.mark.parametrize("arguments", ["--host nowhere.invalid", "--host ::1::", "--host 203.0.113.7", "--port 70000"])
def test_an_address_that_cannot_be_listened_on_is_a_sentence(run, bare_database, arguments):
    """
    Before anything else is started.
    """
    ended = run(f"serve {arguments}", DATABASE_URL=bare_database)

    assert 2 == ended.exit_code
    assert "is no address" in ended.output or "0<=x<=65535" in ended.output
