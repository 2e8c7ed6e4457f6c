"""The endpoints of a partner, and their signing secrets."""

import base64
import secrets
from collections.abc import Sequence
from uuid import UUID, uuid4

from gateway.database.queries import webhooks as queries
from gateway.database.queries.webhooks import EncryptedSecret, Webhook
from gateway.errors import BadRequest
from gateway.http.addresses import check_url
from gateway.models import Caller
from gateway.services import Runtime

SECRET_PREFIX = "whsec_"  # noqa: S105 - Standard Webhooks: how a symmetric secret begins
_COLUMN = "webhook_secret"


def create(rt: Runtime, caller: Caller, url: str, event_types: Sequence[str] | None) -> tuple[Webhook, str]:
    """
    A new endpoint and its secret, which is shown once. `event_types`: None for every type.

    Raises BadRequest for an address that may not be called, and when the partner has ten endpoints.
    """
    try:
        check_url(url, allow_private=rt.settings.allow_private_hosts)
    except ValueError as refused:
        raise BadRequest("the address may not be called", [("url", f"not possible: {refused}")]) from None
    text, secret = _new_secret(rt)
    new = {"url": url, "event_types": event_types}
    made = queries.change_webhook(rt.database, uuid4(), "create", caller, new=new, secret=secret)
    if made is None:
        raise BadRequest("the partner has ten endpoints", [("url", "there are ten already: delete one first")])
    return made, text


def rotate_secret(rt: Runtime, caller: Caller, webhook_id: UUID) -> tuple[Webhook | None, str]:
    """A further secret for an endpoint: for a day, each delivery is signed with both. None: the caller has no such endpoint."""
    text, secret = _new_secret(rt)
    return queries.change_webhook(rt.database, webhook_id, "rotate", caller, secret=secret), text


def read_secret(rt: Runtime, secret: EncryptedSecret) -> str:
    """The text of a stored secret. Raises SecretUnreadable."""
    return rt.vault.decrypt(secret.encrypted, column=_COLUMN, seal_id=secret.seal_id)


def _new_secret(rt: Runtime) -> tuple[str, EncryptedSecret]:
    text = SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")
    seal_id = uuid4()
    return text, EncryptedSecret(seal_id, rt.vault.encrypt(text, column=_COLUMN, seal_id=seal_id))
