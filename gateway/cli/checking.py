"""
`python -m gateway providers check`: whether our registrations are known, as `doctor` looks at them, for one or all.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict

import click

from gateway.cli.context import fail, reach_database, secret
from gateway.doctor import Finding, fit, line, registrations, to_mend
from gateway.errors import SettingsRefused
from gateway.services import build_runtime
from gateway.settings import read_settings


@click.command("check")
@click.argument("provider_id", required=False)
@click.option("--json", "as_json", is_flag=True)
def check(provider_id: str | None, *, as_json: bool) -> None:
    """Ask each enabled provider, or one, whether it knows our registration; ends with 1 if something has to be mended."""
    found = []
    try:
        for finding in _findings(provider_id):
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


def _findings(provider_id: str | None) -> Iterator[Finding]:
    """Nothing is asked of the database, but the settings have to name one, or a place for one."""
    direct = not secret("DATABASE_URL") and not secret("SUPABASE_SECRET_KEY")
    with reach_database() if direct else nullcontext() as database:
        rt = build_runtime(read_settings({**os.environ, **({"DATABASE_URL": database.dsn} if database else {})}))
        try:
            if provider_id is None:
                yield from registrations.examine(rt)
            elif provider_id in {each.id for each in rt.enabled()}:
                yield from registrations.examine_one(rt, rt.provider(provider_id))
            elif rt.catalog.get(provider_id) is None:
                raise SettingsRefused([f"there is no provider {provider_id}: `providers list` names them."])
            else:
                raise SettingsRefused([f"{provider_id} is not enabled: set {provider_id.upper()}_CLIENT_ID."])
        finally:
            rt.store.close()
            rt.outbound.close()
