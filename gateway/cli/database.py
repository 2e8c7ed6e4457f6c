"""`db …`: set up, update and show the schema."""

import re
import sys
import time
from pathlib import Path

import click

from gateway.cli.context import ReachedDatabase, Report, reach_database, reporting
from gateway.database import SCHEMA_VERSION
from gateway.database.migrate import PASTED, apply_schema, export_supabase, plan
from gateway.doctor.database import describe_schema

_HOSTED = re.compile(r"https://([a-z0-9]+)\.supabase\.co")
_CACHE_SECONDS = 5.0
"""How soon PostgREST knows new functions."""


@click.group()
def db() -> None:
    """The schema of the database."""


@db.command("apply")
@click.option("--dry-run", is_flag=True, help="Only print what would be done.")
def db_apply(*, dry_run: bool) -> None:
    """Set up or update the schema; any number of times."""
    with reach_database(existing=dry_run) as database:
        if not database.dsn:
            _paste(database)
            report = _version(database)
            click.echo("\n".join(report.lines or ()))
            sys.exit(0 if report.ok else 1)
        for step in plan(database.dsn):
            click.echo(f"  {step}")
        if dry_run:
            click.echo("Nothing was changed.")
            return
        for line in apply_schema(database.dsn):
            click.echo(f"  - {line}")
    click.echo(f"The schema is at version {SCHEMA_VERSION}.")


@db.command("export")
@click.option(
    "--supabase", is_flag=True, required=True, expose_value=False, help="As a migration for `supabase db push`."
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="supabase/migrations")
def db_export(folder: Path) -> None:
    """Write the schema as a timestamped migration into FOLDER; an unchanged schema is not written again."""
    click.echo(export_supabase(folder))


@db.command("status")
@reporting
def db_status() -> Report:
    """The version of the database's schema, and the one that this gateway needs; ends with 1 if it is older."""
    with reach_database(existing=True) as database:
        return _version(database)


def _paste(database: ReachedDatabase) -> None:
    """The REST API cannot apply a schema: say where to paste it, and check afterwards."""
    hosted = _HOSTED.fullmatch(database.settings.supabase_url or "")
    editor = f"https://supabase.com/dashboard/project/{hosted[1]}/sql/new" if hosted else "your project's SQL editor"
    click.echo(f"Without DATABASE_URL you paste the schema by hand.\n  from  {PASTED}\n  into  {editor}")
    if sys.stdin.isatty():
        click.prompt("Press Enter when it has run", default="", show_default=False)
    end = time.monotonic() + _CACHE_SECONDS
    while not database.schema()["is_current"] and time.monotonic() < end:
        time.sleep(1)


def _version(database: ReachedDatabase) -> Report:
    schema = database.schema()
    is_current = schema["is_current"]
    found, fix = describe_schema(schema, over_rest=not database.dsn)
    whole = {"version": schema["version"] or None, "needed": SCHEMA_VERSION, "ok": is_current}
    return Report(whole, [found if is_current else f"{found} {fix}"], ok=is_current)
