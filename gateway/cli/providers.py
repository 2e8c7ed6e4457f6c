"""`doctor` and `providers …`: check the installation, the catalogue and our registrations."""

import json
import sys
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from itertools import chain, tee
from typing import TextIO

import click

from gateway import doctor as health
from gateway.catalog import AnyEntry, Provider
from gateway.catalog.witnesses import status, tokens
from gateway.cli.context import (
    AS_JSON,
    Report,
    checked_providers,
    database_settings,
    file_problem,
    reach_database,
    rendered,
    reporting,
    starting_settings,
)
from gateway.doctor import Finding
from gateway.errors import DatabaseUnavailable, SettingsRefused
from gateway.services import build_runtime
from gateway.settings import Settings, judge_settings, process_environment


@click.command()
@AS_JSON
@click.option(
    "--access-token",
    type=click.File(),
    help="A file (or - for stdin) with a user's access token, to say what is wrong with it.",
)
def doctor(*, as_json: bool, access_token: TextIO | None) -> None:
    """Check everything this installation needs, and say what to fix; ends with 1 if something must be fixed."""
    try:
        starting_settings()
        token = access_token.read().strip() if access_token else ""
        with reach_database() as database:
            found = health.examine(process_environment(), embedded=database.is_embedded, access_token=token)
            _print_findings(found, as_json=as_json)
    except SettingsRefused as refused:
        _print_findings(health.refused_settings(refused), as_json=as_json)
    except (DatabaseUnavailable, OSError) as error:
        problem = file_problem(error) if isinstance(error, OSError) else f"It cannot be used: {error}."
        _print_findings([health.finding("database.not_started", problem=problem)], as_json=as_json)


def _print_findings(findings: Iterable[Finding], *, as_json: bool) -> None:
    """Each as it is made. Ends with 1 if something must be fixed; warnings are to be read."""
    found, shown = tee(findings)
    for line in () if as_json else health.lines(shown):
        click.echo(line)
    rows = [asdict(finding) for finding in found]
    ok = all(row["level"] != "fail" for row in rows)
    if as_json:
        click.echo(json.dumps({"ok": ok, "findings": rows}))
    sys.exit(0 if ok else 1)


# -- providers -------------------------------------------------------------------------------------------------------


@click.group()
def providers() -> None:
    """The catalogue."""


_STATUS = "status: how far sources agree (docs/providers.md); none was tried with the real service."


@providers.command("list")
@reporting
def providers_list() -> Report:
    """Every provider, whether it is enabled, and its redirect URI."""
    settings, catalog = database_settings(), checked_providers()
    rows = [
        {
            "id": provider.id,
            "name": provider.name,
            "type": provider.type,
            "enabled": (missing := _missing(provider, settings)) is None,
            "missing": missing,
            "status": status(provider),
            "redirect_uri": provider.redirect_uri(settings.public_url) if isinstance(provider, Provider) else None,
        }
        for provider in sorted(catalog.entries.values(), key=lambda provider: (provider.type, provider.id))
    ]
    return Report(rows, chain(rendered(rows), (_STATUS,)))


def _missing(provider: AnyEntry, settings: Settings) -> str | None:
    if not isinstance(provider, Provider):
        return None if provider.id in settings.enable else "GATEWAY_ENABLE"
    client = settings.clients.get(provider.id)
    if client is None:
        return f"{provider.id.upper()}_CLIENT_ID"
    return f"{provider.id.upper()}_CLIENT_SECRET" if provider.needs_secret and not client.client_secret else None


@providers.command("show")
@click.argument("provider_id")
def providers_show(provider_id: str) -> None:
    """One provider, as the catalogue and your own files define it, and how far sources agree on it."""
    provider = checked_providers([provider_id]).entries[provider_id]
    found = {"status": status(provider), **provider.model_dump(mode="json", exclude_defaults=True)}
    if isinstance(provider, Provider):
        found["redirect_uri"] = provider.redirect_uri(database_settings().public_url)
        found["tokens"] = " ".join(tokens(provider))
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@providers.command("check")
@click.argument("provider_id", required=False)
@AS_JSON
def providers_check(provider_id: str | None, *, as_json: bool) -> None:
    """Ask each enabled provider, or one, whether it knows us, or else what it answers without credentials; ends with 1 if something must be fixed."""
    with reach_database(), closing(build_runtime(*judge_settings())) as rt:
        asked = rt.catalog.entries.get(provider_id or "")
        if provider_id is None:
            found = health.providers.examine(rt)
        elif asked is None or asked.id in rt.clients:
            found = health.providers.examine_one(rt, rt.provider(provider_id))
        else:
            found = health.providers.examine_endpoints(rt, asked)
        _print_findings(found, as_json=as_json)
