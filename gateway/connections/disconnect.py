"""Disconnect: erase a connection at once, then revoke its grant at the provider."""

import uuid
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from gateway.connections.revoke import Revoked, finish_revocation
from gateway.connections.uninstall import Uninstalled, uninstall_app
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connections import Erased, erase_own_connection
from gateway.errors import NotFound
from gateway.http import Deadline
from gateway.models import Caller
from gateway.services import Runtime

log = structlog.get_logger(__name__)

DISCONNECT_SECONDS = 9.5
"""For all calls to the provider in one disconnect. A revocation that takes longer stays in the queue."""


@dataclass(frozen=True, slots=True)
class Receipt:
    erased: Erased
    revocation: Revoked | Literal["kept"]
    """`kept`: only a partner's access ended, because others still use the connection."""
    uninstalled: Uninstalled | None = None
    """The result of the uninstall; None when none was requested."""


def disconnect(
    rt: Runtime,
    connection_id: uuid.UUID,
    *,
    session: str | None = None,
    caller: Caller | None = None,
    uninstall: bool = False,
) -> Receipt:
    """
    Erase a connection of the signed-in user, or one that `caller` reaches, and revoke its grant.

    The row is erased at once. The grant waits encrypted in a queue until the provider has taken its revocation. With `uninstall` our app is
    removed at the provider first, because that needs a token; a failure there does not stop the disconnect. Raises NotFound, in the same
    way for an id of another user and for an unknown id.
    """
    session_hash = None if session is None else fingerprint(session)
    target: dict[str, Any] = {"connection_id": connection_id, "session_hash": session_hash, "caller": caller}
    deadline = Deadline.after(DISCONNECT_SECONDS)
    uninstalled = uninstall_app(rt, deadline, **target) if uninstall else None
    erased = erase_own_connection(rt.database, **target)
    if erased is None:
        raise NotFound("no such connection of this user")
    log.info(
        "connection.disconnected", provider=erased.provider, connection_id=str(connection_id), kept=bool(erased.kept)
    )
    if erased.kept:
        return Receipt(erased, "kept", uninstalled)
    revocation = finish_revocation(rt, erased.revocation, deadline)
    # Removing an app ends its tokens, also where the provider has no revocation endpoint.
    return Receipt(erased, "done" if uninstalled == "done" else revocation, uninstalled)
