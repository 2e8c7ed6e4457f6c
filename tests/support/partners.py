"""
Partners for the tests: made through the store, asking through it or through `/v1`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import requests

from gateway.database import Database, open_postgres
from gateway.models import Caller
from gateway.partners.admin import SCOPES, add_partner
from gateway.partners.keys import hash_key
from tests.support.database import rows

EVERY_SCOPE = SCOPES


@dataclass(frozen=True)
class Partner:
    """A partner with one key."""

    id: uuid.UUID
    name: str
    key: str = field(repr=False)

    def caller(self, address: str | None = "198.51.100.7") -> Caller:
        return Caller(key_hash=hash_key(self.key), address=address)

    def asks(self, gateway: Any, path: str, method: str = "GET", **options: Any) -> requests.Response:
        """A call of `/v1` by its key."""
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return requests.request(method, f"{gateway.url}/v1{path}", headers=headers, timeout=30, **options)

    def consented(self, dsn: str, connection_id: object, *, made: bool = False) -> None:
        """As if the owner had said yes on a page that names it."""
        rows(
            dsn,
            "insert into gateway.consent (partner_id, connection_id, made) values (%s, %s, %s)",
            self.id,
            connection_id,
            made,
        )

    def used_for_long(self, dsn: str, address: str = "198.51.100.7") -> None:
        """As if it had called from there since the day before."""
        rows(
            dsn,
            "update gateway.api_key set last_used_at = now(), last_used_from = %s,"
            " networks = array[network(set_masklen(%s::inet, 24))] where key_hash = %s",
            address,
            address,
            hash_key(self.key),
        )
        rows(dsn, "update gateway.partner set created_at = created_at - interval '1 day' where id = %s", self.id)


def partner(store: Database, name: str | None = None, **said: Any) -> Partner:
    """A new partner; by default with every scope and reach `all`."""
    name = name or f"Acme {uuid.uuid4().hex[:8]}"
    made = add_partner(store, name, **({"scope": EVERY_SCOPE, "reach": "all"} | said))
    return Partner(made.partner_id, name, made.text)


def partner_of(dsn: str, name: str | None = None, **said: Any) -> Partner:
    """The same in a database that no store is open on here."""
    store = open_postgres(dsn)
    try:
        return partner(store, name, **said)
    finally:
        store.close()


def events(dsn: str, type_: str, *, partner_id: object = None, connection_id: object = None) -> list[Any]:
    """The events of a partner or a connection, oldest first: the data of each."""
    return rows(
        dsn,
        "select data from gateway.event where type = %s and (%s::uuid is null or partner_id = %s)"
        " and (%s::uuid is null or connection_id = %s) order by at",
        type_,
        partner_id,
        partner_id,
        connection_id,
        connection_id,
    )


def recorded_reads(dsn: str, *, partner_id: object = None, connection_id: object = None) -> int:
    """Token reads of this hour and before that are on record: of a partner, of a connection, or both."""
    return rows(
        dsn,
        "select coalesce(sum(reads), 0)::integer from gateway.token_read"
        " where (%s::uuid is null or partner_id = %s) and (%s::uuid is null or connection_id = %s)",
        partner_id,
        partner_id,
        connection_id,
        connection_id,
    )[0]


def next_hour(dsn: str) -> None:
    """An hour passes for what was read."""
    for hour in rows(dsn, "select distinct hour from gateway.token_read order by hour"):  # no two rows meet on the way
        rows(dsn, "update gateway.token_read set hour = hour - interval '1 hour' where hour = %s", hour)
    for hour in rows(dsn, "select distinct hour from gateway.usage order by hour"):
        rows(dsn, "update gateway.usage set hour = hour - interval '1 hour' where hour = %s", hour)
