"""`connections …`: list, show, check, retry, revoke and import connections. No secret is shown."""

import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, get_args

import click
from pydantic_core import to_json, to_jsonable_python

from gateway.catalog import Catalog
from gateway.cli.context import (
    YES,
    Report,
    carry_out,
    checked_providers,
    confirm,
    counted,
    database_settings,
    fail,
    opened_database,
    opened_runtime,
    printable,
    rendered,
    reporting,
)
from gateway.connections.check import check, retry_connections
from gateway.connections.import_existing import Report as ImportReport
from gateway.connections.import_existing import import_all
from gateway.connections.revoke import finish_revocation
from gateway.connections.revoke_provider import Report as RevokeReport
from gateway.connections.revoke_provider import prove, revoke_all
from gateway.database.queries.connections import reached_connections
from gateway.database.queries.operator import erase, inspect_connection, provider_holdings
from gateway.models import OPERATOR, Connection, Status
from gateway.services import Runtime, checked_catalog

PAGE = 500
MOST_LINES = 100
_SHOWN = 20
_EVENT_COLUMNS = ("at", "position", "id", "type", "user_id", "partner_id", "provider", "data")
_AGAIN = "Interrupted: run it again to continue."


@click.group()
def connections() -> None:
    """The users' connections."""


@connections.command("list")
@click.option("--provider", help="Only connections of this provider.")
@click.option("--user", "user_id", type=click.UUID, help="Only connections of this user.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only connections in this state.")
@click.option("--lacking-scope", is_flag=True, help="Only connections that lack a scope that is asked for now.")
@click.option("--client-gone", is_flag=True, help="Only connections of a registration that is no longer ours.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def connections_list(
    *,
    provider: str | None,
    user_id: uuid.UUID | None,
    status: str | None,
    lacking_scope: bool,
    client_gone: bool,
    as_json: bool,
) -> None:
    """The connections of all users, by id."""
    settings = database_settings()
    catalog, _ = checked_catalog(settings)
    wanted = {
        "status": status,
        "clients": {name: client.client_id for name, client in settings.clients.items()} if client_gone else None,
        "scopes": {each.id: each.required for each in catalog.providers.values()} if lacking_scope else None,
    }
    states: Counter[tuple[str, str]] = Counter()
    after = None
    with opened_database() as database:
        list_page = partial(reached_connections, database, OPERATOR, of_user=user_id, provider=provider, wanted=wanted)
        while page := list_page(after=after, most=PAGE):
            for number, row in enumerate(page, states.total()):
                if as_json or number < MOST_LINES:
                    click.echo(to_json(_shown(row, catalog)) if as_json else _line(row))
            states.update((row.provider, row.status) for row in page)
            after = page[-1].id
    if provider and not states:
        checked_providers([provider])
    if not as_json:
        click.echo("\n".join(_summary(states)), err=True)


def _summary(states: Counter[tuple[str, str]]) -> Iterator[str]:
    count = states.total()
    yield f"{counted(count, 'connection')}."
    if count > MOST_LINES:
        yield from (f"{number:>9,}  {provider:<16} {status}" for (provider, status), number in sorted(states.items()))
        yield f"Only the first {MOST_LINES} are shown: narrow the list with --provider, --user or --status; --json lists all."


def _shown(row: Connection, catalog: Catalog) -> dict[str, Any]:
    provider = catalog.entries.get(row.provider)
    fields: dict[str, Any] = to_jsonable_python(row)
    fields.pop("generation")
    fields["account"]["kind"] = provider.deviation.account_kind(row.facts) if provider else None
    return fields | {"missing_scope": provider.missing_scope(row.scope) if provider else ()}


def _line(row: Connection) -> str:
    state = f"{row.status} ({row.reason})" if row.reason else row.status
    return f"{row.id}  {row.provider:<16} {state:<22} {row.user_id}  {printable(row.account.label)}"


@connections.command("show")
@click.argument("connection_id", type=click.UUID)
@reporting
def connections_show(connection_id: uuid.UUID) -> Report:
    """One connection: which partners may use it, and its last events; ends with 1 if there is none."""
    with opened_database() as database:
        found = inspect_connection(database, connection_id)
    if found is None:
        click.echo("There is no such connection, and no event about it.", err=True)
        sys.exit(1)
    catalog, _ = checked_catalog(database_settings())
    shown = {
        "connection": _shown(found.connection, catalog) | dict(found.refresh or {}) if found.connection else None,
        "revocations_queued": found.revocations_queued,
        "partners": found.partners,
    }
    events = [{name: each[name] for name in _EVENT_COLUMNS} for each in found.events]
    brief = [{name: each[name] for name in ("at", "position", "type")} for each in events]
    gone = [] if found.connection else ["This connection does not exist any more."]
    return Report(shown | {"events": events}, chain(gone, rendered(shown | {"events": brief})))


@connections.command("check")
@click.argument("connection_id", type=click.UUID)
@reporting
def connections_check(connection_id: uuid.UUID) -> Report:
    """Ask the provider about one connection; ends with 1 if the connection is not active afterwards."""
    with opened_runtime() as rt:
        row = check(rt, connection_id, None)
        return Report(_shown(row, rt.catalog), [_line(row)], ok=row.status == "active")


@connections.command("retry")
@click.argument("connection_id", type=click.UUID, required=False)
@click.option(
    "--provider", help="All of this provider that wait after a failure, are held, suspended or were refused for long."
)
@reporting
def connections_retry(connection_id: uuid.UUID | None, provider: str | None) -> Report:
    """Refresh connections now, and check keys, as after an incident of a provider; ends with 1 if one of them fails."""
    if (connection_id is None) == (provider is None):
        raise click.UsageError("Name one connection, or --provider.")
    with opened_runtime() as rt:
        if provider is not None:
            rt.entry(provider)
        steps = retry_connections(rt, connection_id=connection_id, provider=provider)
        (results, _), _ = carry_out(steps, lambda at: ("Refreshing", len(at[0]), at[1]))
    counts = Counter(results.values())
    lines = [f"{counted(number, 'connection')}: {result}" for result, number in counts.items()]
    whole = {"results": results, "counts": counts}
    return Report(whole, lines or ["There is nothing to retry."], ok=set(counts) <= {"refreshed", "confirmed"})


