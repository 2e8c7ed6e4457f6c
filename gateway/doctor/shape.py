"""
Whether the database has the shape that schema.sql gives it: row-level security, policies, triggers, functions, relations.

Each check asks the system catalogues and yields what is wrong; nothing for a sound database. What is expected is read from
schema.sql itself.
"""

# ruff: noqa: S608 -- the parts of these queries are written in this room

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from gateway.doctor import expected
from gateway.doctor.finding import Finding

Connection = psycopg.Connection[Any]
Check = Callable[[Connection], Iterator[Finding]]

TABLES = ["user_profile", "provider_data"]
APPLY = "Run `python -m gateway db apply`: it sets everything up again and loses nothing."
OURS = "(n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$')"
"""Our functions, in a query over pg_proc p and pg_namespace n."""
_CLIENTS = {"public", "anon", "authenticated"}
_VERBS = {"r": "select", "a": "insert", "w": "update", "d": "delete", "*": "all"}


def row_level_security(connection: Connection) -> Iterator[Finding]:
    """On for clients, and forced for the tables' owner."""
    found = connection.execute(
        "select c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relhasrules from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = 'public' and c.relname = any (%s)",
        [TABLES],
    ).fetchall()
    for name in sorted({*TABLES} - {row[0] for row in found}):
        yield Finding("policies", "fail", f"The table {name} is missing.", APPLY)
    for name, on, forced, ruled in found:
        if not on:
            yield Finding("policies", "fail", f"Row-level security is off on {name}: every user sees every row.", APPLY)
        elif not forced:
            yield Finding("policies", "fail", f"Row-level security does not bind the owner of {name}.", APPLY)
        if ruled:
            yield Finding("policies", "fail", f"A rewrite rule stands on {name}.", f"Drop the rules on {name}.")


def policies(connection: Connection) -> Iterator[Finding]:
    """Ours as schema.sql has them, word for word; others are told of."""
    found = connection.execute(
        "select n.nspname || '.' || c.relname, p.polname, not p.polpermissive, p.polcmd::text,"
        " array(select coalesce(r.rolname::text, 'public') from unnest(p.polroles) o (id)"
        " left join pg_catalog.pg_roles r on r.oid = o.id order by 1),"
        " pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)"
        " from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'public' and c.relname = any (%s)",
        [TABLES],
    ).fetchall()
    standing = {
        (table, name): expected.Policy(
            table, name, strict, _VERBS[verb], tuple(roles), expected.plain(using), expected.plain(check)
        )
        for table, name, strict, verb, roles, using, check in found
    }
    for wanted in expected.policies():
        stands = standing.pop((wanted.table, wanted.name), None)
        if stands != wanted:
            fault = "is missing" if stands is None else "is not as this version has it"
            yield Finding("policies", "fail", f'The policy "{wanted.name}" on {wanted.table} {fault}.', APPLY)
    for other in standing.values():
        yield from _foreign(other)


def _foreign(policy: expected.Policy) -> Iterator[Finding]:
    reached = _CLIENTS & set(policy.roles)
    if policy.name == expected.OWNERS_POLICY:
        if reached:
            yield Finding("policies", "fail", f'The policy "{policy.name}" on {policy.table} lets clients in.', APPLY)
    elif reached and not policy.restrictive:
        yield Finding(
            "policies",
            "warn",
            f'The policy "{policy.name}" on {policy.table} is not ours, and opens rows to {", ".join(sorted(reached))}.',
            "Ours still keep users to their own rows. Drop it, unless you know what it is for.",
        )


