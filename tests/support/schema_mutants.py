"""
Ways to break the policies and grants of schema.sql, as mistakes in the SQL editor do.

Three kinds. `OPEN`: a client could do something with it, so the probes have to see it. `THIN`: one of two layers is gone and the
other still holds, so that nothing can be done with it yet; the doctor has to see it in the catalogues. `LINES`: schema.sql without one of
its lines, over an existing Supabase project. Each is a name and SQL, or a line to leave out.
"""

# ruff: noqa: S608 -- the SQL is written here

from __future__ import annotations

OWN_ROW = "auth_provider_id = (select auth.uid())"
OWN_PROFILE = "provider_id_ref in (select p.id from public.user_profile p where p.user_id_auth = (select auth.uid()))"
STRICT = {
    "user_profile": """drop policy "Users reach only their own profile" on public.user_profile;""",
    "provider_data": """drop policy "Users reach only their own provider data" on public.provider_data;""",
}
VIEW_PROFILE = 'policy "Users can view their own profile" on public.user_profile'
UPDATE_PROFILE = 'policy "Users can update their own profile" on public.user_profile'
VIEW_DATA = 'policy "Users can view their own provider data" on public.provider_data'
UPDATE_DATA = 'policy "Users can update their own provider data" on public.provider_data'
INSERT_DATA = 'policy "Users can insert their own provider data" on public.provider_data'
USER_METADATA = "(current_setting('request.jwt.claims', true)::jsonb -> 'user_metadata' ->> 'sub')::uuid"
UNTRIGGERED = "alter table public.provider_data disable trigger gateway_identity;"

APPS_DATA = 'policy "Third-party apps reach no provider data" on public.provider_data'
APPS_PROFILE = 'policy "Third-party apps reach no profile" on public.user_profile'
BOBS_TOKEN = "(select d.token from public.provider_data d where d.auth_provider_id is distinct from auth.uid() and d.token <> '' limit 1)"


def uid_believes(setting: str, name: str) -> str:
    """`auth.uid()` that takes the user from another place first."""
    return (
        "create or replace function auth.uid() returns uuid language sql stable as $$ select coalesce("
        f"(nullif(current_setting('{setting}', true), '')::jsonb ->> '{name}')::uuid,"
        " (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid) $$"
    )


def trigger(
    body: str, *, when: str = "before update", table: str = "provider_data", rights: str = "security definer"
) -> str:
    """A trigger of the project on one of the tables."""
    return (
        f"create function public.watch() returns trigger language plpgsql {rights} set search_path = '' as $$ begin {body} end $$;"
        f" create trigger watch {when} on public.{table} for each row execute function public.watch()"
    )


SCRATCH = "create table public.scratch (id integer, note text); grant select, insert, update on public.scratch to authenticated;"
LEAK = f"create function public.leak() returns text language sql volatile security definer set search_path = '' as $$ select {BOBS_TOKEN} $$;"
HIDDEN = (
    "create function public.peek(text) returns setof text language plpgsql security definer set search_path = '' as"
    " $$ begin return query execute 'select token from public.' || $1; end $$;"
)

