"""
The database: its schema, the hosts that use it, events, what is frozen, access rules, and whether stored tokens decrypt.

Access rules are read over a direct connection, in one read-only transaction, as the gateway's role: every role may read the system
catalogues. The checks are in gateway/database/sql/checks.sql.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import errors

from gateway.crypto.vault import Vault
from gateway.database import NOT_RELOADED, SCHEMA_VERSION, SchemaState
from gateway.database.migrate import SQL
from gateway.database.postgres import BoundedConnection, connect
from gateway.database.queries import events
from gateway.database.queries import partners as queries
from gateway.database.queries.hosts import Host, list_hosts
from gateway.doctor.report import Finding
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
        fix = "Check DATABASE_URL (or SUPABASE_URL and SUPABASE_SECRET_KEY), and whether the database or project is running."
        yield Finding("database", "fail", f"It cannot be used: {error}.", fix)
        return
    except GatewayError as error:
        yield Finding("database", "fail", f"It refuses: {error}.", "Check which role or key the gateway uses.")
        return
    yield Finding("database", "ok", "It answers.")
    found, fix = describe_schema(schema, over_rest=rt.settings.database_url is None)
    if not schema["is_current"]:
        yield (
            Finding("schema", "warn", found, "`serve` sets it up.")
            if embedded
            else Finding("schema", "fail", found, fix)
        )
        return
    yield Finding("schema", "ok", found)
    for about, examine_part in (("hosts", _hosts), ("events", examine_events), ("frozen", _frozen)):
        try:
            yield from examine_part(rt)
        except GatewayError as error:
            yield Finding(about, "fail", f"This cannot be read: {error}.", "Run `python -m gateway db apply`.")
    if rt.settings.database_url is None:
        fix = "Run doctor once with DATABASE_URL set to the project's connection string."
        yield Finding("policies", "unseen", "Over the REST API access rules cannot be read.", fix)
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


# -- hosts, events and freezes -----------------------------------------------------------------------------------------------


def _hosts(rt: Runtime) -> Iterator[Finding]:
    """Whether each host of the last ten minutes, and this environment, has the keys that the others encrypt with."""
    hosts = list_hosts(rt.database)
    if not hosts:
        yield Finding("hosts", "ok", "No process was seen in the last ten minutes.")
        return
    found = list(compare_hosts([Host("", rt.vault.key_ids(), 0), *hosts]))
    yield from found
    if not found:
        count = len({host.id for host in hosts})
        yield Finding("hosts", "ok", f"{count} seen in the last ten minutes, all with the same keys.")


def compare_hosts(hosts: list[Host]) -> Iterator[Finding]:
    """A failure for a host without a key that another host encrypts with; a warning for a key that another host only holds."""
    encrypting = {host.keys[0] for host in hosts if host.keys}
    held = {key for host in hosts for key in host.keys}
    for host in hosts:
        name = f"Host {host.id} (seen {host.seen_seconds} s ago)" if host.id else "This environment"
        if lost := encrypting - set(host.keys):
            message = f"{name} lacks {len(lost)} of the keys that others encrypt with: it cannot decrypt their values."
            fix = "Put it into GATEWAY_KEYS of that host, as the second one, and restart it; see docs/operations.md."
            yield Finding("hosts", "fail", message, fix)
        elif lost := held - set(host.keys):
            message = f"{name} lacks {len(lost)} of the keys that others hold; no host encrypts with them yet."
            fix = "Being added: let every host have it before it becomes the first. Being removed: nothing to do."
            yield Finding("hosts", "warn", message, fix)


def examine_events(rt: Runtime) -> Iterator[Finding]:
    """The latest segments, and the backlog. `events verify` checks all of them, which may take minutes."""
    try:
        steps = list(verify(rt, last=_LAST_EVENTS))
    except SecretUnreadable:
        fix = "Put the key that encrypted it back into GATEWAY_KEYS, after the newest."
        yield Finding("events", "fail", "The key of the event chain does not decrypt: nothing can be sealed.", fix)
        return
    chain = events.read_chain(rt.database)
    problems = [problem for step in steps for problem in step.problems]
    if problems:
        fix = "The schema gateway was changed from outside. Run `python -m gateway events verify`."
        yield Finding("events", "fail", problems[0].message, fix)
    elif chain.oldest_unassigned_seconds > _BEHIND_SECONDS:
        text = f"{chain.unassigned} events have no position, the oldest for {chain.oldest_unassigned_seconds:.0f} s."
        yield Finding("events", "warn", text, "Start `python -m gateway worker`, and look for `job.failed` in its log.")
    else:
        yield Finding("events", "ok", f"The last {steps[-1].checked} events are unchanged.")


def _frozen(rt: Runtime) -> Iterator[Finding]:
    """Freezes, which are easily forgotten."""
    found = queries.list_partners(rt.database)
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
        message = f"{what} since {since[:16].replace('T', ' ')}."
        yield Finding("frozen", "warn", message, f"To thaw: `python -m gateway partners freeze {option} --off`.")
    if not stopped:
        yield Finding("frozen", "ok", "Nothing is.")


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
        yield Finding("policies", "fail", "The database stopped answering while it was read.", "Try again.")


def access_rules(connection: psycopg.Connection[tuple[object, ...]]) -> Iterator[Finding]:
    """The faults that checks.sql finds, on a connection whose search_path is empty; one `ok` for each part without a fault."""
    rows = connection.execute((SQL / "checks.sql").read_bytes()).fetchall()
    found = [Finding(*row) for row in rows]  # type: ignore[arg-type]
    yield from found
    about = {finding.about for finding in found}
    if "policies" not in about:
        message = "Row-level security is on and forced; policies, triggers and functions are unchanged."
        yield Finding("policies", "ok", message)
    if "grants" not in about:
        yield Finding("grants", "ok", "Client roles have what the documented queries need, and nothing else.")


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
        yield Finding("keys", "unseen", "The gateway's role may not read rows, so no stored token was tried.")
        return
    if shut := sum(not _decrypts(vault, *row) for row in rows):
        message = f"{shut} of the {len(rows)} newest stored tokens do not decrypt."
        fix = "Put the key that encrypted them back into GATEWAY_KEYS, after the newest."
        yield Finding("keys", "fail", message, fix)
    elif rows:
        yield Finding("keys", "ok", f"The {len(rows)} newest stored tokens decrypt.")


def _decrypts(vault: Vault, token: Any, user_id: Any, provider: Any, seal_id: Any) -> bool:
    try:
        vault.decrypt(token, column="token", user_id=user_id, provider=provider, seal_id=seal_id)
    except SecretUnreadable:
        return False
    return True
