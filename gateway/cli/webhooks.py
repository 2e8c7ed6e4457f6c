"""`webhooks …`: the endpoints of partners, and delivering events again."""

import uuid

import click

from gateway.cli.context import Report, fail, opened_database, reporting
from gateway.database.queries import webhooks as queries
from gateway.models import OPERATOR

_UNKNOWN = "there is no such endpoint: `webhooks list` names them."


@click.group()
def webhooks() -> None:
    """Outgoing webhooks."""


@webhooks.command("list")
@click.option("--deliveries", type=click.UUID, metavar="WEBHOOK_ID", help="The last attempts of one endpoint instead.")
@reporting
def list_(deliveries: uuid.UUID | None) -> Report:
    """Show the endpoints, or what was delivered to one."""
    with opened_database() as database:
        found = queries.list_webhooks(database, OPERATOR, deliveries)
    if deliveries is None:
        return Report(found.webhooks, None if found.webhooks else ["No partner has a webhook."])
    if not found.webhooks:
        fail(_UNKNOWN)
    return Report(found.deliveries)


@webhooks.command("replay")
@click.argument("webhook_id", type=click.UUID)
@click.option(
    "--after", type=click.IntRange(0, 10**15), required=True, help="Events after this position are delivered again."
)
@reporting
def replay(webhook_id: uuid.UUID, after: int) -> Report:
    """Deliver again; enables a disabled endpoint."""
    with opened_database() as database:
        found = queries.change_webhook(database, webhook_id, "replay", OPERATOR, after=after)
    if found is None:
        fail(_UNKNOWN)
    return Report(found, [f"Events after position {found.position} are delivered again."])
