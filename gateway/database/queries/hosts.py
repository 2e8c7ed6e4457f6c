"""Hosts that run the gateway, and which keys their processes have."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.database import SqlFunction


@dataclass(frozen=True, slots=True)
class Host:
    """A host that was seen in the last ten minutes, and the fingerprints of its keys. It encrypts with the first."""

    id: str
    keys: tuple[str, ...]
    seen_seconds: int


report_host = SqlFunction[None]("hosts")
"""Report that a process of this host runs now, with these keys."""

list_hosts = SqlFunction[tuple[Host, ...]]("hosts")
"""The hosts; one that restarts with other keys is listed twice."""
