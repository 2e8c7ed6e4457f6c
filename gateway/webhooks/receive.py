"""
Webhooks that providers send.

A webhook is stored before it is answered, if its signature over the raw body is valid and its account is connected here. A worker then changes
the connections and hands the event on to partners, with the body as it came.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import timedelta
from hashlib import sha256
from typing import Any, cast

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.catalog import Provider
from gateway.catalog.deviations import IncomingEvent
from gateway.database.queries import events
from gateway.errors import BadRequest, Forbidden, NotFound, NotSigned
from gateway.services import Runtime

log = structlog.get_logger(__name__)

LARGEST = 512 * 1024
"""Bytes of a body: twice what providers send at most."""
OLDEST = timedelta(hours=72)
"""Providers repeat a webhook for three days. An id is kept for seven, so that no repeat counts twice."""


Header = Callable[[str], str | None]
"""A header of the request by its name, whatever its case."""


def receive(rt: Runtime, path: str, header: Header, body: bytes) -> None:
    """
    Store a webhook of one of the providers below `/<path>`. Once stored, a repeat changes nothing; of an unknown account nothing is stored.

    Raises NotFound without such a provider, NotSigned, Forbidden for an event of another app, BadRequest for a body that is no JSON object or
    is too old, and DatabaseUnavailable: then the provider sends it again.
    """
    enabled = [each for name, each in rt.catalog.providers.items() if name in rt.clients]
    offering = [each for each in enabled if each.path == path and each.webhooks]
    if not offering:
        raise NotFound("no enabled provider sends webhooks here")
    signers = [each for each in offering if _is_signed(rt, each, header, body)]
    if not signers:
        raise NotSigned("no valid signature over the body")
    parsed = _parse(body)
    event = signers[0].deviation.incoming_event(parsed)
    if event is None:
        raise NotFound("the provider's webhooks are not known")
    owners = [each.id for each in signers if _is_ours(rt, each, event)]
    if not owners:
        raise Forbidden("the event is of another app")
    if event.at is not None and abs(rt.now() - event.at) > OLDEST:
        raise BadRequest("the event is too old", [("timestamp", "more than 72 hours away")])
    if event.accounts:
        row = {**asdict(event), "id": event.id or sha256(body).hexdigest(), "providers": owners, "body": body.decode()}
        stored = events.receive_event(rt.database, row)
        log.info("webhook.received", providers=owners, topic=event.topic, stored=stored)


def settle(rt: Runtime) -> bool:
    """The worker's job: settle stored events; whether there were any."""
    return events.settle_events(rt.database, most=200) > 0


def _is_signed(rt: Runtime, provider: Provider, header: Header, body: bytes) -> bool:
    """By the present signature alone, where there is one."""
    rule = provider.webhooks
    if rule is None:
        return False
    signature = (header(rule.signature_header) or "").strip()
    if signature in ("", "N/A") and rule.legacy_header and rt.settings.legacy_webhooks:
        rsa = cast("RSAPublicKey", load_der_public_key(base64.b64decode(rule.legacy_public_key)))
        return is_signed(rsa, header(rule.legacy_header) or "", body, PKCS1v15(), SHA256())  # RFC 8017 section 8.2
    return is_signed(Ed25519PublicKey.from_public_bytes(rule.public_key), signature, body)


def is_signed(key: Ed25519PublicKey | RSAPublicKey, signature: str, body: bytes, *how: Any) -> bool:
    """Whether a signature in base64 was made over exactly these bytes. `how`: the padding and hash of RSA; Ed25519 has none (RFC 8032)."""
    try:
        key.verify(base64.b64decode(signature.strip(), validate=True), body, *how)
    except (InvalidSignature, ValueError):
        return False
    return True


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(body.decode())
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise BadRequest("the body is no JSON object in UTF-8")
    return parsed


def _is_ours(rt: Runtime, provider: Provider, event: IncomingEvent) -> bool:
    """Every app's webhooks have the same signature: what changes a connection has to name our app, which the client id begins with."""
    if event.app_id is None:
        return event.topic is None
    return rt.clients[provider.id].client_id.partition("-")[0] == event.app_id
