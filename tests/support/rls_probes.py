"""
Probes: attempts of a client at the database, which must not succeed.

Each takes a Scene, tries, leaves nothing behind and returns the problems that it saw, none for a sound database. The tests of the
policies call them one by one; the gate for mutants calls all of them on schemas that were broken on purpose. They know nothing
of system catalogues: whatever they find, a client could do. How the catalogues look is for the doctor to see.
"""

# ruff: noqa: S608 -- the names of tables and columns are written here

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.errors import InsufficientPrivilege

from tests.support.database import Two

KEYS = {"user_profile": "user_id_auth", "provider_data": "auth_provider_id"}
CLIENTS = ("anon", "authenticated")


OWN = "select token, refresh from public.provider_data"
TRY = f"""
do $try$
declare
  rows   constant text := 'select coalesce(string_agg(t::text, '' ''), '''') from (%s) t';
  query  text;
  found  text;
  more   text;
  detail text;
  said   text[] := '{{}}';
begin
  for query in select json_array_elements_text(current_setting('probe.queries')::json) loop
    begin
      execute format(rows, query) into found;
      if strpos(query, '(') > 0 then  -- a function may have changed who asks
        begin
          execute format(rows, '{OWN}') into more;
          found := found || more;
        exception when insufficient_privilege then
          null;  -- the call itself succeeded
        end;
      end if;
      raise sqlstate 'UNDO0';
    exception
      when sqlstate 'UNDO0' then
        said := array_append(said, found);
      when others then
        get stacked diagnostics detail = pg_exception_detail;
        said := array_append(said, concat(sqlstate, ' ', sqlerrm, ' ', detail));
    end;
  end loop;
  perform set_config('probe.said', array_to_json(said)::text, true);
end $try$
"""


@dataclass(frozen=True)
class Scene:
    """Alice and Bob in a database, and one connection to it as its owner, in a transaction."""

    owner: psycopg.Connection
    two: Two

    @contextmanager
    def acting(self, role: str, user: uuid.UUID | None = None, *, before: str = "", **claims: Any) -> Iterator[Any]:
        """What PostgREST does before it runs a client's query; nothing of it stays. `before` is run by the owner."""
        said = {"role": role} | ({"sub": str(user)} if user else {}) | claims
        with self.owner.transaction(force_rollback=True):
            if before:
                self.owner.execute(before)
            self.owner.execute("select set_config('request.jwt.claims', %s, true)", [json.dumps(said)])
            self.owner.execute(f"set local role {role}")
            yield self.owner

    def refused(self, role: str, statement: str, values: Any = None, **options: Any) -> str | None:
        """None when the database refuses; else the problem."""
        options = {"user": self.two.alice.id} | options
        try:
            with self.acting(role, **options) as client:
                client.execute(statement, values)
        except InsufficientPrivilege:
            return None
        except psycopg.Error as error:
            return f"{role}, not refused but {type(error).__name__}: {statement}"
        return f"{role}: {statement}"

    def tried(self, role: str, queries: Sequence[str], *, before: str = "") -> dict[str, str]:
        """Each query, alone and undone: its rows as text, or SQLSTATE and text of its error. All in one call, for there are hundreds."""
        with self.acting(role, self.two.alice.id, before=before) as client:
            client.execute("select set_config('probe.queries', %s, true)", [json.dumps(queries)])
            client.execute(TRY)
            said = client.execute("select current_setting('probe.said')").fetchone()[0]
        return dict(zip(queries, json.loads(said), strict=True))

    def not_refused(self, role: str, queries: Sequence[str]) -> list[str]:
        """The queries that the role may make, or that fail for another reason than its rights."""
        return [
            f"{role}: {query}" for query, said in self.tried(role, queries).items() if not said.startswith("42501 ")
        ]

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """The texts of notices and of an error in the block; the caller adds what it reads."""
        heard: list[str] = []

        def hear(notice: psycopg.errors.Diagnostic) -> None:
            heard.append(f"{notice.message_primary} {notice.message_detail}")

        self.owner.add_notice_handler(hear)
        try:
            yield heard
        except psycopg.Error as error:
            heard.append(str(error))
        finally:
            self.owner.remove_notice_handler(hear)

    def truth(self, statement: str, values: Any = None) -> list[Any]:
        """The stored value, read by the owner in the current transaction, who then takes the role again."""
        role = self.owner.execute("select current_user").fetchone()[0]
        found = self.owner.execute("reset role").execute(statement, values).fetchall()
        self.owner.execute(f"set local role {role}")
        return found


