"""
Who may do what: grants, roles, functions, views and publications, compared with what schema.sql leaves to client roles.

Effective rights are direct ones, those of everybody (`public`) and those of roles that one is a member of; the last are
refused altogether. Each check yields what is too much, and what the documented queries would miss.
"""

# ruff: noqa: S608 -- the parts of these queries are written in this room

from __future__ import annotations

from collections.abc import Iterator

from gateway.doctor.finding import Finding
from gateway.doctor.shape import APPLY, OURS, TABLES, Check, Connection

_CLIENTS = "('public', 'anon', 'authenticated')"
_ROLE = "coalesce(r.rolname::text, 'public')"
_SECRETIVE = "(user_profile|provider_data|gateway\\.)"

_SERVERS = {"service_role", "gateway_app"}
_WRITABLE = ("token", "refresh", "expires", "data")
TABLE_GRANTS: set[tuple[str, ...]] = {
    ("authenticated", "user_profile", "SELECT"),
    ("authenticated", "provider_data", "SELECT"),
}
COLUMN_GRANTS: set[tuple[str, ...]] = {
    *(("authenticated", "user_profile", column, "UPDATE") for column in ("user_name", "updated_at")),
    *(("authenticated", "provider_data", column, "UPDATE") for column in _WRITABLE),
    *(
        ("authenticated", "provider_data", column, "INSERT")
        for column in ("id", "provider_id_ref", "auth_provider_id", "name", "type", *_WRITABLE)
    ),
}


def tables(connection: Connection) -> Iterator[Finding]:
    """The owner's two tables, whole and by column."""
    whole = connection.execute(
        f"select {_ROLE}, c.relname, x.privilege_type from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace cross join pg_catalog.aclexplode(c.relacl) x"
        " left join pg_catalog.pg_roles r on r.oid = x.grantee"
        f" where n.nspname = 'public' and c.relname = any (%s) and {_ROLE} in {_CLIENTS}",
        [TABLES],
    ).fetchall()
    columns = connection.execute(
        f"select {_ROLE}, c.relname, a.attname, x.privilege_type from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " join pg_catalog.pg_attribute a on a.attrelid = c.oid cross join pg_catalog.aclexplode(a.attacl) x"
        " left join pg_catalog.pg_roles r on r.oid = x.grantee"
        f" where n.nspname = 'public' and c.relname = any (%s) and {_ROLE} in {_CLIENTS}",
        [TABLES],
    ).fetchall()
    yield from _compared({tuple(row) for row in whole}, TABLE_GRANTS)
    yield from _compared({tuple(row) for row in columns}, COLUMN_GRANTS)


def _compared(found: set[tuple[str, ...]], wanted: set[tuple[str, ...]]) -> Iterator[Finding]:
    for role, *where, verb in sorted(found - wanted):
        yield Finding("grants", "fail", f"{role} has {verb} on {'.'.join(where)}.", APPLY)
    for role, *where, verb in sorted(wanted - found):
        says = f"{role} lacks {verb} on {'.'.join(where)}: documented queries fail."
        yield Finding("grants", "warn", says, APPLY)


def roles(connection: Connection) -> Iterator[Finding]:
    """Client roles are plain ones, own nothing of ours, and can become nobody else."""
    found = connection.execute(
        "select r.rolname, case when r.rolsuper then 'is a superuser' when r.rolbypassrls then 'bypasses row-level security'"
        " else 'may make roles' end from pg_catalog.pg_roles r"
        " where r.rolname in ('anon', 'authenticated', 'gateway_app')"
        " and (r.rolsuper or r.rolbypassrls or r.rolcreaterole)"
        " union all select m.rolname, 'is a member of ' || r.rolname from pg_catalog.pg_auth_members a"
        " join pg_catalog.pg_roles m on m.oid = a.member join pg_catalog.pg_roles r on r.oid = a.roleid"
        " where m.rolname in ('anon', 'authenticated')"
        " union all select r.rolname, 'owns ' || c.relname from pg_catalog.pg_class c"
        " join pg_catalog.pg_roles r on r.oid = c.relowner join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where r.rolname in ('anon', 'authenticated')"
        " and (n.nspname = 'gateway' or n.nspname = 'public' and c.relname = any (%s))",
        [TABLES],
    ).fetchall()
    for role, what in found:
        yield Finding("grants", "fail", f"The role {role} {what}.", f"Take that from {role}.")


def our_schema(connection: Connection) -> Iterator[Finding]:
    """Nobody but its owner uses the schema `gateway` or anything in it, now or by default."""
    found = connection.execute(
        f"select {_ROLE}, x.privilege_type, 'the schema gateway' from pg_catalog.pg_namespace n"
        " cross join pg_catalog.aclexplode(n.nspacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee"
        " where n.nspname = 'gateway' and x.grantee <> n.nspowner"
        f" union all select {_ROLE}, x.privilege_type, 'gateway.' || c.relname from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace cross join pg_catalog.aclexplode(c.relacl) x"
        " left join pg_catalog.pg_roles r on r.oid = x.grantee"
        " where n.nspname = 'gateway' and x.grantee <> c.relowner"
        f" union all select {_ROLE}, x.privilege_type, 'gateway.' || c.relname || '.' || a.attname from pg_catalog.pg_class c"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace join pg_catalog.pg_attribute a on a.attrelid = c.oid"
        " cross join pg_catalog.aclexplode(a.attacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee"
        " where n.nspname = 'gateway' and x.grantee <> c.relowner"
        f" union all select {_ROLE}, x.privilege_type, 'whatever will be made in the schema gateway'"
        " from pg_catalog.pg_default_acl d join pg_catalog.pg_namespace n on n.oid = d.defaclnamespace"
        " cross join pg_catalog.aclexplode(d.defaclacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee"
        " where n.nspname = 'gateway' and x.grantee <> d.defaclrole"
    ).fetchall()
    for role, verb, where in sorted(set(found)):
        mend = "Take back the default privileges in the schema gateway." if where.startswith("whatever") else APPLY
        yield Finding("grants", "fail", f"{role} has {verb} on {where}.", mend)


