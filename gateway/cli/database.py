"""`db …`: the schema, set up, updated and looked at."""

from __future__ import annotations

import json
import re
import sys
import time

import click

from gateway.cli.context import AS_JSON, Database, reach_database
from gateway.database import SCHEMA_VERSION, apply_schema
from gateway.database.migrate import PASTED

_HOSTED = re.compile(r"https://([a-z0-9]+)\.supabase\.co")
_CACHE_SECONDS = 5.0
"""PostgREST knows new functions that soon after they were created."""


@click.group()
def db() -> None:
    """The schema of the database."""


@db.command("apply")
def db_apply() -> None:
    """Set up or update the schema; any number of times."""
    with reach_database() as database:
        if not database.dsn:
            _paste(database)
            return
        for report in apply_schema(database.dsn):
            click.echo(f"  - {report}")
    click.echo(f"The schema is at version {SCHEMA_VERSION}.")


@db.command("status")
@AS_JSON
def db_status(*, as_json: bool) -> None:
    """The version of the database's schema, and the one that this gateway needs; ends with 1 if it is older."""
    with reach_database(existing=True) as database:
        version = database.version()
    if as_json:
        click.echo(json.dumps({"version": version, "needed": SCHEMA_VERSION, "ok": _is_current(version)}))
        sys.exit(0 if _is_current(version) else 1)
    _print_version(version)


def _paste(database: Database) -> None:
    """No schema can be applied over the REST API: say where to paste it, and look for it afterwards."""
    hosted = _HOSTED.fullmatch(database.project)
    editor = f"https://supabase.com/dashboard/project/{hosted[1]}/sql/new" if hosted else "your project's SQL editor"
    click.echo(f"Without DATABASE_URL you paste the schema by hand.\n  from  {PASTED}\n  into  {editor}")
    if sys.stdin.isatty():
        click.prompt("Press Enter when it has run", default="", show_default=False)
    end = time.monotonic() + _CACHE_SECONDS
    while not _is_current(version := database.version()) and time.monotonic() < end:
        time.sleep(1)
    _print_version(version)


def _is_current(version: int | None) -> bool:
    return version is not None and version >= SCHEMA_VERSION


def _print_version(version: int | None) -> None:
    if version is None:
        click.echo("There is no schema yet: run `python -m gateway db apply`.")
    else:
        click.echo(f"The schema is at version {version}; this gateway needs {SCHEMA_VERSION}.")
    sys.exit(0 if _is_current(version) else 1)
