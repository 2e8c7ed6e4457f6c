"""
What the operator froze, or a limit did: easily forgotten, and whoever meets it is told no more than `frozen`.

Reads only; `partners freeze` is where it is decided.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.doctor.finding import Finding
from gateway.errors import GatewayError
from gateway.services import Runtime


def examine(rt: Runtime) -> Iterator[Finding]:
    """A warning for each partner, each provider and all reads that are stopped, with since when, to the minute in UTC."""
    try:
        found = rt.store.partners()
    except GatewayError as error:
        yield Finding("frozen", "fail", f"It cannot be read: {error}.", "Run `python -m gateway db apply`.")
        return
    stopped = [
        (f"The partner {each['name']} is frozen", each["frozen_at"], f'"{each["name"]}"')
        for each in found["partners"]
        if each["frozen_at"] and not each["revoked_at"]
    ]
    for target, since in sorted(found["frozen_since"].items()):
        provider = target.removeprefix("provider:")
        what = "All token reads are frozen" if target == "reads" else f"Every token of {provider} is frozen"
        stopped.append((what, since, "--reads" if target == "reads" else f"--provider {provider}"))
    for what, since, option in stopped:
        says = f"{what} since {since[:16].replace('T', ' ')}."
        yield Finding("frozen", "warn", says, f"When it is over: `python -m gateway partners freeze {option} --off`.")
    if not stopped:
        yield Finding("frozen", "ok", "Nothing is.")
