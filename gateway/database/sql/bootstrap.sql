-- The start of every run: settings, a lock against a second run, the table of migrations, the roles.

select set_config('search_path', '', true), set_config('lock_timeout', '10s', true), set_config('check_function_bodies', 'off', true);
select pg_advisory_xact_lock(hashtextextended('gateway schema', 0));
-- Requests queue behind a waiting table lock, so the wait is short; it is longer than autovacuum needs to give way.
select set_config('lock_timeout', '2s', true);

-- Lock all tables at once, before anything else is locked. While one is in use, none is held: so nothing can deadlock with requests.
do $locks$
declare
  own     text[];
  attempt integer := 0;
begin
  if current_setting('server_version_num')::integer < 150000 then
    raise exception 'gateway: PostgreSQL 15 or newer is needed';
  end if;
  select array_agg(format('%I.%I', n.nspname, c.relname) order by n.nspname, c.relname) into own
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'p') and (n.nspname = 'gateway' or c.oid in (to_regclass('public.user_profile'), to_regclass('public.provider_data')));
  while own is not null loop
    begin
      execute format('lock table %s in access exclusive mode', own[1 + attempt % cardinality(own)]);
      execute format('lock table %s in access exclusive mode nowait', array_to_string(own, ', '));
      return;
    exception when lock_not_available then
      if clock_timestamp() > transaction_timestamp() + interval '4 seconds' then
        raise;
      end if;
      attempt := attempt + 1;
      perform pg_sleep(0.02 + random() * 0.05);
    end;
  end loop;
end $locks$;

create schema if not exists gateway;

create table if not exists gateway.migration (  -- the migrations that were applied
  number     integer constraint migration_pkey primary key,
  name       text not null,
  sha256     text not null,
  applied_at timestamptz not null default clock_timestamp()
);
comment on index gateway.migration_pkey is 'A migration is applied once.';

create table if not exists gateway.function_release (  -- the functions and access rules that were applied; the latest are in use
  sha256     text constraint function_release_pkey primary key,
  applied_at timestamptz not null default clock_timestamp()
);
comment on index gateway.function_release_pkey is 'A gateway finds out whether the database has, or has had, its functions.';

-- Supabase has the first three. gateway_app is for a gateway with minimal rights: the operator gives it a login. Roles belong
-- to the whole server, so the run of another database may create the same ones at the same time.
do $roles$
declare
  wanted text;
begin
  foreach wanted in array array['anon', 'authenticated', 'service_role', 'gateway_app'] loop
    continue when exists (select from pg_catalog.pg_roles r where r.rolname = wanted);
    begin
      execute format('create role %I nologin noinherit %s', wanted, case wanted when 'service_role' then 'bypassrls' end);
    exception
      when duplicate_object or unique_violation then null;
      when insufficient_privilege then
        -- Only a superuser may grant BYPASSRLS; access.sql gives service_role a policy instead.
        execute format('create role %I nologin noinherit', wanted);
    end;
  end loop;
end $roles$;
