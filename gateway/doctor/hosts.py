"""
The hosts of an installation, by what their processes say every minute: does each have the keys that the others seal with.

Compares marks; no key is seen here. Knows nothing of how they came into the database.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.database import Host
from gateway.doctor.finding import Finding
from gateway.errors import GatewayError
from gateway.services import Runtime

_ADD = "Put it into GATEWAY_KEYS of that host, as the second one, and restart it; see docs/operations.md."


def examine(rt: Runtime) -> Iterator[Finding]:
    """This environment among the hosts of the last ten minutes."""
    try:
        hosts = rt.store.hosts()
    except GatewayError as error:
        yield Finding("hosts", "unseen", f"Which keys the running processes have cannot be read: {error}.")
        return
    if not hosts:
        yield Finding("hosts", "ok", "No process was seen in the last ten minutes.")
        return
    here = Host("", rt.vault.fingerprints(), 0)
    found = list(compared([here, *hosts]))
    yield from found
    if not found:
        count = len({host.id for host in hosts})
        yield Finding("hosts", "ok", f"{count} seen in the last ten minutes; the same keys open everywhere.")


def compared(hosts: list[Host]) -> Iterator[Finding]:
    """A fault for each host without a key that another seals with, a warning for one without a key that another only holds."""
    sealing = {host.keys[0] for host in hosts if host.keys}
    held = {key for host in hosts for key in host.keys}
    for host in hosts:
        who = f"Host {host.id} (seen {host.seen_seconds} s ago)" if host.id else "This environment"
        if lost := sealing - set(host.keys):
            says = f"{who} lacks {len(lost)} of the keys that others seal with: what they seal does not open there."
            yield Finding("hosts", "fail", says, _ADD)
        elif lost := held - set(host.keys):
            says = f"{who} lacks {len(lost)} of the keys that others hold; nobody seals with them yet."
            mend = "Being added: let every host have it before it becomes the first. Being removed: nothing to do."
            yield Finding("hosts", "warn", says, mend)
