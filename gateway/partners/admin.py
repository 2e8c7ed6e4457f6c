"""
The operator's commands about partners and their keys.

The database stores them, and decides what a key may do in the call that does it.
"""

import ipaddress
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gateway.database import Database
from gateway.database.queries import partners as queries
from gateway.partners.keys import hash_key, make_key

Reach = Literal["own", "all"]
"""`own`: connections whose owners consented on a page that names the partner. `all`: every one of its providers."""
SCOPES = (
    "connections:read",
    "connections:write",
    "tokens:read",
    "proxy",
    "sessions:write",
    "events:read",
    "webhooks:write",
)
MOST_PER_HOUR = 1_000_000_000

_LONGEST_NAME = 80
_MOST_DAYS = 3650
_MAPPED_BITS = 96


class PartnerRefused(ValueError):
    """The operator's request is not possible; the message is a sentence with the fix."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A new key: `text` is shown once and not stored."""

    partner_id: uuid.UUID
    key_id: uuid.UUID
    text: str = field(repr=False)


def add_partner(
    database: Database,
    name: str,
    *,
    scope: Sequence[str],
    reach: Reach,
    providers: Sequence[str] = (),
    addresses: Sequence[str] = (),
    expires_days: int | None = None,
    reads_per_hour: int | None = None,
    connections_per_hour: int | None = None,
    freeze_on_alert: bool = False,
) -> NewKey:
    """
    A new partner with its first key. Without `providers`: all; without `addresses` (networks in CIDR form): from anywhere.

    Raises PartnerRefused.
    """
    _judge(name, scope, reach, (reads_per_hour, connections_per_hour))
    partner = {
        "scope": sorted(set(scope)),
        "providers": sorted(set(providers)) or None,
        "reach": reach,
        "reads_per_hour": reads_per_hour,
        "connections_per_hour": connections_per_hour,
        "freeze_on_alert": freeze_on_alert,
    }
    return _add_key(database, name, addresses, expires_days, partner=partner)


def add_key(database: Database, name: str, *, addresses: Sequence[str] = (), expires_days: int | None = None) -> NewKey:
    """One more key of a partner, which may have two valid ones. Omitted options are copied from its newest key. Raises PartnerRefused."""
    return _add_key(database, name, addresses, expires_days)


def set_partner(database: Database, name: str, changes: Mapping[str, Any]) -> None:
    """
    Change scope, providers, reach or limits from the partner's next call on. None is no limit, and for `providers` every one.

    Raises PartnerRefused.
    """
    limits = (changes.get("reads_per_hour"), changes.get("connections_per_hour"))
    _judge(name, changes.get("scope", SCOPES), changes.get("reach", "own"), limits)
    if not queries.set_partner(database, name, changes):
        raise PartnerRefused(f"there is no partner named {name}, or it is revoked: `partners list` names them")


def _judge(name: str, scope: Sequence[str], reach: str, limits: Sequence[int | None]) -> None:
    if not name.isprintable() or name != name.strip() or not 0 < len(name) <= _LONGEST_NAME:
        raise PartnerRefused(f"a name is 1 to {_LONGEST_NAME} printable characters: users see it when they consent")
    unknown = sorted(set(scope) - set(SCOPES))
    if unknown or not scope:
        said = f"no such scope: {', '.join(unknown)}" if unknown else "a partner needs a scope at least"
        raise PartnerRefused(f"{said}; there are {', '.join(SCOPES)}")
    if reach not in get_args(Reach):
        raise PartnerRefused("the reach is own or all")
    if not all(limit is None or 0 < limit <= MOST_PER_HOUR for limit in limits):
        raise PartnerRefused(f"a limit is a whole number from 1 to {MOST_PER_HOUR}")


_NOT_MADE = {
    "taken": "there is a partner named {} already: choose another name",
    "two_keys": "{} has two live keys: revoke the one that is no longer used first",
    "revoked": "{} is revoked: `partners add` makes a new partner of that name",
    None: "there is no partner named {}: `partners list` names them",
}


def _add_key(database: Database, name: str, addresses: Sequence[str], days: int | None, **partner: object) -> NewKey:
    if days is not None and not 0 < days <= _MOST_DAYS:
        raise PartnerRefused(f"a key lives 1 to {_MOST_DAYS} days, or without an end")
    try:
        networks = sorted({str(_network(address)) for address in addresses}) or None
    except ValueError:
        fix = "an address is a network like 203.0.113.0/24 or 2001:db8::/32, or one IP address"
        raise PartnerRefused(fix) from None
    text, seconds = make_key(), None if days is None else days * 86400.0
    stored = {"key_hash": hash_key(text), "hint": text[-4:], "addresses": networks, "expires_seconds": seconds}
    added = queries.add_key(database, name=name, **stored, **partner)
    if not isinstance(added, queries.NewKey):
        raise PartnerRefused(_NOT_MADE[added].format(name))
    return NewKey(*added, text)


def _network(address: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """The IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2), in which form callers are compared."""
    found = ipaddress.ip_network(address, strict=False)
    mapped = found.network_address.ipv4_mapped if isinstance(found, ipaddress.IPv6Network) else None
    if mapped is None or found.prefixlen < _MAPPED_BITS:
        return found
    return ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))
