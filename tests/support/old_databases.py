"""
What the documents say of the tables, and databases as schema.sql finds them: Supabase's auth schema and defaults, the owner's tables as they grew, an owner without rights.
"""

from __future__ import annotations

import uuid

import psycopg
from psycopg.types.json import Jsonb

# database-schema.md, column by column.
DOCUMENTED = {
    "user_profile": {
        "id": "uuid",
        "created_at": "timestamp with time zone",
        "updated_at": "timestamp with time zone",
        "user_id_auth": "uuid",
        "user_name": "text",
        "providers": "ARRAY",
    },
    "provider_data": {
        "id": "uuid",
        "created_at": "timestamp with time zone",
        "provider_id_ref": "uuid",
        "auth_provider_id": "uuid",
        "name": "text",
        "type": "numeric",
        "token": "text",
        "refresh": "text",
        "expires": "text",
        "data": "jsonb",
    },
}
# Every function of ours, in a query over pg_proc p and pg_namespace n.
OURS = "(n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_')"

SUPABASE = """
create schema auth;
create table auth.users (
  instance_id uuid, id uuid primary key, aud varchar(255), role varchar(255), email varchar(255), encrypted_password varchar(255),
  raw_app_meta_data jsonb, raw_user_meta_data jsonb, created_at timestamptz, banned_until timestamptz, deleted_at timestamptz
);
create function auth.uid() returns uuid language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                  (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'))::uuid $$;
do $roles$ declare wanted text; begin
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = wanted) then execute format('create role %I nologin noinherit', wanted); end if;
  end loop;
  alter role service_role bypassrls;
end $roles$;
grant usage on schema auth, public to anon, authenticated, service_role;
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges grant all on tables to anon, authenticated;
alter default privileges grant all on functions to anon, authenticated;
"""

# No created_at or data, no indexes, relations without cascade or missing, row-level security on but not forced, and policies
# of the kind that a tutorial leaves behind.
OLD_TABLES = """
create table public.user_profile (
  id uuid primary key default gen_random_uuid(), created_at timestamptz default now(), user_id_auth uuid references auth.users (id),
  user_name text, providers text[]
);
create table public.provider_data (
  id uuid primary key, created_at timestamptz default now(), provider_id_ref uuid references public.user_profile (id),
  auth_provider_id uuid, name text, type numeric, token text, refresh text, expires text
);
create index idx_provider_data_auth_id on public.provider_data (auth_provider_id);
alter table public.provider_data enable row level security;
create policy "everybody reads" on public.provider_data for select using (true);
create policy "everybody writes" on public.provider_data for update using (true);
create policy "anything goes" on public.user_profile for all to public using (true) with check (true);
"""

MODEST_OWNER = """
do $modest$ begin
  if not exists (select from pg_roles where rolname = 'modest') then create role modest login createrole nosuperuser nobypassrls; end if;
end $modest$
"""


def fill_old_tables(dsn: str) -> None:
    """Three users with plaintext tokens, the first with duplicates of everything, gaps, and a row that points nowhere."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        users = sorted(uuid.uuid4() for _ in range(3))
        for user in users:
            connection.execute(
                "insert into auth.users (id, raw_user_meta_data) values (%s, %s)", [user, Jsonb({"a": 1})]
            )
        profiles = [
            connection.execute(
                "insert into public.user_profile (user_id_auth, user_name) values (%s, 'old') returning id", [user]
            ).fetchone()[0]
            for user in (*users, users[0])
        ]
        hung_on = [profiles[0], profiles[0], profiles[1], profiles[2], None, None]
        owners = [users[0], users[0], users[1], users[2], users[0], uuid.uuid4()]
        names = ["GHL", "GHL", "GHL", "ghl", "Gmail", "GHL"]
        for profile, owner, name in zip(hung_on, owners, names, strict=True):
            connection.execute(
                "insert into public.provider_data (id, provider_id_ref, auth_provider_id, name, type, token, refresh, expires)"
                " values (gen_random_uuid(), %s, %s, %s, %s, 'plain-token', 'plain-refresh', '1699999999')",
                [profile, owner, name, 2 if name == "Gmail" else 1],
            )