Probe = Callable[[Scene], list[str]]


def several(*answers: str | None) -> list[str]:
    return [answer for answer in answers if answer is not None]


# -- reading ---------------------------------------------------------------------------------------------------------


def the_own_row_and_no_other(scene: Scene) -> list[str]:
    """Asked for everything, for the own and for the other's, the answer is one row, one row and none."""
    alice, bob = scene.two.alice.id, scene.two.bob.id
    found = []
    for table, key in KEYS.items():
        with scene.acting("authenticated", alice) as client:
            if client.execute(f"select {key} from public.{table}").fetchall() != [(alice,)]:
                found.append(f"alice does not see her own row alone in {table}")
            if client.execute(f"select 1 from public.{table} where {key} = %s", [bob]).fetchall():
                found.append(f"alice sees bob's row in {table}")
    return found


def the_subject_decides_and_no_other_claim(scene: Scene) -> list[str]:
    """Users write their own `user_metadata`: whatever it and other claims say, `sub` is the user."""
    bob = str(scene.two.bob.id)
    words = dict.fromkeys(
        ("sub", "id", "uid", "user_id", "user_id_auth", "auth_provider_id", "profile_id", "role"), bob
    )
    claims = {
        "user_metadata": words | {"is_admin": True, "admin": True, "role": "admin"},
        "raw_user_meta_data": words,
        "email": "bob@northwind.example",
        "user_id": bob,
    }
    found = []
    for user, own in ((scene.two.alice.id, 1), (None, 0)):
        for table in KEYS:
            with scene.acting("authenticated", user, **claims) as client:
                if len(client.execute(f"select 1 from public.{table}").fetchall()) != own:
                    found.append(f"a claim beside the subject opens {table}")
    return found


NAMED = """
  select distinct m[1] from (
    select pg_get_functiondef(p.oid) as body from pg_proc p where p.pronamespace = 'auth'::regnamespace and p.prokind = 'f'
    union all select concat(qual, with_check) from pg_policies where schemaname = 'public'
  ) x cross join regexp_matches(x.body, $q$'([\\w-]+)'$q$, 'g') m where m[1] not in ('sub', 'role', 'client_id')
"""


def no_header_cookie_or_other_claim_decides(scene: Scene) -> list[str]:
    """A client chooses headers and cookies, PostgREST hands them on. Every name that a policy or `auth.uid()` mentions is Bob there."""
    bob = str(scene.two.bob.id)
    names = {name for (name,) in scene.truth(NAMED)} | {"sub", "x-user-id", "user", "user_id", "authorization"}
    said = json.dumps(dict.fromkeys(names, bob))
    before = "".join(f"select set_config('request.{kind}', '{said}', true);" for kind in ("headers", "cookies"))
    found = []
    for table, key in KEYS.items():
        for claims in ({}, dict.fromkeys(names - {"sub", "role", "user", "before"}, bob)):
            with scene.acting("authenticated", scene.two.alice.id, before=before, **claims) as client:
                if client.execute(f"select {key} from public.{table}").fetchall() != [(scene.two.alice.id,)]:
                    found.append(f"what a client sends beside its token opens {table}")
    return found


def third_party_apps_reach_nothing(scene: Scene) -> list[str]:
    """Supabase's OAuth server gives apps tokens with the user's own role and subject, and the claim `client_id`."""
    two = scene.two
    found = []
    for app in ("9a8b7c6d-0000-4000-8000-00000000c0de", "a", "z", ""):
        for table, column in (("user_profile", "user_name"), ("provider_data", "token")):
            with scene.acting("authenticated", two.alice.id, client_id=app) as client:
                if client.execute(f"select 1 from public.{table}").fetchall():
                    found.append(f"a third-party app reads {table}")
                if client.execute(f"update public.{table} set {column} = 'x'").rowcount:
                    found.append(f"a third-party app writes {table}")
        found += several(scene.refused("authenticated", INSERT, [two.profiles[two.alice], two.alice.id], client_id=app))
    return found


