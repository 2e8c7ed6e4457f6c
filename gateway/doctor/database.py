"""
The database: its schema, the hosts that use it, events, access rules, and whether stored tokens decrypt.

Access rules are read over a direct connection, in one read-only transaction, as the gateway's role: every role may read the system
catalogues. The checks are in gateway/database/sql/checks.sql.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import errors

from gateway.crypto.vault import Vault
from gateway.database import SCHEMA_VERSION, SchemaState
from gateway.database.migrate import SQL
from gateway.database.postgres import BoundedConnection, connect
from gateway.database.queries import events
from gateway.database.queries.operator import Host, list_hosts
from gateway.database.unreachable import NOT_RELOADED
from gateway.doctor.report import Finding, finding
from gateway.errors import DatabaseUnavailable, GatewayError, SecretUnreadable
from gateway.events.verify import verify
from gateway.services import Runtime

_SAMPLE = 20
_LAST_EVENTS = 1000
_BEHIND_SECONDS = 60


def examine(rt: Runtime, *, embedded: bool = False) -> Iterator[Finding]:
    """All findings about the database; if it does not answer or has no schema, only that."""
    try:
        schema = rt.database.check()
    except DatabaseUnavailable as error:
        yield finding("database.unavailable", error=error)
        return
    except GatewayError as error:
        yield finding("database.refuses", error=error)
        return
    yield finding("database.sound")
    found, fix = describe_schema(schema, over_rest=rt.settings.database_url is None)
    if not schema["is_current"]:
        yield finding("schema.of_serve" if embedded else "schema.older", found=found, fix=fix)
        return
    yield finding("schema.current", found=found)
    for about, examine_part in (("hosts", _hosts), ("events", examine_events)):
        try:
            yield from examine_part(rt)
        except GatewayError as error:
            yield finding("database.unreadable", about, error=error)
    if rt.settings.database_url is None:
        yield finding("policies.over_rest")
        return
    yield from _direct(rt.settings.database_url.get_secret_value(), rt.vault)


def describe_schema(schema: SchemaState, *, over_rest: bool) -> tuple[str, str]:
    """Which schema is there and which is needed, and the fix where it is missing or older."""
    version = schema["version"]
    found = f"The schema is at version {version}" if version else "There is no schema"
    if version == SCHEMA_VERSION and not schema["is_current"]:
        found += " with older functions"
    fix = "Run `python -m gateway db apply`."
    if over_rest and not version:
        fix = f"{NOT_RELOADED[0].upper()}{NOT_RELOADED[1:]}."
    return f"{found}; this gateway needs {SCHEMA_VERSION}.", fix


# -- hosts and events -----------------------------------------------------------------------------------------------


def _hosts(rt: Runtime) -> Iterator[Finding]:
    """Whether each host of the last ten minutes, and this environment, has the keys that the others encrypt with."""
    hosts = list_hosts(rt.database)
    if not hosts:
        yield finding("hosts.none")
        return
    found = list(compare_hosts([Host("", rt.vault.key_ids(), 0), *hosts]))
    yield from found or [finding("hosts.same_keys", count=len({host.id for host in hosts}))]


def compare_hosts(hosts: list[Host]) -> Iterator[Finding]:
    """A failure for a host without a key that another host encrypts with; a warning for a key that another host only holds."""
    encrypting = {host.keys[0] for host in hosts if host.keys}
    held = {key for host in hosts for key in host.keys}
    for host in hosts:
        name = f"Host {host.id} (seen {host.seen_seconds} s ago)" if host.id else "This environment"
        if lost := encrypting - set(host.keys):
            yield finding("hosts.lacks_key", name=name, count=len(lost))
        elif lost := held - set(host.keys):
            yield finding("hosts.lacks_unused_key", name=name, count=len(lost))


def examine_events(rt: Runtime) -> Iterator[Finding]:
    """The latest segments, and the backlog. `events verify` checks all of them, which may take minutes."""
    try:
        *_, last = verify(rt, last=_LAST_EVENTS)
    except SecretUnreadable:
        yield finding("events.key_lost")
        return
    chain = events.read_chain(rt.database)
    if last.problems:
        yield finding("events.changed", problem=last.problems[0].message)
    elif chain.oldest_unassigned_seconds > _BEHIND_SECONDS:
        yield finding("events.behind", count=chain.unassigned, seconds=chain.oldest_unassigned_seconds)
    else:
        yield finding("events.sound", count=last.checked)


# -- over a direct connection ----------------------------------------------------------------------------------------


def _direct(dsn: str, vault: Vault) -> Iterator[Finding]:
    try:
        with (
            connect(dsn, BoundedConnection) as connection,
            connection.transaction(force_rollback=True),
        ):
            # By set_config, which a transaction pooler understands too; with the empty path every printed name is complete.
            connection.execute("set transaction read only")
            connection.execute("select set_config('search_path', '', true)")
            yield from access_rules(connection)
            yield from _newest_tokens(connection, vault)
    except (psycopg.OperationalError, DatabaseUnavailable):
        yield finding("policies.interrupted")


def access_rules(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[Finding]:
    """The faults that checks.sql finds, on a connection whose search_path is empty; one `ok` for each part without a fault."""
    rows = connection.execute((SQL / "checks.sql").read_bytes()).fetchall()
    found = [Finding(*row) for row in rows]  # type: ignore[arg-type]
    yield from found
    about = {finding.about for finding in found}
    if "policies" not in about:
        yield finding("policies.sound")
    if "grants" not in about:
        yield finding("grants.sound")


def _newest_tokens(connection: psycopg.Connection[tuple[object, ...]], vault: Vault) -> Iterator[Finding]:
    """Whether our keys decrypt what was encrypted last: without its key a connection is lost."""
    try:
        with connection.transaction():
            rows = connection.execute(
                "select d.token, c.user_id, c.provider, c.seal_id from gateway.connection c"
                " join public.provider_data d on d.id = c.id"
                " where d.token like 'gAAAA%%' order by c.updated_at desc limit %s",
                [_SAMPLE],
            ).fetchall()
    except errors.InsufficientPrivilege:
        yield finding("keys.unseen")
        return
    if shut := sum(not _decrypts(vault, *row) for row in rows):
        yield finding("keys.lost", count=shut, sample=len(rows))
    elif rows:
        yield finding("keys.decrypt", sample=len(rows))


def _decrypts(vault: Vault, token: Any, user_id: Any, provider: Any, seal_id: Any) -> bool:
    try:
        vault.decrypt(token, column="token", user_id=user_id, provider=provider, seal_id=seal_id)
    except SecretUnreadable:
        return False
    return True
