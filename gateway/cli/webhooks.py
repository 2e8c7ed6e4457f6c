"""`webhooks …`: the endpoints of partners, and delivering events again."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence

import click
from pydantic_core import to_jsonable_python

from gateway.cli.context import AS_JSON, counted, fail, opened_database, show
from gateway.database.queries import webhooks as queries
from gateway.database.queries.webhooks import Attempt, Webhook


@click.group()
def webhooks() -> None:
    """Outgoing webhooks."""


@webhooks.command("list")
@click.option("--deliveries", type=click.UUID, metavar="WEBHOOK_ID", help="The last attempts of one endpoint instead.")
@AS_JSON
def list_(deliveries: uuid.UUID | None, *, as_json: bool) -> None:
    """Show the endpoints, or what was delivered to one."""
    with opened_database() as database:
        found = queries.list_webhooks(database, None, deliveries)
    if deliveries is None:
        show(to_jsonable_python(found.webhooks), _lines(found.webhooks), as_json=as_json)
    elif found.webhooks:
        show(to_jsonable_python(found.deliveries), map(_attempt_line, found.deliveries), as_json=as_json)
    else:
        fail("there is no such endpoint: `webhooks list` names them.")


@webhooks.command("replay")
@click.argument("webhook_id", type=click.UUID)
@click.option("--after", type=click.IntRange(0), required=True, help="Events after this position are delivered again.")
@AS_JSON
def replay(webhook_id: uuid.UUID, after: int, *, as_json: bool) -> None:
    """Deliver again; enables a disabled endpoint."""
    with opened_database() as database:
        found = queries.change_webhook(database, webhook_id, "replay", None, after=after)
    if found is None:
        fail("there is no such endpoint: `webhooks list` names them.")
    show(to_jsonable_python(found), [f"Events after position {found.position} are delivered again."], as_json=as_json)


def _lines(found: Sequence[Webhook]) -> Iterator[str]:
    for webhook in found:
        if webhook.disabled_at:
            state = f"disabled since {webhook.disabled_at:%Y-%m-%d %H:%M}"
        elif webhook.failing_since:
            state = f"failing since {webhook.failing_since:%Y-%m-%d %H:%M}, {counted(webhook.failures, 'attempt')}"
        else:
            state = "works"
        yield f"{webhook.id}  {webhook.partner}  {webhook.url}  position {webhook.position}  {state}"
    if not found:
        yield "No partner has a webhook."


def _attempt_line(attempt: Attempt) -> str:
    at = f"{attempt.at:%Y-%m-%d %H:%M:%S}" if attempt.at else ""
    return f"{at}  {attempt.position}  {attempt.type}  {attempt.status or attempt.error}  {attempt.duration_ms} ms"