WITHOUT_USER = """
  insert into public.user_profile (id, user_id_auth, user_name) values ('00000000-0000-4000-8000-0000000000f0', null, 'no user');
  insert into public.provider_data (provider_id_ref, auth_provider_id, name, type, token)
  values ('00000000-0000-4000-8000-0000000000f0', null, 'ghl', 1, 'gAAAA-token-of-no-user')
"""


def rows_without_a_user_belong_to_no_client(scene: Scene) -> list[str]:
    """Existing projects have such rows and profiles. No client reads or writes them, with a subject or without."""
    found = []
    for user, own in ((scene.two.alice.id, 1), (None, 0)):
        for table, column in (("user_profile", "user_name"), ("provider_data", "token")):
            with scene.acting("authenticated", user, before=WITHOUT_USER) as client:
                if len(client.execute(f"select 1 from public.{table}").fetchall()) != own:
                    found.append(f"rows without a user are read in {table}")
                if client.execute(f"update public.{table} set {column} = 'x'").rowcount != own:
                    found.append(f"rows without a user are written in {table}")
    return found


def nothing_without_a_subject(scene: Scene) -> list[str]:
    """The role alone opens no row, to read or to write."""
    found = []
    for table, column in (("user_profile", "user_name"), ("provider_data", "token")):
        with scene.acting("authenticated") as client:
            if client.execute(f"select 1 from public.{table}").fetchall():
                found.append(f"a token without a subject reads {table}")
            if client.execute(f"update public.{table} set {column} = 'x'").rowcount:
                found.append(f"a token without a subject writes {table}")
    return found


def nothing_at_all_for_anon(scene: Scene) -> list[str]:
    """Not an empty answer but a refusal, whichever verb."""
    verbs = (
        "select * from {}", "select 1 from {}", "insert into {} default values", "update {} set id = id", "delete from {}",
        "select id from {}", "select count(*) from {}",
    )  # fmt: skip
    columns = [
        f"select {column} from public.provider_data"
        for column in ("id", "auth_provider_id", "name", "type", "token", "refresh", "expires", "data", "created_at")
    ]
    tried = [verb.format(f"public.{table}") for table in KEYS for verb in verbs] + columns
    return several(*(scene.refused("anon", statement) for statement in tried))


def the_documented_query_finds_the_single_row(scene: Scene) -> list[str]:
    """`.select('*').eq('auth_provider_id', user.id).eq('type', 1).single()`."""
    alice = scene.two.alice.id
    try:
        with scene.acting("authenticated", alice) as client:
            asked = "select * from public.provider_data where auth_provider_id = %s and type = 1"
            count = len(client.execute(asked, [alice]).fetchall())
    except InsufficientPrivilege:
        return ["the documented query is refused"]
    return [] if count == 1 else [f"the documented query finds {count} rows"]


# -- updating --------------------------------------------------------------------------------------------------------


def the_documented_update_of_the_own_row(scene: Scene) -> list[str]:
    """`.update({token, expires}).eq('id', providerId)`, and the own name."""
    own = scene.two.rows[scene.two.alice]
    found = []
    try:
        with scene.acting("authenticated", scene.two.alice.id) as client:
            statement = "update public.provider_data set token = 'new', expires = '2031-01-01T00:00:00Z' where id = %s"
            if client.execute(statement, [own]).rowcount != 1:
                found.append("the documented update does not reach the own row")
            before, _ = scene.two.seen(client, "updated_at", "user_profile")
            client.execute("update public.user_profile set user_name = 'Alice A.', updated_at = 'epoch'")
            if scene.two.seen(client, "user_name", "user_profile") != ["Alice A.", "bob"]:
                found.append("the own profile cannot be renamed, or another's was")
            if not before < scene.two.seen(client, "updated_at", "user_profile")[0]:
                found.append("when a profile was changed is not the database's word")
    except InsufficientPrivilege:
        found.append("the documented update is refused")
    return found


