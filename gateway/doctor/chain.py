"""
The ledger: whether its end is as it was sealed, and whether anybody seals.

The whole of it is for `events verify`, which may take minutes.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.doctor.report import Finding
from gateway.errors import GatewayError, SecretUnreadable
from gateway.events import verify
from gateway.services import Runtime

_LAST = 1000
_BEHIND_SECONDS = 60


def examine(rt: Runtime) -> Iterator[Finding]:
    """The last rows, where the chain ends, and what waits."""
    try:
        for progress in verify(rt, last=_LAST):
            end = progress
        stands = rt.store.ledger()
    except SecretUnreadable:
        mend = "Put the key that sealed it back into GATEWAY_KEYS, behind the newest."
        yield Finding("ledger", "fail", "Its key does not open: nothing can be sealed or checked.", mend)
        return
    except GatewayError as error:
        yield Finding("ledger", "fail", f"It cannot be read: {error}.", "Run `python -m gateway db apply`.")
        return
    if end.problem is not None:
        mend = "Somebody wrote to the schema gateway. Run `python -m gateway events verify`, and look for who it was."
        if end.problem.kind in ("cut_off", "made_anew"):
            mend = f"{mend} After a backup was restored: `events verify --accept-head`."
        yield Finding("ledger", "fail", end.problem.says, mend)
    elif stands.oldest_unsealed_seconds > _BEHIND_SECONDS:
        says = (
            f"{stands.unsealed} events wait, the oldest for {stands.oldest_unsealed_seconds:.0f} s: nobody seals them."
        )
        yield Finding(
            "ledger", "warn", says, "Start `python -m gateway worker`, and look for `ledger.failed` in its log."
        )
    else:
        yield Finding("ledger", "ok", f"Its last {end.checked} events are as they were sealed.")