def bound_roles(connection: Connection) -> Iterator[Finding]:
    """Whoever has to reach every row and may not bypass row-level security needs the policy that lets it."""
    found = connection.execute(
        "select r.rolname, t.name from pg_catalog.pg_roles r cross join unnest(%s::text[]) t (name)"
        " where not r.rolsuper and not r.rolbypassrls and (r.rolname = 'service_role' or r.oid in ("
        f"   select p.proowner from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where {OURS}))"
        " and not exists (select from pg_catalog.pg_policy y join pg_catalog.pg_class c on c.oid = y.polrelid"
        "   join pg_catalog.pg_namespace n on n.oid = c.relnamespace where n.nspname = 'public' and c.relname = t.name"
        "   and y.polname = %s and r.oid = any (y.polroles))",
        [TABLES, expected.OWNERS_POLICY],
    ).fetchall()
    for role, table in found:
        yield Finding("policies", "fail", f"The role {role} sees no row of {table}.", APPLY)


def triggers(connection: Connection) -> Iterator[Finding]:
    """Ours stand, are switched on, and watch the same columns."""
    found = connection.execute(
        "select pg_catalog.pg_get_triggerdef(t.oid) from pg_catalog.pg_trigger t"
        " where not t.tgisinternal and t.tgenabled in ('O', 'A')"
    ).fetchall()
    standing = {expected.trigger(definition) for (definition,) in found}
    for wanted in expected.triggers():
        if wanted not in standing:
            says = f"The trigger {wanted.name} on {wanted.table} is missing, switched off or changed."
            yield Finding("policies", "fail", says, APPLY)


def functions(connection: Connection) -> Iterator[Finding]:
    """Ours are those of this version."""
    found = connection.execute(
        f"select n.nspname || '.' || p.proname, p.prosrc from pg_catalog.pg_proc p"
        f" join pg_catalog.pg_namespace n on n.oid = p.pronamespace where {OURS}"
    ).fetchall()
    standing: dict[str, set[str]] = {}
    for name, source in found:
        standing.setdefault(name, set()).add(expected.body(source))
    for name, bodies in expected.functions().items():
        if frozenset(standing.get(name, ())) != bodies:
            fault = "is not as this version has it" if name in standing else "is missing"
            yield Finding("policies", "fail", f"The function {name} {fault}.", APPLY)


def relations(connection: Connection) -> Iterator[Finding]:
    """Deleting a user takes all of theirs along."""
    found = connection.execute(
        "select f.name from (values ('user_profile', 'user_id_auth'), ('provider_data', 'provider_id_ref'),"
        " ('provider_data', 'auth_provider_id')) f (child, name) where not exists ("
        "   select from pg_catalog.pg_constraint k join pg_catalog.pg_class c on c.oid = k.conrelid"
        "   join pg_catalog.pg_namespace n on n.oid = c.relnamespace and n.nspname = 'public'"
        "   join pg_catalog.pg_attribute a on a.attrelid = c.oid and k.conkey = array[a.attnum]"
        "   where k.contype = 'f' and k.confdeltype = 'c' and c.relname = f.child and a.attname = f.name)"
    ).fetchall()
    for (column,) in found:
        says = f"Nothing deletes a user's rows along with them: the relation of {column} is missing."
        yield Finding("policies", "fail", says, APPLY)


def the_caller(connection: Connection) -> Iterator[Finding]:
    """`auth.uid()` is the subject of the request's token, whatever else stands in it."""
    claims = '{"sub": "%s", "user_metadata": {"sub": "%s", "id": "%s"}}'
    ours, others = "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(
                "select set_config('request.jwt.claim.sub', '', true), set_config('request.jwt.claims', %s, true)",
                [claims % (ours, others, others)],
            )
            row = connection.execute("select auth.uid()::text").fetchone()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        return  # the gateway's own role may not ask
    if row is None or row[0] != ours:
        yield Finding(
            "policies",
            "fail",
            "auth.uid() is not the subject of the token: every policy rests on it.",
            "Put the function back as Supabase, or a fresh schema.sql, has it.",
        )


CHECKS: tuple[Check, ...] = (
    row_level_security,
    policies,
    bound_roles,
    triggers,
    functions,
    relations,
    the_caller,
)