WRITES = (
    ("user_profile", "user_name", "'taken'"),
    ("provider_data", "token", "'taken'"),
    ("provider_data", "data", "'{\"taken\": 1}'"),
)
ENDINGS = ("", " where true", " returning 1", " where id = %(other)s", " where id = %(other)s returning id")


def no_update_reaches_another_row(scene: Scene) -> list[str]:
    """With a WHERE that names the other's row, with one that names none and without any."""
    found = []
    for table, column, value in WRITES:
        target = {"user_profile": scene.two.profiles, "provider_data": scene.two.rows}[table][scene.two.bob]
        for ending in ENDINGS:
            with scene.acting("authenticated", scene.two.alice.id) as client:
                before = scene.two.seen(client, f"{column}::text", table)
                client.execute(f"update public.{table} set {column} = {value}{ending}", {"other": target})
                after = scene.two.seen(client, f"{column}::text", table)
            if before[1] != after[1]:
                found.append(f"alice changes bob's {column}{ending}")
            if (before[0] == after[0]) is not ("other" in ending):
                found.append(f"alice's own {column} does not follow{ending}")
    return found


IDENTITY = (
    ("provider_data", "id = gen_random_uuid()"),
    ("provider_data", "provider_id_ref = %(profile)s"),
    ("provider_data", "auth_provider_id = %(user)s"),
    ("provider_data", "name = 'google'"),
    ("provider_data", "type = 2"),
    ("provider_data", "created_at = 'epoch'"),
    ("user_profile", "id = gen_random_uuid()"),
    ("user_profile", "user_id_auth = %(user)s"),
    ("user_profile", "created_at = 'epoch'"),
    ("user_profile", "providers = '{}'"),
)


def identity_cannot_be_changed(scene: Scene) -> list[str]:
    """What says whose row it is, and of what, is not the client's to change: the grants refuse."""
    return _identity(scene, "")


def identity_cannot_be_changed_even_where_it_is_granted(scene: Scene) -> list[str]:
    """If the whole table is granted again, as Supabase's defaults do, the trigger or the policy refuses."""
    return _identity(scene, "grant all on public.{} to authenticated")


def _identity(scene: Scene, granted: str) -> list[str]:
    values = {"profile": scene.two.profiles[scene.two.bob], "user": scene.two.bob.id}
    return several(*(
        scene.refused("authenticated", f"update public.{table} set {change}", values, before=granted.format(table))
        for table, change in IDENTITY
    ))  # fmt: skip


def a_row_cannot_be_given_away_even_past_the_trigger(scene: Scene) -> list[str]:
    """The policies alone keep a row with its owner and under their profile: two layers, each of which has to hold."""
    values = {"profile": scene.two.profiles[scene.two.bob], "user": scene.two.bob.id}
    before = "grant all on public.{0} to authenticated; alter table public.{0} disable trigger user"
    return several(*(
        scene.refused("authenticated", f"update public.{table} set {change}", values, before=before.format(table))
        for table, change in IDENTITY
        if "user" in change or "profile" in change
    ))  # fmt: skip


# -- inserting -------------------------------------------------------------------------------------------------------

INSERT = "insert into public.provider_data (provider_id_ref, auth_provider_id, name, type) values (%s, %s, 'x', 2)"


def a_user_may_insert_a_row_of_their_own(scene: Scene) -> list[str]:
    """For oneself, under the own profile."""
    two = scene.two
    try:
        with scene.acting("authenticated", two.alice.id) as client:
            client.execute(INSERT, [two.profiles[two.alice], two.alice.id])
    except InsufficientPrivilege:
        return ["a user may not insert a row of their own"]
    return []


def nothing_is_inserted_for_or_under_another(scene: Scene) -> list[str]:
    """Another's id, another's profile, or none."""
    two = scene.two
    wrong = (
        (two.profiles[two.bob], two.bob.id), (two.profiles[two.alice], two.bob.id), (two.profiles[two.bob], two.alice.id),
        (None, two.alice.id), (two.profiles[two.alice], None), (None, None),
    )  # fmt: skip
    return several(*(scene.refused("authenticated", INSERT, pair) for pair in wrong))