OPEN = {
    # who asks
    "auth.uid() believes a header": uid_believes("request.headers", "x-user-id"),
    "auth.uid() believes a header with an odd name": uid_believes("request.headers", "x-northwind-acting-for"),
    "auth.uid() believes a cookie": uid_believes("request.cookies", "user"),
    "auth.uid() believes a claim of the app": uid_believes("request.jwt.claims", "acting_for"),
    "a policy believes a header": f"{STRICT['provider_data']} alter {VIEW_DATA} using (auth_provider_id ="
    " coalesce((nullif(current_setting('request.headers', true), '')::jsonb ->> 'x-user')::uuid, auth.uid()))",
    "third-party apps reach rows": f"drop {APPS_DATA}",
    "third-party apps reach profiles": f"drop {APPS_PROFILE}",
    "third-party apps may read": f"drop {APPS_DATA}; create {APPS_DATA} as restrictive for update to authenticated using (false)",
    "third-party apps are asked for another claim": f"alter {APPS_PROFILE} using"
    " ((select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'azp') is null)",
    "one of two third-party apps is let in": f"alter {APPS_DATA} using (current_user <> 'authenticated' or"
    " coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'client_id', 'b') > 'a')",
    "rows without a user can be read": f"{STRICT['provider_data']} alter {VIEW_DATA} using ({OWN_ROW} or auth_provider_id is null)",
    "profiles without a user can be read": f"{STRICT['user_profile']} alter {VIEW_PROFILE}"
    " using (user_id_auth = (select auth.uid()) or user_id_auth is null)",
    "rows without a user can be written": f"{STRICT['provider_data']} alter {VIEW_DATA} using ({OWN_ROW} or auth_provider_id is null);"
    f" alter {UPDATE_DATA} using ({OWN_ROW} or auth_provider_id is null) with check (true)",
    "a restrictive policy of the project hides rows": "create policy mfa on public.provider_data as restrictive to authenticated using (false)",
    # functions of the project
    "a definer builds its statement from an argument": HIDDEN,
    "a definer runs any statement": "create function public.run(q text) returns setof text language plpgsql security definer"
    " set search_path = '' as $$ begin return query execute q; end $$",
    "a definer takes table and column": "create function public.pick(c text, t text) returns setof text language plpgsql security definer"
    " as $$ begin return query execute format('select %I::text from public.%I', c, t); end $$",
    "a definer calls another function": "create function public.inner_part() returns setof text language sql set search_path = '' as"
    " $$ select token from public.provider_data $$; revoke execute on function public.inner_part() from public;"
    " create function public.outer_part() returns setof text language sql security definer set search_path = '' as"
    " $$ select * from public.inner_part() $$",
    "a definer reads a closed view": "create view public.kept_in as select token as note from public.provider_data; revoke all on public.kept_in"
    " from public; create function public.notes() returns setof text language sql security definer set search_path = '' as"
    " $$ select note from public.kept_in $$",
    "a function sets the claims": "create function public.set_claim(name text, value text) returns text language sql as"
    " $$ select set_config(name, value, true) $$",
    "a function runs statements of its caller": "create function public.run(q text) returns setof text language plpgsql as"
    " $$ begin perform set_config('request.jwt.claims', '{\"sub\": \"' || q || '\"}', true); return query select token from public.provider_data; end $$",
    "an error tells": "create function public.fails() returns void language plpgsql security definer set search_path = '' as"
    f" $$ begin raise exception '%', {BOBS_TOKEN}; end $$",
    # what runs at each write
    "a trigger writes another's token into the own row": trigger(f"new.data := to_jsonb({BOBS_TOKEN}); return new;"),
    "a trigger answers with another's row": trigger(
        "select d.token into new.refresh from public.provider_data d where d.id <> old.id and d.token <> '' limit 1; return new;"
    ),
    "a trigger notifies": trigger("perform pg_notify('changes', new.token); return new;", rights=""),
    "a trigger reports": trigger("raise notice '%', new.token; return null;", when="after update", rights=""),
    "a trigger copies to a log": "create table public.log (line text); grant select on public.log to authenticated;"
    + trigger("insert into public.log values (new.token); return null;", when="after update"),
    "a trigger on profiles": trigger(f"new.user_name := {BOBS_TOKEN}; return new;", table="user_profile"),
    "a trigger on another table": SCRATCH
    + trigger(f"new.note := {BOBS_TOKEN}; return new;", when="before insert", table="scratch"),
    "a column's default tells": LEAK
    + " alter table public.provider_data alter column expires set default public.leak()",
    "a check reports": "create function public.seen(t text) returns boolean language plpgsql as"
    " $$ begin raise notice '%', t; return true; end $$; alter table public.provider_data add constraint seen check (public.seen(token)) not valid",
    # other ways to the rows
    "a column of a view": "create view public.mine as select token, name from public.provider_data; grant select (token) on public.mine to authenticated",
    "a view that lost its invoker": "create view public.mine with (security_invoker = true) as select * from public.provider_data;"
    " grant select on public.mine to authenticated; alter view public.mine set (security_invoker = false)",
    "the table has a parent": "create table public.parent (token text); alter table public.provider_data inherit public.parent;"
    " grant select on public.parent to authenticated",
    "a rule answers an insert": SCRATCH
    + " create table public.taken (note text); grant select on public.taken to authenticated;"
    " create rule also as on insert to public.scratch do also insert into public.taken select token from public.provider_data",
    "a copy that is kept up to date": "create materialized view public.copied as select token from public.provider_data;"
    " grant select (token) on public.copied to authenticated",
    # row-level security itself
    "row-level security off on provider_data": "alter table public.provider_data disable row level security",
    "row-level security off on user_profile": "alter table public.user_profile disable row level security",
    "not forced on provider_data": "alter table public.provider_data no force row level security",
    "not forced on user_profile": "alter table public.user_profile no force row level security",
    "authenticated bypasses row-level security": "alter role authenticated bypassrls",
    "authenticated owns provider_data": "grant create on schema public to authenticated;"
    " alter table public.provider_data owner to authenticated",
    # policies
    "anybody's rows can be read": f"{STRICT['provider_data']} alter {VIEW_DATA} using (true)",
    "anybody's profile can be read": f"{STRICT['user_profile']} alter {VIEW_PROFILE} using (true)",
    "a second policy reads everything": f"{STRICT['provider_data']} create policy more on public.provider_data for select using (true)",
    "an update reaches every row": f"{STRICT['provider_data']} alter {VIEW_DATA} using (true); alter {UPDATE_DATA} using (true) with check (true)",
    "an update without a where reaches every row": f"{STRICT['provider_data']} alter {UPDATE_DATA}"
    " using ((select auth.uid()) is not null) with check ((select auth.uid()) is not null)",
    "an update of profiles reaches every row": f"{STRICT['user_profile']} alter {UPDATE_PROFILE} using (true) with check (true)",
    "an updated row may be anybody's": f"{STRICT['provider_data']} alter {UPDATE_DATA} with check (true)",
    "an updated profile may be anybody's": f"{STRICT['user_profile']} alter {UPDATE_PROFILE} with check (true)",
    "an updated row may hang on another's profile": f"{STRICT['provider_data']} alter {UPDATE_DATA} using ({OWN_ROW}) with check ({OWN_ROW})",
    "an update policy without a check of its own": f"{STRICT['provider_data']} drop {UPDATE_DATA};"
    f" create {UPDATE_DATA} for update to authenticated using (true)",
    "a row may be inserted for anybody": f"{STRICT['provider_data']} alter {INSERT_DATA} with check (true)",
    "a row may be inserted under another's profile": f"{STRICT['provider_data']} alter {INSERT_DATA} with check ({OWN_ROW})",
    "a row may be inserted for another under the own profile": f"{STRICT['provider_data']} alter {INSERT_DATA} with check ({OWN_PROFILE})",
    "nobody may insert": f"drop {INSERT_DATA}",
    "nobody may update": f"drop {UPDATE_DATA}",
    "nobody may read": f"drop {VIEW_DATA}",
    "the user's own metadata decides": f"{STRICT['provider_data']} alter {VIEW_DATA} using (auth_provider_id = {USER_METADATA})",
    "the user's own metadata decides, too": f"{STRICT['user_profile']} alter {VIEW_PROFILE}"
    f" using (user_id_auth in ((select auth.uid()), {USER_METADATA}))",
    "auth.uid() believes the user's metadata": "create or replace function auth.uid() returns uuid language sql stable"
    f" as $$ select coalesce({USER_METADATA}, (current_setting('request.jwt.claims', true)::jsonb ->> 'sub')::uuid) $$",
    "no subject is everybody": f"{STRICT['provider_data']} alter {VIEW_DATA} using ({OWN_ROW} or (select auth.uid()) is null)",
    "rows can be deleted": "grant delete on public.provider_data to authenticated;"
    " create policy gone on public.provider_data for delete to authenticated using (true)",
    # grants
    "anon may read": "grant select on public.provider_data to anon; create policy all_of_it on public.provider_data"
    " for select to anon using (true)",
    "anon may read a column": "grant select (id) on public.provider_data to anon",
    "everybody may read profiles": "grant select on public.user_profile to public",
    "tables can be emptied": "grant truncate on public.provider_data to authenticated",
    "the whole row can be updated": f"grant update on public.provider_data to authenticated; {UNTRIGGERED}",
    "the name of a row can be updated": f"grant update (name) on public.provider_data to authenticated; {UNTRIGGERED}",
    "the list of providers can be updated": "grant update (providers) on public.user_profile to authenticated;"
    " alter table public.user_profile disable trigger gateway_identity",
    "a column of providers of everybody": "grant update (providers) on public.user_profile to public;"
    " drop trigger gateway_identity on public.user_profile",
    "profiles can be made": "grant insert on public.user_profile to authenticated;"
    " create policy mine on public.user_profile for insert to authenticated with check (true)",
    "rows without anybody can be made": "grant insert on public.provider_data to authenticated;"
    f" {STRICT['provider_data']} alter {INSERT_DATA} with check (true)",
    "triggers can be made": "grant trigger on public.provider_data to authenticated; grant usage on schema gateway to authenticated;"
    " grant execute on function gateway.touch_profile() to authenticated",
    "the documented update is not granted": "revoke update (expires) on public.provider_data from authenticated",
    "the documented query is not granted": "revoke select on public.provider_data from authenticated",
    "the owner's server is not granted": "revoke delete on public.provider_data from service_role",
    "users can be read": "grant select on auth.users to authenticated",
    # the private schema
    "our schema and a table in it": "grant usage on schema gateway to authenticated; grant select on gateway.session to authenticated",
    "our schema for the owner's server": "grant usage on schema gateway to service_role;"
    " grant select on all tables in schema gateway to service_role",
    "our schema and a function in it": "grant usage on schema gateway to anon; grant execute on function gateway.touch_profile() to public;"
    " grant execute on function gateway.delete_expired(integer) to public",
    "tables can be made in our schema": "grant usage, create on schema gateway to authenticated",
    "the gateway's role may read rows": "grant select on public.provider_data to gateway_app; alter role gateway_app bypassrls",
    # triggers
    "identity is not watched on provider_data": "drop trigger gateway_identity on public.provider_data",
    "identity is not watched on user_profile": "alter table public.user_profile disable trigger gateway_identity",
    "identity is watched by a function that nods": "create or replace function gateway.refuse_client() returns trigger"
    " language plpgsql set search_path = '' as $$ begin return new; end $$",
    "when a profile changed is not watched": "alter table public.user_profile disable trigger gateway_touch",
    # functions and views
    "anon may call a function": "grant execute on function public.gateway_session_v1(text, boolean) to anon",
    "authenticated may call a function": "grant execute on function public.gateway_worker_backlog_v1 to authenticated",
    "everybody may call every function": "grant execute on all functions in schema public to public",
    "the gateway's role may call none": "revoke execute on all functions in schema public from gateway_app",
    "a function looks names up where its caller says": "alter function public.gateway_claim_revocations_v1(text[], text, uuid, integer) reset search_path",
    "a function looks names up where its caller says, too": "alter function public.gateway_session_v1(text, boolean) reset all",
    "a function of somebody's shows rows": "create function public.my_tokens() returns setof public.provider_data language sql"
    " security definer as $$ select * from public.provider_data $$",
    "a function of somebody's shows a user's rows": "create schema api; grant usage on schema api to authenticated;"
    " create function api.tokens(who uuid) returns setof text language plpgsql security definer set search_path = '' as"
    " $$ begin return query select d.token from public.provider_data d where d.auth_provider_id = who; end $$",
    "a view with its owner's eyes": "create view public.mine as select * from public.provider_data; grant select on public.mine to authenticated",
    "a view over a view": "create view public.inner_one as select * from public.provider_data;"
    " create view public.outer_one as select * from public.inner_one; grant select on public.outer_one to anon",
    "a materialized view": "create materialized view public.kept as select * from public.provider_data;"
    " grant select on public.kept to authenticated",
}
"""A client, or a server of less standing, can do with it what it should not, or cannot do what it should."""

