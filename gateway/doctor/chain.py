"""Events: whether their latest segments are unchanged, and whether a worker assigns positions."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.database.queries import events
from gateway.doctor.report import Finding
from gateway.errors import GatewayError, SecretUnreadable
from gateway.events.verify import verify
from gateway.services import Runtime

_LAST = 1000
_BEHIND_SECONDS = 60


def examine(rt: Runtime) -> Iterator[Finding]:
    """The latest segments, and the backlog. `events verify` checks all of them, which may take minutes."""
    try:
        steps = list(verify(rt, last=_LAST))
        chain = events.read_chain(rt.database)
    except SecretUnreadable:
        fix = "Put the key that encrypted it back into GATEWAY_KEYS, after the newest."
        yield Finding("events", "fail", "The key of the event chain does not decrypt: nothing can be sealed.", fix)
        return
    except GatewayError as error:
        yield Finding("events", "fail", f"Events cannot be read: {error}.", "Run `python -m gateway db apply`.")
        return
    problems = [problem for step in steps for problem in step.problems]
    if problems:
        fix = "Somebody wrote to the schema gateway. Run `python -m gateway events verify`."
        yield Finding("events", "fail", problems[0].message, fix)
    elif chain.oldest_unassigned_seconds > _BEHIND_SECONDS:
        text = f"{chain.unassigned} events have no position, the oldest for {chain.oldest_unassigned_seconds:.0f} s."
        yield Finding("events", "warn", text, "Start `python -m gateway worker`, and look for `job.failed` in its log.")
    else:
        yield Finding("events", "ok", f"The last {steps[-1].checked} events are unchanged.")
