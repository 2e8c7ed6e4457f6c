"""
The command line: `python -m gateway …`.

A door like the pages: it reads arguments, calls the rooms, prints. What may fail ends with one sentence and who must act.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict

import click
from cryptography.fernet import Fernet

from gateway.catalog import TYPES, Provider, load_catalog
from gateway.cli.checking import check
from gateway.cli.connections import connections
from gateway.cli.context import Database, checked_database, fail, judged_settings, reach_database, secret
from gateway.cli.events import events
from gateway.cli.partners import partners
from gateway.database import SCHEMA_VERSION, apply_schema
from gateway.database.migrate import PASTED
from gateway.errors import GatewayError, SettingsRefused
from gateway.log_setup import quiet_libraries
from gateway.settings import Settings


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The OAuth integration gateway."""
    quiet_libraries()


# -- running ---------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--port", default=8000, show_default=True, help="The gateway's own.")
@click.option("--sandbox-port", default=8001, show_default=True, help="The sandbox's, on 127.0.0.1.")
def demo(port: int, sandbox_port: int) -> None:
    """Everything running, with no setting: database, gateway, and a sandbox that plays the providers."""
    from gateway.cli.demo import run_demo

    try:
        run_demo(port, sandbox_port)
    except SettingsRefused as refused:
        fail(refused.problems, starting=True)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes; each takes 64 requests at once.")
@click.option("--no-worker", is_flag=True, help="Refresh nothing ahead here: `worker` runs elsewhere.")
def serve(host: str, port: int, workers: int, no_worker: bool) -> None:
    """The gateway, by granian."""
    from gateway.server import require_free, run_server

    if judged_settings(whole=True).supabase_url is None:
        click.echo("Nobody can sign in yet: SUPABASE_URL is missing. `python -m gateway doctor` says more.", err=True)
    try:
        require_free(host, port, "--port")
    except SettingsRefused as refused:
        fail(refused.problems, starting=True)
    with checked_database():
        run_server(host, port, workers, work=not no_worker)


@main.command()
@click.option("--threads", default=8, show_default=True, type=click.IntRange(1, 64), help="Units of work at once.")
def worker(threads: int) -> None:
    """Refresh ahead, retry revocations, replay the journal; any number of these, on any machine."""
    judged_settings(whole=True)
    with checked_database() as environ:
        from gateway.worker.loop import run_workers

        try:
            run_workers(environ, threads=threads)
        except SettingsRefused as refused:
            fail(refused.problems, starting=True)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def doctor(as_json: bool) -> None:
    """Look at everything this installation needs, and say what to mend; ends with 1 if anything has to be."""
    from gateway.doctor import examine, fit, line, to_mend

    found = []
    try:
        direct = not secret("DATABASE_URL") and not secret("SUPABASE_SECRET_KEY")
        with reach_database() if direct else nullcontext() as database:
            for finding in examine({**os.environ, **({"DATABASE_URL": database.dsn} if database else {})}):
                found.append(finding)
                if not as_json:
                    click.echo(line(finding))
    except SettingsRefused as refused:
        fail(refused.problems)
    if as_json:
        click.echo(json.dumps({"ok": fit(found), "findings": [asdict(finding) for finding in found]}))
    else:
        click.echo(to_mend(found))
    sys.exit(0 if fit(found) else 1)


# -- database --------------------------------------------------------------------------------------------------------


@main.group()
def db() -> None:
    """The schema."""


@db.command("apply")
def db_apply() -> None:
    """Set the schema up, or bring it up to date; any number of times."""
    try:
        with reach_database() as database:
            if not database.dsn:
                _paste(database)
                return
            for told in apply_schema(database.dsn):
                click.echo(f"  - {told}")
    except GatewayError as error:
        fail([str(error)])
    click.echo(f"The schema is at version {SCHEMA_VERSION}.")


_HOSTED = re.compile(r"https://([a-z0-9]+)\.supabase\.co")


def _paste(database: Database) -> None:
    """Over REST no schema can be applied: says where to paste it, and looks whether it was."""
    hosted = _HOSTED.fullmatch(database.project)
    editor = f"https://supabase.com/dashboard/project/{hosted[1]}/sql/new" if hosted else "your project's SQL editor"
    click.echo(f"Without DATABASE_URL the schema has to be pasted by hand.\n  from  {PASTED}\n  into  {editor}")
    if sys.stdin.isatty():
        click.prompt("Press Enter when it has run", default="", show_default=False)
    end = time.monotonic() + _CACHE_SECONDS
    version = _version(database)
    while not _fresh(version) and time.monotonic() < end:
        time.sleep(1)  # PostgREST reads the new functions a moment later
        version = _version(database)
    _tell(version, as_json=False)


