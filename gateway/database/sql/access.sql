-- Access rules, in one file for a security review: clients are bound by this file, whatever the functions do.
--
-- Applied last, at every run. It sets every rule again, so that a changed rule is restored.

-- 1 -- relations -----------------------------------------------------------------------------------------------------

-- Deleting a user deletes all of the user's rows. A foreign key without `on delete cascade` is created again; rows without a user
-- are kept and reported.
do $relations$
declare
  wanted record;
begin
  for wanted in
    select v.child, v.key, v.parent, v.named, coalesce(k.conname, v.named) as loose
      from (values
        ('public.user_profile'::regclass,  'user_id_auth'::name, 'auth.users'::regclass,  'user_profile_user_id_auth_fkey'::name),
        ('public.provider_data',           'provider_id_ref',    'public.user_profile',   'provider_data_provider_id_ref_fkey'),
        ('public.provider_data',           'auth_provider_id',   'auth.users',            'provider_data_auth_provider_id_fkey')
      ) as v (child, key, parent, named)
      join pg_catalog.pg_attribute a on a.attrelid = v.child and a.attname = v.key
      left join pg_catalog.pg_constraint k
        on k.contype = 'f' and k.conrelid = v.child and k.confrelid = v.parent and k.conkey = array[a.attnum]
     where k.confdeltype is distinct from 'c'
  loop
    execute format('alter table %s drop constraint if exists %I, drop constraint if exists %I', wanted.child, wanted.loose, wanted.named);
    execute format('alter table %s add constraint %I foreign key (%I) references %s (id) on delete cascade not valid',
                   wanted.child, wanted.named, wanted.key, wanted.parent);
    begin
      execute format('alter table %s validate constraint %I', wanted.child, wanted.named);
    exception when foreign_key_violation then
      raise notice 'gateway: %.% holds values that point nowhere; they were kept', wanted.child, wanted.key;
    end;
  end loop;
end $relations$;

-- 2 -- row-level security --------------------------------------------------------------------------------------------

alter table public.user_profile enable row level security, force row level security;
alter table public.provider_data enable row level security, force row level security;

drop policy if exists "Users can view their own profile" on public.user_profile;
create policy "Users can view their own profile" on public.user_profile
  for select to authenticated using (user_id_auth = (select auth.uid()));

drop policy if exists "Users can update their own profile" on public.user_profile;
create policy "Users can update their own profile" on public.user_profile
  for update to authenticated
  using (user_id_auth = (select auth.uid())) with check (user_id_auth = (select auth.uid()));

drop policy if exists "Users can view their own provider data" on public.provider_data;
create policy "Users can view their own provider data" on public.provider_data
  for select to authenticated using (auth_provider_id = (select auth.uid()));

-- A row refers to a profile and to a user; both must be the client's own.
drop policy if exists "Users can update their own provider data" on public.provider_data;
create policy "Users can update their own provider data" on public.provider_data
  for update to authenticated
  using (
    auth_provider_id = (select auth.uid())
    and provider_id_ref in (select p.id from public.user_profile p where p.user_id_auth = (select auth.uid()))
  )
  with check (
    auth_provider_id = (select auth.uid())
    and provider_id_ref in (select p.id from public.user_profile p where p.user_id_auth = (select auth.uid()))
  );

drop policy if exists "Users can insert their own provider data" on public.provider_data;
create policy "Users can insert their own provider data" on public.provider_data
  for insert to authenticated
  with check (
    auth_provider_id = (select auth.uid())
    and provider_id_ref in (select p.id from public.user_profile p where p.user_id_auth = (select auth.uid()))
  );

-- Permissive policies add up: an existing `using (true)` would open the tables. Restrictive policies hold beside any other.
-- They bind the role itself and not its members, because the owner of the functions may be a member.
drop policy if exists "Users reach only their own profile" on public.user_profile;
create policy "Users reach only their own profile" on public.user_profile as restrictive
  for all to authenticated
  using (current_user <> 'authenticated' or user_id_auth = (select auth.uid()))
  with check (current_user <> 'authenticated' or user_id_auth = (select auth.uid()));

