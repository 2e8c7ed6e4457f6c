"""`/v1/webhooks`: where a partner wants its events to be sent."""

import uuid
from typing import Any

from flask import Blueprint

from gateway.database.queries import webhooks as queries
from gateway.database.queries.webhooks import Webhook
from gateway.errors import BadRequest, NotFound
from gateway.models import Caller
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import Call
from gateway.webhooks import endpoints

blueprint = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks")


@blueprint.post("")
@Call(schemas.NewWebhook, scope="webhooks:write", status=201, body=schemas.WebhookRequest)
def create_webhook(who: Caller, body: schemas.WebhookRequest) -> schemas.NewWebhook:
    """
    Adds an endpoint.

    It receives the events that happen from now on, as `GET /v1/events` shows them to you, in order and at least once: `webhook-id` is the
    event's id. `secret` is shown only here; verify each request with it (Standard Webhooks). Answer with 2xx within ten seconds; anything
    else is tried again for three days, and then the endpoint is disabled. At most ten endpoints.
    """
    return _with_secret(*endpoints.create(runtime(), who, body.url, body.event_types))


@blueprint.get("")
@Call(schemas.Webhooks, scope="webhooks:write")
def list_webhooks(who: Caller) -> dict[str, Any]:
    """Lists your endpoints."""
    return {"items": queries.list_webhooks(runtime().database, who).webhooks}


@blueprint.get("/<uuid:webhook_id>/deliveries")
@Call(schemas.Deliveries, scope="webhooks:write")
def list_deliveries(who: Caller, webhook_id: uuid.UUID) -> dict[str, Any]:
    """
    Lists the last hundred attempts of an endpoint, newest first.

    They are kept for a week.
    """
    found = queries.list_webhooks(runtime().database, who, webhook_id)
    _found(next(iter(found.webhooks), None))
    return {"items": found.deliveries}


@blueprint.delete("/<uuid:webhook_id>")
@Call(schemas.Webhook, scope="webhooks:write")
def delete_webhook(who: Caller, webhook_id: uuid.UUID) -> Webhook:
    """Deletes an endpoint."""
    return _found(queries.change_webhook(runtime().database, webhook_id, "delete", who))


@blueprint.post("/<uuid:webhook_id>/test")
@Call(schemas.Webhook, scope="webhooks:write")
def test_webhook(who: Caller, webhook_id: uuid.UUID) -> Webhook:
    """
    Sends an endpoint an event of type `webhook.tested`.

    It comes after the events that still wait for that endpoint, usually within seconds. A disabled endpoint has to be enabled first, by a
    replay.
    """
    webhook = _found(queries.change_webhook(runtime().database, webhook_id, "test", who))
    if webhook.disabled_at is not None:
        raise BadRequest("a disabled endpoint", [("webhook_id", "the endpoint is disabled: a replay enables it")])
    return webhook


@blueprint.post("/<uuid:webhook_id>/replay")
@Call(schemas.Webhook, scope="webhooks:write", body=schemas.ReplayRequest)
def replay_webhook(who: Caller, body: schemas.ReplayRequest, webhook_id: uuid.UUID) -> Webhook:
    """
    Delivers again, from after a position.

    A disabled endpoint is enabled by it.
    """
    return _found(queries.change_webhook(runtime().database, webhook_id, "replay", who, after=body.after))


@blueprint.post("/<uuid:webhook_id>/rotate-secret")
@Call(schemas.NewWebhook, scope="webhooks:write")
def rotate_webhook_secret(who: Caller, webhook_id: uuid.UUID) -> schemas.NewWebhook:
    """
    Makes a new secret.

    For a day, deliveries are signed with the old and the new one. At most ten are valid at once.
    """
    return _with_secret(*endpoints.rotate_secret(runtime(), who, webhook_id))


def _found(webhook: Webhook | None) -> Webhook:
    if webhook is None:
        raise NotFound("no such endpoint of this caller")
    return webhook


def _with_secret(webhook: Webhook | None, secret: str) -> schemas.NewWebhook:
    return schemas.NewWebhook(**schemas.Webhook.model_validate(_found(webhook)).model_dump(), secret=secret)