_CACHE_SECONDS = 5.0


def _version(database: Database) -> int | None:
    from gateway.server import schema_version

    return schema_version(database.store())


def _fresh(version: int | None) -> bool:
    return version is not None and version >= SCHEMA_VERSION


def _tell(version: int | None, *, as_json: bool) -> None:
    """Says what stands, and ends with 0 if that will do."""
    if as_json:
        click.echo(json.dumps({"version": version, "needed": SCHEMA_VERSION, "ok": _fresh(version)}))
    elif version is None:
        click.echo("There is no schema yet: run `python -m gateway db apply`.")
    else:
        click.echo(f"The schema is at version {version}; this gateway needs {SCHEMA_VERSION}.")
    sys.exit(0 if _fresh(version) else 1)


@db.command("status")
@click.option("--json", "as_json", is_flag=True)
def db_status(as_json: bool) -> None:
    """Which version stands, and which this gateway needs."""
    try:
        with reach_database() as database:
            version = _version(database)
    except SettingsRefused as refused:
        fail(refused.problems)
    except GatewayError as error:
        fail([str(error)])
    _tell(version, as_json=as_json)


# -- keys ------------------------------------------------------------------------------------------------------------


@main.group()
def keys() -> None:
    """The keys that seal."""


@keys.command("new")
def keys_new() -> None:
    """Print a new key for GATEWAY_KEYS."""
    click.echo(Fernet.generate_key().decode("ascii"))


@keys.command("rotate")
@click.option("--check", is_flag=True, help="Only count what is still under an older key.")
@click.option("--json", "as_json", is_flag=True)
def keys_rotate(check: bool, as_json: bool) -> None:
    """Seal everything again under the newest key, while all goes on; ends with 1 if something is left."""
    from gateway.connections.rotate_keys import rotate_keys

    try:
        with checked_database() as environ:
            clean = rotate_keys(environ, check=check, as_json=as_json)
    except SettingsRefused as refused:
        fail(refused.problems)
    except GatewayError as error:
        fail([f"{error.meaning} ({error})"])
    sys.exit(0 if clean else 1)


# -- providers -------------------------------------------------------------------------------------------------------


@main.group()
def providers() -> None:
    """The catalogue."""


@providers.command("list")
@click.option("--json", "as_json", is_flag=True)
def providers_list(as_json: bool) -> None:
    """Every provider, and whether we have a registration there."""
    settings = judged_settings()
    catalog = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts)
    rows = [
        {
            "id": provider.id,
            "name": provider.name,
            "type": provider.type,
            "enabled": provider.id in settings.clients and not _missing(provider, settings),
            "missing": _missing(provider, settings),
            "redirect_uri": f"{settings.public_url}/{provider.path}/{provider.slug}/callback",
        }
        for provider in catalog.providers.values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in sorted(rows, key=lambda row: (row["type"], row["id"])):
        mark = "enabled" if row["enabled"] else f"needs {row['missing']}"
        click.echo(f"{row['id']:<18} {TYPES[int(str(row['type']))]:<6} {mark:<32} {row['redirect_uri']}")


def _missing(provider: Provider, settings: Settings) -> str | None:
    """The setting that it lacks to be enabled."""
    client = settings.clients.get(provider.id)
    if client is None:
        return f"{provider.id.upper()}_CLIENT_ID"
    return f"{provider.id.upper()}_CLIENT_SECRET" if provider.needs_secret and not client.client_secret else None


@providers.command("show")
@click.argument("provider_id")
def providers_show(provider_id: str) -> None:
    """One provider, as the catalogue and the operator's files make it."""
    settings = judged_settings()
    provider = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts).get(provider_id)
    if provider is None:
        fail([f"there is no provider {provider_id}: `providers list` names them"])
    click.echo(provider.model_dump_json(indent=2, exclude_defaults=True))


providers.add_command(check)

# -- groups of their own ---------------------------------------------------------------------------------------------

for group in (partners, connections, events):
    main.add_command(group)