def an_erased_id_is_like_a_free_one(scene: Scene) -> list[str]:
    """A client that inserts a row with an id that Bob's erased connection had sees what it sees with any other id."""
    two, seen = scene.two, []
    statement = INSERT.replace("(provider_id_ref", "(id, provider_id_ref").replace("values (", "values (%s, ")
    gone = f"delete from public.provider_data where id = '{two.rows[two.bob]}'"
    for named in (two.rows[two.bob], uuid.uuid4()):
        try:
            with scene.acting("authenticated", two.alice.id, before=gone) as client:
                seen.append(str(client.execute(statement, [named, two.profiles[two.alice], two.alice.id]).rowcount))
        except psycopg.Error as error:
            seen.append(str(error.sqlstate))
    return [] if seen[0] == seen[1] else [f"an erased id: {seen[0]}, a free one: {seen[1]}"]


# -- everything else -------------------------------------------------------------------------------------------------

FORBIDDEN = (
    "delete from public.user_profile",
    "delete from public.user_profile where user_id_auth = auth.uid()",
    "delete from public.provider_data",
    "delete from public.provider_data returning 1",
    "delete from public.provider_data where auth_provider_id = auth.uid()",
    "truncate public.provider_data cascade",
    "truncate public.provider_data",
    "truncate public.user_profile cascade",
    "insert into public.user_profile (user_id_auth, user_name) values (auth.uid(), 'second')",
    "insert into public.provider_data (created_at) values (now())",
    "create trigger mine before update on public.provider_data for each row execute function gateway.touch_profile()",
    "alter table public.provider_data disable row level security",
    "update public.user_profile set providers = '{}'",
    "select gateway.touch_profile()",
    "select * from auth.users",
    "create table gateway.mine (id integer)",
)


def client_roles_have_no_other_verb(scene: Scene) -> list[str]:
    """No delete, no truncate, no insert of a profile, no other role."""
    return several(*(scene.refused(role, statement) for role in CLIENTS for statement in FORBIDDEN))


def our_tables_are_out_of_reach(scene: Scene) -> list[str]:
    """Every table of ours, whichever there are, for every role that is not their owner."""
    ours = scene.truth(
        "select relname from pg_class where relnamespace = 'gateway'::regnamespace and relkind in ('r', 'v', 'm')"
    )
    reads = [f"select 1 from gateway.{table}" for (table,) in ours]
    roles = ("anon", "authenticated", "service_role", "gateway_app")
    return [found for role in roles for found in scene.not_refused(role, reads)]


CALLS = """
  select format('select %s.%I(%s)', n.nspname, p.proname,
                (select string_agg(case t when 'uuid'::regtype then quote_literal('{someone}') else 'null' end
                                   || '::' || format_type(t, null), ', ' order by o)
                   from unnest(p.proargtypes::oid[]) with ordinality a (t, o)))
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
   where p.prorettype <> 'trigger'::regtype and p.prokind = 'f' and {which}
"""
OFFERED = "n.nspname = 'public' and p.proname like 'gateway%'"
OURS = f"(n.nspname = 'gateway' or {OFFERED})"
OTHERS = f"n.nspname not in ('pg_catalog', 'information_schema', 'auth') and not {OURS}"


def calls(scene: Scene, which: str) -> list[str]:
    """A call of each such function, with Bob's id for every user id."""
    return [call for (call,) in scene.truth(CALLS.format(someone=scene.two.bob.id, which=which))]


def client_roles_call_no_function_of_ours(scene: Scene) -> list[str]:
    """Every function that there is: the refusal has to come before anything else does."""
    tried = calls(scene, OURS)
    return [found for role in CLIENTS for found in scene.not_refused(role, tried)]


TRAP = """
  create schema trap;
  grant usage on schema trap to gateway_app;
  create function trap.clock_timestamp() returns timestamptz language plpgsql as $$ begin raise 'trapped'; end $$;
  create function trap.gen_random_uuid() returns uuid language plpgsql as $$ begin raise 'trapped'; end $$;
  create function trap.same(text, text) returns boolean language plpgsql as $$ begin raise 'trapped'; end $$;
  create function trap.same(uuid, uuid) returns boolean language plpgsql as $$ begin raise 'trapped'; end $$;
  create operator trap.= (leftarg = text, rightarg = text, function = trap.same);
  create operator trap.= (leftarg = uuid, rightarg = uuid, function = trap.same);
  set local search_path = trap, pg_catalog
"""