THIN = {
    "the reading policy alone is open": f"alter {VIEW_DATA} using (true)",
    "the updating policy alone is open": f"alter {UPDATE_DATA} using (true) with check (true)",
    "the inserting policy alone is open": f"alter {INSERT_DATA} with check (true)",
    "the profile's policies alone are open": f"alter {VIEW_PROFILE} using (true); alter {UPDATE_PROFILE} using (true) with check (true)",
    "the restrictive policy on rows is gone": STRICT["provider_data"],
    "the restrictive policy on profiles is gone": STRICT["user_profile"],
    "the restrictive policy restricts nothing": """alter policy "Users reach only their own provider data" on public.provider_data using (true) with check (true)""",
    "the reading policy is for everybody": f"alter {VIEW_DATA} to public",
    "a permissive policy more": "create policy more on public.provider_data for all to public using (true) with check (true)",
    "a policy for anon": "create policy for_anon on public.user_profile for select to anon using (true)",
    "the owner's policy lets clients in": """create policy "The gateway and the owner's server" on public.user_profile to authenticated using (true)""",
    "the whole table may be updated": "grant update on public.provider_data to authenticated",
    "a name may be updated": "grant update (name) on public.provider_data to authenticated",
    "tables may be referred to": "grant references on public.provider_data to authenticated",
    "rows may be deleted, by no policy yet": "grant delete on public.provider_data to authenticated",
    "our schema may be used": "grant usage on schema gateway to authenticated",
    "a table of ours, in a closed schema": "grant select on gateway.connection to authenticated",
    "a column of ours, in a closed schema": "grant select (user_id) on gateway.session to anon",
    "default privileges for tables of ours": "alter default privileges in schema gateway grant select on tables to authenticated",
    "default privileges for functions of ours": "alter default privileges in schema gateway grant execute on functions to anon",
    "the third-party policy is for nobody": f"drop {APPS_DATA}; create {APPS_DATA} as restrictive to service_role using (true)",
    "the third-party policy is half open": f"alter {APPS_PROFILE} using (true) with check (false)",
    "brackets of a policy moved": """alter policy "Users reach only their own profile" on public.user_profile using ((current_user <> 'authenticated' or"""
    " user_id_auth = (select auth.uid())) is not false)",
    "authenticated may log in": "alter role authenticated login",
    "the gateway's role may replicate": "alter role gateway_app replication",
    "the gateway's role may become the owner's server": "grant service_role to gateway_app",
    "a role has a subject of its own": "alter role authenticated set \"request.jwt.claim.sub\" = '00000000-0000-4000-8000-000000000001'",
    "the database has a subject": "do $$ begin execute format('alter database %I set \"request.jwt.claims\" = %L', current_database(), '{}'); end $$",
    "a function of ours belongs to another": "create role mallory; grant usage, create on schema public to mallory;"
    " alter function public.gateway_schema_v1() owner to mallory",
    "a key changes the owner of a row": "create table public.handle (id uuid primary key); grant update on public.handle to authenticated;"
    " insert into public.handle select auth_provider_id from public.provider_data; alter table public.provider_data add constraint handled"
    " foreign key (auth_provider_id) references public.handle (id) on update cascade",
    "a key deletes rows": "create table public.handle (id uuid primary key); grant delete on public.handle to authenticated;"
    " insert into public.handle select auth_provider_id from public.provider_data; alter table public.provider_data add constraint handled"
    " foreign key (auth_provider_id) references public.handle (id) on delete cascade",
    "a leakproof function": "create function public.peek(t text) returns boolean language plpgsql leakproof cost 0.0001 as"
    " $$ begin raise notice '%', t; return true; end $$",
    "an index calls a function": "create function public.seen(t text) returns text language plpgsql immutable as $$ begin return t; end $$;"
    " create index seen on public.provider_data (public.seen(token))",
    "a generated column calls a function": "create function public.seen(t text) returns text language plpgsql immutable as $$ begin return t; end $$;"
    " alter table public.provider_data add column shown text generated always as (public.seen(token)) stored",
    "an event trigger grants": "create function public.opens() returns event_trigger language plpgsql as"
    " $$ begin grant select on public.provider_data to anon; end $$; create event trigger opens on ddl_command_end execute function public.opens()",
    "a rule on a table of ours": "create rule nothing as on delete to gateway.session do instead nothing",
    "a trigger on a table of ours": "create function public.watch() returns trigger language plpgsql as $$ begin return new; end $$;"
    " create trigger watch before insert on gateway.event for each row execute function public.watch()",
    "a table of ours has a child": "create table public.child () inherits (gateway.session)",
    "a trigger that does nothing yet": trigger("return new;", rights=""),
    "a definer that builds its statement, for anon": "create function public.count_of(t text) returns bigint language plpgsql security definer"
    " set search_path = '' as $$ declare n bigint; begin execute format('select count(*) from %I.%I', 'pg_catalog', t) into n; return n; end $$",
    "authenticated can become the owner's server": "grant service_role to authenticated",
    "anon may make roles": "alter role anon createrole",
    "a function takes its caller's rights": "alter function public.gateway_schema_v1() security invoker",
    "a function's path is half closed": "alter function public.gateway_schema_v1() set search_path = public, pg_temp",
    "a function was changed": "create or replace function public.gateway_session_v1(p_session_hash text, p_end boolean default false) returns jsonb language plpgsql"
    " security definer set search_path = '' as $$ begin return (select to_jsonb(s) from gateway.session s limit 1); end $$",
    "a function is missing": "drop function public.gateway_schema_v1()",
    "erased grants are not kept": "drop trigger gateway_erased on public.provider_data",
    "an identity trigger watches one column less": "create or replace trigger gateway_identity before update on public.user_profile"
    " for each row when (old.id is distinct from new.id) execute function gateway.refuse_client('identity')",
    "a user's rows stay behind": "alter table public.provider_data drop constraint provider_data_auth_provider_id_fkey",
    "a rule": "create rule nothing as on delete to public.provider_data do instead nothing",
    "published": "create publication supabase_realtime for table public.provider_data",
    "everything is published": "create publication supabase_realtime for all tables",
}  # fmt: skip
"""Nothing comes of it while the other layer holds."""

LINES = {
    "row-level security is never switched on": "enable row level security, ",
    "row-level security is never forced": ", force row level security",
    "the defaults' grants on tables stay": "revoke all on public.user_profile, public.provider_data from public, anon, authenticated;",
    "the defaults' grants on functions stay": "execute format('revoke all on function %s from public, anon, authenticated, service_role, gateway_app', ours.called);",
    "nothing is granted": "grant select on public.user_profile, public.provider_data to authenticated;",
    "the servers may call nothing": "execute format('grant execute on function %s to service_role, gateway_app', ours.called);",
    "an open policy from before is not restricted": "as restrictive\n  for all to authenticated",
    "identity may be updated from the start": "(old.id, old.provider_id_ref, old.auth_provider_id, old.name, old.type, old.created_at)",
}  # fmt: skip
"""What is left out of schema.sql; what it takes to stay a whole statement is in test_mutants."""
