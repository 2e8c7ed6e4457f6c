-- The owner's two tables, which a project may already have in part; and users for them where there is no Supabase.

-- Without Supabase: the part of its auth schema that the owner's tables and their policies need. The functions recognise
-- this table by its comment, even if the database is moved into a Supabase project.
do $prelude$
begin
  if to_regclass('auth.users') is null then
    create schema if not exists auth;
    create table auth.users (
      id           uuid primary key,
      email        text,
      created_at   timestamptz not null default now(),
      banned_until timestamptz,
      deleted_at   timestamptz
    );
    comment on table auth.users is 'Made by the gateway: stands in for Supabase Auth.';
    revoke all on auth.users from public, anon, authenticated;
    create or replace function auth.uid() returns uuid language sql stable
      return coalesce(
        nullif(current_setting('request.jwt.claim.sub', true), ''),
        nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
      )::uuid;
    grant usage on schema auth to anon, authenticated, service_role;
    grant execute on function auth.uid() to anon, authenticated, service_role;
  end if;
end $prelude$;

-- Only the key is `not null`: existing projects have incomplete rows, and a new database must not differ from an existing one.
create table if not exists public.user_profile (
  id uuid primary key default gen_random_uuid()
);
alter table public.user_profile
  add column if not exists created_at   timestamptz default now(),
  add column if not exists updated_at   timestamptz default now(),
  add column if not exists user_id_auth uuid,
  add column if not exists user_name    text,
  add column if not exists providers    text[] default '{}';

create table if not exists public.provider_data (
  id uuid primary key default gen_random_uuid()
);
alter table public.provider_data
  add column if not exists created_at       timestamptz default now(),
  add column if not exists provider_id_ref  uuid,
  add column if not exists auth_provider_id uuid,
  add column if not exists name             text,
  add column if not exists type             numeric,
  add column if not exists token            text,
  add column if not exists refresh          text,
  add column if not exists expires          text,
  add column if not exists data             jsonb;

-- An existing table may lack the key or the default id. gateway.connection refers to the key; the functions need both.
do $keys$
declare
  target regclass;
begin
  foreach target in array array['public.user_profile'::regclass, 'public.provider_data'::regclass] loop
    if not exists (select from pg_catalog.pg_constraint c where c.conrelid = target and c.contype = 'p') then
      execute format('alter table %s add primary key (id)', target);
    end if;
    execute format('alter table %s alter column id set default gen_random_uuid()', target);
  end loop;
end $keys$;

create index if not exists idx_user_profile_user_id_auth on public.user_profile (user_id_auth);
create index if not exists idx_provider_data_provider_id on public.provider_data (provider_id_ref);
create index if not exists idx_provider_data_auth_id on public.provider_data (auth_provider_id);

-- Connect existing rows of a user to the user's profile: the policies require both. Forced row-level security is off meanwhile, since
-- an owner without BYPASSRLS would see no row; access.sql turns it on again.
alter table public.user_profile no force row level security;
alter table public.provider_data no force row level security;
update public.provider_data d
   set provider_id_ref = (select p.id from public.user_profile p where p.user_id_auth = d.auth_provider_id
                           order by p.created_at nulls last, p.id limit 1)
 where d.provider_id_ref is null and exists (select from public.user_profile p where p.user_id_auth = d.auth_provider_id);
