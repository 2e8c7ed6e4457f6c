"""
The user's decision about a pending grant: replace what is connected, keep both, or no.

The grant waits encrypted for ten minutes, for this user in this browser. No decision counts as no: then the grant is revoked, and the
connection stays as it was.
"""

import uuid

from gateway.catalog import AnyEntry
from gateway.connect.attempt import repeat_once
from gateway.connections.revoke import finish_revocation
from gateway.crypto.vault import fingerprint
from gateway.database.postgres import answered_by
from gateway.database.queries.connect import Choice, Decided, PendingGrant, decide_pending_grant, pending_grant
from gateway.errors import BadRequest, Frozen, GatewayError, StateInvalid, UserMismatch
from gateway.models import Connection
from gateway.services import Runtime


def load_pending(rt: Runtime, provider: AnyEntry, *, session: str, browser: str) -> PendingGrant:
    """The pending grant of this user in this browser. Raises StateInvalid when there is none, or no longer."""
    waiting = pending_grant(
        rt.database, session_hash=fingerprint(session), browser_hash=fingerprint(browser), provider=provider.id
    )
    if waiting is None:
        raise StateInvalid("nothing is pending for this user in this browser")
    return waiting


def decide(rt: Runtime, waiting: PendingGrant, choice: Choice) -> Connection | None:
    """
    Carry out the decision; the connection, or None after a no.

    Raises PendingConfirmation, which leaves it pending, where `both` would narrow the connection of the same account; and as `settle`.
    """
    call_id = uuid.uuid4()
    decided = repeat_once(
        lambda: decide_pending_grant(
            rt.database,
            pending_id=waiting.id,
            user_id=waiting.user.id,
            choice=choice,
            call_id=call_id,
            not_after=answered_by(waiting.clock),
        )
    )
    return settle(rt, decided)


def settle(rt: Runtime, decided: Decided) -> Connection | None:
    """
    Revoke what was decided against; the connection, or None after a no.

    Raises StateInvalid when it was decided before, UserMismatch, BadRequest where the user has one connection there, and Frozen, after which
    the grant is revoked.
    """
    if decided.revocation is not None:
        finish_revocation(rt, decided.revocation)
    if decided.ending in _REFUSED:
        raise _REFUSED[decided.ending](f"the decision was not carried out: {decided.ending}")
    return decided.connection


_REFUSED: dict[str, type[GatewayError]] = {
    "state_invalid": StateInvalid,
    "user_mismatch": UserMismatch,
    "frozen": Frozen,
    "one_account": BadRequest,
}
