"""
`/v1/webhooks`: where a partner wants its events to be sent.
"""

from __future__ import annotations

import uuid

from flask import Blueprint, Response

from gateway.database.queries import webhooks as queries
from gateway.database.queries.webhooks import Change, Webhook
from gateway.errors import Forbidden, NotFound
from gateway.models import Caller
from gateway.web.request_context import runtime
from gateway.web.v1 import schemas
from gateway.web.v1.json_api import caller, json_response, parse_body, parse_query
from gateway.web.v1.openapi import described
from gateway.webhooks import endpoints

blueprint = Blueprint("webhooks", __name__, url_prefix="/v1/webhooks")


def _partner() -> Caller:
    """Users have no webhooks."""
    who = caller()
    if who.key_hash is None:
        raise Forbidden("webhooks belong to partners")
    return who


@blueprint.post("")
@described(schemas.NewWebhook, scope="webhooks:write", status=201, body=schemas.WebhookRequest, partners_only=True)
def create_webhook() -> Response:
    """
    Adds an endpoint.

    It receives the events that happen from now on, as `GET /v1/events` shows them to you, in order and at least once: `webhook-id` is the
    event's id. `secret` is shown only here; verify each request with it (Standard Webhooks). Answer with 2xx within ten seconds; anything
    else is tried again for three days, and then the endpoint is disabled. At most ten endpoints.
    """
    who, body = _partner(), parse_body(schemas.WebhookRequest)
    made, secret = endpoints.create(runtime(), who, body.url, body.event_types)
    return _with_secret(made, secret, 201)


@blueprint.get("")
@described(schemas.Webhooks, scope="webhooks:write", partners_only=True)
def list_webhooks() -> Response:
    """
    Lists your endpoints.
    """
    parse_query(schemas.NoQuery)
    found = queries.list_webhooks(runtime().database, _partner())
    return json_response(schemas.Webhooks(items=tuple(map(schemas.Webhook.model_validate, found))))


@blueprint.get("/<uuid:webhook_id>/deliveries")
@described(schemas.Deliveries, scope="webhooks:write", partners_only=True)
def list_deliveries(webhook_id: uuid.UUID) -> Response:
    """
    Lists the last hundred attempts of an endpoint, newest first.

    They are kept for a week.
    """
    parse_query(schemas.NoQuery)
    found, attempts = queries.read_webhook(runtime().database, webhook_id, _partner())
    if found is None:
        raise NotFound("no such endpoint of this caller")
    return json_response(schemas.Deliveries(items=tuple(map(schemas.Delivery.model_validate, attempts))))


@blueprint.delete("/<uuid:webhook_id>")
@described(schemas.Webhook, scope="webhooks:write", partners_only=True)
def delete_webhook(webhook_id: uuid.UUID) -> Response:
    """
    Deletes an endpoint.
    """
    return _changed(webhook_id, "delete")


@blueprint.post("/<uuid:webhook_id>/test")
@described(schemas.Webhook, scope="webhooks:write", partners_only=True)
def test_webhook(webhook_id: uuid.UUID) -> Response:
    """
    Sends an endpoint an event of type `webhook.tested`.

    It comes after the events that still wait for that endpoint, usually within seconds.
    """
    return _changed(webhook_id, "test")


@blueprint.post("/<uuid:webhook_id>/replay")
@described(schemas.Webhook, scope="webhooks:write", body=schemas.ReplayRequest, partners_only=True)
def replay_webhook(webhook_id: uuid.UUID) -> Response:
    """
    Delivers again, from after a position.

    A disabled endpoint is enabled by it.
    """
    who = _partner()
    after = parse_body(schemas.ReplayRequest).after
    return _response(queries.change_webhook(runtime().database, webhook_id, "replay", who, after=after))


@blueprint.post("/<uuid:webhook_id>/rotate-secret")
@described(schemas.NewWebhook, scope="webhooks:write", partners_only=True)
def rotate_webhook_secret(webhook_id: uuid.UUID) -> Response:
    """
    Makes a new secret.

    For a day, deliveries are signed with the old and the new one.
    """
    parse_query(schemas.NoQuery)
    return _with_secret(*endpoints.rotate_secret(runtime(), _partner(), webhook_id), 200)


def _changed(webhook_id: uuid.UUID, change: Change) -> Response:
    parse_query(schemas.NoQuery)
    return _response(queries.change_webhook(runtime().database, webhook_id, change, _partner()))


def _response(found: Webhook | None) -> Response:
    if found is None:
        raise NotFound("no such endpoint of this caller")
    return json_response(schemas.Webhook.model_validate(found))


def _with_secret(found: Webhook, secret: str, status: int) -> Response:
    shown = schemas.Webhook.model_validate(found)
    return json_response(schemas.NewWebhook(**shown.model_dump(), secret=secret), status)
