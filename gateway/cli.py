"""
The command line: `python -m gateway …`.

A door like the pages: it reads arguments, calls the rooms, prints. What may fail ends with one sentence and who must act.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from cryptography.fernet import Fernet

from gateway.catalog import TYPES, load_catalog
from gateway.config import Settings, read_settings
from gateway.errors import GatewayError, SettingsRefused


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The OAuth integration gateway."""


def _fail(problems: list[str]) -> None:
    click.echo("This cannot start yet:", err=True)
    for problem in problems:
        click.echo(f"  - {problem}", err=True)
    sys.exit(2)


def _settings() -> Settings:
    """The settings of this environment, or all that is wrong with them and exit code 2."""
    try:
        settings = read_settings(os.environ)
        load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts)
    except SettingsRefused as refused:
        _fail(refused.problems)
        raise
    return settings


@contextmanager
def _database() -> Iterator[tuple[str, bool]]:
    """The address of the database and whether it is our own: the one that is set, or an embedded one, joined or started."""
    url = os.environ.get("DATABASE_URL")
    if url or os.environ.get("DATABASE_URL_FILE"):
        yield url or Path(os.environ["DATABASE_URL_FILE"]).read_text(encoding="utf-8").strip(), False
        return
    from gateway.store.embedded import embedded_postgres

    with embedded_postgres(Path(os.environ.get("GATEWAY_DATA") or "var")) as dsn:
        yield dsn, True


# -- running ---------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--port", default=8000, show_default=True, help="The gateway's own.")
@click.option("--sandbox-port", default=8001, show_default=True, help="The sandbox's, on 127.0.0.1.")
def demo(port: int, sandbox_port: int) -> None:
    """Everything running, with no setting: database, gateway, and a sandbox that plays the providers."""
    from gateway.demo import run_demo

    try:
        run_demo(port, sandbox_port)
    except SettingsRefused as refused:
        _fail(refused.problems)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True)
@click.option("--workers", default=1, show_default=True, help="Processes; each takes 64 requests at once.")
def serve(host: str, port: int, workers: int) -> None:
    """The gateway, by granian."""
    _settings()
    with _database() as (dsn, own):
        from gateway.serving import check_schema, run_server

        try:
            check_schema(dsn, own=own)
        except GatewayError as error:
            _fail([str(error)])
        os.environ["DATABASE_URL"] = dsn
        os.environ.pop("DATABASE_URL_FILE", None)
        run_server(host, port, workers)


# -- database --------------------------------------------------------------------------------------------------------


@main.group()
def db() -> None:
    """The schema."""


@db.command("apply")
def db_apply() -> None:
    """Set the schema up, or bring it up to date; any number of times."""
    from gateway.store import SCHEMA_VERSION, apply_schema

    try:
        with _database() as (dsn, _):
            apply_schema(dsn)
    except GatewayError as error:
        _fail([str(error)])
    click.echo(f"The schema is at version {SCHEMA_VERSION}.")


@db.command("status")
@click.option("--json", "as_json", is_flag=True)
def db_status(as_json: bool) -> None:
    """Which version stands, and which this gateway needs."""
    from gateway.serving import schema_version
    from gateway.store import SCHEMA_VERSION

    try:
        with _database() as (dsn, _):
            version = schema_version(dsn)
    except GatewayError as error:
        _fail([str(error)])
    fresh = version is not None and version >= SCHEMA_VERSION
    if as_json:
        click.echo(json.dumps({"version": version, "needed": SCHEMA_VERSION, "ok": fresh}))
    elif version is None:
        click.echo("There is no schema yet: run `python -m gateway db apply`.")
    else:
        click.echo(f"The schema is at version {version}; this gateway needs {SCHEMA_VERSION}.")
    sys.exit(0 if fresh else 1)


# -- keys ------------------------------------------------------------------------------------------------------------


@main.group()
def keys() -> None:
    """The keys that seal."""


@keys.command("new")
def keys_new() -> None:
    """Print a new key for GATEWAY_KEYS."""
    click.echo(Fernet.generate_key().decode("ascii"))


# -- providers -------------------------------------------------------------------------------------------------------


@main.group()
def providers() -> None:
    """The catalogue."""


@providers.command("list")
@click.option("--json", "as_json", is_flag=True)
def providers_list(as_json: bool) -> None:
    """Every provider, and whether we have a registration there."""
    settings = _settings()
    catalog = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts)
    rows = [
        {
            "id": provider.id,
            "name": provider.name,
            "type": provider.type,
            "enabled": provider.id in settings.clients,
            "redirect_uri": f"{settings.public_url}/{provider.path}/{provider.slug}/callback",
        }
        for provider in catalog.providers.values()
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in sorted(rows, key=lambda row: (row["type"], row["id"])):
        mark = "enabled" if row["enabled"] else f"needs {str(row['id']).upper()}_CLIENT_ID"
        click.echo(f"{row['id']:<18} {TYPES[int(str(row['type']))]:<6} {mark:<32} {row['redirect_uri']}")


@providers.command("show")
@click.argument("provider_id")
def providers_show(provider_id: str) -> None:
    """One provider, as the catalogue and the operator's files make it."""
    settings = _settings()
    provider = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts).get(provider_id)
    if provider is None:
        _fail([f"there is no provider {provider_id}: `providers list` names them"])
        return
    click.echo(provider.model_dump_json(indent=2, exclude_defaults=True))
