"""
`python -m gateway connections …`: what users have connected, for whoever runs the gateway. No secret is shown.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from typing import Any, get_args

import click

from gateway.cli.context import checked_database, counted, fail, judge_providers, opened_store, plainly
from gateway.cli.revoking import revoke
from gateway.database.operating import Inspected
from gateway.errors import GatewayError, SettingsRefused
from gateway.models import Connection, Status

PAGE = 500


@click.group()
def connections() -> None:
    """What users have connected."""


connections.add_command(revoke)

# -- looking ---------------------------------------------------------------------------------------------------------


@connections.command("list")
@click.option("--provider", help="Only those of this provider.")
@click.option("--user", "user_id", type=click.UUID, help="Only those of this user.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only those in this state.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def connections_list(provider: str | None, user_id: uuid.UUID | None, status: str | None, *, as_json: bool) -> None:
    """Everybody's connections, by id."""
    count = 0
    with opened_store() as store:
        after: uuid.UUID | None = None
        while page := store.all_connections(provider=provider, user_id=user_id, status=status, after=after, most=PAGE):
            for row in page:
                click.echo(json.dumps(_shown(row)) if as_json else _line(row))
            count, after = count + len(page), page[-1].id
    if provider is not None and not count:
        judge_providers((provider,))
    if not as_json:
        click.echo(f"{counted(count, 'connection')}.", err=True)


def _shown(row: Connection) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "provider": row.provider,
        "type": row.type,
        "user_id": str(row.user_id),
        "account": {"id": row.account.id, "label": row.account.label},
        "status": row.status,
        "scope": row.scope,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
    }


def _line(row: Connection) -> str:
    return f"{row.id}  {row.provider:<16} {row.status:<22} {row.user_id}  {plainly(row.account.label)}"


@connections.command("show")
@click.argument("connection_id", type=click.UUID)
@click.option("--json", "as_json", is_flag=True)
def connections_show(connection_id: uuid.UUID, *, as_json: bool) -> None:
    """One connection: who may use it, and what happened to it last; ends with 1 where none is known."""
    with opened_store() as store:
        found = store.inspect_connection(connection_id)
    if found is None:
        click.echo("There is no such connection, and no event tells of one.", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(_whole(found)))
        return
    for line in _lines(found):
        click.echo(line)


def _whole(found: Inspected) -> dict[str, Any]:
    return {
        "connection": found.connection and _shown(found.connection) | dict(found.refresh),
        "revocations_waiting": found.waiting,
        "partners": [
            {
                "id": str(each.id),
                "name": each.name,
                "since": each.since.isoformat(),
                "ended_at": each.ended_at.isoformat() if each.ended_at else None,
                "made": each.made,
            }
            for each in found.partners
        ],
        "events": [
            {"at": each.said_at, "position": each.position, **{name: each.columns[name] for name in _OF_EVENT}}
            | {"data": json.loads(each.columns["data"] or "{}")}
            for each in found.events
        ],
    }


_OF_EVENT = ("id", "type", "user_id", "partner_id", "provider")


def _lines(found: Inspected) -> Iterator[str]:
    if found.connection is None:
        yield "It does not stand any more."
    for name, value in (_shown(found.connection) | dict(found.refresh) if found.connection else {}).items():
        said = plainly(f"{value['label']} ({value['id']})") if name == "account" else value
        yield f"{name:<20} {' '.join(said) if isinstance(said, tuple) else '–' if said is None else said}"
    if found.waiting:
        yield f"{found.waiting} of its grants still have to be given back."
    yield "partners" if found.partners else "partners             none by consent"
    for partner in found.partners:
        ended = f", until {partner.ended_at:%Y-%m-%d %H:%M}" if partner.ended_at else ""
        made = ", made for it" if partner.made else ""
        yield f"  {plainly(partner.name)}, since {partner.since:%Y-%m-%d %H:%M}{ended}{made}"
    yield "last events"
    for event in found.events:
        place = "unsealed" if event.position is None else event.position
        yield f"  {event.said_at[:19].replace('T', ' ')}  {place:>8}  {event.columns['type']}"


# -- sealing ---------------------------------------------------------------------------------------------------------


@connections.command("seal")
@click.option(
    "--map", "names", multiple=True, metavar="NAME=PROVIDER", help="A name in the table, and the provider it means."
)
@click.option("--dry-run", is_flag=True, help="Only say what would be asked.")
@click.option("--json", "as_json", is_flag=True)
def connections_seal(names: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    """Verify every plaintext token with its provider and seal it; ends with 1 if something is left."""
    from gateway.connections.sealing import seal_connections

    try:
        with checked_database() as environ:
            clean = seal_connections(environ, names, dry_run=dry_run, as_json=as_json)
    except SettingsRefused as refused:
        fail(refused.problems)
    except GatewayError as error:
        fail([f"{error.meaning} ({error})"])
    sys.exit(0 if clean else 1)