def functions_look_names_up_where_they_say(scene: Scene) -> list[str]:
    """A function with its owner's rights takes nothing from its caller's search_path, where a trap may be laid."""
    said = scene.tried("gateway_app", calls(scene, OFFERED), before=TRAP)
    return [f"the caller's search_path decides in {call}" for call, text in said.items() if text.startswith("P0001 ")]


def the_gateways_own_role_reaches_no_table(scene: Scene) -> list[str]:
    """gateway_app has the functions and nothing else."""
    tables = ("public.user_profile", "public.provider_data", "gateway.connection", "auth.users")
    tried = [f"select 1 from {table}" for table in tables] + ["delete from public.provider_data"]
    found = several(*(scene.refused("gateway_app", statement) for statement in tried))
    try:
        with scene.acting("gateway_app") as server:
            server.execute("select public.gateway_schema_v1()")
    except InsufficientPrivilege:
        found.append("the gateway's own role may not call the functions")
    return found


def the_owners_server_reaches_every_row(scene: Scene) -> list[str]:
    """service_role reads, writes and deletes in both tables, and still sees nothing of ours."""
    found = []
    try:
        with scene.acting("service_role") as server:
            for statement, rows in (
                ("update public.provider_data set name = 'renamed'", 2),
                ("update public.user_profile set user_name = 'renamed'", 2),
                (f"delete from public.provider_data where id = '{scene.two.rows[scene.two.bob]}'", 1),
            ):
                if server.execute(statement).rowcount != rows:
                    found.append(f"the owner's server: {statement}")
    except InsufficientPrivilege:
        found.append("the owner's server is refused")
    return found


def row_level_security_binds_the_tables_owner(scene: Scene) -> list[str]:
    """Owned by a role without special rights, the tables show that owner no row, apart from policies for all roles."""
    found = []
    general = scene.truth(
        "select format('drop policy %I on %I.%I; ', policyname, schemaname, tablename) from pg_policies"
        " where schemaname = 'public' and roles = '{public}'"
    )
    for table in KEYS:
        give = (
            "create role gateway_probe_owner; grant usage, create on schema public to gateway_probe_owner;"
            " grant usage on schema auth to gateway_probe_owner; grant execute on function auth.uid() to gateway_probe_owner;"
            + "".join(drop for (drop,) in general)
            + f" grant select on public.user_profile to gateway_probe_owner; alter table public.{table} owner to gateway_probe_owner"
        )
        with scene.acting("gateway_probe_owner", before=give) as owner:
            if owner.execute(f"select 1 from public.{table}").fetchall():
                found.append(f"the owner of {table} is not bound by its policies")
    return found


VIEWS = """
  select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'v', 'm', 'p', 'f') and n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast')
     and n.nspname !~ '^pg_' and not (n.nspname = 'public' and c.relname in ('user_profile', 'provider_data'))
"""


SECRETS = ("gAAAA-token-of-bob", "gAAAA-refresh-of-bob", "gAAAA-written-by-bob")
TEXTS = (
    "provider_data",
    "public.provider_data",
    "token",
    "request.jwt.claim.sub",
    "select token from public.provider_data",
    "{bob}",
)
ARGUMENTS = (
    """
  select n.nspname, p.proname, array(select format_type(t, null) from unnest(p.proargtypes::oid[]) with ordinality a (t, o) order by o)
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
   where p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype) and p.prokind = 'f' and """
    + OTHERS
)


def calls_with_real_arguments(scene: Scene) -> Iterator[str]:
    """Calls of every function of the project, with each text that could be a name, a setting or a statement."""
    bob = str(scene.two.bob.id)
    for schema, name, types in scene.truth(ARGUMENTS):
        given = []
        for kind in types:
            texts = kind in ("text", "character varying", "name")
            values = [text.format(bob=bob) for text in TEXTS] if texts else [bob] if kind == "uuid" else [None]
            given.append([f"{'null' if value is None else repr(value)}::{kind}" for value in values])
        for arguments in itertools.islice(itertools.product(*given), 100):
            yield f"select * from {schema}.{name}({', '.join(arguments)})"