drop policy if exists "Users reach only their own provider data" on public.provider_data;
create policy "Users reach only their own provider data" on public.provider_data as restrictive
  for all to authenticated
  using (current_user <> 'authenticated' or auth_provider_id = (select auth.uid()))
  with check (
    current_user <> 'authenticated'
    or (
      auth_provider_id = (select auth.uid())
      and provider_id_ref in (select p.id from public.user_profile p where p.user_id_auth = (select auth.uid()))
    )
  );

-- Supabase's OAuth server gives a third-party app a token with the user's own role and subject. Only the claim `client_id` tells it apart.
drop policy if exists "Third-party apps reach no profile" on public.user_profile;
create policy "Third-party apps reach no profile" on public.user_profile as restrictive
  for all to authenticated
  using (not (current_user = 'authenticated' and (select coalesce(
    nullif(current_setting('request.jwt.claim.client_id', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'client_id')) is not null));

drop policy if exists "Third-party apps reach no provider data" on public.provider_data;
create policy "Third-party apps reach no provider data" on public.provider_data as restrictive
  for all to authenticated
  using (not (current_user = 'authenticated' and (select coalesce(
    nullif(current_setting('request.jwt.claim.client_id', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'client_id')) is not null));

-- Forced row-level security binds the owner too. Where the functions' owner, or service_role, may not bypass it, it needs a
-- policy of its own, or it would see nothing.
do $bound$
declare
  bound  text;
  target regclass;
begin
  select string_agg(distinct quote_ident(r.rolname), ', ') into bound
    from pg_catalog.pg_roles r
   where not r.rolsuper and not r.rolbypassrls and (r.rolname = 'service_role' or r.oid in (
     select p.proowner from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
      where n.nspname = 'gateway' or (n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$')));
  foreach target in array array['public.user_profile'::regclass, 'public.provider_data'::regclass] loop
    execute format('drop policy if exists "The gateway and the owner''s server" on %s', target);
    if bound is not null then
      execute format('create policy "The gateway and the owner''s server" on %s for all to %s using (true) with check (true)',
                     target, bound);
    end if;
  end loop;
end $bound$;

-- 3 -- triggers ------------------------------------------------------------------------------------------------------

-- Each trigger's condition says what a client may not write. A client is a role that row-level security binds, other than the owner of the
-- functions and the owner's server. Runs as the client.
create or replace function gateway.refuse_client() returns trigger
language plpgsql set search_path = '' as $$
begin
  if not pg_catalog.row_security_active(tg_relid) or current_user = 'service_role' or exists (
    select from pg_catalog.pg_class c where c.oid = tg_relid and pg_catalog.pg_get_userbyid(c.relowner) = current_user
  ) then
    return new;
  elsif tg_argv[0] = 'identity' then
    raise exception 'the columns that say whose row this is, and of what, cannot be changed' using errcode = 'insufficient_privilege';
  elsif tg_argv[0] = 'size' then
    raise exception 'a value is too large: token, refresh and data hold 65536 bytes each, name, user_name and expires 500, type 20'
      using errcode = 'program_limit_exceeded';
  elsif 1000 = (select count(*) from (select from public.provider_data d where d.auth_provider_id = new.auth_provider_id limit 1000) x) then
    raise exception 'a user has 1000 rows of provider_data at most' using errcode = 'program_limit_exceeded';
  end if;
  return new;
end $$;

create or replace trigger gateway_identity before update on public.user_profile
  for each row when (
    (old.id, old.user_id_auth, old.created_at, old.providers)
    is distinct from (new.id, new.user_id_auth, new.created_at, new.providers)
  ) execute function gateway.refuse_client('identity');

create or replace trigger gateway_identity before update on public.provider_data
  for each row when (
    (old.id, old.provider_id_ref, old.auth_provider_id, old.name, old.type, old.created_at)
    is distinct from (new.id, new.provider_id_ref, new.auth_provider_id, new.name, new.type, new.created_at)
  ) execute function gateway.refuse_client('identity');

create or replace trigger gateway_limit_update before update on public.user_profile
  for each row when (new.user_name is distinct from old.user_name and octet_length(new.user_name) > 500)
  execute function gateway.refuse_client('size');

create or replace trigger gateway_limit_update before update on public.provider_data
  for each row when (
    new.token is distinct from old.token and octet_length(new.token) > 65536
    or new.refresh is distinct from old.refresh and octet_length(new.refresh) > 65536
    or new.data is distinct from old.data and octet_length(new.data::text) > 65536
    or new.expires is distinct from old.expires and octet_length(new.expires) > 500
  ) execute function gateway.refuse_client('size');

create or replace trigger gateway_limit_insert before insert on public.provider_data
  for each row when (
    octet_length(new.token) > 65536 or octet_length(new.refresh) > 65536 or octet_length(new.data::text) > 65536
    or octet_length(new.expires) > 500 or octet_length(new.name) > 500 or octet_length(new.type::text) > 20
  ) execute function gateway.refuse_client('size');

create or replace trigger gateway_limit_rows before insert on public.provider_data
  for each row execute function gateway.refuse_client('rows');

create or replace trigger gateway_touch before update on public.user_profile
  for each row execute function gateway.touch_profile();

create or replace trigger gateway_erased before delete on public.provider_data
  for each row execute function gateway.queue_erased_grant();

create or replace trigger gateway_tags before insert on gateway.event
  for each row when (new.connection_id is not null) execute function gateway.add_tags();

-- Queue tokens that the gateway did not write. Encrypted values begin like every Fernet token, and so may a client's.
create or replace trigger gateway_inserted after insert on public.provider_data
  for each row when (new.token !~ '^(gAAAA|$)' or new.refresh !~ '^(gAAAA|$)') execute function gateway.take_written('written');

create or replace trigger gateway_written after update on public.provider_data
  for each row when (
    new.token is distinct from old.token and new.token <> '' and (new.token !~ '^gAAAA' or current_user in ('anon', 'authenticated'))
    or new.refresh is distinct from old.refresh and new.refresh <> '' and (new.refresh !~ '^gAAAA' or current_user in ('anon', 'authenticated'))
  ) execute function gateway.take_written('written');

create or replace trigger gateway_removed after update on public.provider_data
  for each row when (old.token <> '' and coalesce(new.token, '') = '' or old.refresh <> '' and coalesce(new.refresh, '') = '')
  execute function gateway.take_written('removed');

create or replace trigger gateway_changed after update on gateway.connection
  for each row when (
    (old.status, old.reason, old.scope, old.account_id, old.account_label, old.facts)
    is distinct from (new.status, new.reason, new.scope, new.account_id, new.account_label, new.facts)
  ) execute function gateway.record_change();

create or replace trigger gateway_pending_deleted before delete on gateway.pending_grant
  for each row execute function gateway.queue_pending_grant();

-- 4 -- privileges ----------------------------------------------------------------------------------------------------

-- A revoke from a column does nothing while the table is granted, as Supabase's defaults do: the tables first, then columns.
revoke all on public.user_profile, public.provider_data from public, anon, authenticated;
grant usage on schema public to anon, authenticated, service_role, gateway_app;
grant select on public.user_profile, public.provider_data to authenticated;
grant update (user_name, updated_at) on public.user_profile to authenticated;
grant update (token, refresh, expires, data) on public.provider_data to authenticated;
grant insert (id, provider_id_ref, auth_provider_id, name, type, token, refresh, expires, data)
  on public.provider_data to authenticated;
grant select, insert, update, delete on public.user_profile, public.provider_data to service_role;

revoke all on schema gateway from public, anon, authenticated, service_role, gateway_app;
revoke all on all tables in schema gateway from public, anon, authenticated, service_role, gateway_app;

-- By name as well as from public: Supabase's default privileges grant every new function to anon and authenticated.
do $calls$
declare
  ours record;
begin
  for ours in
    select p.oid::regprocedure as called, n.nspname = 'public' as offered
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'gateway' or (n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$')
  loop
    execute format('revoke all on function %s from public, anon, authenticated, service_role, gateway_app', ours.called);
    if ours.offered then
      execute format('grant execute on function %s to service_role, gateway_app', ours.called);
    end if;
  end loop;
end $calls$;
