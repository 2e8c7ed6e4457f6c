"""`connections …`: list, show, check, retry, revoke and import connections. No secret is shown."""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from pydantic_core import to_jsonable_python

from gateway.catalog import Catalog
from gateway.cli.context import (
    AS_JSON,
    YES,
    checked_providers,
    confirm,
    counted,
    database_settings,
    fail,
    interruptible,
    opened_database,
    opened_runtime,
    printable,
    show,
    show_progress,
)
from gateway.connections.check import check
from gateway.connections.import_existing import Report as ImportReport
from gateway.connections.import_existing import import_all
from gateway.connections.retry import retry_connections
from gateway.connections.revoke import finish_revocation
from gateway.connections.revoke_provider import Report, RevokeAll, Summary, summary
from gateway.database.queries.operator import (
    Inspected,
    all_connections,
    erase,
    inspect_connection,
    provider_holdings,
)
from gateway.models import Connection, Status
from gateway.services import Runtime, checked_catalog

PAGE = 500
_SHOWN = 20
_EVENT_COLUMNS = ("at", "position", "id", "type", "user_id", "partner_id", "provider")


@click.group()
def connections() -> None:
    """The users' connections."""


# -- list and show ---------------------------------------------------------------------------------------------------


@connections.command("list")
@click.option("--provider", help="Only connections of this provider.")
@click.option("--user", "user_id", type=click.UUID, help="Only connections of this user.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only connections in this state.")
@click.option("--lacking-scope", is_flag=True, help="Only connections that lack a scope that is asked for now.")
@click.option("--client-gone", is_flag=True, help="Only connections of a registration that is no longer ours.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def connections_list(*, lacking_scope: bool, client_gone: bool, as_json: bool, **wanted: Any) -> None:
    """The connections of all users, by id."""
    settings = database_settings()
    catalog, _ = checked_catalog(settings)
    if client_gone:
        wanted["clients"] = {name: client.client_id for name, client in settings.clients.items()}
    if lacking_scope:
        wanted["scopes"] = {each.id: each.required for each in catalog.providers.values()}
    count, after = 0, None
    with opened_database() as database:
        while page := all_connections(database, **wanted, after=after, most=PAGE):
            for row in page:
                click.echo(json.dumps(_as_json(row, catalog)) if as_json else _line(row))
            count, after = count + len(page), page[-1].id
    if wanted["provider"] and not count:
        checked_providers([wanted["provider"]])
    if not as_json:
        click.echo(f"{counted(count, 'connection')}.", err=True)


def _as_json(row: Connection, catalog: Catalog) -> dict[str, Any]:
    provider = catalog.get(row.provider)
    said = {name: value for name, value in to_jsonable_python(row).items() if name != "generation"}
    said["account"]["kind"] = provider.account_kind(row.facts) if provider else None
    return said | {"missing_scope": list(provider.missing_scope(row.scope)) if provider else []}


def _line(row: Connection) -> str:
    state = f"{row.status} ({row.reason})" if row.reason else row.status
    return f"{row.id}  {row.provider:<16} {state:<22} {row.user_id}  {printable(row.account.label)}"


@connections.command("show")
@click.argument("connection_id", type=click.UUID)
@AS_JSON
def connections_show(connection_id: uuid.UUID, *, as_json: bool) -> None:
    """One connection: which partners may use it, and its last events; ends with 1 if there is none."""
    with opened_database() as database:
        found = inspect_connection(database, connection_id)
    if found is None:
        click.echo("There is no such connection, and no event about it.", err=True)
        sys.exit(1)
    catalog, _ = checked_catalog(database_settings())
    row = _as_json(found.connection, catalog) | dict(found.refresh or {}) if found.connection else None
    show(_inspected_as_json(found, row), _inspected_lines(found, row), as_json=as_json)


def _inspected_as_json(found: Inspected, row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "connection": row,
        "revocations_queued": found.revocations_queued,
        "partners": to_jsonable_python(found.partners),
        "events": [
            {name: event[name] for name in _EVENT_COLUMNS} | {"data": json.loads(event["data"] or "{}")}
            for event in found.events
        ],
    }


def _inspected_lines(found: Inspected, row: Mapping[str, Any] | None) -> Iterator[str]:
    if row is None:
        yield "This connection does not exist any more."
    for name, value in (row or {}).items():
        if name == "account":
            text = printable(f"{value['label']} ({value['id']})")
        elif isinstance(value, dict):
            text = printable(", ".join(f"{key} {item}" for key, item in value.items())) or "–"
        else:
            text = " ".join(value) or "–" if isinstance(value, list) else "–" if value is None else value
        yield f"{name:<20} {text}"
    if found.revocations_queued:
        yield f"{counted(found.revocations_queued, 'grant')} still to be revoked at the provider."
    yield "partners" if found.partners else "partners             none by consent"
    for partner in found.partners:
        ended = f", until {partner.ended_at:%Y-%m-%d %H:%M}" if partner.ended_at else ""
        made = ", created for it" if partner.made else ""
        yield f"  {printable(partner.name)}, since {partner.since:%Y-%m-%d %H:%M}{ended}{made}"
    yield "last events"
    for event in found.events:
        position = "–" if event["position"] is None else event["position"]
        yield f"  {event['at'][:19]}  {position:>8}  {event['type']}"


# -- check and retry -------------------------------------------------------------------------------------------------


@connections.command("check")
@click.argument("connection_id", type=click.UUID)
@AS_JSON
def connections_check(connection_id: uuid.UUID, *, as_json: bool) -> None:
    """Ask the provider about one connection; ends with 1 if the connection is not active afterwards."""
    with opened_runtime() as rt:
        row = check(rt, connection_id, None)
        show(_as_json(row, rt.catalog), [_line(row)], as_json=as_json)
    sys.exit(0 if row.status == "active" else 1)


@connections.command("retry")
@click.argument("connection_id", type=click.UUID, required=False)
@click.option("--provider", help="All of this provider that are held, suspended or were refused for long.")
@AS_JSON
def connections_retry(connection_id: uuid.UUID | None, provider: str | None, *, as_json: bool) -> None:
    """Refresh connections now, as after an incident of a provider; ends with 1 if one is not refreshed."""
    if (connection_id is None) == (provider is None):
        raise click.UsageError("Name one connection, or --provider.")
    results = []
    with opened_runtime() as rt, interruptible() as stopped:
        if provider is not None:
            rt.provider(provider)
        for each in retry_connections(rt, connection_id=connection_id, provider=provider):
            results.append(each)
            show_progress("Refreshing", len(results), each.of)
            if stopped.is_set():
                break
    counts = Counter(each.result for each in results)
    lines = [f"{counted(number, 'connection')}: {result}" for result, number in counts.items()]
    show(
        {"results": {str(each.id): each.result for each in results}, "counts": counts},
        lines or ["There is nothing to retry."],
        as_json=as_json,
    )
    sys.exit(0 if set(counts) <= {"refreshed"} else 1)


# -- revoke ----------------------------------------------------------------------------------------------------------


@connections.command("revoke")
@click.argument("connection_id", type=click.UUID, required=False)
@click.option("--provider", help="All connections of this provider.")
@YES
@click.option(
    "--proof", "proof_file", type=click.Path(path_type=Path), help="A new file: one JSON line per connection."
)
@AS_JSON
def connections_revoke(
    connection_id: uuid.UUID | None, provider: str | None, proof_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Erase one connection, or all of a provider, and revoke the grants; ends with 1 if something is left."""
    if (connection_id is None) == (provider is None) or (proof_file is not None and provider is None):
        raise click.UsageError("Name one connection, or --provider (and --proof with it).")
    with opened_runtime() as rt:
        if connection_id is not None:
            is_done = _revoke_one(rt, connection_id, yes=yes, as_json=as_json)
        else:
            is_done = _revoke_all(rt, provider or "", proof_file, yes=yes, as_json=as_json)
    sys.exit(0 if is_done else 1)


def _revoke_one(rt: Runtime, connection_id: uuid.UUID, *, yes: bool, as_json: bool) -> bool:
    found = inspect_connection(rt.database, connection_id)
    if found is not None and (row := found.connection):
        confirm(f"{row.provider}, {printable(row.account.label)} of user {row.user_id} will be erased.", yes=yes)
    erased = next(iter(erase(rt.database, connection_id=connection_id).erased), None)
    if erased is None:
        click.echo("There is no such connection.", err=True)
        return False
    receipt = to_jsonable_python(erased) | {"revocation": finish_revocation(rt, erased.revocation)}
    line = f"Erased: {erased.provider}, {printable(erased.account.label)}. Revocation: {receipt['revocation']}."
    show(receipt, [line], as_json=as_json)
    return True


def _revoke_all(rt: Runtime, provider: str, proof_file: Path | None, *, yes: bool, as_json: bool) -> bool:
    holdings = provider_holdings(rt.database, provider)
    if rt.catalog.get(provider) is None and not (holdings.connections or holdings.queued or holdings.frozen_at):
        fail(f"there is no provider {provider}: `providers list` names them.")
    what = f"{counted(holdings.connections, 'connection')} of {counted(holdings.users, 'user')} at {provider}"
    confirm(f"{what} will be erased. All of its tokens are frozen first.", yes=yes)
    if proof_file is not None and (proof_file.exists() or not os.access(proof_file.parent, os.W_OK)):
        fail(f"{proof_file} exists or cannot be written: name a new file for the proof.")
    report = _run(rt, provider)
    rows: list[object] = []
    done = summary(rt, report, rows.append)
    whole = to_jsonable_python(done)
    whole |= whole.pop("outcomes")
    is_done = not report.interrupted and not report.left
    if proof_file is not None and is_done:
        _write_proof(proof_file, [*rows, whole])
    more = {"pending": report.pending, "attempts": report.attempts, "interrupted": report.interrupted}
    show(whole | more, _summary_lines(done, report), as_json=as_json)
    return is_done


def _run(rt: Runtime, provider: str) -> Report:
    with interruptible() as stopped:
        run = RevokeAll(rt, provider, stopped=stopped)
        for report in run:
            if report.stage == "erasing":
                show_progress("Erasing", report.erased, max(report.total, report.erased))
            else:
                show_progress("Revoking", report.outcomes.total(), report.grants)
        return run.report


def _write_proof(path: Path, rows: list[object]) -> None:
    """JSON lines in a new file that only its owner may read. Only a complete proof is written: until then the command can be repeated."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(to_jsonable_python(row))}\n" for row in rows)


def _summary_lines(done: Summary, report: Report) -> Iterator[str]:
    yield f"{counted(done.erased, 'connection')} of {done.provider} erased since it was frozen, {done.left} left."
    yield "  " + ", ".join(f"{count} {name}" for name, count in done.outcomes.items() if count or name != "abandoned")
    yield f"{counted(report.pending, 'pending grant')} and {counted(report.attempts, 'attempt')} to connect were removed too."
    if done.outcomes["queued"]:
        yield "Workers repeat queued revocations for 72 hours."
    yield f"The events that prove it are sealed up to position {done.position}, hash {done.hash}."
    if report.interrupted:
        yield "Interrupted: run it again to continue."
    yield f"Tokens of {done.provider} stay frozen until `python -m gateway partners freeze --provider {done.provider} --off`."


# -- import ----------------------------------------------------------------------------------------------------------


@connections.command("import")
@click.option("--map", "names", multiple=True, metavar="NAME=PROVIDER", help="A name in the table, and its provider.")
@click.option("--dry-run", is_flag=True, help="Only count; call no provider.")
@AS_JSON
def connections_import(names: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    """Encrypt and verify the plaintext tokens that the gateway did not write; ends with 1 if something is left."""
    with opened_runtime() as rt, interruptible() as stopped:
        report = ImportReport()
        for _ in import_all(rt, report, _names(rt.catalog, names), dry_run=dry_run, stopped=stopped):
            show_progress("Counting" if dry_run else "Importing", report.counts.total(), report.total)
    show(report.as_json(), _import_lines(report), as_json=as_json)
    sys.exit(0 if report.is_clean else 1)


def _names(catalog: Catalog, given: Sequence[str]) -> dict[str, str]:
    """The provider of each name. Ends the command for another form than NAME=PROVIDER, and for an unknown provider."""
    pairs = {name: provider.strip() for name, _, provider in (text.rpartition("=") for text in given)}
    unknown = [f"{name}={provider}" for name, provider in pairs.items() if not (name and catalog.get(provider))]
    if unknown:
        fail(*(f"--map {pair}: write it as NAME=PROVIDER; `providers list` names the providers." for pair in unknown))
    return pairs


_OUTCOMES = {
    "imported": "imported",
    "waiting": "to be imported",
    "refused": "not confirmed: the user has to connect again",
    "unmapped": "of no known provider",
    "not_enabled": "of a provider that is not enabled",
    "duplicate": "duplicates",
    "unreadable": "unreadable",
    "no_user": "of no user",
    "later": "not decided: run it again",
}


def _import_lines(report: ImportReport) -> Iterator[str]:
    if not report.counts:
        yield "There is nothing to import."
    yield from (f"{report.counts[name]:>7}  {text}" for name, text in _OUTCOMES.items() if report.counts[name])
    for row in report.remaining[:_SHOWN]:
        yield f"{row.id}  {printable(row.name):<24} {row.outcome:<12} {row.reason}"
    if len(report.remaining) > _SHOWN:
        yield f"… and {len(report.remaining) - _SHOWN} more: --json lists all."
    if report.interrupted:
        yield "Interrupted: run it again to continue."