# -- revoke ----------------------------------------------------------------------------------------------------------


@connections.command("revoke")
@click.argument("connection_id", type=click.UUID, required=False)
@click.option("--provider", help="All connections of this provider.")
@YES
@click.option("--proof", type=click.Path(path_type=Path), help="A new file: one JSON line per connection.")
@reporting
def connections_revoke(
    connection_id: uuid.UUID | None, provider: str | None, proof: Path | None, *, yes: bool
) -> Report:
    """Erase one connection, or all of a provider, and revoke the grants; ends with 1 if something is left."""
    if (connection_id is None) == (provider is None) or (proof is not None and provider is None):
        raise click.UsageError("Name one connection, or --provider (and --proof with it).")
    with opened_runtime() as rt:
        if connection_id is not None:
            return _revoke_one(rt, connection_id, yes=yes)
        return _revoke_all(rt, provider or "", proof, yes=yes)


def _revoke_one(rt: Runtime, connection_id: uuid.UUID, *, yes: bool) -> Report:
    found = inspect_connection(rt.database, connection_id)
    if found is not None and (row := found.connection):
        confirm(f"{row.provider}, {printable(row.account.label)} of user {row.user_id} will be erased.", yes=yes)
    erased = next(iter(erase(rt.database, connection_id=connection_id).erased), None)
    if erased is None:
        click.echo("There is no such connection.", err=True)
        sys.exit(1)
    return Report(to_jsonable_python(erased) | {"revocation": finish_revocation(rt, erased.revocation)})


def _revoke_all(rt: Runtime, provider: str, proof: Path | None, *, yes: bool) -> Report:
    holdings = provider_holdings(rt.database, provider)
    if rt.catalog.entries.get(provider) is None and not (holdings.connections or holdings.queued or holdings.frozen_at):
        fail(f"there is no provider {provider}: `providers list` names them.")
    what = f"{counted(holdings.connections, 'connection')} of {counted(holdings.users, 'user')} at {provider}"
    confirm(f"{what} will be erased. All of its tokens are frozen first.", yes=yes)
    if proof is not None and (proof.exists() or not os.access(proof.parent, os.W_OK)):
        fail(f"{proof} exists or cannot be written: name a new file for the proof.")
    report, interrupted = carry_out(revoke_all(rt, provider), _revoked)
    rows, whole = prove(rt, report)
    is_done = not interrupted and not whole["left"]
    if proof is not None and is_done:
        _write_proof(proof, [*rows, whole])
    whole |= {"pending": report.pending, "attempts": report.attempts, "interrupted": interrupted}
    return Report(whole, chain(rendered(whole), _next_steps(provider, whole)), ok=is_done)


def _revoked(at: RevokeReport) -> tuple[str, int, int]:
    if at.grants is None:
        return "Erasing", at.erased, max(at.total, at.erased)
    return "Revoking", at.outcomes.total(), at.grants


def _write_proof(path: Path, rows: list[object]) -> None:
    """
    JSON lines in a new file that only its owner may read.

    It gets its name when it is complete: until then the command can be repeated, and no file of that name is replaced.
    """
    with NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:
        file.writelines(to_json(row) + b"\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)


def _next_steps(provider: str, whole: Mapping[str, Any]) -> Iterator[str]:
    if whole["queued"]:
        yield "Workers repeat queued revocations for 72 hours."
    if whole["interrupted"]:
        yield _AGAIN
    yield f"Tokens of {provider} stay frozen until `python -m gateway partners freeze --provider {provider} --off`."


# -- import ----------------------------------------------------------------------------------------------------------


@connections.command("import")
@click.option("--map", "names", multiple=True, metavar="NAME=PROVIDER", help="A name in the table, and its provider.")
@reporting
def connections_import(names: tuple[str, ...]) -> Report:
    """Encrypt and verify the plaintext tokens that the gateway did not write; ends with 1 if something is left."""
    with opened_runtime() as rt:
        steps = import_all(rt, _names(rt.catalog, names))
        report, interrupted = carry_out(steps, lambda at: ("Importing", at.counts.total(), at.total))
    clean = not report.remaining and not interrupted
    whole = to_jsonable_python(report) | {"interrupted": interrupted, "clean": clean}
    return Report(whole, _import_lines(report, interrupted=interrupted), ok=clean)


def _names(catalog: Catalog, given: Sequence[str]) -> dict[str, str]:
    """The provider of each name. Ends the command for another form than NAME=PROVIDER, and for an unknown provider."""
    pairs = {name: provider.strip() for name, _, provider in (text.rpartition("=") for text in given)}
    unknown = [f"{name}={provider}" for name, provider in pairs.items() if not (name and catalog.entries.get(provider))]
    if unknown:
        fail(*(f"--map {pair}: write it as NAME=PROVIDER; `providers list` names the providers." for pair in unknown))
    return pairs


def _import_lines(report: ImportReport, *, interrupted: bool) -> Iterator[str]:
    yield from rendered(report.counts) if report.counts else ("There is nothing to import.",)
    yield from rendered(report.remaining[:_SHOWN])
    if len(report.remaining) > _SHOWN:
        yield f"… and {len(report.remaining) - _SHOWN} more: --json lists all."
    if interrupted:
        yield _AGAIN