def no_other_way_shows_anothers_secrets(scene: Scene) -> list[str]:
    """What else a client may read, column by column, or call in the database, with what it sees afterwards: no secret of Bob."""
    tried = [statement for (name,) in scene.truth(VIEWS) for statement in _reads(scene, name)]
    tried += calls_with_real_arguments(scene)
    found = []
    for role in CLIENTS:
        with scene.listening() as heard:
            said = scene.tried(role, tried)
        found += [query for query, text in said.items() if any(secret in text for secret in SECRETS)]
        found += [f"a notice for {role}" for secret in SECRETS if secret in "".join(heard)]
    return found


def _reads(scene: Scene, name: str) -> list[str]:
    columns = scene.truth(
        "select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0", [name]
    )
    return [f"select * from {name}"] + [f"select {column} from {name}" for (column,) in columns]


NOTIFIED = """
  alter function pg_catalog.pg_notify(text, text) rename to pg_notify_kept;
  create function pg_catalog.pg_notify(text, text) returns void language plpgsql as $$ begin raise notice 'notified %', $2; end $$
"""


def writes(scene: Scene) -> list[str]:
    """What Alice writes: her own row and profile, and whatever else she may insert."""
    two = scene.two
    own = f"insert into public.provider_data (provider_id_ref, auth_provider_id, name, type) values ('{two.profiles[two.alice]}', '{two.alice.id}', 'x', 2)"
    others = [
        f"insert into {name} default values"
        for (name,) in scene.truth(VIEWS)
        if not name.startswith(("gateway.", "auth."))
    ]
    return [
        "update public.provider_data set token = 'a', data = '{}' returning *",
        "update public.user_profile set user_name = 'a' returning *",
        f"{own} returning *",
        *others,
    ]


def no_write_brings_anothers_secrets(scene: Scene) -> list[str]:
    """Bob writes, then Alice does; in what she gets back, sees afterwards or is notified of, there is no secret of Bob."""
    claims = "select set_config('request.jwt.claims', %s, true)"
    found = []
    for statement in writes(scene):
        with scene.listening() as heard, scene.acting("authenticated", scene.two.bob.id, before=NOTIFIED) as client:
            client.execute("update public.provider_data set token = 'gAAAA-written-by-bob'")
            client.execute("reset role").execute(
                claims, [json.dumps({"role": "authenticated", "sub": str(scene.two.alice.id)})]
            )
            client.execute("set local role authenticated")
            done = client.execute(statement)
            heard.append(repr(done.fetchall() if done.description else None))
            for name in ["public.provider_data", "public.user_profile", *(name for (name,) in scene.truth(VIEWS))]:
                with suppress(psycopg.Error), scene.owner.transaction():
                    heard.append(repr(client.execute(f"select * from {name}").fetchall()))
        found += [f"after {statement}" for secret in SECRETS if secret in "".join(heard)]
    return found


PROBES: tuple[Probe, ...] = (
    the_own_row_and_no_other,
    the_subject_decides_and_no_other_claim,
    no_header_cookie_or_other_claim_decides,
    third_party_apps_reach_nothing,
    rows_without_a_user_belong_to_no_client,
    nothing_without_a_subject,
    nothing_at_all_for_anon,
    the_documented_query_finds_the_single_row,
    the_documented_update_of_the_own_row,
    no_update_reaches_another_row,
    identity_cannot_be_changed,
    identity_cannot_be_changed_even_where_it_is_granted,
    a_row_cannot_be_given_away_even_past_the_trigger,
    a_user_may_insert_a_row_of_their_own,
    nothing_is_inserted_for_or_under_another,
    an_erased_id_is_like_a_free_one,
    client_roles_have_no_other_verb,
    the_gateways_own_role_reaches_no_table,
    the_owners_server_reaches_every_row,
    row_level_security_binds_the_tables_owner,
    no_write_brings_anothers_secrets,
    our_tables_are_out_of_reach,
    client_roles_call_no_function_of_ours,
    functions_look_names_up_where_they_say,
    no_other_way_shows_anothers_secrets,
)
"""The ones that take long come last: a broken schema is found by the first that sees it."""
