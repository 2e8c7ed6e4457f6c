"""
`python -m gateway connections revoke`: one connection, or all of a provider, erased and given back, with a proof.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.cli.context import ask_first, counted, fail, interruptible, opened_runtime, plainly
from gateway.connections.revoke import finish_revocation
from gateway.connections.revoke_provider import Report, RevokeAll, Summary, summary
from gateway.database.operating import Revoked
from gateway.services import Runtime


@click.command("revoke")
@click.argument("connection_id", type=click.UUID, required=False)
@click.option("--provider", help="All connections of this provider.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--proof", "proof_file", type=click.Path(path_type=Path), help="A new file: one JSON line a connection.")
@click.option("--json", "as_json", is_flag=True)
def revoke(
    connection_id: uuid.UUID | None, provider: str | None, proof_file: Path | None, *, yes: bool, as_json: bool
) -> None:
    """Erase one connection, or all of a provider, and give the grants back; ends with 1 if something is left."""
    if (connection_id is None) == (provider is None) or (proof_file is not None and provider is None):
        raise click.UsageError("Name one connection, or --provider (and --proof with it).")
    with opened_runtime() as rt:
        if connection_id is not None:
            done = _one(rt, connection_id, yes=yes, as_json=as_json)
        else:
            done = _all(rt, provider or "", proof_file, yes=yes, as_json=as_json)
    sys.exit(0 if done else 1)


def _one(rt: Runtime, connection_id: uuid.UUID, *, yes: bool, as_json: bool) -> bool:
    seen = None if yes else rt.store.inspect_connection(connection_id)
    if seen is not None and seen.connection is not None:
        held = seen.connection
        ask_first(f"{held.provider}, {plainly(held.account.label)} of user {held.user_id} will be erased.", yes=yes)
    erased = rt.store.erase_connection(connection_id) if yes or seen is not None else None
    if erased is None:
        click.echo("There is no such connection.", err=True)
        return False
    receipt = {
        "connection_id": str(erased.connection_id),
        "provider": erased.provider,
        "account": {"id": erased.account.id, "label": erased.account.label},
        "erased_at": erased.erased_at.isoformat(),
        "revocation": finish_revocation(rt, erased.revocation),
        "event_id": str(erased.event_id),
    }
    if as_json:
        click.echo(json.dumps(receipt))
    else:
        click.echo(f"Erased: {erased.provider}, {plainly(erased.account.label)}. Revocation: {receipt['revocation']}.")
    return True


def _all(rt: Runtime, provider: str, proof_file: Path | None, *, yes: bool, as_json: bool) -> bool:
    holds = rt.store.provider_holdings(provider)
    if rt.catalog.get(provider) is None and not (holds.connections or holds.queued or holds.frozen_at):
        fail([f"there is no provider {provider}: `providers list` names them."])
    whose = f"{counted(holds.connections, 'connection')} of {counted(holds.users, 'user')} at {provider}"
    ask_first(f"{whose} will be erased. All of its tokens are frozen first.", yes=yes)
    with _new_file(proof_file) as file:
        report = _run(rt, provider)
        said = summary(rt, report, lambda row: _prove(file, row))
        if file is not None:
            file.write(json.dumps(_told(said)) + "\n")
    whole = _told(said) | {"parked": report.parked, "attempts": report.attempts, "interrupted": report.interrupted}
    if as_json:
        click.echo(json.dumps(whole))
    else:
        for line in _endings(said, report):
            click.echo(line)
    return not report.interrupted and not report.left


def _run(rt: Runtime, provider: str) -> Report:
    """The run, with a bar for each of its two parts on the terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with interruptible() as stopped, Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        run = RevokeAll(rt, provider, stopped=stopped)
        erasing, giving = (shown.add_task(text, total=None) for text in ("Erasing", "Giving back"))
        for report in run:
            shown.update(erasing, total=max(report.total, report.erased), completed=report.erased)
            if report.stage == "giving_back":
                shown.update(giving, total=report.grants, completed=report.outcomes.total())
        return run.report


@contextmanager
def _new_file(path: Path | None) -> Iterator[TextIO | None]:
    """A file that only its owner may read, there when it is whole; it is opened before anything is erased."""
    if path is None:
        yield None
        return
    part = path.with_name(f"{path.name}.part")
    if path.exists():
        fail([f"{path} is there already: name a new file for the proof."])
    try:
        file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8")
    except OSError as error:
        fail([f"{part} cannot be written: {error.strerror}."])
    with file:
        yield file
    part.rename(path)


def _prove(file: TextIO | None, row: Revoked) -> None:
    if file is not None:
        said = asdict(row) | {"connection_id": str(row.connection_id), "event_id": str(row.event_id)}
        file.write(json.dumps(said | {"erased_at": row.erased_at.isoformat()}) + "\n")


def _told(said: Summary) -> dict[str, Any]:
    """With the outcomes beside the rest."""
    whole = asdict(said) | {"frozen_since": said.frozen_since.isoformat()}
    outcomes: dict[str, int] = whole.pop("outcomes")
    return whole | outcomes


def _endings(said: Summary, report: Report) -> Iterator[str]:
    yield f"{counted(said.erased, 'connection')} of {said.provider} erased since it was frozen, {said.left} left."
    yield "  " + ", ".join(f"{count} {name}" for name, count in said.outcomes.items() if count or name != "abandoned")
    yield f"{counted(report.parked, 'parked grant')} and {counted(report.attempts, 'attempt')} under way went with them."
    if said.outcomes["queued"]:
        yield "Workers go on trying what is queued, for 72 hours."
    yield f"The ledger says so up to position {said.position}, hash {said.hash}."
    if report.interrupted:
        yield "Interrupted: run it again, and it goes on."
    yield f"Tokens of {said.provider} stay frozen until `python -m gateway partners freeze --provider {said.provider} --off`."
