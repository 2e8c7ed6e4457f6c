"""
The database by direct connection: read in one read-only transaction, as whichever role the gateway has.

System catalogues may be read by every role, so that a gateway which connects as `gateway_app` is examined as well as one which
connects as the owner. Knows how to ask; what is right stands in `expected` and `privileges`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
from psycopg import errors

from gateway.crypto.vault import Vault
from gateway.database.postgres import BoundedConnection, read_dsn
from gateway.doctor import privileges, shape
from gateway.doctor.finding import Finding, clock_finding
from gateway.errors import SecretUnreadable

_CONNECT_SECONDS = 3
_SAMPLE = 20


def examine(dsn: str, vault: Vault) -> Iterator[Finding]:
    """Clock, policies, grants, functions, and whether the newest secrets open."""
    try:
        with (
            BoundedConnection.connect(
                read_dsn(dsn)[0], connect_timeout=_CONNECT_SECONDS, prepare_threshold=None
            ) as connection,
            connection.transaction(force_rollback=True),
        ):
            # By set_config, which a transaction pooler understands too; the empty path makes every printed name whole.
            connection.execute("set transaction read only")
            connection.execute("select set_config('search_path', '', true)")
            yield _clock(connection)
            yield from catalogue(connection)
            yield from _secrets(connection, vault)
    except psycopg.OperationalError:
        yield Finding("policies", "fail", "The database stopped answering while it was read.", "Try again.")


def catalogue(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[Finding]:
    """What the system catalogues say, on a connection whose search_path is empty; one `ok` for each part without a fault."""
    for about, checks in (("policies", shape.CHECKS), ("grants", privileges.CHECKS)):
        found = [finding for check in checks for finding in check(connection)]
        yield from found
        if not found:
            yield Finding(about, "ok", _WELL[about])


_WELL = {
    "policies": "Row-level security is on and forced; policies, triggers and functions are this version's.",
    "grants": "Client roles have what the documented queries need, and nothing else.",
}


def _clock(connection: psycopg.Connection[tuple[object, ...]]) -> Finding:
    before = datetime.now(UTC)
    row = connection.execute("select extract(epoch from clock_timestamp())::float8").fetchone()
    theirs = float(str(row[0])) if row else before.timestamp()
    ours = (before.timestamp() + datetime.now(UTC).timestamp()) / 2
    return clock_finding("the database's clock", ours - theirs)


def _secrets(connection: psycopg.Connection[tuple[object, ...]], vault: Vault) -> Iterator[Finding]:
    """Whether our keys open what was sealed last: with a lost key the connections are lost, and it should be known early."""
    try:
        with connection.transaction():
            rows = connection.execute(
                "select d.id::text, c.generation, d.token from gateway.connection c"
                " join public.provider_data d on d.id = c.id"
                " where d.token like 'gAAAA%%' order by c.updated_at desc limit %s",
                [_SAMPLE],
            ).fetchall()
    except errors.InsufficientPrivilege:
        yield Finding("keys", "unseen", "The gateway's role may not read rows, so no stored secret was tried.")
        return
    shut = sum(not _opens(vault, str(row), int(str(generation)), str(token)) for row, generation, token in rows)
    if shut:
        yield Finding(
            "keys",
            "fail",
            f"{shut} of the {len(rows)} newest stored tokens do not open.",
            "Put the key that sealed them back into GATEWAY_KEYS, behind the newest.",
        )
    elif rows:
        yield Finding("keys", "ok", f"The {len(rows)} newest stored tokens open.")


def _opens(vault: Vault, row: str, generation: int, token: str) -> bool:
    try:
        vault.open(token, row=row, column="token", generation=generation)
    except SecretUnreadable:
        return False
    return True