def functions(connection: Connection) -> Iterator[Finding]:
    """Ours are called by servers alone, and look names up nowhere but where they say."""
    found = connection.execute(
        "select p.oid::regprocedure::text, n.nspname = 'public', p.prosecdef,"
        " coalesce('search_path=\"\"' = any (p.proconfig), false),"
        " array(select w.name from unnest(array['anon', 'authenticated']) w (name)"
        "   join pg_catalog.pg_roles r on r.rolname = w.name where has_function_privilege(r.oid, p.oid, 'execute')),"
        " array(select w.name from unnest(array['service_role', 'gateway_app']) w (name)"
        "   join pg_catalog.pg_roles r on r.rolname = w.name where has_function_privilege(r.oid, p.oid, 'execute'))"
        f" from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace where {OURS} order by 1"
    ).fetchall()
    for name, offered, definer, pathless, clients, servers in found:
        for role in clients:
            yield Finding("grants", "fail", f"{role} may execute {name}.", APPLY)
        if definer and not pathless:
            yield Finding("grants", "fail", f"{name} runs with its owner's rights and its caller's search_path.", APPLY)
        if offered and not definer:
            yield Finding("grants", "fail", f"{name} does not run with its owner's rights.", APPLY)
        if offered and set(servers) != _SERVERS:
            yield Finding("grants", "fail", f"The servers' roles may not execute {name}.", APPLY)
        if not offered and servers:
            yield Finding("grants", "fail", f"{' and '.join(servers)} may execute {name}.", APPLY)


def other_doors(connection: Connection) -> Iterator[Finding]:
    """Functions of others that run with their owner's rights, name our tables, and may be called by clients."""
    found = connection.execute(
        "select p.oid::regprocedure::text from pg_catalog.pg_proc p"
        " join pg_catalog.pg_namespace n on n.oid = p.pronamespace"
        f" where p.prosecdef and p.prokind in ('f', 'p') and not {OURS}"
        " and n.nspname not in ('pg_catalog', 'information_schema') and p.prorettype <> 'pg_catalog.trigger'::regtype"
        " and pg_catalog.pg_get_functiondef(p.oid) ~* %s"
        " and exists (select from pg_catalog.pg_roles r where r.rolname in ('anon', 'authenticated')"
        "   and has_schema_privilege(r.oid, n.oid, 'usage') and has_function_privilege(r.oid, p.oid, 'execute')) order by 1",
        [_SECRETIVE],
    ).fetchall()
    for (name,) in found:
        says = f"{name} reads or writes our tables with its owner's rights, and clients may call it."
        yield Finding(
            "grants", "fail", says, "Make it security invoker, or revoke execute from anon and authenticated."
        )


def views(connection: Connection) -> Iterator[Finding]:
    """Views over our tables that show clients what their owner sees, over any number of views in between."""
    found = connection.execute(
        "with recursive over (id) as ("
        "   select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        "    where n.nspname = 'gateway' or n.nspname = 'public' and c.relname = any (%s)"
        "   union select w.ev_class from over join pg_catalog.pg_depend d on d.refobjid = over.id"
        "    and d.refclassid = 'pg_catalog.pg_class'::regclass and d.classid = 'pg_catalog.pg_rewrite'::regclass"
        "    join pg_catalog.pg_rewrite w on w.oid = d.objid)"
        f" select c.oid::regclass::text, {_ROLE} from over join pg_catalog.pg_class c on c.oid = over.id"
        " cross join pg_catalog.aclexplode(c.relacl) x left join pg_catalog.pg_roles r on r.oid = x.grantee"
        " where (c.relkind = 'm' or c.relkind = 'v' and not exists (select from unnest(c.reloptions) o (word)"
        "    where lower(o.word) in ('security_invoker=true', 'security_invoker=on', 'security_invoker=1', 'security_invoker=yes')))"
        f" and {_ROLE} in {_CLIENTS} group by 1, 2 order by 1, 2",
        [TABLES],
    ).fetchall()
    for view, role in found:
        says = f"The view {view} shows {role} our tables with its owner's eyes."
        yield Finding(
            "grants", "fail", says, "Give it `security_invoker = true`, or take its grants from client roles."
        )


def publications(connection: Connection) -> Iterator[Finding]:
    """What is published leaves the database: Supabase Realtime tells everybody of deletions, whosever they are."""
    found = connection.execute(
        "select distinct n.nspname || '.' || c.relname, y.pubname, n.nspname = 'gateway' from pg_catalog.pg_publication y"
        " cross join lateral pg_catalog.pg_get_publication_tables(y.pubname) t"
        " join pg_catalog.pg_class c on c.oid = t.relid join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'gateway' or n.nspname = 'public' and c.relname = any (%s) order by 1, 2",
        [TABLES],
    ).fetchall()
    for table, publication, private in found:
        says = f"{table} is in the publication {publication}: its changes leave the database."
        mend = f"Take it out: alter publication {publication} drop table {table};"
        yield Finding("grants", "fail" if private else "warn", says, mend)


CHECKS: tuple[Check, ...] = (tables, roles, our_schema, functions, other_doors, views, publications)
