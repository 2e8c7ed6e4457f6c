-- Generated from gateway/database/sql: do not edit. `python -m gateway.database` writes it.
--
-- Sets up and updates the gateway's database, any number of times: on Supabase (paste it into the SQL editor, or run
-- `python -m gateway db apply`) and on PostgreSQL 15 to 18. Run it as one transaction, as the role that owns the two tables.
-- It deletes nothing. Each migration runs once and is recorded in gateway.migration; functions and access rules are replaced each time.

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

do $newer$
begin
  if exists (select from gateway.migration m where m.number > 9) then
    raise exception 'gateway: a newer release has set up this database: run that one, or restore a backup from before it';
  end if;
end $newer$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 1 and m.sha256 <> 'f5b69a5468ad42f089fb36f47d7f1ea35b111d92abacef3d230d6b8a60ef9326') then
    raise exception 'gateway: migration 1 (owner_tables) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 1) then
    execute $migration$
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
    $migration$;
    insert into gateway.migration (number, name, sha256) values (1, 'owner_tables', 'f5b69a5468ad42f089fb36f47d7f1ea35b111d92abacef3d230d6b8a60ef9326');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 2 and m.sha256 <> 'a208ccf81b7f69923cce0612a79413d87a1cc65d139391102f40214b81d63b87') then
    raise exception 'gateway: migration 2 (sessions) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 2) then
    execute $migration$
create table gateway.session (
  session_hash text constraint session_pkey primary key,
  user_id      uuid not null references auth.users (id) on delete cascade,
  label        text not null,
  created_at   timestamptz not null default clock_timestamp(),
  expires_at   timestamptz not null
);
create index session_expires_at on gateway.session (expires_at);
create index session_user_id on gateway.session (user_id);
comment on index gateway.session_pkey is 'A session cookie belongs to one user.';

create table gateway.authorization_request (
  state_hash         text constraint authorization_request_pkey primary key,
  browser_hash       text not null,
  user_id            uuid not null references auth.users (id) on delete cascade,
  provider           text not null,
  encrypted          text not null,
  scope              text[] not null,
  return_to          text,
  display            text not null check (display in ('page', 'popup')),
  add_account        boolean not null default false,
  connect_session_id uuid,  -- of a partner's link; null where the user started without one
  refused_at         timestamptz,
  used_at            timestamptz,  -- When it was taken. It is kept for ten minutes, for a browser that loads the callback again.
  seal_id            uuid,  -- of the grant that was saved: its result
  created_at         timestamptz not null default clock_timestamp(),
  expires_at         timestamptz not null
);
create index authorization_request_expires_at on gateway.authorization_request (expires_at);
create index authorization_request_user_id on gateway.authorization_request (user_id);
comment on index gateway.authorization_request_pkey is 'A state names one attempt, and it can be taken once.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (2, 'sessions', 'a208ccf81b7f69923cce0612a79413d87a1cc65d139391102f40214b81d63b87');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 3 and m.sha256 <> '0e078dfa2ae90227dcecf965f36fc5e45cbf3f079a989d36c5f885197a04ff43') then
    raise exception 'gateway: migration 3 (connections) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 3) then
    execute $migration$
-- Connections, pending grants, grants to revoke, and rows to import.

create table gateway.connection (  -- the state of a connection; its encrypted tokens are in provider_data
  id                 uuid not null constraint connection_pkey primary key references public.provider_data (id) on delete cascade,
  user_id            uuid not null,
  provider           text not null,
  type               integer not null,
  account_key        text not null default '',  -- empty where a user has one connection of a provider, else the account id
  account_id         text not null,
  account_label      text not null,
  scope              text[] not null default '{}',
  facts              jsonb not null default '{}',  -- Facts from the token response. provider_data.data has a copy for the owner, who may change it.
  tags               jsonb not null default '{}',  -- By partner: the pairs that it named in its link. A partner with reach own sees only its own.
  status             text not null default 'active'  -- as it was recorded; gateway.status_of adds what time decides
                     check (status in ('active', 'unverified', 'suspended', 'held', 'needs_reauthorization')),
  reason             text,
  generation         bigint not null check (generation > 0),
  seal_id            uuid not null,  -- random, one per save: the key that encrypts the access token is derived from it
  refresh_seal_id    uuid not null,  -- the same for the refresh token; of an earlier save if a reconnect had no refresh token
  saved_by           uuid,  -- the id of the user's last save: a repeated call is recognised by it
  client_id          text,  -- our registration that the grant belongs to (RFC 6749 section 6); null where it is not known
  refreshable        boolean not null default true,
  reconnected        bigint not null default 0,  -- the generation of the user's last reconnect
  expires_at         timestamptz,
  refresh_expires_at timestamptz,
  refresh_at         timestamptz,  -- when the worker refreshes the token, before a caller needs it
  lease_id           uuid,
  lease_until        timestamptz,
  lease_host         text,
  intent_at          timestamptz,  -- start of a refresh whose result is not known yet
  failures           integer not null default 0,
  refused_since      timestamptz,  -- the first of the refusals, in any form, since the last token
  refusal            jsonb,  -- status and error code of the last refusal, for the operator
  not_before         timestamptz,  -- after a failure: no token request before this time
  announced_at       timestamptz,
  checked_at         timestamptz,  -- when it was last checked at its provider on request
  listed_at          timestamptz,  -- when the accounts below it were last compared with the provider's list
  created_at         timestamptz not null default clock_timestamp(),
  updated_at         timestamptz not null default clock_timestamp(),
  constraint connection_user_provider_account unique (user_id, provider, account_key),
  constraint connection_reason check ((status = 'active') = (reason is null))
);
create index connection_refresh_at on gateway.connection (refresh_at) where status in ('active', 'suspended', 'held');
create index connection_not_active on gateway.connection (provider, status) where status <> 'active';
create index connection_expires_at on gateway.connection (expires_at) where not refreshable;
create index connection_facts on gateway.connection using gin (facts jsonb_path_ops);
create index connection_intent_at on gateway.connection (intent_at) where intent_at is not null;
create index connection_provider_account on gateway.connection (provider, account_id);
create index connection_provider_id on gateway.connection (provider, id);
-- No foreign key to auth.users: when a user is deleted, the trigger on provider_data still has to read this row.
comment on index gateway.connection_pkey is 'A connection is one row of provider_data, under the same id.';
comment on index gateway.connection_user_provider_account is 'A connection exists once, even if several callbacks create it at the same time.';

create table gateway.pending_grant (  -- encrypted grants that wait for a decision
  id                 uuid constraint pending_grant_pkey primary key,
  user_id            uuid not null references auth.users (id) on delete cascade,
  provider           text not null,
  type               integer not null,
  many_accounts      boolean not null,
  browser_hash       text not null,
  account_id         text not null,
  account_label      text not null,
  scope              text[] not null,
  token              text,
  refresh            text,
  seal_id            uuid not null,
  client_id          text,
  expires_at         timestamptz,
  refresh_expires_at timestamptz,
  row_names          text[],  -- names, without case and punctuation, that existing rows of this type have for the provider
  facts              jsonb not null default '{}',
  return_to          text,
  display            text not null check (display in ('page', 'popup')),
  connect_session_id uuid,
  confirmation_hash  text,  -- hash of the confirmation in the finishing browser; set where no user was signed in and the partner decides
  ending             text,  -- Set in the transaction that deletes the row: saved, or why not. The trigger reads it.
  created_at         timestamptz not null default clock_timestamp(),
  pending_until      timestamptz not null default clock_timestamp() + interval '10 minutes'
);
create unique index pending_grant_user_provider on gateway.pending_grant (user_id, provider) where confirmation_hash is null;
create unique index pending_grant_connect_session on gateway.pending_grant (connect_session_id) where confirmation_hash is not null;
create index pending_grant_pending_until on gateway.pending_grant (pending_until);
comment on index gateway.pending_grant_pkey is 'A grant is pending once, and one decision ends it.';
comment on index gateway.pending_grant_user_provider is 'A user is asked one question per provider: a newer grant replaces the one before.';
comment on index gateway.pending_grant_connect_session is 'A link has one pending grant, separate from the user''s own question.';

create table gateway.revocation (  -- encrypted grants that still have to be revoked at their provider
  seal_id         uuid constraint revocation_pkey primary key,
  refresh_seal_id uuid not null,
  connection_id   uuid,  -- null for a grant that was never saved
  generation      bigint,
  user_id         uuid not null,
  provider        text not null,
  account_id      text,
  token           text,
  refresh         text,
  facts           jsonb not null default '{}',
  reason          text not null,
  attempts        integer not null default 0,
  due_at          timestamptz not null default clock_timestamp() + interval '1 minute',
  created_at      timestamptz not null default clock_timestamp()
);
-- `due_at`: in the first minute, the process that queued the grant revokes it.
create index revocation_connection_id on gateway.revocation (connection_id);
create index revocation_due_at on gateway.revocation (due_at);
comment on index gateway.revocation_pkey is 'A grant is queued once, even if the call is repeated.';

create table gateway.provider_incident (  -- The last incident of a provider: it refuses many grants. Connections are held, and one is tried now and then.
  provider text constraint provider_incident_pkey primary key,
  began_at timestamptz not null,
  ended_at timestamptz,
  probe_at timestamptz
);
comment on index gateway.provider_incident_pkey is 'All processes see one incident per provider.';

create table gateway.import_queue (  -- rows with tokens that the gateway did not write: encrypted and verified by the worker
  id            uuid constraint import_queue_pkey primary key references public.provider_data (id) on delete cascade,
  attempts      integer not null default 0,
  due_at        timestamptz not null default clock_timestamp(),
  claimed_until timestamptz
);
create index import_queue_due_at on gateway.import_queue (due_at);
-- Rows that existed before the gateway.
insert into gateway.import_queue (id)
select d.id from public.provider_data d where d.token !~ '^(gAAAA|$)' or d.refresh !~ '^(gAAAA|$)';
comment on index gateway.import_queue_pkey is 'A row is imported by one process at a time.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (3, 'connections', '0e078dfa2ae90227dcecf965f36fc5e45cbf3f079a989d36c5f885197a04ff43');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 4 and m.sha256 <> '46856a002b41f57e5c95318191e15baf8b1df2bdc322661c1ab8b3568f66bcbe') then
    raise exception 'gateway: migration 4 (partners) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 4) then
    execute $migration$
-- Partners, keys, consents, links and freezes.

create table gateway.partner (  -- programs that call /v1 with a key: their scopes, providers and reach
  id                     uuid constraint partner_pkey primary key default gen_random_uuid(),
  name                   text not null,
  scope                  text[] not null,
  providers              text[],  -- null: every provider
  reach                  text not null check (reach in ('own', 'all')),
  reads_per_hour         integer check (reads_per_hour > 0),  -- null: no limit; a jump in reads raises an alert
  connections_per_hour   integer check (connections_per_hour > 0),
  freeze_on_alert        boolean not null default false,
  alerts                 jsonb not null default '{}',  -- when each kind of alert was last recorded
  frozen_at              timestamptz,
  revoked_at             timestamptz,
  created_at             timestamptz not null default clock_timestamp()
);
create unique index partner_name on gateway.partner (name) where revoked_at is null;
comment on index gateway.partner_pkey is 'A partner keeps its id when its keys change.';
comment on index gateway.partner_name is 'A name in a command or on a consent page means one partner; the name of a revoked partner can be used again.';

create table gateway.api_key (
  key_hash       text constraint api_key_pkey primary key,
  id             uuid not null constraint api_key_id unique default gen_random_uuid(),
  partner_id     uuid not null references gateway.partner (id) on delete cascade,
  hint           text not null,  -- the last four characters, so that people can tell keys apart
  addresses      inet[],  -- Networks from which the key works. Null: any.
  created_at     timestamptz not null default clock_timestamp(),
  expires_at     timestamptz,
  revoked_at     timestamptz,
  last_used_at   timestamptz,  -- to the minute
  last_used_from inet,
  networks       inet[] not null default '{}'  -- the last hundred (/24 or /48) from which it was used, newest first
);
create index api_key_partner_id on gateway.api_key (partner_id);
comment on index gateway.api_key_pkey is 'A key belongs to one partner.';
comment on index gateway.api_key_id is 'The id that commands use instead of the key.';

create table gateway.consent (  -- which connections a partner may use, by the owner's consent, from when to when
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  connection_id uuid not null,
  made          boolean not null,  -- the connection was created for this partner, and ends with its consent
  scope         text[] not null default '{}',  -- what the partner requested beside the default: the user's next attempt requests it again
  created_at    timestamptz not null default clock_timestamp(),
  ended_at      timestamptz,
  constraint consent_pkey primary key (partner_id, connection_id, created_at)
);
create unique index consent_standing on gateway.consent (partner_id, connection_id) where ended_at is null;
create index consent_connection_id on gateway.consent (connection_id);
-- No foreign key to the connection: a partner may still read the events of its time when the connection is gone.
comment on index gateway.consent_pkey is 'Each consent has its own time: a partner does not see what happened before it, or after its end.';
comment on index gateway.consent_standing is 'An owner consents to a partner once for a connection, until that ends.';

create table gateway.connect_session (  -- links that partners made for one user and one provider
  id                uuid constraint connect_session_pkey primary key default gen_random_uuid(),
  secret_hash       text not null constraint connect_session_secret unique,
  partner_id        uuid not null references gateway.partner (id) on delete cascade,
  user_id           uuid not null references auth.users (id) on delete cascade,
  provider          text not null,
  scope             text[] not null,
  tags              jsonb not null default '{}',  -- as they are stored in the connection: below the id of the partner
  return_to         text,
  connection_id     uuid,  -- the connection completed with this confirmation: a repeated call gets the same response for ten minutes
  confirmation_hash text,
  created_at        timestamptz not null default clock_timestamp(),
  expires_at        timestamptz not null default clock_timestamp() + interval '15 minutes',
  started_at        timestamptz,
  ended_at          timestamptz
);
create index connect_session_expires_at on gateway.connect_session (expires_at);
create index connect_session_user_id on gateway.connect_session (user_id);
create index connect_session_partner on gateway.connect_session (partner_id, created_at);
comment on index gateway.connect_session_pkey is 'A session is completed once.';
comment on index gateway.connect_session_secret is 'A link starts one session.';

create table gateway.freeze (  -- tokens that no caller may read: `reads` for all, `provider:<id>` for one provider
  target    text constraint freeze_pkey primary key,
  frozen_at timestamptz not null default clock_timestamp()
);
comment on index gateway.freeze_pkey is 'A target is frozen or not.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (4, 'partners', '46856a002b41f57e5c95318191e15baf8b1df2bdc322661c1ab8b3568f66bcbe');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 5 and m.sha256 <> 'c53c27e224be9cf3511fba8a625715693508f5da26e855ed45e38d725deb7856') then
    raise exception 'gateway: migration 5 (usage) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 5) then
    execute $migration$
-- Token reads and proxied calls, for the record and for limits.

create table gateway.token_read (  -- Token reads and proxied calls by connection, reader and hour. A closed hour becomes one event, and its row is deleted.
  connection_id uuid not null,
  reader_id     uuid not null,  -- a partner, or the owner of the connection
  hour          timestamptz not null,
  scope         text not null check (scope in ('tokens:read', 'proxy')),  -- what the token was read for: a caller, or one proxied call
  partner_id    uuid,  -- null if the owner reads
  user_id       uuid not null,
  provider      text not null,
  first_at      timestamptz not null default clock_timestamp(),
  last_at       timestamptz not null default clock_timestamp(),
  reads         integer not null default 1,
  networks      inet[] not null default '{}',
  constraint token_read_pkey primary key (connection_id, reader_id, hour, scope)
) with (fillfactor = 70);  -- a row changes with each read, and its new version fits on the same page
create index token_read_hour on gateway.token_read (hour);
comment on index gateway.token_read_pkey is 'A read is recorded once.';

create table gateway.usage (  -- token reads and proxied calls, together, and distinct connections of a reader in an hour, as reported by the processes
  reader_id   uuid not null,
  hour        timestamptz not null,
  reads       bigint not null,
  connections bigint not null,
  constraint usage_pkey primary key (reader_id, hour)
) with (fillfactor = 50);
create index usage_hour on gateway.usage (hour);
comment on index gateway.usage_pkey is 'A read counts once towards a limit.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (5, 'usage', 'c53c27e224be9cf3511fba8a625715693508f5da26e855ed45e38d725deb7856');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 6 and m.sha256 <> '65c2f0c420783807605a57d5909aad945502f7eb4795dc01bed844011cc3e181') then
    raise exception 'gateway: migration 6 (events) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 6) then
    execute $migration$
create table gateway.event (
  id            uuid constraint event_pkey primary key default gen_random_uuid(),
  at            timestamptz not null default clock_timestamp() check (at between '2000-01-01' and '3000-01-01'),
  type          text not null,
  connection_id uuid,
  user_id       uuid,
  partner_id    uuid,
  provider      text,
  data          jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
  position      bigint  -- the order in which events are read; assigned to committed rows by the worker, null until then
);
create unique index event_position on gateway.event (position);
create index event_unassigned on gateway.event (at, id) where position is null;
-- For the latest events of a connection, and for the limit of refreshes.
create index event_connection on gateway.event (connection_id, at);
create index event_user on gateway.event (user_id, (-position)) where position is not null;
-- For recent events. Small, because rows are inserted in order of time.
create index event_at on gateway.event using brin (at) with (pages_per_range = 16, autosummarize = on);
comment on index gateway.event_pkey is 'An event is reported once under one id.';
comment on index gateway.event_position is 'A position is assigned once, so that a cursor misses no event.';

create table gateway.event_chain (  -- the last assigned position, and the encrypted key of the hash chain
  only_one      boolean constraint event_chain_pkey primary key default true check (only_one),
  position      bigint not null default 0,
  encrypted_key text
);
insert into gateway.event_chain (only_one) values (true);
comment on index gateway.event_chain_pkey is 'There is one chain.';

create table gateway.event_seal (  -- The hash chain: each row covers the events since the row before. The chain begins at the first row.
  position bigint constraint event_seal_pkey primary key,
  hash     text not null  -- format version, dot, HMAC over the seal before it and the events; the key is not in this database
);
insert into gateway.event_seal values (0, '');
comment on index gateway.event_seal_pkey is 'The chain has one end.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (6, 'events', '65c2f0c420783807605a57d5909aad945502f7eb4795dc01bed844011cc3e181');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 7 and m.sha256 <> '5b059f619d69e03948d16aa681a3c78f48f18f6212b8c1a51dc39c3d0f18c68b') then
    raise exception 'gateway: migration 7 (hosts) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 7) then
    execute $migration$
create table gateway.host (  -- fingerprints of the encryption keys that the processes of a host use or recently used
  host    text not null,
  keys    text[] not null,
  seen_at timestamptz not null default clock_timestamp(),
  constraint host_pkey primary key (host, keys)
);
comment on index gateway.host_pkey is 'During a restart, the old and the new processes of a host each have a row.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (7, 'hosts', '5b059f619d69e03948d16aa681a3c78f48f18f6212b8c1a51dc39c3d0f18c68b');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 8 and m.sha256 <> '429084032cc45ea760a41a75512e1825514932e101687baef80c0ba9b416f9a0') then
    raise exception 'gateway: migration 8 (webhooks) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 8) then
    execute $migration$
-- Outgoing webhooks: endpoints of partners, their secrets, and a log of deliveries.

create table gateway.webhook (  -- Where partners want events to be sent. One cursor each, so that events arrive in order.
  id            uuid constraint webhook_pkey primary key,
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  url           text not null,
  event_types   text[],  -- null: every type
  position      bigint not null,  -- every event up to here was delivered, or is not for this endpoint
  claim_id      uuid,  -- of the worker that delivers now; an older claim cannot move the cursor
  failures      integer not null default 0,
  due_at        timestamptz not null default clock_timestamp(),
  disabled_at   timestamptz,
  created_at    timestamptz not null default clock_timestamp()
);
create index webhook_partner_id on gateway.webhook (partner_id);
comment on index gateway.webhook_pkey is 'An endpoint has one cursor.';

create table gateway.webhook_secret (  -- encrypted signing secrets: two of an endpoint while it changes its secret
  seal_id        uuid constraint webhook_secret_pkey primary key,
  webhook_id     uuid not null references gateway.webhook (id) on delete cascade,
  webhook_secret text not null,
  created_at     timestamptz not null default clock_timestamp(),
  expires_at     timestamptz
);
create index webhook_secret_webhook_id on gateway.webhook_secret (webhook_id);
comment on index gateway.webhook_secret_pkey is 'A secret is encrypted under a seal_id of its own.';

create table gateway.webhook_delivery (  -- each attempt to deliver an event, for a week
  webhook_id  uuid not null references gateway.webhook (id) on delete cascade,
  id          bigint generated always as identity,
  position    bigint not null,
  event_id    uuid not null,
  type        text not null,
  at          timestamptz not null default clock_timestamp(),
  status      integer,  -- the receiver's HTTP status; null where no response came
  error       text,
  duration_ms integer not null,
  constraint webhook_delivery_pkey primary key (webhook_id, id)
);
create index webhook_delivery_at on gateway.webhook_delivery using brin (at);
comment on index gateway.webhook_delivery_pkey is 'An attempt is logged once.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (8, 'webhooks', '429084032cc45ea760a41a75512e1825514932e101687baef80c0ba9b416f9a0');
  end if;
end $apply$;

do $apply$
begin
  if exists (select from gateway.migration m where m.number = 9 and m.sha256 <> '22688a02a0fcee21a931f431004922b6189d366026c534d31ed2b9b377baa859') then
    raise exception 'gateway: migration 9 (provider_events) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = 9) then
    execute $migration$
-- Events that providers send, and the accounts below a connection.

create table gateway.incoming_event (  -- webhooks of providers, for a week: so long a repeat is recognised, and partners can read the body
  id          text constraint incoming_event_pkey primary key,
  providers   text[] not null,
  type        text not null,
  accounts    text[] not null,  -- the account that it is about, and those above it
  below       jsonb,  -- facts of further connections that it is about: those below an agency
  topic       text,  -- What it changes; of two events about one topic the later one counts. Null: only handed on.
  is_end      boolean not null default false,
  facts       jsonb not null default '{}',
  label       text,
  body        text not null,
  at          timestamptz not null,
  received_at timestamptz not null default clock_timestamp(),
  due_at      timestamptz default clock_timestamp()  -- Null: done. `infinity`: an installation that waits for its connection.
);
create index incoming_event_due_at on gateway.incoming_event (due_at) where due_at is not null;
create index incoming_event_received_at on gateway.incoming_event (received_at);
create index incoming_event_accounts on gateway.incoming_event using gin (accounts) where topic is not null;
comment on index gateway.incoming_event_pkey is 'An event is handled once, however often the provider sends it.';

create table gateway.derived_token (  -- the accounts below a connection, such as the locations of an agency, and the tokens that were derived for them
  connection_id uuid not null references gateway.connection (id) on delete cascade,
  account_id    text not null,
  token         text,
  seal_id       uuid,
  scope         text[],
  derived_at    timestamptz,
  expires_at    timestamptz,
  lease_id      uuid,
  lease_until   timestamptz,
  constraint derived_token_pkey primary key (connection_id, account_id)
);
create index derived_token_account_id on gateway.derived_token (account_id);
comment on index gateway.derived_token_pkey is 'A token of one account is derived by one process at a time.';

create table gateway.provider_pause (  -- Until when a provider takes no calls for an account, as its responses say. `most`: how many it takes in the time of that limit.
  provider   text not null,
  account_id text not null,
  kind       text not null,
  most       integer,
  expires_at timestamptz not null,
  constraint provider_pause_pkey primary key (provider, account_id)
);
comment on index gateway.provider_pause_pkey is 'Every process keeps the same pause.';

create table gateway.unclaimed_install (  -- encrypted grants of installations that were started at the provider, until the user of that browser claims them
  id           uuid constraint unclaimed_install_pkey primary key,
  browser_hash text not null,
  provider     text not null,
  account_id   text not null,
  encrypted    text not null,
  expires_at   timestamptz not null default clock_timestamp() + interval '23 hours 50 minutes'  -- then our app is uninstalled there: its token is still valid
);
create index unclaimed_install_expires_at on gateway.unclaimed_install (expires_at);
create index unclaimed_install_browser_hash on gateway.unclaimed_install (browser_hash);
comment on index gateway.unclaimed_install_pkey is 'An installation is claimed once.';
    $migration$;
    insert into gateway.migration (number, name, sha256) values (9, 'provider_events', '22688a02a0fcee21a931f431004922b6189d366026c534d31ed2b9b377baa859');
  end if;
end $apply$;

-- The scopes that the partners of a user's connections at a provider requested; with `granted`, also the granted ones. The next attempt
-- requests them again, so that one partner cannot reduce another's. Only for that user: it reveals other partners.
create or replace function gateway.scopes_of_other_partners(p_user_id uuid, p_provider text, p_granted boolean) returns text[]
language sql stable as $$
  select array(
    select distinct n.name
      from gateway.connection c
      left join (gateway.consent x join gateway.partner p on p.id = x.partner_id and p.revoked_at is null)
        on x.connection_id = c.id and x.ended_at is null
      cross join lateral unnest(coalesce(x.scope, '{}') || case when p_granted then c.scope else '{}' end) as n (name)
     where c.user_id = p_user_id and c.provider = p_provider order by 1)
$$;

-- Whether nothing may be connected: the provider is frozen, or the partner of the link is stopped. The shared lock lasts until the
-- transaction ends: erasing all of a provider waits for it.
create or replace function gateway.is_stopped(p_provider text, p_connect_session_id uuid) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('gateway provider ' || p_provider, 0));
  if p_connect_session_id is not null then
    perform from gateway.connect_session s join gateway.partner p on p.id = s.partner_id
      where s.id = p_connect_session_id and (p.frozen_at is not null or p.revoked_at is not null);
    if found then
      return true;
    end if;
  end if;
  return exists (select from gateway.freeze f where f.target = 'provider:' || p_provider);
end $$;

-- The scopes to request; null: no user is signed in. An attempt expires after ten minutes. A user keeps about fifty: one start in ten deletes
-- the oldest, which is cheaper than a check at every start. `p_link_hash`: an attempt of a partner's link, which it uses up after the caller was
-- checked; null then: no usable link, or already started. `user_mismatch`: another user is signed in. `unauthenticated`: no user is, and
-- the link has no `return_to` whose server could name the user.
create or replace function public.gateway_start_authorization_v1(
  p_session_hash text, p_state_hash text, p_browser_hash text, p_encrypted text, p_scope text[], p_provider text default null,
  p_return_to text default null, p_display text default 'page', p_add_account boolean default false, p_link_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  who  uuid := (select s.user_id from gateway.live_session(p_session_hash) s);
  link gateway.connect_session;
begin
  if p_link_hash is not null then
    select s.* into link from gateway.open_link(p_link_hash) s;
    p_provider := link.provider;
    p_return_to := link.return_to;
  end if;
  if p_link_hash is null and who is null or p_link_hash is not null and link.id is null then
    return null;
  elsif gateway.is_stopped(p_provider, link.id) then
    return '{"refused": "frozen"}';
  elsif who <> link.user_id then
    insert into gateway.event (type, user_id, provider, partner_id, data)
    values ('connect.refused', link.user_id, link.provider, link.partner_id,
            jsonb_build_object('error', 'user_mismatch', 'connect_session', link.id));
    return '"user_mismatch"';
  elsif who is null and link.return_to is null then
    return '"unauthenticated"';
  elsif link.id is not null then
    update gateway.connect_session s set started_at = clock_timestamp() where s.id = link.id and s.started_at is null;
    if not found then
      return null;
    end if;
  else
    -- This transaction does not wait for the disk: a user can repeat an attempt that a crash lost.
    perform set_config('synchronous_commit', 'off', true);
    if random() < 0.1 then
      delete from gateway.authorization_request a where a.state_hash = any (array(
        select x.state_hash from gateway.authorization_request x where x.user_id = who
         order by x.created_at desc offset 49 for update skip locked));
    end if;
    -- An empty request stays empty: the permissions then belong to the app.
    p_scope := p_scope || array(select n from unnest(gateway.scopes_of_other_partners(who, p_provider, false)) n
                                 where cardinality(p_scope) > 0 and n <> all (p_scope));
  end if;
  insert into gateway.authorization_request
    (state_hash, browser_hash, user_id, provider, encrypted, scope, return_to, display, add_account, connect_session_id, expires_at)
  values
    (p_state_hash, p_browser_hash, coalesce(link.user_id, who), p_provider, p_encrypted, p_scope, p_return_to, p_display, p_add_account, link.id,
     clock_timestamp() + interval '10 minutes');
  return to_jsonb(p_scope);
end $$;

-- Whether an existing row is of this provider. Its name is free text; a row of the provider's type may also have one of `p_names`.
create or replace function gateway.same_provider(p_name text, p_type numeric, p_provider text, p_of_type integer, p_names text[]) returns boolean
language sql immutable as $$
  select coalesce(lower(btrim(p_name)) = p_provider or p_type = p_of_type and
                  coalesce(lower(regexp_replace(p_name, '[^A-Za-z0-9]', '', 'g')), '') = any (p_names), false)
$$;

create or replace function gateway.request_json(r gateway.authorization_request, p_user_id uuid) returns jsonb
language sql stable as $$
  select to_jsonb(r) || jsonb_build_object(
    'is_signed_in', p_user_id is not null, 'clock', jsonb_build_object('at', clock_timestamp()),
    'has_connection', exists (select from gateway.connection c where c.user_id = r.user_id and c.provider = r.provider))
$$;

-- The attempt, taken. One statement takes it, so only one caller gets it. The browser and the user that finished it get its result for ten
-- minutes: {"request", "connection"}, without a connection while the grant is pending; {} while that visit is under way. null: an unknown or
-- expired state, one that failed, or one of another provider, which uses it up. For another browser or user the attempt stays valid, so that a
-- link scanner or prefetch cannot use it up; one event records it.
-- `p_failed`: the attempt that was taken has failed, and a later visit finds nothing.
create or replace function public.gateway_take_authorization_v1(
  p_state_hash text, p_provider text default null, p_browser_hash text default null, p_session_hash text default null, p_failed boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment    timestamptz := clock_timestamp();
  r         gateway.authorization_request;
  made      gateway.connection;
  signed_in uuid := (select s.user_id from gateway.live_session(p_session_hash) s);
  mismatch  text;
begin
  select a.* into r from gateway.authorization_request a where a.state_hash = p_state_hash and a.expires_at > moment;
  if not found then
    return null;
  elsif p_failed then
    delete from gateway.authorization_request a where a.state_hash = p_state_hash and a.used_at is not null;
    return null;
  end if;
  -- A partner's link may be finished without a signed-in user: the partner's server names the user afterwards.
  mismatch := case when r.browser_hash <> p_browser_hash then 'browser_mismatch'
                   when signed_in is null and r.connect_session_id is not null and r.return_to is not null then null
                   when signed_in is distinct from r.user_id then 'user_mismatch' end;
  if r.used_at is not null and (mismatch is not null or r.provider is distinct from p_provider) then
    return null;
  elsif r.used_at is not null and r.seal_id is null then
    return case when r.used_at > moment - interval '12 seconds' then '{}'::jsonb end;
  elsif r.used_at is not null then
    select c.* into made from gateway.connection c
     where c.user_id = r.user_id and c.provider = r.provider and r.seal_id in (c.saved_by, c.seal_id);
    return case when found or exists (select from gateway.pending_grant g where g.user_id = r.user_id and g.seal_id = r.seal_id) then
      jsonb_build_object('request', gateway.request_json(r, signed_in), 'connection', case when found then gateway.public_data(made) end) end;
  elsif mismatch is not null then
    update gateway.authorization_request a set refused_at = moment where a.state_hash = p_state_hash and a.refused_at is null;
    insert into gateway.event (type, user_id, provider, data)
    select 'connect.refused', r.user_id, r.provider, jsonb_build_object('error', mismatch) where found;
    return jsonb_build_object('refused', mismatch);
  elsif r.provider is distinct from p_provider then
    delete from gateway.authorization_request a where a.state_hash = p_state_hash;
    return null;
  end if;
  update gateway.authorization_request a set used_at = moment, expires_at = moment + interval '10 minutes'
   where a.state_hash = p_state_hash and a.used_at is null;
  return case when found then gateway.request_json(r, signed_in) else '{}' end;
end $$;

-- The callers of /v1, and which connections they may see.

-- The caller of /v1: {"user_id", "key_hash", "address"}. The user of an access token, or the partner of a key, or why the call is refused:
-- `unauthenticated` (a banned or deleted user; the same for unknown, revoked and expired keys and for a wrong address), `frozen` or `forbidden`.
-- `net`: the network of the call. `p_needs`: the scope of the call, null where any key will do; a user has none for sessions and webhooks. Functions answer {"refused": slug}
-- then, and nothing else. `p_operator`: {"is_operator"} is the operator, who reaches everything: no partner, no user, no refusal. Only for
-- functions that answer no secret.
create or replace function gateway.caller(
  p_caller jsonb, p_needs text, p_operator boolean default false,
  out partner gateway.partner, out user_id uuid, out net inet, out refusal jsonb
)
language plpgsql set search_path = '' as $$
declare
  moment timestamptz := clock_timestamp();
  key    text := p_caller ->> 'key_hash';
  here   inet := nullif(p_caller ->> 'address', '')::inet;
  used   record;
begin
  if p_operator and p_caller ? 'is_operator' then
    return;
  end if;
  net := network(set_masklen(here, case family(here) when 4 then 24 else 48 end));
  if key is null then
    user_id := p_caller ->> 'user_id';
    -- On Supabase a missing user was deleted; on plain Postgres it is a new user.
    refusal := case when user_id is null or not exists (select from gateway.live_user(user_id))
                      and (exists (select from auth.users u where u.id = user_id) or not gateway.own_auth()) then '{"refused": "unauthenticated"}'
                    when p_needs in ('sessions:write', 'webhooks:write') then jsonb_build_object('refused', 'forbidden', 'scope', p_needs) end;
    return;
  end if;
  select p as partner, k.last_used_at, k.networks into used
    from (select) as one
    left join gateway.api_key k
      on k.key_hash = key and k.revoked_at is null and (k.expires_at is null or k.expires_at > moment) and (k.addresses is null or here <<= any (k.addresses))
    left join gateway.partner p on p.id = coalesce(k.partner_id, '00000000-0000-0000-0000-000000000000') and p.revoked_at is null;
  partner := used.partner;
  if partner.id is null then
    refusal := '{"refused": "unauthenticated"}';
    return;
  end if;
  -- To the minute. A further network of a partner is an event. Of calls at the same time one records it, and none waits.
  if here is not null and (used.last_used_at > moment - interval '1 minute' and net = any (used.networks)) is not true
     and pg_try_advisory_xact_lock(hashtextextended('gateway key use ' || key, 0)) then
    insert into gateway.event (type, partner_id, data)
    select 'partner.new_network', partner.id, jsonb_build_object('network', host(net) || '/' || masklen(net))
      from gateway.api_key k where k.partner_id = partner.id having bool_or(k.networks <> '{}') and bool_and(net <> all (k.networks));
    update gateway.api_key k
       set last_used_at = moment, last_used_from = here, networks = (net || array_remove(k.networks, net))[:100]
     where k.key_hash = key;
  end if;
  refusal := case when partner.frozen_at is not null then '{"refused": "frozen"}'
                  when p_needs <> all (partner.scope) then jsonb_build_object('refused', 'forbidden', 'scope', p_needs) end;
end $$;

-- Whether a partner has the owner's consent for a connection, or reach `all`. Callers check this before they read the connection, so that the
-- response time does not show whether it exists.
create or replace function gateway.partner_has_consent(p_partner gateway.partner, p_connection uuid) returns boolean
language sql stable as $$
  select p_partner.reach = 'all' or exists (
    select from gateway.consent x where x.partner_id = p_partner.id and x.connection_id = p_connection and x.ended_at is null)
$$;

-- Whether a connection is within a partner's reach.
create or replace function gateway.partner_can_see(p_partner gateway.partner, p_connection gateway.connection) returns boolean
language sql stable as $$
  select (p_partner.providers is null or p_connection.provider = any (p_partner.providers)) and gateway.partner_has_consent(p_partner, p_connection.id)
$$;

-- Check a caller and nothing else. The providers of a partner; null for all, and for a user.
create or replace function public.gateway_caller_v1(p_caller jsonb, p_needs text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(f.refusal, to_jsonb((f.partner).providers)) from gateway.caller(p_caller, p_needs) f);
end $$;

-- A grant that waits for its partner, as the connection it would become. Without its account and facts: the browser that finished may
-- belong to another user than the link's.
create or replace function gateway.pending_link_connections(p_partner gateway.partner) returns setof gateway.connection
language sql stable as $$
  select (jsonb_populate_record(null::gateway.connection, to_jsonb(g) || jsonb_build_object(
           'account_key', '', 'account_id', '', 'account_label', '', 'facts', '{}'::jsonb, 'tags', s.tags, 'status', 'pending_confirmation',
           'reason', 'not_confirmed', 'refreshable', g.refresh is not null, 'generation', 1, 'updated_at', g.created_at))).*
    from gateway.pending_grant g join gateway.connect_session s on s.id = g.connect_session_id
   where g.pending_until > clock_timestamp() and g.confirmation_hash is not null and s.partner_id = p_partner.id
     and (p_partner.providers is null or g.provider = any (p_partner.providers))
$$;

-- The connection that a caller may act on, whose scope has to cover `p_needs`, or the user of a session: without `p_caller`. `connection` is null
-- for one that does not exist and for one that the caller cannot reach. A partner also reaches the pending grants of its links.
create or replace function gateway.authorize(
  p_connection_id uuid, p_session_hash text, p_caller jsonb, p_needs text,
  out connection gateway.connection, out partner gateway.partner, out refusal jsonb
)
language plpgsql set search_path = '' as $$
declare
  asks record;
begin
  if p_caller is null then
    select c.* into connection from gateway.live_session(p_session_hash) s join gateway.connection c on c.user_id = s.user_id
     where c.id = p_connection_id;
    return;
  end if;
  select f.* into asks from gateway.caller(p_caller, p_needs) f;
  refusal := asks.refusal;
  partner := asks.partner;
  if refusal is null then
    select c.* into connection from gateway.connection c
     where (partner.id is null or gateway.partner_has_consent(partner, p_connection_id)) and c.id = p_connection_id
       and (partner.providers is null or c.provider = any (partner.providers)) and c.user_id = coalesce(asks.user_id, c.user_id);
    if not found then
      select w.* into connection from gateway.pending_link_connections(partner) w where w.id = p_connection_id;
    end if;
  end if;
end $$;

-- null: no such connection for this caller. `p_check`: the right to check it, once a minute.
create or replace function public.gateway_reached_connection_v1(
  p_connection_id uuid, p_caller jsonb, p_check boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over    timestamptz := clock_timestamp();
  allowed record;
  c       gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, null, p_caller, 'connections:read') f;
  c := allowed.connection;
  if c.id is null then
    return allowed.refusal;
  elsif p_check and c.status = 'pending_confirmation' then
    return '{"refused": "pending_confirmation"}';
  elsif p_check then
    update gateway.connection x set checked_at = over, not_before = case when x.status = 'suspended' then null else x.not_before end
     where x.id = c.id and (x.checked_at is null or x.checked_at <= over - interval '1 minute');
    if not found then
      return '{"refused": "rate_limited"}'::jsonb || gateway.quota(1, 1, c.checked_at + interval '1 minute');
    end if;
  end if;
  return gateway.public_data(c, allowed.partner) || case when p_check then gateway.quota(1, 1, over + interval '1 minute') else '{}' end;
end $$;

-- `p_wanted`: any of `type`, `status`, `account_id` and `tag`; `clients`, our registration at each provider: only connections of another one;
-- `scopes`, the required scopes of each provider: only connections that lack one. Without a subquery, so that the planner can inline it.
create or replace function gateway.is_wanted(c gateway.connection, p_partner gateway.partner, p_wanted jsonb) returns boolean
language sql stable as $$
  select (p_wanted ->> 'type' is null or c.type = (p_wanted ->> 'type')::integer)
     and (p_wanted ->> 'status' is null or gateway.status_of(c) = p_wanted ->> 'status')
     and (p_wanted ->> 'account_id' is null or c.account_id = p_wanted ->> 'account_id')
     and (p_wanted ->> 'tag' is null or c.tags <> '{}' and gateway.visible_tags(c.tags, p_partner) @> (p_wanted -> 'tag'))
     and (p_wanted ->> 'clients' is null or c.client_id is distinct from coalesce(p_wanted -> 'clients' ->> c.provider, c.client_id))
     and (p_wanted ->> 'scopes' is null or not to_jsonb(c.scope) @> (p_wanted -> 'scopes' -> c.provider))
     and (p_wanted ->> 'rotation_due' is null or gateway.is_rotation_due(c))
$$;

-- The connections of a user, or within a partner's reach, after an id and in the order of ids. Each combination of user, provider and reach
-- has an index for this, so every page costs the same. Without a partner: all connections of that user, or with neither all of them.
create or replace function gateway.visible_connections(
  p_partner gateway.partner, p_user_id uuid, p_provider text, p_after uuid, p_wanted jsonb, p_most integer
)
returns setof gateway.connection language plpgsql stable set search_path = '' as $$
declare
  among text[] := case when p_provider is null then p_partner.providers
                       when p_provider = any (p_partner.providers) or p_partner.providers is null then array[p_provider] else '{}' end;
begin
  if p_user_id is not null then
    return query
      select c.* from gateway.connection c
       where c.user_id = p_user_id and (p_partner.id is null or gateway.partner_can_see(p_partner, c)) and (p_provider is null or c.provider = p_provider)
         and c.id > p_after and gateway.is_wanted(c, p_partner, p_wanted)
       order by c.id limit p_most;
  elsif p_partner.reach = 'own' then
    return query
      select c.* from gateway.consent x join gateway.connection c on c.id = x.connection_id
       where x.partner_id = p_partner.id and x.connection_id > p_after and x.ended_at is null and (among is null or c.provider = any (among))
         and gateway.is_wanted(c, p_partner, p_wanted)
       order by x.connection_id limit p_most;
  elsif among is null then
    return query
      select c.* from gateway.connection c
       where c.id > p_after and gateway.is_wanted(c, p_partner, p_wanted)
       order by c.id limit p_most;
  else
    return query
      select c.* from unnest(among) as w (id) cross join lateral (
        select x.* from gateway.connection x
         where x.provider = w.id and x.id > p_after and gateway.is_wanted(x, p_partner, p_wanted)
         order by x.id limit p_most) c
       order by c.id limit p_most;
  end if;
end $$;

-- A page of the connections that a caller reaches, or the operator. `p_of_user` filters a partner's list; for a user it finds all or none.
create or replace function public.gateway_reached_connections_v1(
  p_caller jsonb, p_of_user uuid default null, p_provider text default null, p_wanted jsonb default '{}', p_after uuid default null,
  p_most integer default 100
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(asks.refusal, (
    select coalesce(jsonb_agg(gateway.public_data(c, asks.partner) order by c.id), '[]')
      from (select x.* from gateway.visible_connections(asks.partner, w.owner, p_provider, w.after, p_wanted, p_most) x
            union all
            select x.* from gateway.pending_link_connections(asks.partner) x
             where x.id > w.after and (w.owner is null or x.user_id = w.owner) and (p_provider is null or x.provider = p_provider)
               and gateway.is_wanted(x, asks.partner, p_wanted)
            order by id limit p_most) c
     where coalesce(w.owner = p_of_user, true)))
    from gateway.caller(p_caller, 'connections:read', true) asks
   cross join lateral (select coalesce(asks.user_id, p_of_user) as owner, coalesce(p_after, '00000000-0000-0000-0000-000000000000') as after) w);
end $$;

-- A stored secret as the gateway reads it: one that is larger than any provider's is no token, and costs no memory.
create or replace function gateway.bounded(p_secret text) returns text
language sql immutable as $$ select case when octet_length(p_secret) > 2000000 then '…' else p_secret end $$;

-- The tags that a partner may see: with reach `own` those of its own links. Without a partner, and with reach `all`: every one.
create or replace function gateway.visible_tags(p_tags jsonb, p_partner gateway.partner) returns jsonb
language sql stable as $$
  select coalesce(case when (p_partner).reach = 'own' then p_tags -> (p_partner).id::text
                       else (select jsonb_object_agg(t.key, t.value) from jsonb_each(p_tags) x cross join jsonb_each(x.value) t) end, '{}')
$$;

create or replace function gateway.public_data(c gateway.connection, p_partner gateway.partner default null) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', c.id, 'user_id', c.user_id, 'provider', c.provider, 'type', c.type, 'generation', c.generation,
    'status', gateway.status_of(c), 'reason', gateway.reason_of(c), 'account', jsonb_build_object('id', c.account_id, 'label', c.account_label),
    'scope', c.scope, 'facts', c.facts, 'tags', gateway.visible_tags(c.tags, p_partner), 'refreshable', c.refreshable, 'expires_at', c.expires_at, 'created_at', c.created_at, 'updated_at', c.updated_at)
$$;

-- Before the token expires, with jitter, so that connections made together are not refreshed together; and before an unused refresh token
-- expires. Null: no refresh token, or no expiry.
create or replace function gateway.refresh_time(p_refreshable boolean, p_expires_at timestamptz, p_refresh_expires_at timestamptz)
returns timestamptz language sql volatile as $$
  select case when p_refreshable then least(
    p_expires_at - least((p_expires_at - clock_timestamp()) * (0.1 + 0.1 * random()), interval '15 minutes' * (0.5 + random())),
    clock_timestamp() + (p_refresh_expires_at - clock_timestamp()) * (0.7 + 0.1 * random())) end
$$;

-- The user's oldest existing row for a provider that is not a connection yet.
create or replace function gateway.earlier_row(p_grant gateway.pending_grant) returns uuid
language sql stable as $$
  select d.id from public.provider_data d
   where d.auth_provider_id = p_grant.user_id and gateway.same_provider(d.name, d.type, p_grant.provider, p_grant.type, p_grant.row_names)
     and not exists (select from gateway.connection c where c.id = d.id)
   order by d.created_at nulls last, d.id limit 1
$$;

-- The connection that a grant would go to, locked: of the same account, else the newest of its user at that provider. It is read again once
-- it is locked, because a refresh may have been saved meanwhile.
create or replace function gateway.lock_existing(p_grant gateway.pending_grant) returns gateway.connection
language plpgsql set search_path = '' as $$
begin
  perform from public.provider_data d where d.id = (
    select c.id from gateway.connection c where c.user_id = p_grant.user_id and c.provider = p_grant.provider
     order by c.account_id = p_grant.account_id desc, c.updated_at desc, c.id limit 1) for update;
  return (select c from gateway.connection c where c.user_id = p_grant.user_id and c.provider = p_grant.provider
           order by c.account_id = p_grant.account_id desc, c.updated_at desc, c.id limit 1);
end $$;

-- Write a grant as the connection `p_id`: create it, or update what is there. A repeated call is recognised by `p_call_id`. The grant of an
-- account that is replaced is queued to be revoked.
create or replace function gateway.write_connection(p_grant gateway.pending_grant, p_id uuid, p_call_id uuid) returns gateway.connection
language plpgsql set search_path = '' as $$
declare
  g       gateway.pending_grant := p_grant;
  kept    uuid;
  old     gateway.connection;
  profile uuid := gateway.list_in_profile(g.user_id, p_id, coalesce(gateway.label_of(g.user_id), g.user_id::text));
  partner uuid;
  account jsonb := jsonb_build_object('id', g.account_id, 'label', g.account_label);
begin
  select c.* into old from gateway.connection c where c.id = p_id;
  if old.account_id not in (g.account_id, '') then
    insert into gateway.revocation
      (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason)
    select d.id, old.generation, old.user_id, old.provider, old.account_id, old.facts, d.token, d.refresh, old.seal_id, old.refresh_seal_id, 'superseded'
      from public.provider_data d where d.id = old.id and (d.token is not null or d.refresh is not null)
    on conflict on constraint revocation_pkey do nothing;
  elsif g.refresh is null and old.account_id = g.account_id and old.refreshable then
    -- The same account without a new refresh token keeps the one it has: Google sends one with the first consent only.
    select d.refresh, old.refresh_seal_id, coalesce(g.refresh_expires_at, old.refresh_expires_at)
      into g.refresh, kept, g.refresh_expires_at
      from public.provider_data d where d.id = old.id and d.refresh like 'gAAAA%';
  end if;
  insert into public.provider_data as d (id, provider_id_ref, auth_provider_id, name, type, token, refresh, expires, data)
  values (p_id, profile, g.user_id, g.provider, g.type, g.token, g.refresh,
          to_char(g.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          g.facts || jsonb_build_object('account', account, 'scope', to_jsonb(g.scope), 'status', 'active'))
  on conflict (id) do update set
    provider_id_ref = excluded.provider_id_ref, auth_provider_id = excluded.auth_provider_id, name = excluded.name,
    type = excluded.type, token = excluded.token, refresh = excluded.refresh, expires = excluded.expires, data = excluded.data;
  insert into gateway.connection as c
    (id, user_id, provider, type, account_key, account_id, account_label, scope, facts, generation, seal_id, refresh_seal_id,
     saved_by, client_id, refreshable, expires_at, refresh_expires_at, refresh_at)
  values (p_id, g.user_id, g.provider, g.type, case when g.many_accounts then g.account_id else '' end, g.account_id, g.account_label,
          g.scope, g.facts - array['account', 'scope', 'status', 'reason'], 1, g.seal_id, coalesce(kept, g.seal_id), p_call_id, g.client_id,
          g.refresh is not null, g.expires_at, g.refresh_expires_at, gateway.refresh_time(g.refresh is not null, g.expires_at, g.refresh_expires_at))
  on conflict (id) do update set
    type = excluded.type, account_id = excluded.account_id, account_label = excluded.account_label, scope = excluded.scope,
    -- `accounts` may have changed in the catalogue: the key of the row stays where another row has the new one.
    account_key = case when exists (
      select from gateway.connection o where o.user_id = c.user_id and o.provider = c.provider
         and o.account_key = excluded.account_key and o.id <> c.id) then c.account_key else excluded.account_key end,
    facts = excluded.facts, generation = c.generation + 1, reconnected = c.generation + 1, seal_id = excluded.seal_id,
    refresh_seal_id = excluded.refresh_seal_id, saved_by = excluded.saved_by, client_id = excluded.client_id,
    refreshable = excluded.refreshable, status = 'active', reason = null, refused_since = null, refusal = null, expires_at = excluded.expires_at,
    refresh_expires_at = excluded.refresh_expires_at, refresh_at = excluded.refresh_at, lease_id = null, lease_until = null,
    lease_host = null, intent_at = null, failures = 0, not_before = null, announced_at = null, updated_at = clock_timestamp();
  delete from gateway.derived_token x where x.connection_id = p_id and old.account_id <> g.account_id;
  update gateway.incoming_event x set due_at = clock_timestamp()
   where x.topic is not null and x.accounts @> array[g.account_id] and x.due_at = 'infinity';
  partner := gateway.give_consent(g.connect_session_id, p_id, old.id is null);
  if g.confirmation_hash is not null then
    -- Stored, so that a partner that lost the response can repeat the call.
    update gateway.connect_session s set connection_id = p_id, confirmation_hash = g.confirmation_hash where s.id = g.connect_session_id;
    with ended as (  -- of other partners, which had consent for the previous account
      update gateway.consent x set ended_at = clock_timestamp()
       where x.connection_id = p_id and x.ended_at is null and x.partner_id is distinct from partner and old.account_id <> g.account_id
      returning x.partner_id)
    insert into gateway.event (type, connection_id, user_id, provider, partner_id)
    select 'consent.ended', p_id, g.user_id, g.provider, e.partner_id from ended e;
  end if;
  insert into gateway.event (type, connection_id, user_id, provider, partner_id, data)
  values (case when old.id is null then 'connection.created' else 'connection.reauthorized' end, p_id, g.user_id, g.provider, partner,
          jsonb_build_object('generation', coalesce(old.generation, 0) + 1, 'account', account));
  return (select c from gateway.connection c where c.id = p_id);
end $$;

-- Save a new grant in one call: create or update a connection, or keep the grant as pending: null. `p_grant`: a row of gateway.pending_grant.
-- The user has to decide where another account is connected and no further one was asked for, and where a partner's link asked for less than
-- the connection allows, or a required scope that the connection has was refused. A repeated call, by its `seal_id`, gets the same answer.
-- After `p_not_after` nothing is saved: the caller has reported a failure and revokes the grant. `p_state_hash`: the attempt, which keeps the
-- result.
create or replace function public.gateway_save_connection_v1(
  p_grant jsonb, p_requested_scope text[], p_required_scope text[], p_add_account boolean, p_expires_seconds double precision,
  p_refresh_expires_seconds double precision, p_not_after timestamptz default null, p_state_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  g        gateway.pending_grant := jsonb_populate_record(null::gateway.pending_grant, p_grant || jsonb_build_object(
             'id', gen_random_uuid(), 'created_at', clock_timestamp(), 'pending_until', clock_timestamp() + interval '10 minutes'));
  existing gateway.connection;
  saved    gateway.connection;
  target   uuid;
begin
  perform gateway.lock_user(g.user_id);
  select c.* into saved from gateway.connection c where c.user_id = g.user_id and c.saved_by = g.seal_id;
  if found or exists (select from gateway.pending_grant p where p.user_id = g.user_id and p.seal_id = g.seal_id) then
    return case when saved.id is not null then gateway.public_data(saved) end;
  elsif not exists (select from gateway.live_user(g.user_id)) then
    return '{"refused": "unauthenticated"}';
  elsif gateway.is_stopped(g.provider, g.connect_session_id) then
    return '{"refused": "frozen"}';
  end if;
  g.expires_at := clock_timestamp() + make_interval(secs => p_expires_seconds);
  g.refresh_expires_at := clock_timestamp() + make_interval(secs => p_refresh_expires_seconds);
  existing := gateway.lock_existing(g);
  if g.confirmation_hash is null then
    if existing.id is null then
      target := coalesce(gateway.earlier_row(g), g.id);
    elsif existing.account_id not in (g.account_id, '') then  -- '': imported, and never confirmed
      target := case when p_add_account and g.many_accounts then g.id end;
    elsif not exists (select from unnest(existing.scope) s where s = any (p_required_scope) and s <> all (g.scope))
      and (g.connect_session_id is null or cardinality(p_requested_scope) = 0 or existing.scope <@ (p_requested_scope || g.scope)) then
      target := existing.id;
    end if;
  end if;
  if target is null then
    -- It replaces what is pending for the same user and provider.
    delete from gateway.pending_grant p
     where p.user_id = g.user_id and p.provider = g.provider and p.confirmation_hash is null and g.confirmation_hash is null;
    insert into gateway.pending_grant select g.*;
    insert into gateway.event (type, user_id, provider, partner_id, data)
    values ('grant.pending', g.user_id, g.provider, (select s.partner_id from gateway.connect_session s where s.id = g.connect_session_id),
            case when g.confirmation_hash is null  -- the account of an unconfirmed grant is not shown to the link's user
                 then jsonb_build_object('account', jsonb_build_object('id', g.account_id, 'label', g.account_label)) else '{}' end);
  else
    saved := gateway.write_connection(g, target, g.seal_id);
  end if;
  update gateway.authorization_request a set seal_id = g.seal_id where a.state_hash = p_state_hash;
  if clock_timestamp() > p_not_after then
    raise exception 'the caller has given up' using errcode = 'query_canceled';
  end if;
  return case when target is not null then gateway.public_data(saved) end;
end $$;

-- The partners that may use a connection by its owner's consent. Partners with reach `all` are the product itself and not listed.
create or replace function gateway.sharing(p_connection_id uuid) returns jsonb
language sql stable as $$
  select coalesce((
    select jsonb_agg(jsonb_build_object('id', p.id, 'name', p.name, 'made', x.made) order by p.name)
      from gateway.consent x join gateway.partner p on p.id = x.partner_id
     where x.connection_id = p_connection_id and x.ended_at is null and p.revoked_at is null and p.reach = 'own'), '[]')
$$;

-- null: no user is signed in.
create or replace function public.gateway_connections_v1(p_session_hash text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
           'user', jsonb_build_object('id', s.user_id, 'label', s.label),
           'frozen', array(select substr(f.target, 10) from gateway.freeze f where f.target like 'provider:%'),
           'connections', coalesce(jsonb_agg(gateway.public_data(c) order by c.type, c.created_at, c.id) filter (where c.id is not null), '[]'),
           'sharing', coalesce(jsonb_object_agg(c.id, gateway.sharing(c.id)) filter (where c.id is not null), '{}'),
           'ends_with', coalesce(jsonb_object_agg(c.id, (select count(*) from gateway.same_account(c))) filter (where c.id is not null), '{}'))
    from gateway.live_session(p_session_hash) s left join gateway.connection c on c.user_id = s.user_id
   group by s.user_id, s.label
$$;

-- The result of a check; returns the connection, or null. A check of that generation may change the status: `another_account` ends the
-- connection, `suspended` suspends it, `confirmed` ends a suspension. `refused` (of a key) counts as a refused refresh does, and ends it after a
-- week in any case. Any other outcome says nothing about the grant. `p_label`: the account's name, for a connection that shows its id.
create or replace function public.gateway_end_check_v1(
  p_connection_id uuid, p_generation bigint, p_outcome text, p_label text default null, p_caller jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c       gateway.connection;
  refused text;
begin
  perform from public.provider_data d where d.id = p_connection_id for update;
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  select 'connection.checked', x.id, x.user_id, (select k.partner_id from gateway.api_key k where k.key_hash = p_caller ->> 'key_hash'),
         x.provider, jsonb_build_object('outcome', p_outcome) from gateway.connection x where x.id = p_connection_id;
  select x.* into c from gateway.connection x where x.id = p_connection_id and x.generation = p_generation;
  refused := case when p_outcome = 'refused' and c.status in ('active', 'held') then
               case when c.refused_since < clock_timestamp() - interval '7 days' then 'needs_reauthorization' else gateway.judge_refusal(c) end end;
  update gateway.connection x
     set status = v.status, reason = v.reason, updated_at = clock_timestamp(),
         refresh_at = case when x.refreshable and v.status = 'suspended' then clock_timestamp() + interval '1 hour' else x.refresh_at end
    from (values ('refused', '{active,held}', refused, case refused when 'held' then 'provider_incident' else 'grant_refused' end),
                 ('another_account', '{active,held}', 'needs_reauthorization', 'another_account'), ('suspended', '{active}', 'suspended', 'account_not_active'),
                 ('confirmed', '{suspended,held}', 'active', null)) as v (outcome, before, status, reason)
   where x.id = c.id and v.outcome = p_outcome and x.status = any (v.before::text[])
     and (x.refreshable or v.status <> 'suspended') and (x.status <> 'held' or not x.refreshable);  -- which a refresh ends by itself
  update gateway.connection x
     set refusal = case p_outcome when 'refused' then jsonb_build_object('at', clock_timestamp()) end,
         refused_since = case p_outcome when 'refused' then coalesce(x.refused_since, clock_timestamp()) end
   where x.id = c.id and p_outcome in ('refused', 'confirmed') and not x.refreshable;
  perform gateway.end_incident(c.provider) where c.status = 'held' and not c.refreshable and p_outcome = 'confirmed';
  update gateway.connection x set account_label = p_label, updated_at = clock_timestamp()
   where x.id = p_connection_id and x.generation = p_generation and x.account_label = x.account_id and p_label <> x.account_id;
  return (select gateway.public_data(x) from gateway.connection x where x.id = p_connection_id);
end $$;

-- Tokens for the accounts below a connection, such as the locations of an agency.

-- {"token"}: a token that lasts for the seconds that were asked for; not the one with `p_refused`, unless that is younger than a minute.
-- {"lease_id"}: the right to derive a new one, with `p_lease_seconds`. {"retry_after"}: another process derives it, or it failed a moment ago. null: the
-- connection has ended.
create or replace function public.gateway_derived_token_v1(
  p_connection_id uuid, p_account_id text, p_min_seconds integer, p_refused uuid, p_lease_seconds double precision
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment timestamptz := clock_timestamp();
  c      gateway.connection;
  t      gateway.derived_token;
  pause  jsonb;
begin
  select x.* into c from gateway.connection x where x.id = p_connection_id and x.status in ('active', 'held');
  if not found then
    return null;
  end if;
  pause := gateway.provider_limit(c.provider, c.account_id);  -- once: it may end meanwhile
  select x.* into t from gateway.derived_token x where x.connection_id = p_connection_id and x.account_id = p_account_id;
  if t.expires_at > moment + make_interval(secs => p_min_seconds)
    and (t.seal_id is distinct from p_refused or t.derived_at > moment - interval '1 minute') then
    return jsonb_build_object('token', t.token, 'seal_id', t.seal_id, 'scope', t.scope, 'expires_at', t.expires_at);
  elsif p_lease_seconds is not null and pause is not null then
    return pause;
  elsif p_lease_seconds is not null then
    insert into gateway.derived_token as x (connection_id, account_id, lease_id, lease_until)
    values (p_connection_id, p_account_id, gen_random_uuid(), moment + make_interval(secs => p_lease_seconds))
    on conflict on constraint derived_token_pkey do update set lease_id = excluded.lease_id, lease_until = excluded.lease_until
     where coalesce(x.lease_until <= moment, true) and x.seal_id is not distinct from t.seal_id
    returning x.* into t;
    if found then
      return jsonb_build_object('lease_id', t.lease_id);
    end if;
  end if;
  select x.* into t from gateway.derived_token x where x.connection_id = p_connection_id and x.account_id = p_account_id;
  return jsonb_build_object('retry_after', greatest(1, ceil(extract(epoch from t.lease_until - moment))),
                            'is_paused', t.lease_id is null and coalesce(t.lease_until > moment, false));
end $$;

-- The result of a lease: a token; else a pause of `p_wait_seconds`; else the account is not one below the connection. False where the lease is over, because the connection or the account ended meanwhile.
create or replace function public.gateway_save_derived_v1(
  p_connection_id uuid, p_account_id text, p_lease_id uuid, p_token text default null, p_seal_id uuid default null, p_scope text[] default null,
  p_expires_seconds double precision default null, p_wait_seconds double precision default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment timestamptz := clock_timestamp();
begin
  if p_token is null and p_wait_seconds is null then
    delete from gateway.derived_token t where t.connection_id = p_connection_id and t.account_id = p_account_id and t.lease_id = p_lease_id;
  else
    update gateway.derived_token t
       set token = coalesce(p_token, t.token), seal_id = coalesce(p_seal_id, t.seal_id), scope = coalesce(p_scope, t.scope),
           derived_at = case when p_token is null then t.derived_at else moment end, lease_id = null,
           expires_at = coalesce(moment + make_interval(secs => p_expires_seconds), t.expires_at),
           lease_until = moment + make_interval(secs => p_wait_seconds)
     where t.connection_id = p_connection_id and t.account_id = p_account_id and t.lease_id = p_lease_id;
  end if;
  return to_jsonb(found);
end $$;

-- A limit of the provider is reached for the account of a connection, or for one below it: no call is sent for that long.
create or replace function public.gateway_pause_account_v1(
  p_connection_id uuid, p_account_id text, p_kind text, p_most integer, p_seconds double precision
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  insert into gateway.provider_pause as x (provider, account_id, kind, most, expires_at)
  select c.provider, coalesce(p_account_id, c.account_id), p_kind, p_most, clock_timestamp() + make_interval(secs => p_seconds)
    from gateway.connection c where c.id = p_connection_id
  on conflict on constraint provider_pause_pkey do update
     set kind = excluded.kind, most = excluded.most, expires_at = excluded.expires_at where x.expires_at < excluded.expires_at;
  return 'null';
end $$;

-- Whether a disconnect by this partner erases the connection: with reach `all` always, else if it was made for this partner and no other
-- partner uses it.
create or replace function gateway.disconnect_deletes(p_partner gateway.partner, p_connection uuid) returns boolean
language sql stable as $$
  select p_partner.reach = 'all' or (
    exists (select from gateway.consent x where x.partner_id = p_partner.id and x.connection_id = p_connection and x.ended_at is null and x.made)
    and not exists (
      select from gateway.consent x join gateway.partner o on o.id = x.partner_id
       where x.connection_id = p_connection and x.partner_id <> p_partner.id and x.ended_at is null and o.revoked_at is null))
$$;

-- Record that a connection was erased, or that only a partner's use of it ended: `p_kept`. The receipt, with the grant that is left to revoke.
create or replace function gateway.record_disconnect(
  p_connection gateway.connection, p_partner_id uuid, p_kept boolean, p_data jsonb default '{}'
)
returns jsonb language plpgsql set search_path = '' as $$
declare
  account  jsonb := jsonb_build_object('id', p_connection.account_id, 'label', p_connection.account_label);
  event_id uuid;
begin
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  values (case when p_kept then 'consent.ended' else 'connection.disconnected' end, p_connection.id, p_connection.user_id,
          p_partner_id, p_connection.provider, p_data || jsonb_strip_nulls(jsonb_build_object('account', account, 'tags', nullif(p_connection.tags, '{}'))))
  returning id into event_id;
  return jsonb_build_object(
    'connection_id', p_connection.id, 'event_id', event_id, 'provider', p_connection.provider, 'account', account,
    'facts', p_connection.facts, 'erased_at', clock_timestamp(), 'kept', p_kept, 'revocation', case when not p_kept then (
      select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = p_connection.seal_id) end);
end $$;

-- null: no such connection for this caller. A trigger queues the grant; the answer has it too, so that the caller can revoke it at once.
-- `p_caller`: a user with an access token instead of a session, or a partner; if other partners use the connection, or it was not made for this
-- one, only this partner's access ends: `kept`. With `p_partner_id` the user ends that partner's access alone. With `p_look` nothing ends: the answer is what an uninstall at the provider needs. `shared`: the app there also serves connections that this partner may
-- not end.
create or replace function public.gateway_disconnect_v1(
  p_connection_id uuid, p_session_hash text default null, p_caller jsonb default null, p_look boolean default false, p_partner_id uuid default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  allowed record;
  p       gateway.partner;
  owner   uuid;
  gone    gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, p_session_hash, p_caller, 'connections:write') f;
  p := allowed.partner;
  gone := allowed.connection;
  owner := gone.user_id;
  if owner is null then
    return allowed.refusal;
  elsif p_look then
    return jsonb_build_object(
      'user_id', owner, 'provider', gone.provider, 'account_id', gone.account_id, 'facts', gone.facts,
      -- A pending grant is revoked without an uninstall.
      'kept', p.id is not null and (gone.status = 'pending_confirmation' or not gateway.disconnect_deletes(p, gone.id)),
      'shared', p.id is not null and p.reach = 'own' and (
        exists (select from gateway.same_account(gone))
        or exists (select from gateway.pending_grant g where g.provider = gone.provider and g.account_id = gone.account_id)));
  elsif gone.status = 'pending_confirmation' then
    return case when gateway.refuse_pending(gone.id, 'disconnected') is not null then gateway.record_disconnect(gone, p.id, false) end;
  end if;
  perform gateway.lock_user(owner);
  perform from public.provider_data d where d.id = p_connection_id for update;
  select c.* into gone from gateway.connection c
   where c.id = p_connection_id and c.user_id = owner and (p.id is null or gateway.partner_can_see(p, c));
  if not found then
    return null;
  elsif p.id is not null then
    -- Lock, so that two partners that disconnect at the same time do not both keep it for the other.
    perform from gateway.consent x where x.connection_id = gone.id and x.ended_at is null order by x.partner_id for update;
    p_partner_id := case when not gateway.disconnect_deletes(p, gone.id) then p.id end;
  end if;
  if p_partner_id is not null then
    update gateway.consent x set ended_at = clock_timestamp()
     where x.partner_id = p_partner_id and x.connection_id = gone.id and x.ended_at is null;
    return case when found then gateway.record_disconnect(gone, p_partner_id, true) end;
  end if;
  delete from public.provider_data d where d.id = gone.id;
  update gateway.revocation r set reason = 'disconnected' where r.seal_id = gone.seal_id;
  return gateway.record_disconnect(gone, p.id, false);
end $$;

-- For the operator: erase one connection, or up to `p_most` of a provider with its pending grants and attempts. A trigger queues each grant, and
-- the process that erases revokes it in the next five minutes. The answer has the receipts, and says whether there are more.
create or replace function public.gateway_erase_v1(p_connection_id uuid default null, p_provider text default null, p_most integer default 1)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c       gateway.connection;
  gone    gateway.connection;
  erased  jsonb := '[]';
  pending integer;
  stopped integer;
begin
  if p_provider is not null then
    -- After this lock, every save that began before the freeze has ended.
    perform pg_advisory_xact_lock(hashtextextended('gateway provider ' || p_provider, 0));
    delete from gateway.authorization_request a where a.state_hash = any (array(
      select x.state_hash from gateway.authorization_request x where x.provider = p_provider limit 1000 for update skip locked));
    get diagnostics stopped = row_count;
    delete from gateway.pending_grant p where p.id = any (array(
      select x.id from gateway.pending_grant x where x.provider = p_provider limit p_most for update skip locked));
    get diagnostics pending = row_count;
  end if;
  for c in select x.* from gateway.connection x where x.id = p_connection_id or x.provider = p_provider order by x.account_id limit p_most loop
    continue when not gateway.lock_user(c.user_id, p_connection_id is not null);
    perform from public.provider_data d where d.id = c.id for update;
    select x.* into gone from gateway.connection x where x.id = c.id;
    continue when not found;
    delete from public.provider_data d where d.id = gone.id;
    update gateway.revocation r set reason = 'revoked', due_at = clock_timestamp() + interval '5 minutes' where r.seal_id = gone.seal_id;
    erased := erased || gateway.record_disconnect(gone, null, false, '{"by": "operator"}');
  end loop;
  return jsonb_build_object(
    'erased', erased, 'pending', pending, 'attempts', stopped,
    'more', exists (select from gateway.connection x where x.provider = p_provider)
            or exists (select from gateway.pending_grant p where p.provider = p_provider)
            or exists (select from gateway.authorization_request a where a.provider = p_provider));
end $$;

-- Events: append, positions, the hash chain, and what callers may read.

-- An uninstall of our app also ended the other connections of its account.
create or replace function public.gateway_record_v1(
  p_type text, p_connection_id uuid default null, p_user_id uuid default null, p_provider text default null, p_data jsonb default '{}'
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values (p_type, p_connection_id, p_user_id, p_provider, p_data);
  perform gateway.end_uninstalled(array(
    select x.id from gateway.connection c cross join gateway.same_account(c) x where c.id = p_connection_id)) where p_type = 'app.uninstalled';
  return null;
end $$;

-- Each event of a connection has its tags, so that a partner needs no second call to know whose it is.
create or replace function gateway.add_tags() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  new.data := coalesce((
    select new.data || jsonb_build_object('tags', c.tags) from gateway.connection c
     where c.id = new.connection_id and c.tags <> '{}'), new.data);
  return new;
end $$;

-- positions -----------------------------------------------------------------------------------------------------------

-- The next positions go to committed events that have none, oldest first. One caller at a time: an event that commits later gets a later
-- position, and no reader sees a position before all lower ones. `greatest`: a row that was inserted with a position must not stop this.
create or replace function public.gateway_assign_positions_v1(p_limit integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  top      bigint;
  assigned integer;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('gateway event positions', 0)) then
    return 0;
  end if;
  select greatest(c.position, (select max(e.position) from gateway.event e)) into top from gateway.event_chain c;
  update gateway.event e set position = top + x.place
    from (select o.id, row_number() over (order by o.at, o.id) as place
            from (select n.id, n.at from gateway.event n where n.position is null order by n.at, n.id limit p_limit) o) x
   where e.id = x.id;
  get diagnostics assigned = row_count;
  update gateway.event_chain c set position = top + assigned where assigned > 0;
  return to_jsonb(assigned);
end $$;

-- the hash chain ------------------------------------------------------------------------------------------------------

-- The state of the chain. The key is set once, before anything is sealed: a chain never gets another one. With `p_limit` a page: the rows
-- after the last seal at or before `p_after`, up to the last seal within `p_limit` positions, or else the next seal; where no seal follows, the
-- next rows after `p_after`.
create or replace function public.gateway_event_chain_v1(p_new_key text default null, p_after bigint default null, p_limit integer default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' set datestyle = 'ISO' as $$
declare
  previous gateway.event_seal;
  last     bigint;
begin
  update gateway.event_chain c set encrypted_key = p_new_key
   where p_new_key is not null and c.encrypted_key is null and not exists (select from gateway.event_seal s where s.hash <> '');
  if p_limit is null then
    return (
      select jsonb_build_object(
               'position', c.position, 'encrypted_key', c.encrypted_key,
               'start', (select to_jsonb(s) from gateway.event_seal s order by s.position limit 1),
               'end', (select to_jsonb(s) from gateway.event_seal s order by s.position desc limit 1),
               'rows_before_start', exists (select from gateway.event e
                                             where e.position <= (select min(s.position) from gateway.event_seal s)),
               'unassigned', (select count(*) from gateway.event e where e.position is null),
               'oldest_unassigned_seconds', (select coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0) from gateway.event e where e.position is null))
        from gateway.event_chain c);
  end if;
  select s.* into previous from gateway.event_seal s
   where s.position <= greatest(p_after, (select min(x.position) from gateway.event_seal x)) order by s.position desc limit 1;
  last := coalesce(
    (select max(s.position) from gateway.event_seal s where s.position > previous.position and s.position <= previous.position + p_limit),
    (select min(s.position) from gateway.event_seal s where s.position > previous.position));
  return jsonb_build_object(
    'previous', to_jsonb(previous),
    'seals', coalesce((select jsonb_agg(to_jsonb(s) order by s.position) from gateway.event_seal s
                        where s.position > previous.position and s.position <= last), '[]'),
    -- With all columns, as they are hashed. `data` and times are text, so that no conversion changes them.
    'rows', coalesce((select jsonb_agg(to_jsonb(x) || jsonb_build_object('at', (x.at at time zone 'UTC')::text, 'data', x.data::text) order by x.position)
                        from (select e.* from gateway.event e
                               where e.position > case when last is null then p_after else previous.position end and (last is null or e.position <= last)
                               order by e.position limit case when last is null then p_limit end) x), '[]'));
end $$;

-- Compare-and-set on the end of the chain.
create or replace function public.gateway_seal_events_v1(p_after bigint, p_position bigint, p_hash text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway event seals', 0));
  insert into gateway.event_seal (position, hash)
  select p_position, p_hash where p_position > p_after and p_after = (select max(s.position) from gateway.event_seal s);
  return to_jsonb(found);
end $$;

-- Whole segments from the front of the chain, in which every event is older than `p_days` whole days (UTC). The chain then starts at the
-- last seal of what was dropped; an event records that, so that any other missing front is found.
create or replace function gateway.drop_old_events(p_days integer, p_limit integer) returns void
language plpgsql set search_path = '' as $$
declare
  kept_from timestamptz := (date_trunc('day', clock_timestamp() at time zone 'UTC') - make_interval(days => p_days)) at time zone 'UTC';
  first     bigint := (select min(s.position) from gateway.event_seal s);
  young     bigint;
  start     gateway.event_seal;
begin
  select coalesce(min(e.position), first + p_limit + 1) into young from gateway.event e
   where e.position > first and e.position <= first + p_limit and e.at >= kept_from;
  select s.* into start from gateway.event_seal s where s.position > first and s.position < young order by s.position desc limit 1;
  if not found then
    return;
  end if;
  delete from gateway.event e where e.position <= start.position;
  delete from gateway.event_seal s where s.position < start.position;
  insert into gateway.event (type, data) values ('events.dropped', to_jsonb(start));
end $$;

-- reading -------------------------------------------------------------------------------------------------------------

-- The events after `p_after` and up to `p_until` that a user may see, or a partner. A partner sees its own acts. With reach `all` it also
-- sees everything about its providers. With reach `own` it sees what users, the operator and the gateway did to connections
-- during its consent, and any disconnect of them until a moment after its consent ended.
create or replace function gateway.visible_events(
  p_partner gateway.partner, p_user_id uuid, p_after bigint, p_until bigint, p_limit integer
)
returns setof gateway.event language plpgsql stable set search_path = '' as $$
begin
  if p_partner.id is null then
    return query  -- by the negative position, or the planner could walk all positions for a user with few events
      select e.* from gateway.event e
       where e.user_id = p_user_id and e.position is not null and -e.position < -p_after and e.type !~ '^(partner|key|events)\.'
       order by -e.position desc limit p_limit;
  else
    return query
      select e.* from gateway.event e
       where e.position > p_after and e.position <= p_until
         and (e.partner_id = p_partner.id
              or e.provider is not null and (p_partner.providers is null or e.provider = any (p_partner.providers))
                 and (p_partner.reach = 'all' or (e.partner_id is null or e.type = 'connection.disconnected') and exists (
                   select from gateway.consent x
                    where x.partner_id = p_partner.id and x.connection_id = e.connection_id and x.created_at <= e.at
                      and (x.ended_at is null or e.at < x.ended_at
                           or e.type = 'connection.disconnected' and e.at < x.ended_at + interval '5 seconds'))))
       order by e.position limit p_limit;
  end if;
end $$;

-- An event as a partner sees it, or a user. A partner with reach `own` does not see who else acted. The body of a provider's event is kept
-- for a week only.
create or replace function gateway.event_json(e gateway.event, p_partner gateway.partner) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', e.id, 'position', e.position, 'type', e.type, 'at', e.at, 'connection_id', e.connection_id, 'user_id', e.user_id,
    'partner', case when (p_partner).reach = 'own' and e.partner_id is distinct from (p_partner).id then null else e.partner_id end,
    'provider', e.provider,
    'data', e.data - array['tags', case when (p_partner).reach = 'own' then 'by' end]
      || jsonb_strip_nulls(jsonb_build_object('tags', nullif(gateway.visible_tags(e.data -> 'tags', p_partner), '{}')))
      || coalesce((select jsonb_build_object('body', i.body) from gateway.incoming_event i where i.id = e.data ->> 'delivery_id'), '{}'))
$$;

-- Token reads and proxied calls by hour, connection and partner: closed hours are events. A partner with reach `own` sees its own, a user
-- those of the own connections. `p_wanted`: the filters, and `after`: a key.
create or replace function gateway.usage_page(p_partner gateway.partner, p_user_id uuid, p_wanted jsonb, p_limit integer) returns jsonb
language sql stable as $$
  with counted as (
    select (e.data ->> 'hour')::timestamptz as hour, e.connection_id, e.partner_id, e.user_id, e.provider,
           (e.data ->> 'reads')::bigint as reads, (e.data ->> 'calls')::bigint as calls
      from gateway.event e where e.type in ('tokens.read', 'proxy.used') and e.at >= (p_wanted ->> 'from')::timestamptz
    union all
    select r.hour, r.connection_id, r.partner_id, r.user_id, r.provider,
           case r.scope when 'tokens:read' then r.reads end, case r.scope when 'proxy' then r.reads end from gateway.token_read r
  ), keyed as (
    select concat_ws('.', to_char(c.hour at time zone 'UTC', 'YYYY-MM-DD-HH24'), c.connection_id, c.partner_id) as key, c.* from counted c
  )
  select coalesce(jsonb_agg(to_jsonb(x) order by x.key), '[]') from (
    select c.key, c.hour, c.connection_id, c.partner_id as partner, c.provider,
           coalesce(sum(c.reads), 0) as token_reads, coalesce(sum(c.calls), 0) as proxied_calls
      from keyed c
     where c.key > coalesce(p_wanted ->> 'after', '') and c.hour >= (p_wanted ->> 'from')::timestamptz and c.hour < coalesce((p_wanted ->> 'to')::timestamptz, 'infinity')
       and c.connection_id = coalesce((p_wanted ->> 'connection_id')::uuid, c.connection_id)
       and (p_wanted ->> 'partner' is null or c.partner_id = (p_wanted ->> 'partner')::uuid)
       and case when p_user_id is not null then c.user_id = p_user_id when p_partner.reach = 'own' then c.partner_id = p_partner.id
                else p_partner.providers is null or c.provider = any (p_partner.providers) end
     group by 1, 2, 3, 4, 5 order by 1 limit p_limit) x
$$;

-- A page for one caller: the partner of a key, or a user. For a partner one call looks at 20,000 positions at most. `next`: where to
-- continue, if there is or may be more.
create or replace function public.gateway_events_v1(p_caller jsonb, p_after bigint, p_limit integer, p_usage jsonb default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks  record;
  top   bigint := (select c.position from gateway.event_chain c);
  until bigint := least(top, p_after + 20000);
  items jsonb;
begin
  select f.* into asks from gateway.caller(p_caller, 'events:read') f;
  if asks.refusal is not null then
    return asks.refusal;
  elsif p_usage is not null then
    return gateway.usage_page(asks.partner, asks.user_id, p_usage, p_limit);
  end if;
  select coalesce(jsonb_agg(gateway.event_json(x, asks.partner) order by x.position), '[]') into items
    from gateway.visible_events(asks.partner, asks.user_id, p_after, until, p_limit + 1) x;
  if jsonb_array_length(items) > p_limit then
    items := items - p_limit;
    until := (items -> (p_limit - 1) ->> 'position')::bigint;
  elsif asks.user_id is not null or until >= top then
    until := null;
  end if;
  return jsonb_build_object('items', items, 'next', until);
end $$;

-- Housekeeping: once a minute, by one worker.

-- After an hour a connect session is over: 15 minutes for the link, 10 for the attempt, 10 for its completion. A pending grant is then revoked:
-- a trigger queues it. An array, since a join with a subquery that locks may run it, and its limit, more than once.
create or replace function gateway.delete_expired(p_limit integer) returns void
language plpgsql set search_path = '' as $$
declare
  place record;
begin
  for place in
    select v.* from (values
      ('session', 'expires_at', interval '0'), ('authorization_request', 'expires_at', '0'), ('connect_session', 'expires_at', '1 hour'),
      ('pending_grant', 'pending_until', '0'), ('incoming_event', 'received_at', '7 days'), ('webhook_secret', 'expires_at', '0'), ('provider_pause', 'expires_at', '0'),
      ('webhook_delivery', 'at', '7 days')) as v (name, "column", kept)
  loop
    execute format('delete from gateway.%1$I x where x.ctid = any (array(
                      select y.ctid from gateway.%1$I y where y.%2$I <= $1 order by y.%2$I limit $2 for update skip locked))', place.name, place."column")
      using clock_timestamp() - place.kept, p_limit;
  end loop;
end $$;

-- The end of a connection is announced once, a week before: of a refresh token whose refreshes fail, and of an access token without one. So is a
-- key that should be replaced, when that is due.
-- An incident whose connections were all disconnected or connected again is over; so is one of keys after an hour, since only checks try them.
create or replace function gateway.announce_ends(p_limit integer) returns void
language plpgsql set search_path = '' as $$
begin
  with ending as (
    update gateway.connection c set announced_at = clock_timestamp() where c.id = any (array(
      select x.id from gateway.connection x
       where x.status = 'active' and x.announced_at is null
         and (x.failures > 0 and x.refresh_expires_at < clock_timestamp() + interval '7 days'
              or not x.refreshable and x.expires_at < clock_timestamp() + interval '7 days' or gateway.is_rotation_due(x)) limit p_limit for update skip locked))
    returning c.*
  )
  insert into gateway.event (type, connection_id, user_id, provider, data)
  select case when gateway.is_rotation_due(e) then 'connection.rotation_due' else 'connection.ending' end, e.id, e.user_id, e.provider,
         jsonb_build_object(case when e.refreshable then 'refresh_expires_at' when gateway.is_rotation_due(e) then 'due_at' else 'expires_at' end,
                            case when e.refreshable then e.refresh_expires_at else coalesce(e.expires_at, e.refresh_expires_at) end) from ending e;
  perform gateway.set_status(array(
    select c.id from gateway.connection c where not c.refreshable and c.expires_at <= now() and gateway.is_over(c) limit p_limit),
    'needs_reauthorization', 'access_token_expired');
  perform gateway.end_incident(i.provider) from gateway.provider_incident i
   where i.ended_at is null and not exists (select from gateway.connection c where c.provider = i.provider and c.status = 'held'
                                               and (c.refreshable or i.began_at > clock_timestamp() - interval '1 hour'));
end $$;

create or replace function public.gateway_housekeeping_v1(p_events_days integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over timestamptz := clock_timestamp();
begin
  if not pg_try_advisory_xact_lock(hashtextextended('gateway housekeeping', 0)) then
    return 'false';
  end if;
  perform gateway.delete_expired(1000);
  perform gateway.close_hours(10000);
  with abandoned as (  -- grants that could not be revoked in 72 hours
    delete from gateway.revocation r where r.seal_id in (
      select x.seal_id from gateway.revocation x
       where x.due_at <= over and x.created_at < over - interval '72 hours' limit 100 for update skip locked)
    returning r.connection_id, r.provider
  )
  insert into gateway.event (type, connection_id, provider)
  select 'grant.revocation_abandoned', a.connection_id, a.provider from abandoned a;
  perform gateway.announce_ends(100);
  perform gateway.drop_old_events(p_events_days, 2000);
  return 'true';
end $$;

-- Importing tokens that the gateway did not write. Triggers put such rows into gateway.import_queue.

-- The owner wrote a token, or removed one. Until its account is confirmed, no caller gets a token that the gateway did not write. Without a
-- refresh token the connection ends with its access token, without both at once.
create or replace function gateway.take_written() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  renewable  boolean := coalesce(new.refresh <> '', false);
  new_status text := case when tg_argv[0] = 'written' then 'unverified' when not renewable and coalesce(new.token, '') = '' then 'needs_reauthorization' end;
begin
  update gateway.connection c
     set status = coalesce(new_status, c.status), refreshable = renewable, updated_at = clock_timestamp(),
         reason = case new_status when 'unverified' then 'owner_wrote_tokens' when 'needs_reauthorization' then 'owner_removed_tokens' else c.reason end,
         refresh_at = case when renewable and new_status is distinct from 'unverified' then c.refresh_at end
   where c.id = new.id and (new_status = 'unverified' or c.status in ('active', 'suspended', 'held'));
  insert into gateway.import_queue as q (id) select new.id where new_status = 'unverified'
  on conflict on constraint import_queue_pkey do update set due_at = clock_timestamp(), attempts = 0;
  return null;
end $$;

create or replace function public.gateway_import_queue_v1()
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(array(select q.id from gateway.import_queue q order by q.id))
$$;

-- One row: the oldest of those that are due and of no provider in `p_busy`, or the one of that id. For a minute no other process gets it,
-- which is longer than a verification takes. null: there is none, or another process has it. The provider of a row is that of its connection,
-- else by its name.
create or replace function public.gateway_claim_import_v1(p_providers jsonb, p_busy text[] default '{}', p_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over    timestamptz := clock_timestamp();
  claimed record;
begin
  select q.id, q.attempts, w.provider into claimed from gateway.import_queue q cross join lateral (
      select coalesce(c.provider, (select p.id from rows from (jsonb_to_recordset(nullif(p_providers, '{}')) as (id text, type integer, names text[]))
                                                    with ordinality p (id, type, names, place)
                                    where gateway.same_provider(d.name, d.type, p.id, p.type, p.names) order by p.place limit 1)) as provider
        from public.provider_data d left join gateway.connection c on c.id = d.id where d.id = q.id) w
   where case when p_id is null then q.due_at <= over else q.id = p_id end and (q.claimed_until is null or q.claimed_until <= over)
     and coalesce(w.provider <> all (p_busy), true)
   order by q.due_at limit 1 for update of q skip locked;
  if not found then
    return null;
  end if;
  update gateway.import_queue q set claimed_until = over + interval '1 minute', attempts = q.attempts + 1 where q.id = claimed.id;
  return (
    select jsonb_build_object(
             'id', d.id, 'user_id', d.auth_provider_id, 'name', d.name, 'provider', claimed.provider,
             'seal_id', c.seal_id, 'refresh_seal_id', c.refresh_seal_id, 'generation', coalesce(c.generation, 0), 'account_id', c.account_id, 'status', c.status,
             'scope', coalesce(c.scope, '{}'), 'token', gateway.bounded(nullif(d.token, '')), 'refresh', gateway.bounded(nullif(d.refresh, '')),
             'expires', left(d.expires, 100), 'expires_at', c.expires_at, 'data', case when c.id is not null then c.facts when octet_length(d.data::text) <= 65536 then d.data end,
             'attempts', claimed.attempts + 1, 'version', d.xmin::text)
      from public.provider_data d left join gateway.connection c on c.id = d.id where d.id = claimed.id);
end $$;

-- Compare-and-set on the row that was read: `p_version` is its transaction. Answers `stored`; `changed`: it was written since; `no_user`;
-- `duplicate`: another row of this user holds the place, unless that one was itself imported and refused.
create or replace function public.gateway_store_import_v1(
  p_id uuid, p_version text, p_provider text, p_type integer, p_one_account boolean, p_seal_id uuid, p_token text, p_refresh text,
  p_expires_at timestamptz, p_scope text[], p_facts jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  owner   uuid := (select d.auth_provider_id from public.provider_data d where d.id = p_id);
  key     text := case when p_one_account then '' else p_id::text end;  -- until the account is known
  profile uuid;
begin
  if owner is null or not exists (select from gateway.live_user(owner)) then
    return '"no_user"';
  end if;
  perform gateway.lock_user(owner);
  perform from public.provider_data d where d.id = p_id and d.auth_provider_id = owner and d.xmin::text = p_version for update;
  if not found then
    return '"changed"';
  elsif not exists (select from gateway.connection c where c.id = p_id) then
    update gateway.connection c set account_key = c.id::text
     where c.user_id = owner and c.provider = p_provider and c.account_key = key
       and c.account_id = '' and c.status = 'needs_reauthorization';
    if exists (select from gateway.connection c where c.user_id = owner and c.provider = p_provider and c.account_key = key) then
      return '"duplicate"';
    end if;
    profile := gateway.list_in_profile(owner, p_id, null);
  end if;
  insert into gateway.connection as c
    (id, seal_id, refresh_seal_id, user_id, provider, type, account_key, account_id, account_label, scope, generation, status, reason,
     refreshable, expires_at, facts)
  values (p_id, p_seal_id, p_seal_id, owner, p_provider, p_type, key, '', '', p_scope, 1, 'unverified', 'imported',
          p_refresh is not null, p_expires_at, p_facts)
  on conflict (id) do update set
    seal_id = excluded.seal_id, refresh_seal_id = excluded.seal_id, generation = c.generation + 1, status = 'unverified',
    reason = 'owner_wrote_tokens', refreshable = excluded.refreshable, client_id = null, refused_since = null, expires_at = excluded.expires_at,
    refresh_at = null, lease_id = null, lease_until = null, lease_host = null, intent_at = null, failures = 0, not_before = null,
    updated_at = clock_timestamp();
  update public.provider_data d
     set provider_id_ref = coalesce(profile, d.provider_id_ref), name = p_provider, type = p_type, token = p_token, refresh = p_refresh,
         expires = to_char(p_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
         data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end || jsonb_build_object('status', 'unverified', 'reason',
                  (select c.reason from gateway.connection c where c.id = p_id))
   where d.id = p_id;
  return '"stored"';
end $$;

-- `confirmed`: the connection of that save is active; without an account a refresh has confirmed it before. `refused`: it needs
-- reauthorization. `later`: due again after `p_wait_seconds`. What was written since the claim stays in the queue as it is.
create or replace function public.gateway_finish_import_v1(
  p_id uuid, p_outcome text, p_seal_id uuid default null, p_account jsonb default null, p_error text default '',
  p_wait_seconds double precision default 0
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  perform from public.provider_data d where d.id = p_id for update;
  update gateway.import_queue q
     set claimed_until = null, due_at = case q.attempts when 0 then q.due_at else clock_timestamp() + make_interval(secs => p_wait_seconds) end
   where q.id = p_id and (p_outcome = 'later' or q.attempts = 0);  -- 0: written again since it was claimed
  if found then
    return null;
  end if;
  update gateway.connection x
     set status = case p_outcome when 'confirmed' then 'active' else 'needs_reauthorization' end,
         reason = case when p_outcome <> 'confirmed' then p_error end,
         account_id = coalesce(p_account ->> 'id', x.account_id), account_label = coalesce(p_account ->> 'label', x.account_label),
         account_key = case when x.account_key = '' or p_account is null then x.account_key else p_account ->> 'id' end,
         refresh_at = gateway.refresh_time(exists (select from public.provider_data d where d.id = x.id and d.refresh is not null),
                                           x.expires_at, x.refresh_expires_at),
         updated_at = clock_timestamp()
   where x.id = p_id and x.seal_id = p_seal_id and x.status = 'unverified';
  delete from gateway.import_queue q where q.id = p_id;
  return null;
end $$;

-- Every encrypted value with the context that its key is derived from.
create or replace view gateway.encrypted_value as
  select 'connection' as kind, c.id, v."column", v.text, c.user_id, c.provider, v.seal_id::text
    from gateway.connection c join public.provider_data d on d.id = c.id
   cross join lateral (values ('token', gateway.bounded(d.token), c.seal_id), ('refresh', gateway.bounded(d.refresh), c.refresh_seal_id)) as v ("column", text, seal_id)
   where v.text like 'gAAAA%'
  union all
  select 'pending_grant', g.id, v."column", v.text, g.user_id, g.provider, g.seal_id::text
    from gateway.pending_grant g cross join lateral (values ('token', g.token), ('refresh', g.refresh)) as v ("column", text)
   where v.text is not null
  union all
  select 'revocation', r.seal_id, v."column", v.text, r.user_id, r.provider, v.seal_id::text
    from gateway.revocation r
   cross join lateral (values ('token', r.token, r.seal_id), ('refresh', r.refresh, r.refresh_seal_id)) as v ("column", text, seal_id)
   where v.text like 'gAAAA%'
  union all
  select 'webhook', s.seal_id, 'webhook_secret', s.webhook_secret, null, '', s.seal_id::text from gateway.webhook_secret s
  union all
  select 'unclaimed_install', u.id, 'unclaimed_install', u.encrypted, null, '', u.id::text from gateway.unclaimed_install u
  union all
  select 'event_chain', '00000000-0000-0000-0000-000000000000', 'event_chain', l.encrypted_key, null, '', 'event_chain'
    from gateway.event_chain l where l.encrypted_key is not null;

-- A page of one kind, after `p_after_id` and `p_after_column`.
create or replace function public.gateway_encrypted_values_v1(p_kind text, p_after_id uuid, p_after_column text, p_most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'total', case when p_after_id is null then (select count(*) from gateway.encrypted_value v where v.kind = p_kind) end,
    'items', coalesce((
      select jsonb_agg(jsonb_build_object('id', x.id, 'text', x.text, 'context', to_jsonb(x) - array['kind', 'id', 'text']) order by x.id, x."column")
        from (select v.* from gateway.encrypted_value v
               where v.kind = p_kind and (p_after_id is null or v.id >= p_after_id)
                 and (p_after_id is null or (v.id, v."column") > (p_after_id, p_after_column))
               order by v.id, v."column" limit p_most) x), '[]'))
$$;

-- Compare-and-set on the encrypted text itself, because no two are the same: a value that was replaced meanwhile stays as it
-- is. Locked rows are skipped. `p_changes`: {"items": [{id, column, old, new}]}.
create or replace function public.gateway_replace_encrypted_v1(p_kind text, p_changes jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  place    record;
  change   record;
  changed  integer;
  replaced integer := 0;
begin
  select v.* into strict place from (values
    ('connection', 'public.provider_data', 'id'), ('pending_grant', 'gateway.pending_grant', 'id'),
    ('revocation', 'gateway.revocation', 'seal_id'), ('webhook', 'gateway.webhook_secret', 'seal_id'),
    ('unclaimed_install', 'gateway.unclaimed_install', 'id'), ('event_chain', 'gateway.event_chain', null)) as v (kind, target, key) where v.kind = p_kind;
  for change in
    select i.id, i.old, i.new, case i."column" when 'event_chain' then 'encrypted_key' when 'unclaimed_install' then 'encrypted' else i."column" end as "column"
      from jsonb_to_recordset(p_changes -> 'items') as i (id uuid, "column" text, old text, new text)
     where i.new ~ '^gAAAA' order by i.id
  loop
    execute format(
      'with free as (select x.ctid from %1$s x where %3$s and x.%2$I = $2 for no key update skip locked)
       update %1$s t set %2$I = $3 from free where t.ctid = free.ctid',
      place.target, change."column", case when place.key is null then '$1 is not null' else format('x.%I = $1', place.key) end)
    using change.id, change.old, change.new;
    get diagnostics changed = row_count;
    replaced := replaced + changed;
  end loop;
  return to_jsonb(replaced);
end $$;

-- How many tokens a partner or a user may read in an hour. A proxied call counts as a read.

-- Record a reached limit or a jump in reads: one event an hour for each kind. Freeze the partner if it is configured so.
create or replace function gateway.alert(p_partner_id uuid, p_kind text, p_data jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  moment timestamptz := clock_timestamp();
  frozen boolean;
begin
  update gateway.partner p
     set alerts = p.alerts || jsonb_build_object(p_kind, moment),
         frozen_at = case when p.freeze_on_alert then coalesce(p.frozen_at, moment) else p.frozen_at end
   where p.id = p_partner_id and coalesce((p.alerts ->> p_kind)::timestamptz <= moment - interval '1 hour', true)
  returning p.freeze_on_alert into frozen;
  if not found then
    return;
  end if;
  insert into gateway.event (type, partner_id, data) values ('partner.alerted', p_partner_id, p_data || jsonb_build_object('limit', p_kind));
  insert into gateway.event (type, partner_id, data) select 'partner.frozen', p_partner_id, '{"why": "alert"}' where frozen;
end $$;

-- Of an answer that counts towards a limit: how much is used, and in how many seconds that ends.
create or replace function gateway.quota(p_limit integer, p_used bigint, p_until timestamptz) returns jsonb
language sql stable as $$
  select case when p_limit is null then '{}' else jsonb_build_object('quota', jsonb_build_object(
    'limit', p_limit, 'used', p_used, 'seconds', greatest(1, ceil(extract(epoch from p_until - clock_timestamp()))))) end
$$;

-- Add a process's reads to the hour of their reader. A partner without a limit raises an alert when it reads five times as much as in
-- the busiest hour of the day before, and a thousand tokens at least; so does one that was not used for a day.
create or replace function gateway.report_reads(
  p_reader_id uuid, p_partner_id uuid, p_hour timestamptz, p_reads integer, p_connections integer, p_limited boolean
)
returns void language plpgsql set search_path = '' as $$
declare
  total bigint;
  usual bigint;
begin
  insert into gateway.usage as u (reader_id, hour, reads, connections) values (p_reader_id, p_hour, p_reads, p_connections)
  on conflict on constraint usage_pkey do update set reads = u.reads + excluded.reads, connections = u.connections + excluded.connections
  returning u.reads into total;
  if p_partner_id is not null and not p_limited and total >= 1000 then
    select coalesce(max(u.reads), 0) into usual from gateway.usage u
     where u.reader_id = p_reader_id and u.hour between p_hour - interval '1 day' and p_hour - interval '1 hour';
    perform gateway.alert(p_partner_id, 'reads', jsonb_build_object('reads', total, 'usual', usual)) where total > 5 * usual;
  end if;
end $$;

-- Make one event of each past hour, and delete counts that no limit and no alert needs any more. Part of housekeeping.
create or replace function gateway.close_hours(p_most integer) returns void
language plpgsql set search_path = '' as $$
declare
  this_hour timestamptz := date_trunc('hour', clock_timestamp(), 'UTC');
begin
  with closed as (
    delete from gateway.token_read r where (r.connection_id, r.reader_id, r.hour, r.scope) in (
      select x.connection_id, x.reader_id, x.hour, x.scope from gateway.token_read x
       where x.hour < this_hour order by x.hour limit p_most for update skip locked)
    returning r.*)
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  select case c.scope when 'proxy' then 'proxy.used' else 'tokens.read' end, c.connection_id, c.user_id, c.partner_id, c.provider, jsonb_build_object(
           case c.scope when 'proxy' then 'calls' else 'reads' end, c.reads, 'hour', c.hour, 'first_at', c.first_at, 'last_at', c.last_at,
           'networks', (select coalesce(jsonb_agg(host(n) || '/' || masklen(n)), '[]') from unnest(c.networks) n))
    from closed c;
  delete from gateway.usage u where u.hour < this_hour - interval '1 day';
end $$;

-- Record the owner's consent for the partner of a connect session, which ends with it. Returns the partner; null: there is no session.
create or replace function gateway.give_consent(p_session_id uuid, p_connection_id uuid, p_made boolean) returns uuid
language plpgsql set search_path = '' as $$
declare
  s gateway.connect_session;
begin
  update gateway.connect_session x set ended_at = clock_timestamp() where x.id = p_session_id returning x.* into s;
  if not found then
    return null;
  end if;
  -- An ended consent stays ended: the new one begins now.
  update gateway.consent x
     set made = x.made or p_made, scope = array(select distinct n.name from unnest(x.scope || s.scope) n (name))
   where x.partner_id = s.partner_id and x.connection_id = p_connection_id and x.ended_at is null;
  insert into gateway.consent (partner_id, connection_id, made, scope) select s.partner_id, p_connection_id, p_made, s.scope where not found;
  update gateway.connection c set tags = c.tags || s.tags where c.id = p_connection_id and s.tags <> '{}';
  insert into gateway.event (type, connection_id, user_id, provider, partner_id, data)
  values ('consent.given', p_connection_id, s.user_id, s.provider, s.partner_id, jsonb_build_object('connect_session', s.id));
  return s.partner_id;
end $$;

-- null: not one of the partner's providers, or no such user. In the quarter of an hour that a link lives, a partner makes a thousand at most,
-- and twenty for one user.
create or replace function public.gateway_create_connect_session_v1(
  p_caller jsonb, p_secret_hash text, p_user_id uuid, p_provider text, p_scope text[], p_return_to text, p_tags jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  who     record;
  added   gateway.connect_session;
  limits  record;
begin
  select c.* into who from gateway.caller(p_caller, 'sessions:write') c;
  if who.refusal is not null then
    return who.refusal;
  elsif not coalesce(p_provider = any ((who.partner).providers), true) then
    return null;
  elsif gateway.own_auth() then
    insert into auth.users (id) values (p_user_id) on conflict do nothing;
  end if;
  if not exists (select from gateway.live_user(p_user_id)) then
    return null;
  end if;
  select q.most, count(x.created_at) as used, coalesce(min(x.created_at), clock_timestamp()) + interval '15 minutes' as until into limits
    from (values (1000, null), (20, p_user_id)) as q (most, user_id)
    left join lateral (
      select s.created_at from gateway.connect_session s
       where s.partner_id = (who.partner).id and (q.user_id is null or s.user_id = q.user_id) and s.created_at > clock_timestamp() - interval '15 minutes'
       order by s.created_at desc limit q.most) x on true
   group by q.most order by q.most - count(x.created_at) limit 1;
  if limits.used >= limits.most then
    return '{"refused": "rate_limited"}'::jsonb || gateway.quota(limits.most, limits.used, limits.until);
  end if;
  insert into gateway.connect_session as s (secret_hash, partner_id, user_id, provider, scope, return_to, tags)
  values (p_secret_hash, (who.partner).id, p_user_id, p_provider, p_scope, p_return_to,
          case when p_tags = '{}' then p_tags else jsonb_build_object((who.partner).id, p_tags) end) returning s.* into added;
  insert into gateway.event (type, user_id, provider, partner_id, data)
  values ('link.created', p_user_id, p_provider, added.partner_id, jsonb_strip_nulls(jsonb_build_object('connect_session', added.id, 'tags', nullif(added.tags, '{}'))));
  return jsonb_build_object('id', added.id, 'expires_at', added.expires_at) || gateway.quota(limits.most, limits.used + 1, limits.until);
end $$;

-- The link with this secret, if it can be started: unused, not expired, its partner and its user still active.
create or replace function gateway.open_link(p_wanted text) returns setof gateway.connect_session
language sql stable as $$
  select s.* from gateway.connect_session s join gateway.partner p on p.id = s.partner_id
   where s.secret_hash = p_wanted and s.started_at is null and s.expires_at > clock_timestamp() and p.revoked_at is null
     and exists (select from gateway.live_user(s.user_id))
$$;

-- null: no usable link. The content of its page; opening it does not use it up. The existing connection and the scopes of its partners are only
-- shown to its signed-in user; any other holder of the link sees only what the link requests.
create or replace function public.gateway_link_v1(p_secret_hash text, p_session_hash text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select case when p.frozen_at is not null or exists (select from gateway.freeze f where f.target = 'provider:' || s.provider)
              then '{"refused": "frozen"}'::jsonb else jsonb_build_object(
           'id', s.id, 'provider', s.provider, 'return_to', s.return_to, 'user_id', s.user_id,
           'user_label', gateway.label_of(s.user_id), 'partner', p.name, 'partner_scope', p.scope, 'partner_reach', p.reach, 'scope', s.scope,
           'scope_of_others', case when i.user_id = s.user_id then gateway.scopes_of_other_partners(s.user_id, s.provider, true) else '{}' end,
           'session_user_id', i.user_id, 'session_label', i.label,
           'existing', (select jsonb_build_object('account_label', c.account_label, 'status', gateway.status_of(c), 'facts', c.facts) from gateway.connection c
                         where c.user_id = s.user_id and c.provider = s.provider and i.user_id = s.user_id
                         order by c.updated_at desc, c.id limit 1)) end
    from gateway.open_link(p_secret_hash) s join gateway.partner p on p.id = s.partner_id
    left join gateway.live_session(p_session_hash) i on true
$$;

-- For the operator: listings, backlog, hosts, the schema's version.

-- The worker's backlog, and the results of recent refreshes of all processes.
create or replace function public.gateway_worker_backlog_v1(p_recent_seconds integer default 0)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare
  since timestamptz := clock_timestamp() - make_interval(secs => p_recent_seconds);  -- a variable, so that the index is used
begin
  return jsonb_build_object(
    'due', (select count(*) from gateway.connection c where c.status in ('active', 'suspended', 'held') and c.refresh_at <= clock_timestamp()),
    'oldest_due_seconds', (select coalesce(extract(epoch from clock_timestamp() - min(c.refresh_at)), 0)
                             from gateway.connection c where c.status in ('active', 'suspended', 'held') and c.refresh_at <= clock_timestamp()),
    'dead_intents', (select count(*) from gateway.connection c where c.intent_at is not null and c.lease_until < clock_timestamp()),
    'revocations', (select count(*) from gateway.revocation r),
    'pending_grants', (select count(*) from gateway.pending_grant p),
    'events_unassigned', (select count(*) from gateway.event e where e.position is null),
    'oldest_unassigned_seconds', (select coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0) from gateway.event e where e.position is null),
    'frozen', jsonb_build_object(
      'partner', (select count(*) from gateway.partner p where p.frozen_at is not null and p.revoked_at is null),
      'provider', (select count(*) from gateway.freeze f where f.target like 'provider:%'),
      'reads', (select count(*) from gateway.freeze f where f.target = 'reads')),
    'connections', (select coalesce(jsonb_object_agg(x.status, x.n), '{}')
                      from (select gateway.status_of(c) as status, count(*) as n from gateway.connection c group by 1) x),
    'refreshes', (select coalesce(jsonb_object_agg(x.outcome, x.n), '{}')
                    from (select case e.type when 'grant.refreshed' then 'refreshed' else coalesce(e.data ->> 'remedy', 'wait') end as outcome,
                                 count(*) as n
                            from gateway.event e where e.at > since and e.type in ('grant.refreshed', 'grant.refresh_failed') group by 1) x),
    'incidents', (select coalesce(jsonb_agg(i.provider), '[]') from gateway.provider_incident i where i.ended_at is null));
end $$;

create or replace function public.gateway_schema_v1()
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  if pg_is_in_recovery() or current_setting('default_transaction_read_only')::boolean then
    raise read_only_sql_transaction using message = 'the database is read-only';
  end if;
  return jsonb_build_object('version', (select max(m.number) from gateway.migration m),
    'functions', (select jsonb_agg(r.sha256) from gateway.function_release r));
end $$;

-- The hosts seen in the last ten minutes. After a restart, the keys of the old processes count until they have been silent for two
-- minutes. A process reports its keys at the start and every minute: `p_host`.
create or replace function public.gateway_hosts_v1(p_host text default null, p_keys text[] default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  if p_host is not null then
    delete from gateway.host h where h.seen_at < clock_timestamp() - interval '1 day';
    insert into gateway.host (host, keys) values (p_host, p_keys)
    on conflict on constraint host_pkey do update set seen_at = clock_timestamp();
    return null;
  end if;
  return coalesce((
    select jsonb_agg(jsonb_build_object('id', x.host, 'keys', x.keys, 'seen_seconds', x.seconds) order by x.host, x.seconds)
      from (select h.host, h.keys, extract(epoch from clock_timestamp() - h.seen_at)::integer as seconds,
                   h.seen_at = max(h.seen_at) over (partition by h.host) as latest
              from gateway.host h where h.seen_at > clock_timestamp() - interval '10 minutes') x
     where x.latest or x.seconds <= 150), '[]');
end $$;

-- One connection and its last events; null if it never existed, or its events are deleted.
create or replace function public.gateway_inspect_connection_v1(p_connection_id uuid)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare
  c gateway.connection;
begin
  select x.* into c from gateway.connection x where x.id = p_connection_id;
  if not found and not exists (select from gateway.event e where e.connection_id = p_connection_id) then
    return null;
  end if;
  return jsonb_build_object(
    'connection', case when c.id is not null then gateway.public_data(c) end,
    'refresh', case when c.id is not null then jsonb_build_object(
                 'refresh_at', c.refresh_at, 'refresh_expires_at', c.refresh_expires_at, 'failures', c.failures, 'not_before', c.not_before,
                 'refused_since', c.refused_since, 'refusal', c.refusal, 'client_id', c.client_id) end,
    'revocations_queued', (select count(*) from gateway.revocation r where r.connection_id = p_connection_id),
    'partners', (select coalesce(jsonb_agg(jsonb_build_object(
                   'id', p.id, 'name', p.name, 'since', x.created_at, 'ended_at', x.ended_at, 'made', x.made) order by x.created_at), '[]')
                   from gateway.consent x join gateway.partner p on p.id = x.partner_id where x.connection_id = p_connection_id),
    'events', (select coalesce(jsonb_agg(to_jsonb(x) order by x.at desc, x.id), '[]')
                 from (select e.* from gateway.event e where e.connection_id = p_connection_id order by e.at desc limit 10) x));
end $$;

-- A provider's connections, users, pending grants, attempts and queued revocations, counted; and with `p_since` a page of the connections that
-- the operator erased since then, each with what became of its grant.
create or replace function public.gateway_provider_holdings_v1(
  p_provider text, p_since timestamptz default null, p_after_at timestamptz default null, p_after_id uuid default null, p_most integer default 0
)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'connections', (select count(*) from gateway.connection c where c.provider = p_provider),
    'users', (select count(distinct c.user_id) from gateway.connection c where c.provider = p_provider),
    'pending', (select count(*) from gateway.pending_grant p where p.provider = p_provider),
    'attempts', (select count(*) from gateway.authorization_request a where a.provider = p_provider and a.used_at is null),
    'queued', (select count(*) from gateway.revocation r where r.provider = p_provider),
    'frozen_at', (select f.frozen_at from gateway.freeze f where f.target = 'provider:' || p_provider),
    'erased', (
      select coalesce(jsonb_agg(jsonb_build_object(
               'connection_id', x.connection_id, 'account_id', x.data -> 'account' ->> 'id', 'erased_at', x.at, 'event_id', x.id,
               'position', x.position,
               'revocation', case when exists (select from gateway.revocation r where r.connection_id = x.connection_id) then 'queued'
                 else coalesce((
                   select case o.type when 'grant.revoked' then o.data ->> 'revocation' else 'abandoned' end from gateway.event o
                    where o.connection_id = x.connection_id and o.type in ('grant.revoked', 'grant.revocation_abandoned')
                    order by o.at desc limit 1), 'unsupported') end) order by x.at, x.id), '[]')
        from (select e.* from gateway.event e
               where e.at >= coalesce(p_after_at, p_since) and (p_after_at is null or (e.at, e.id) > (p_after_at, p_after_id))
                 and e.type = 'connection.disconnected' and e.provider = p_provider and e.data ->> 'by' = 'operator'
               order by e.at, e.id limit p_most) x))
$$;

-- The partner that a command means: the one in use, else the last that was revoked.
create or replace function gateway.named_partner(p_name text) returns gateway.partner
language sql stable as $$
  select p from gateway.partner p where p.name = p_name order by p.revoked_at is not null, p.created_at desc limit 1
$$;

-- The first key of a new partner with the columns `p_partner`, or one more of a partner: at most two valid ones, so that one can replace the
-- other without a pause and none is forgotten. Omitted restrictions are copied from the newest key, so that a new key is never wider by
-- accident. Answers `taken`, `two_keys` or `revoked` where it is not made; null: no such partner.
create or replace function public.gateway_add_key_v1(
  p_name text, p_key_hash text, p_hint text, p_addresses text[], p_expires_seconds double precision, p_partner jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p      gateway.partner := jsonb_populate_record(null::gateway.partner, p_partner);
  newest gateway.api_key;
  added  gateway.api_key;
begin
  if p_partner is not null then
    insert into gateway.partner as x (name, scope, providers, reach, reads_per_hour, connections_per_hour, freeze_on_alert)
    values (p_name, p.scope, p.providers, p.reach, coalesce(p.reads_per_hour, case p.reach when 'own' then 10000 end),
            coalesce(p.connections_per_hour, case p.reach when 'own' then 1000 end), p.freeze_on_alert)
    on conflict (name) where revoked_at is null do nothing returning x.* into p;
    if not found then
      return '"taken"';
    end if;
    insert into gateway.event (type, partner_id, data)
    values ('partner.added', p.id, p_partner || jsonb_build_object(
      'name', p_name, 'reads_per_hour', p.reads_per_hour, 'connections_per_hour', p.connections_per_hour));
  else
    select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_name)).id for update;
    if not found then
      return null;
    elsif p.revoked_at is not null then
      return '"revoked"';
    elsif (select count(*) from gateway.api_key k
            where k.partner_id = p.id and k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())) >= 2 then
      return '"two_keys"';
    end if;
    select k.* into newest from gateway.api_key k where k.partner_id = p.id order by k.created_at desc limit 1;
  end if;
  insert into gateway.api_key as k (key_hash, partner_id, hint, addresses, expires_at)
  values (p_key_hash, p.id, p_hint, coalesce(p_addresses::inet[], newest.addresses), clock_timestamp() + coalesce(
            make_interval(secs => p_expires_seconds), newest.expires_at - newest.created_at))
  returning k.* into added;
  insert into gateway.event (type, partner_id, data)
  values ('key.added', p.id, jsonb_build_object('key', added.id, 'hint', p_hint, 'expires_at', added.expires_at));
  return jsonb_build_object('partner_id', p.id, 'key_id', added.id);
end $$;

-- `p_changes`: some of the columns; null for a limit: none; null for providers: every one. Without it the partner is revoked with all its
-- keys, or the key `p_key_id` alone. null: no such partner or key; false: it was revoked before.
create or replace function public.gateway_change_partner_v1(p_name text, p_changes jsonb default null, p_key_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p gateway.partner;
  k gateway.api_key;
begin
  select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_name)).id for update;
  select x.* into k from gateway.api_key x where x.id = p_key_id and x.partner_id = p.id for update;
  if p.id is null or p_key_id is not null and k.id is null then
    return null;
  elsif coalesce(k.revoked_at, p.revoked_at) is not null then
    return 'false';
  elsif p_changes is not null then
    -- The default limits go with the reach; any other number stays.
    p_changes := case when p_changes ->> 'reach' = p.reach then '{}'
                      when p_changes ->> 'reach' = 'own' then jsonb_build_object(
                        'reads_per_hour', coalesce(p.reads_per_hour, 10000), 'connections_per_hour', coalesce(p.connections_per_hour, 1000))
                      when p_changes ->> 'reach' = 'all' then jsonb_build_object(
                        'reads_per_hour', nullif(p.reads_per_hour, 10000), 'connections_per_hour', nullif(p.connections_per_hour, 1000))
                      else '{}' end || p_changes;
    p := jsonb_populate_record(p, p_changes);
    update gateway.partner x
       set scope = p.scope, providers = p.providers, reach = p.reach, reads_per_hour = p.reads_per_hour,
           connections_per_hour = p.connections_per_hour, freeze_on_alert = p.freeze_on_alert
     where x.id = p.id;
  else
    update gateway.partner x set revoked_at = clock_timestamp() where x.id = p.id and p_key_id is null;
    update gateway.api_key x set revoked_at = clock_timestamp()
     where x.partner_id = p.id and x.id = coalesce(p_key_id, x.id) and x.revoked_at is null;
  end if;
  insert into gateway.event (type, partner_id, data)
  values (case when p_changes is not null then 'partner.changed' when p_key_id is not null then 'key.revoked' else 'partner.revoked' end, p.id,
          coalesce(p_changes, case when p_key_id is null then jsonb_build_object('name', p_name) else jsonb_build_object('key', k.id, 'hint', k.hint) end));
  return 'true';
end $$;

-- One of three targets: a partner, by name; all tokens of a provider; all tokens.
create or replace function public.gateway_freeze_v1(
  p_partner text default null, p_provider text default null, p_reads boolean default false, p_off boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p      gateway.partner;
  wanted text := case when p_provider is not null then 'provider:' || p_provider when p_reads then 'reads' end;
  moved  boolean;
begin
  if p_partner is not null then
    select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_partner)).id for update;
    if not found then
      return null;
    end if;
    -- The operator has seen the alert: the next one is recorded, and freezes, again.
    update gateway.partner x
       set frozen_at = case when not p_off then clock_timestamp() end, alerts = case when p_off then '{}' else x.alerts end
     where x.id = p.id and (x.frozen_at is not null) = p_off;
  elsif p_off then
    delete from gateway.freeze f where f.target = wanted;
  else
    insert into gateway.freeze (target) values (wanted) on conflict on constraint freeze_pkey do nothing;
  end if;
  moved := found;
  insert into gateway.event (type, partner_id, provider)
  select case when p_partner is not null then 'partner' when p_provider is not null then 'provider' else 'reads' end
         || case when p_off then '.thawed' else '.frozen' end, p.id, p_provider where moved;
  return to_jsonb(moved);
end $$;

-- All partners, or one, with their use in this hour and their keys' ids and uses, never the keys; and what is frozen.
create or replace function public.gateway_partners_v1(p_name text default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'frozen', (select coalesce(jsonb_agg(f.target order by f.target), '[]') from gateway.freeze f),
    'frozen_since', (select coalesce(jsonb_object_agg(f.target, f.frozen_at), '{}') from gateway.freeze f),
    'partners', coalesce((
      select jsonb_agg(to_jsonb(p) || jsonb_build_object(
               'reads_this_hour', coalesce(h.reads, 0), 'connections_this_hour', coalesce(h.connections, 0), 'keys', coalesce((
               select jsonb_agg(jsonb_build_object(
                        'id', k.id, 'hint', k.hint, 'addresses', k.addresses, 'created_at', k.created_at,
                        'expires_at', k.expires_at, 'revoked_at', k.revoked_at, 'last_used_at', k.last_used_at,
                        'last_used_from', host(k.last_used_from)) order by k.created_at, k.id)
                 from gateway.api_key k where k.partner_id = p.id), '[]')) order by p.created_at, p.name)
        from gateway.partner p
        left join gateway.usage h on h.reader_id = p.id and h.hour = date_trunc('hour', clock_timestamp(), 'UTC')
       where p_name is null or p.id = (gateway.named_partner(p_name)).id), '[]'))
$$;

-- Queue a deleted pending grant to be revoked, also if it is deleted with its user.
create or replace function gateway.queue_pending_grant() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if old.ending is distinct from 'saved' then
    insert into gateway.revocation (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason, due_at)
    values (old.id, 1, old.user_id, old.provider, old.account_id, old.facts, old.token, old.refresh, old.seal_id, old.seal_id, 'not_confirmed', clock_timestamp())
    on conflict on constraint revocation_pkey do nothing;
    insert into gateway.event (type, user_id, provider, partner_id, data)
    select 'link.refused', old.user_id, old.provider, s.partner_id, jsonb_build_object('connect_session', s.id, 'error', coalesce(old.ending, 'expired'))
      from gateway.connect_session s where s.id = old.connect_session_id;
  end if;
  return old;
end $$;

-- null: the session has ended, or this user has no pending grant in this browser. The content of the confirm page.
create or replace function public.gateway_pending_grant_v1(p_session_hash text, p_browser_hash text, p_provider text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
           'id', g.id, 'user', jsonb_build_object('id', g.user_id, 'label', s.label), 'provider', g.provider,
           'account', jsonb_build_object('id', g.account_id, 'label', g.account_label), 'return_to', g.return_to, 'display', g.display,
           'clock', jsonb_build_object('at', clock_timestamp()),
           'existing_label', coalesce((
             select c.account_label from gateway.connection c where c.user_id = g.user_id and c.provider = g.provider
              order by c.updated_at desc, c.id limit 1), ''),
           'scopes_removed', coalesce((
             select array(select n.name from unnest(c.scope) with ordinality n (name, place) where n.name <> all (g.scope) order by n.place)
               from gateway.connection c where c.user_id = g.user_id and c.provider = g.provider and c.account_id = g.account_id
              order by c.updated_at desc limit 1), '{}'),
           'shared_with', array(
             select distinct w.partner ->> 'name'
               from gateway.connection c cross join jsonb_array_elements(gateway.sharing(c.id)) as w (partner)
              where c.user_id = g.user_id and c.provider = g.provider order by 1))
    from gateway.live_session(p_session_hash) s
    join gateway.pending_grant g on g.user_id = s.user_id and g.provider = p_provider and g.browser_hash = p_browser_hash
   where g.pending_until > clock_timestamp() and g.confirmation_hash is null
$$;

-- Delete a pending grant; the trigger queues it to be revoked. `p_error`: the reason in the partner's event. Returns the queued grant.
create or replace function gateway.refuse_pending(p_id uuid, p_error text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  gone gateway.pending_grant;
begin
  update gateway.pending_grant g set ending = p_error where g.id = p_id;
  delete from gateway.pending_grant g where g.id = p_id returning g.* into gone;
  return (select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = gone.seal_id);
end $$;

-- Carry out a decision about a pending grant, under lock_user. `p_choice` is null where a partner has made none.
--   ending: `saved`, `access_denied` and `frozen` (the grant has to be revoked), `one_account` (a user has one connection of this provider)
create or replace function gateway.decide_pending(
  p_grant gateway.pending_grant, p_choice text, p_call_id uuid, p_partner gateway.partner default null
)
returns jsonb language plpgsql set search_path = '' as $$
declare
  existing gateway.connection;
  saved    gateway.connection;
  target   uuid;
begin
  if p_choice = 'both' and not p_grant.many_accounts then
    return '{"ending": "one_account"}';
  elsif p_choice = 'no' then
    return jsonb_build_object('ending', 'access_denied', 'revocation', gateway.refuse_pending(p_grant.id, 'access_denied'));
  elsif gateway.is_stopped(p_grant.provider, p_grant.connect_session_id) then
    return jsonb_build_object('ending', 'frozen', 'revocation', gateway.refuse_pending(p_grant.id, 'access_denied'));
  end if;
  existing := gateway.lock_existing(p_grant);
  target := case
    when existing.id is null then coalesce(gateway.earlier_row(p_grant), p_grant.id)
    when existing.account_id = p_grant.account_id then
      case when p_choice = 'replace' or existing.scope <@ p_grant.scope then existing.id end
    when p_choice = 'both' then p_grant.id
    when p_choice = 'replace' then existing.id end;
  if target is null then
    return '{"refused": "pending_confirmation"}';
  end if;
  update gateway.pending_grant g set ending = 'saved' where g.id = p_grant.id;
  delete from gateway.pending_grant g where g.id = p_grant.id;
  saved := gateway.write_connection(p_grant, target, p_call_id);
  return jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(saved, p_partner));
end $$;

-- The user's decision. `state_invalid`: it was decided before; a call of the same `p_call_id` gets the same answer.
create or replace function public.gateway_decide_pending_grant_v1(
  p_pending_id uuid, p_user_id uuid, p_choice text, p_call_id uuid, p_not_after timestamptz default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  g       gateway.pending_grant;
  decided jsonb;
begin
  perform gateway.lock_user(p_user_id);
  select x.* into g from gateway.pending_grant x
   where x.id = p_pending_id and x.user_id = p_user_id and x.pending_until > clock_timestamp() for update;
  if not found then
    return coalesce(
      (select jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(c)) from gateway.connection c
        where c.user_id = p_user_id and c.saved_by = p_call_id), '{"ending": "state_invalid"}');
  elsif not exists (select from gateway.live_user(p_user_id)) then
    return '{"refused": "unauthenticated"}';
  end if;
  decided := gateway.decide_pending(g, p_choice, p_call_id);
  if clock_timestamp() > p_not_after then
    raise exception 'the caller has given up' using errcode = 'query_canceled';
  end if;
  return decided;
end $$;

-- null: no such session of this partner. The partner's decision, for a link that was finished without a signed-in user: `saved`, also
-- if the call is repeated within ten minutes. A wrong user or confirmation deletes the grant. Otherwise as gateway.decide.
create or replace function public.gateway_complete_connect_session_v1(
  p_caller jsonb, p_connect_session_id uuid, p_user_id uuid, p_confirmation_hash text, p_choice text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks  record;
  s     gateway.connect_session;
  g     gateway.pending_grant;
  wrong text;
begin
  select c.* into asks from gateway.caller(p_caller, 'sessions:write') c;
  if asks.refusal is not null then
    return asks.refusal;
  end if;
  select x.* into s from gateway.connect_session x where x.id = p_connect_session_id and x.partner_id = (asks.partner).id;
  if not found then
    return null;
  end if;
  perform gateway.lock_user(s.user_id);
  select x.* into g from gateway.pending_grant x
   where x.connect_session_id = s.id and x.confirmation_hash is not null and x.pending_until > clock_timestamp() for update;
  if not found then
    -- A repeated call may have completed it while this one waited for the lock.
    select x.* into s from gateway.connect_session x where x.id = s.id;
    return coalesce((
      select jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(c, asks.partner)) from gateway.connection c
       where c.id = s.connection_id and c.user_id = p_user_id and s.confirmation_hash = p_confirmation_hash
         and p_choice is distinct from 'no' and s.ended_at > clock_timestamp() - interval '10 minutes'
         and gateway.partner_can_see(asks.partner, c) and exists (select from gateway.live_user(p_user_id))), '{"ending": "state_invalid"}');
  end if;
  wrong := case when s.user_id <> p_user_id or not exists (select from gateway.live_user(s.user_id)) then 'user_mismatch'
                when g.confirmation_hash is distinct from p_confirmation_hash then 'state_invalid' end;
  if wrong is not null then
    update gateway.connect_session x set ended_at = clock_timestamp() where x.id = s.id;
    return jsonb_build_object('ending', wrong, 'revocation', gateway.refuse_pending(g.id, wrong));
  end if;
  return gateway.decide_pending(g, p_choice, gen_random_uuid(), asks.partner);
end $$;

-- An installation that was started at the provider. With `p_put` it is kept; else the newest of that browser, or without a browser one that was
-- not claimed in time; with `p_take` it is removed. `shared`: its account is connected. null: there is none.
create or replace function public.gateway_unclaimed_install_v1(p_browser_hash text, p_put jsonb default null, p_take boolean default false)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  u gateway.unclaimed_install;
begin
  if p_put is not null then
    insert into gateway.unclaimed_install (id, browser_hash, provider, account_id, encrypted)
    select x.id, p_browser_hash, x.provider, x.account_id, x.encrypted from jsonb_populate_record(null::gateway.unclaimed_install, p_put) x;
    return null;
  end if;
  select x.* into u from gateway.unclaimed_install x
   where case when p_browser_hash is null then x.expires_at <= clock_timestamp() else x.browser_hash = p_browser_hash and x.expires_at > clock_timestamp() end
   order by x.expires_at desc limit 1 for update skip locked;
  delete from gateway.unclaimed_install x where x.id = u.id and p_take;
  return case when u.id is not null then to_jsonb(u) || jsonb_build_object(
    'clock', jsonb_build_object('at', clock_timestamp()),
    'shared', exists (select from gateway.connection c where c.provider = u.provider and c.account_id = u.account_id)) end;
end $$;

-- Events that providers send: stored at once, settled by a worker.

-- The connections that an event is about: of the account and those above it, and of everything below an agency.
create or replace function gateway.event_targets(e gateway.incoming_event) returns setof gateway.connection
language sql stable as $$
  select c.* from gateway.connection c where c.provider = any (e.providers) and c.account_id = any (e.accounts)
  union
  select c.* from gateway.derived_token t join gateway.connection c on c.id = t.connection_id
   where t.account_id = any (e.accounts) and c.provider = any (e.providers)
  union
  select c.* from gateway.connection c where c.provider = any (e.providers) and c.facts @> e.below
$$;

-- `p_event`: a row of gateway.incoming_event. Nothing is stored of an account that is not connected, except an installation: its connection
-- may follow.
create or replace function public.gateway_receive_event_v1(p_event jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  e gateway.incoming_event := jsonb_populate_record(null::gateway.incoming_event, p_event);
begin
  if exists (select from gateway.event_targets(e)) or e.topic = 'installation' and not e.is_end then
    insert into gateway.incoming_event (id, providers, type, accounts, below, topic, is_end, facts, label, body, at)
    values (e.id, e.providers, e.type, e.accounts, e.below, e.topic, e.is_end, e.facts, e.label, e.body, coalesce(e.at, clock_timestamp()))
    on conflict on constraint incoming_event_pkey do nothing;
    if found and e.topic = 'installation' and cardinality(e.accounts) = 1 then
      -- Of a new location whose agency is not named: the lists of the agencies that let the app be installed in new ones will say.
      update gateway.connection c set listed_at = null
       where c.provider = any (e.providers) and c.facts @> '{"userType": "Company", "installToFutureLocations": true}';
      return 'true';
    end if;
    return to_jsonb(found);
  end if;
  return 'false';
end $$;

-- Our app was removed at the provider. A refresh under way does not bring a connection back, because its generation is over.
create or replace function gateway.end_uninstalled(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  perform gateway.set_status(p_ids, 'needs_reauthorization', 'uninstalled');
  update gateway.connection c set generation = c.generation + 1, lease_id = null, lease_until = null, lease_host = null, intent_at = null
   where c.id = any (p_ids) and c.reason = 'uninstalled' and c.intent_at is not null;
end $$;

-- What an event changes of the connections `p_ids`, which are locked. An earlier event than the last one about its topic changes nothing, and a
-- connection that was made after an uninstall stays.
create or replace function gateway.apply_event(e gateway.incoming_event, p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  if e.topic is null or exists (
    select from gateway.incoming_event o
     where o.topic = e.topic and o.accounts @> e.accounts[1:1] and o.accounts[1] = e.accounts[1] and o.due_at is null and o.at > e.at) then
    return;
  elsif e.topic = 'installation' and e.is_end then
    delete from gateway.derived_token t where t.connection_id = any (p_ids) and t.account_id = e.accounts[1];
    perform gateway.end_uninstalled(array(
      select c.id from gateway.connection c
       where c.id = any (p_ids) and (c.account_id = e.accounts[1] or c.facts @> e.below)
         and not exists (select from gateway.event v where v.connection_id = c.id and v.at > e.at
                            and v.type in ('connection.created', 'connection.reauthorized'))));
  elsif e.topic = 'installation' then
    insert into gateway.derived_token (connection_id, account_id)
    select c.id, e.accounts[1] from gateway.connection c where c.id = any (p_ids) and c.account_id = e.accounts[2]
    on conflict on constraint derived_token_pkey do nothing;
    update gateway.incoming_event x set due_at = clock_timestamp() where x.due_at = 'infinity' and x.topic is not null and x.accounts = e.accounts[1:1];
  else
    update gateway.connection c
       set facts = c.facts || e.facts, account_label = coalesce(e.label, c.account_label), updated_at = clock_timestamp(),
           refresh_at = case when e.topic = 'version' and c.refreshable then clock_timestamp() else c.refresh_at end
     where c.id = any (p_ids) and c.account_id = e.accounts[1];
  end if;
end $$;

-- A connection whose accounts below were not compared with the provider's list for a day, and those that are known here; null: none is due. An
-- hour later it is due again, unless a call says that it is `p_listed`.
create or replace function public.gateway_due_listing_v1(p_providers text[], p_listed uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c gateway.connection;
begin
  select x.* into c from gateway.connection x
   where x.facts @> '{"userType": "Company"}' and x.provider = any (p_providers) and x.status = 'active'
     and (x.listed_at is null or x.listed_at < clock_timestamp() - interval '1 day') and gateway.provider_limit(x.provider, x.account_id) is null
   order by x.listed_at nulls first limit 1 for update skip locked;
  update gateway.connection x set listed_at = clock_timestamp() - interval '23 hours' where x.id = c.id;
  update gateway.connection x set listed_at = clock_timestamp() where x.id = p_listed and x.listed_at is not null;
  return case when c.id is not null then jsonb_build_object('at', clock_timestamp(), 'connection', gateway.public_data(c), 'known', array(
    select t.account_id from gateway.derived_token t where t.connection_id = c.id
    union
    select x.account_id from gateway.connection x
     where x.provider = c.provider and x.facts @> jsonb_build_object('companyId', c.account_id) and x.id <> c.id and x.status in ('active', 'suspended')
       and x.account_id <> c.account_id)) end;
end $$;

-- Settle up to `p_most` stored events: change the connections, and hand each event on, once for each connection. An event waits while one of
-- its connections is locked. What the gateway found out itself has no body, and is not handed on.
create or replace function public.gateway_settle_events_v1(p_most integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  e       gateway.incoming_event;
  ids     uuid[];
  free    uuid[];
  settled integer := 0;
begin
  for e in
    select x.* from gateway.incoming_event x where x.due_at <= clock_timestamp() order by x.due_at, x.at limit p_most for update skip locked
  loop
    ids := array(select t.id from gateway.event_targets(e) t);
    free := array(select c.id from gateway.connection c join public.provider_data d on d.id = c.id
                   where c.id = any (ids) order by c.id for update skip locked);
    update gateway.incoming_event x
       set due_at = case when ids = '{}' and e.topic = 'installation' and not e.is_end then 'infinity'
                         when cardinality(free) < cardinality(ids) then clock_timestamp() + interval '1 second' end
     where x.id = e.id;
    if cardinality(free) = cardinality(ids) then
      perform gateway.apply_event(e, ids);
      insert into gateway.event (type, connection_id, user_id, provider, data)
      select case when e.topic = 'installation' and not e.is_end then 'install.received' else 'provider_event.received' end, c.id, c.user_id, c.provider,
             jsonb_build_object('event', e.type, 'account_id', e.accounts[1], 'delivery_id', e.id)
        from gateway.connection c where c.id = any (ids) and e.body <> '';
      settled := settled + 1;
    end if;
  end loop;
  return to_jsonb(settled);
end $$;

-- Refreshing a token: lease, intent, compare-and-set.

-- Until when other hosts leave an interrupted refresh to the host that began it: its journal may hold the response. The
-- provider decides how long. Time in which the database was down does not count, because no host could report to it.
create or replace function gateway.blocked_until(c gateway.connection, p_host text, p_block_seconds double precision) returns timestamptz
language sql stable as $$
  select case when c.intent_at is not null and c.lease_host <> p_host
              then greatest(c.intent_at, pg_postmaster_start_time()) + make_interval(secs => p_block_seconds) end
$$;

-- The lease on one token request. `intent_at` is written with it: it shows later that a request may have been sent.
create or replace function gateway.lease_refresh(c gateway.connection, p_host text, p_lease_seconds double precision) returns jsonb
language sql as $$
  update gateway.connection x
     set lease_id = gen_random_uuid(), lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds), lease_host = p_host,
         intent_at = clock_timestamp()
   where x.id = c.id returning jsonb_build_object(
    'id', c.id, 'user_id', c.user_id, 'provider', c.provider, 'generation', c.generation, 'lease_id', x.lease_id, 'account_id', c.account_id,
    'scope', c.scope, 'failures', c.failures, 'unverified', c.status = 'unverified', 'interrupted', c.intent_at is not null,
    'unnamed', c.account_label = c.account_id, 'client_id', c.client_id, 'facts', c.facts, 'seal_id', c.refresh_seal_id,
    'refresh', (select gateway.bounded(d.refresh) from public.provider_data d where d.id = c.id))
$$;

-- The right to send one token request, by compare-and-set on the generation, or {"obstacle", "retry_after", "error"}.
--   gone; moved: another generation, or it ended; leased: a process is refreshing it; waiting: the last try failed, with that error; blocked: the host
--   that began the last try may hold its response; frequent: refreshed `p_most` times within a minute, and its token is still valid.
create or replace function public.gateway_claim_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_host text, p_lease_seconds double precision, p_block_seconds double precision,
  p_most integer default 10
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment   timestamptz := clock_timestamp();
  c        gateway.connection;
  obstacle text;
begin
  select x.* into c from gateway.connection x where x.id = p_connection_id for update skip locked;
  obstacle := case
    when c.id is null and exists (select from gateway.connection x where x.id = p_connection_id) then 'leased'
    when c.id is null then 'gone'
    when c.generation <> p_generation or c.status = 'needs_reauthorization' then 'moved'
    when c.lease_until > moment then 'leased'
    when c.not_before > moment then 'waiting'
    when gateway.blocked_until(c, p_host, p_block_seconds) >= moment then 'blocked'
    when coalesce(c.expires_at > moment, true) and p_most <= (
      select count(*) from gateway.event e where e.type = 'grant.refreshed' and e.connection_id = c.id and e.at > moment - interval '1 minute') then 'frequent'
  end;
  if obstacle is not null then
    return jsonb_build_object(
      'obstacle', obstacle, 'retry_after', greatest(1, ceil(extract(epoch from case obstacle when 'waiting' then c.not_before - moment
        when 'blocked' then gateway.blocked_until(c, p_host, p_block_seconds) - moment when 'frequent' then interval '1 minute' end))), 'error', case obstacle when 'waiting' then (
        select e.data ->> 'error' from gateway.event e where e.connection_id = c.id and e.type = 'grant.refresh_failed' order by e.at desc limit 1) end);
  end if;
  return gateway.lease_refresh(c, p_host, p_lease_seconds);
end $$;

-- The same for one connection whose refresh was interrupted, or that is due; null when there is none. `p_providers`: those whose
-- connections may be claimed, each with `client`, our registration, and the seconds of `lease` and `block`; `late`: not while the access token is
-- valid, which callers hold. Rows that cannot be claimed now are passed over where rows are looked for, so that they never delay those that can.
create or replace function public.gateway_claim_due_v1(p_host text, p_providers jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment  timestamptz := clock_timestamp();
  usable  text[] := array(select jsonb_object_keys(p_providers));
  probed  text[] := array(select i.provider from gateway.provider_incident i where i.ended_at is null and i.probe_at > moment);
  c       gateway.connection;
begin
  select x.* into c from gateway.connection x
   where x.intent_at is not null and x.status in ('active', 'suspended', 'held') and x.provider = any (usable)
     and (x.lease_until is null or x.lease_until <= moment) and (x.not_before is null or x.not_before <= moment)
     and coalesce(gateway.blocked_until(x, p_host, (p_providers -> x.provider ->> 'block')::double precision) < moment, true)
   order by x.intent_at limit 1 for update of x skip locked;
  if not found then
    select x.* into c from gateway.connection x
     where x.refresh_at <= moment and x.status in ('active', 'suspended', 'held') and x.provider = any (usable)
       and (x.status <> 'held' or x.provider <> all (probed))
       and (x.expires_at <= moment or not coalesce((p_providers -> x.provider ->> 'late')::boolean and x.status = 'active', false))
       and x.intent_at is null and (x.lease_until is null or x.lease_until <= moment) and (x.not_before is null or x.not_before <= moment)
     order by x.refresh_at limit 1 for update of x skip locked;
  end if;
  if not found then
    -- Our earlier registration is back.
    select x.* into c from gateway.connection x
     where x.status = 'needs_reauthorization' and x.reason = 'client_replaced' and x.provider = any (usable)
       and x.client_id = p_providers -> x.provider ->> 'client' and (x.not_before is null or x.not_before <= moment)
     limit 1 for update of x skip locked;
  end if;
  if c.id is null then
    return null;
  end if;
  update gateway.provider_incident i set probe_at = moment + interval '15 seconds' where i.provider = c.provider and c.status = 'held';
  return gateway.lease_refresh(c, p_host, (p_providers -> c.provider ->> 'lease')::double precision);
end $$;

-- Save the response to the request of that generation as the next one. The lease is not checked: the process that holds the response
-- holds what the provider accepts now, even if another try with the old token was refused meanwhile. Lifetimes come as seconds, since only
-- this clock decides. Without `renewed` the refresh token is the old one, and so is its end unless a new one is given. With `p_doubt` the
-- connection is unverified for that reason, and queued: no caller gets the new token before the provider has confirmed its account.
-- Answers `saved`; `gone`; `reconnected`: the user connected again first; `refreshed`: this response, or another to the same request, is
-- saved already, so nothing of it may be revoked.
create or replace function public.gateway_finish_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_token text, p_refresh text, p_seal_id uuid, p_scope text[], p_expires_seconds double precision,
  p_refresh_expires_seconds double precision, p_renewed boolean, p_account jsonb, p_facts jsonb, p_doubt text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c          gateway.connection;
  new_expires_at timestamptz := clock_timestamp() + make_interval(secs => p_expires_seconds);
  new_refresh_expires_at timestamptz := clock_timestamp() + make_interval(secs => p_refresh_expires_seconds);
begin
  perform from public.provider_data d where d.id = p_connection_id for update;
  select x.* into c from gateway.connection x where x.id = p_connection_id and x.generation = p_generation for update;
  if not found then
    return to_jsonb(case
      when not exists (select from gateway.connection x where x.id = p_connection_id) then 'gone'
      when exists (select from gateway.connection x where x.id = p_connection_id and x.reconnected > p_generation) then 'reconnected'
      else 'refreshed'::text end);
  end if;
  perform gateway.end_incident(c.provider) where c.status = 'held';
  new_refresh_expires_at := coalesce(new_refresh_expires_at, case when not p_renewed then c.refresh_expires_at end);
  update gateway.connection x
     set generation = x.generation + 1, seal_id = p_seal_id, refreshable = p_refresh is not null, refresh_seal_id = p_seal_id,
         scope = p_scope, expires_at = new_expires_at, refresh_expires_at = new_refresh_expires_at,
         refresh_at = gateway.refresh_time(p_refresh is not null, new_expires_at, new_refresh_expires_at), lease_id = null,
         lease_until = null, lease_host = null, intent_at = null, failures = 0, not_before = null, announced_at = null,
         refused_since = null, refusal = null,
         status = case when p_doubt is not null or x.status = 'unverified' and p_account is null then 'unverified' else 'active' end,
         reason = coalesce(p_doubt, case when x.status = 'unverified' and p_account is null then x.reason end),
         account_id = coalesce(p_account ->> 'id', x.account_id), account_label = coalesce(p_account ->> 'label', x.account_label),
         facts = x.facts || p_facts, updated_at = clock_timestamp()
   where x.id = p_connection_id returning x.* into c;
  update public.provider_data d
     set token = p_token, refresh = p_refresh, expires = to_char(new_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
   where d.id = p_connection_id;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values ('grant.refreshed', c.id, c.user_id, c.provider, jsonb_build_object('generation', c.generation));
  insert into gateway.import_queue (id) select c.id where p_doubt is not null
  on conflict on constraint import_queue_pkey do update set due_at = clock_timestamp(), attempts = 0;  -- an earlier verification may be about to end
  return '"saved"';
end $$;

-- End the lease after a failure. outcome: `wait` (the provider has trouble), `operator` (our registration is refused, or a key is missing),
-- `suspended` (the account is switched off there) or `refused` (the grant is). `p_refusal`: status and error code, if the provider refused in
-- any form. Such refusals end a connection after seven days and ten tries, whatever they mean; after thirty if our registration is refused, and
-- the provider accepts no other grant of it. Answers its status; null: the lease has ended.
create or replace function public.gateway_fail_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_lease_id uuid, p_outcome text, p_error text, p_wait_seconds double precision, p_refusal jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c      gateway.connection;
  moment timestamptz := clock_timestamp();
begin
  perform from public.provider_data d where d.id = p_connection_id for update;  -- first, as in every function, to avoid a deadlock
  update gateway.connection x
     set lease_id = null, lease_until = null, lease_host = null, intent_at = null, failures = x.failures + 1,
         not_before = moment + make_interval(secs => p_wait_seconds),
         refused_since = case when p_refusal is null then x.refused_since else coalesce(x.refused_since, moment) end,
         refusal = coalesce(p_refusal || jsonb_build_object('at', moment), x.refusal)
   where x.id = p_connection_id and x.generation = p_generation and x.lease_id = p_lease_id returning x.* into c;
  if not found then
    return null;
  end if;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values ('grant.refresh_failed', c.id, c.user_id, c.provider, jsonb_build_object('error', p_error, 'remedy',
          case p_outcome when 'refused' then 'reconnect' when 'operator' then 'operator' else 'wait' end));
  if c.status = 'unverified' and p_outcome <> 'refused' then
    null;  -- until its account is confirmed, only a refusal changes it
  elsif p_outcome = 'suspended' then
    c.status := 'suspended';
    c.reason := 'account_not_active';
  elsif p_refusal is not null and c.failures >= 10 and c.refused_since < moment - (case
    when p_error = 'client_rejected' and not exists (
      select from gateway.event e where e.type = 'grant.refreshed' and e.provider = c.provider and e.at > moment - interval '1 day')
    then interval '30 days' else interval '7 days' end) then
    c.status := 'needs_reauthorization';
    c.reason := 'refused_for_long';
  elsif p_outcome = 'refused' then
    c.status := case when p_error in ('grant_refused', 'response_lost') then gateway.judge_refusal(c) else 'needs_reauthorization' end;
    c.reason := case when c.status = 'held' then 'provider_incident'
                     when p_error = 'grant_refused' and c.refresh_expires_at <= moment then 'refresh_token_expired' else p_error end;
  end if;
  update gateway.connection x
     set status = c.status, reason = c.reason, updated_at = moment,
         refresh_at = case when c.status in ('suspended', 'held') then x.not_before else x.refresh_at end
   where x.id = c.id and (p_outcome in ('refused', 'suspended') or x.status <> c.status);
  return to_jsonb(c.status);
end $$;

-- However a row is deleted (disconnect, the owner's server, or with its user), its grant is queued to be revoked and the profile drops its
-- id. Before the delete, because it needs the row in gateway.connection.
create or replace function gateway.queue_erased_grant() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.revocation as r (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason)
  select c.id, c.generation, c.user_id, c.provider, c.account_id, c.facts, old.token, old.refresh, c.seal_id, c.refresh_seal_id, 'erased'
    from gateway.connection c
   where c.id = old.id and (old.token is not null or old.refresh is not null)
  on conflict on constraint revocation_pkey do nothing;
  update public.user_profile p set providers = array_remove(p.providers, old.id::text)
   where (p.id = old.provider_id_ref or p.user_id_auth = old.auth_provider_id) and old.id::text = any (p.providers);
  update gateway.consent x set ended_at = clock_timestamp() where x.connection_id = old.id and x.ended_at is null;
  return old;
end $$;

-- `beside`: the same account is still connected, or again, by any user; the provider may end that together with this grant.
create or replace function gateway.revocation_json(r gateway.revocation) returns jsonb
language sql stable as $$
  select to_jsonb(r) || jsonb_build_object(
    'beside', exists (select from gateway.connection c where c.provider = r.provider and c.account_id = r.account_id))
$$;

-- Queue an encrypted grant that was not saved. The same seal_id again changes nothing.
create or replace function public.gateway_queue_revocation_v1(
  p_seal_id uuid, p_user_id uuid, p_provider text, p_account_id text, p_facts jsonb, p_token text, p_refresh text, p_reason text
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  insert into gateway.revocation (seal_id, refresh_seal_id, user_id, provider, account_id, facts, token, refresh, reason)
  values (p_seal_id, p_seal_id, p_user_id, p_provider, p_account_id, p_facts, p_token, p_refresh, p_reason)
  on conflict on constraint revocation_pkey do nothing;
  return (select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = p_seal_id);
end $$;

-- Whether the grant is still queued. Done: it leaves the queue; where the operator revoked it, `p_outcome` is recorded as the proof. Not done: it is due again after
-- 2, 4, 8 … minutes, at most 6 hours.
create or replace function public.gateway_settle_revocation_v1(p_seal_id uuid, p_done boolean, p_outcome text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  gone gateway.revocation;
begin
  if p_done then
    delete from gateway.revocation r where r.seal_id = p_seal_id returning r.* into gone;
    insert into gateway.event (type, connection_id, provider, data)
    select 'grant.revoked', gone.connection_id, gone.provider, jsonb_build_object('revocation', p_outcome, 'generation', gone.generation)
     where gone.reason = 'revoked' and p_outcome is not null;
    return 'false';
  end if;
  update gateway.revocation r
     set attempts = r.attempts + 1,
         due_at = clock_timestamp() + least(interval '1 minute' * power(2, least(r.attempts + 1, 20)), interval '6 hours')
   where r.seal_id = p_seal_id;
  return to_jsonb(found);
end $$;

-- Claim up to `p_most` grants for two minutes: those that have been due longest, of no provider in `p_busy`; with `p_provider`, the next ones
-- in its queue after `p_after`, due or not.
create or replace function public.gateway_claim_revocations_v1(
  p_busy text[] default '{}', p_provider text default null, p_after uuid default null, p_most integer default 1
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over timestamptz := clock_timestamp();
  ids  uuid[];
begin
  if p_provider is null then
    ids := array(select x.seal_id from gateway.revocation x where x.due_at <= over and x.provider <> all (p_busy)
                  order by x.due_at limit p_most for update skip locked);
  else
    ids := array(select x.seal_id from gateway.revocation x where x.provider = p_provider and (p_after is null or x.seal_id > p_after)
                  order by x.seal_id limit p_most for update skip locked);
  end if;
  update gateway.revocation r set due_at = greatest(r.due_at, over + interval '2 minutes') where r.seal_id = any (ids);
  return coalesce((select jsonb_agg(gateway.revocation_json(r) order by r.seal_id) from gateway.revocation r where r.seal_id = any (ids)), '[]');
end $$;

-- Whether auth.users is the gateway's own table, not Supabase's. By its comment, because a database may be moved.
create or replace function gateway.own_auth() returns boolean
language sql stable as $$
  select coalesce(obj_description('auth.users'::regclass, 'pg_class') like 'Made by the gateway:%', false)
$$;

create or replace function gateway.touch_profile() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end $$;

-- The functions without a `set` can be inlined by the planner; their names are qualified, and only definer functions can call them. Through
-- to_jsonb, because Supabase may change the columns of auth.users.
create or replace function gateway.live_user(p_user_id uuid) returns table (id uuid)
language sql stable as $$
  select u.id from auth.users u
   where u.id = p_user_id and to_jsonb(u) ->> 'deleted_at' is null
     and coalesce((to_jsonb(u) ->> 'banned_until')::timestamptz <= clock_timestamp(), true)
$$;

-- A label for a user without a session: shown masked, never used for a decision.
create or replace function gateway.label_of(p_user_id uuid) returns text
language sql stable as $$
  select coalesce((select s.label from gateway.session s where s.user_id = p_user_id order by s.created_at desc limit 1),
                  (select nullif(to_jsonb(u) ->> 'email', '') from auth.users u where u.id = p_user_id))
$$;

create or replace function gateway.live_session(p_wanted text)
returns table (user_id uuid, label text, expires_at timestamptz)
language sql stable as $$
  select s.user_id, s.label, s.expires_at
    from gateway.session s cross join lateral gateway.live_user(s.user_id) u
   where s.session_hash = p_wanted and s.expires_at > clock_timestamp()
$$;

-- null: no such user. On plain Postgres a verified user is inserted; on Supabase never. A user keeps the fifty newest sessions.
create or replace function public.gateway_open_session_v1(p_session_hash text, p_user_id uuid, p_label text, p_expires_at timestamptz)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  if gateway.own_auth() then
    insert into auth.users (id) values (p_user_id) on conflict do nothing;
  end if;
  if p_expires_at <= clock_timestamp() or not exists (select from gateway.live_user(p_user_id)) then
    return null;
  end if;
  delete from gateway.session s where s.session_hash = any (array(
    select x.session_hash from gateway.session x where x.user_id = p_user_id order by x.created_at desc offset 49 for update skip locked));
  insert into gateway.session (session_hash, user_id, label, expires_at) values (p_session_hash, p_user_id, p_label, p_expires_at);
  return to_jsonb(p_user_id);
end $$;

-- null: there is none. `p_end`: it ends.
create or replace function public.gateway_session_v1(p_session_hash text, p_end boolean default false)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  shown jsonb := (
    select jsonb_build_object('user', jsonb_build_object('id', s.user_id, 'label', s.label), 'expires_at', s.expires_at)
      from gateway.live_session(p_session_hash) s);
begin
  if p_end then
    delete from gateway.session s where s.session_hash = p_session_hash;
  end if;
  return shown;
end $$;

-- The lock on a user's rows. Without `p_wait`, false for a user whose rows another transaction has locked.
create or replace function gateway.lock_user(p_user_id uuid, p_wait boolean default true) returns boolean
language plpgsql set search_path = '' as $$
declare
  key bigint := hashtextextended('gateway user ' || p_user_id::text, 0);
begin
  if p_wait then
    perform pg_advisory_xact_lock(key);
  elsif not pg_try_advisory_xact_lock(key) then
    return false;
  end if;
  -- Then the profiles, before provider_data: the same order as when a user is deleted.
  perform from public.user_profile p where p.user_id_auth = p_user_id order by p.id for no key update;
  return true;
end $$;

-- The oldest profile of a user, created if missing, with the id in its array once; the user's other profiles lose the id. Under lock_user, so
-- that two callers create one profile.
create or replace function gateway.list_in_profile(p_user_id uuid, p_connection uuid, p_called text) returns uuid
language plpgsql set search_path = '' as $$
declare
  profile uuid;
  listed  text := p_connection::text;
begin
  select p.id into profile from public.user_profile p
   where p.user_id_auth = p_user_id order by p.created_at nulls last, p.id limit 1;
  if profile is null then
    insert into public.user_profile as p (user_id_auth, user_name, providers) values (p_user_id, p_called, '{}')
    returning p.id into profile;
  end if;
  update public.user_profile p
     set providers = array_remove(coalesce(p.providers, '{}'), listed) || case when p.id = profile then array[listed] else '{}'::text[] end
   where p.user_id_auth = p_user_id
     and coalesce(cardinality(array_positions(p.providers, listed)), 0) <> case when p.id = profile then 1 else 0 end;
  return profile;
end $$;

-- The status of a connection: what it is now, how a change is recorded, and what many refusals at once mean.

-- Whether time alone has ended it: its access token expired, and no refresh token can renew it.
create or replace function gateway.is_over(c gateway.connection) returns boolean
language sql stable as $$
  select not c.refreshable and c.expires_at <= now() and c.status in ('active', 'suspended', 'held')
$$;

-- Whether it is a key that its provider advises to replace: `refresh_expires_at` of a key is the time for that, and not an end.
create or replace function gateway.is_rotation_due(c gateway.connection) returns boolean
language sql stable as $$
  select not c.refreshable and c.expires_at is null and coalesce(c.refresh_expires_at <= now(), false)
$$;

create or replace function gateway.status_of(c gateway.connection) returns text
language sql stable as $$ select case when gateway.is_over(c) then 'needs_reauthorization' else c.status end $$;

create or replace function gateway.reason_of(c gateway.connection) returns text
language sql stable as $$ select case when gateway.is_over(c) then 'access_token_expired' else c.reason end $$;

-- After an update of gateway.connection: the owner's copy of what a front end may show, and the event of each change. A save by the user has
-- its own event.
create or replace function gateway.record_change() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.provider_data d
     set data = (case jsonb_typeof(d.data) when 'object' then d.data - 'reason' else '{}' end) || new.facts
                || jsonb_strip_nulls(jsonb_build_object('scope', new.scope, 'status', new.status, 'reason', new.reason, 'account',
                     case when new.account_id <> '' then jsonb_build_object('id', new.account_id, 'label', new.account_label) end))
   where d.id = new.id;
  delete from gateway.derived_token t where t.connection_id = new.id and new.status = 'needs_reauthorization';
  insert into gateway.event (type, connection_id, user_id, provider, data)
  select case when new.status = 'unverified' then 'connection.unverified' when new.status = 'suspended' then 'connection.suspended'
              when new.status = 'held' then 'connection.held' when new.status = 'needs_reauthorization' then 'connection.needs_reauthorization'
              when old.status = 'unverified' then 'connection.imported' else 'connection.recovered' end,
         new.id, new.user_id, new.provider, case
           when new.status <> 'active' then jsonb_build_object('reason', new.reason)
           when old.status = 'unverified' then jsonb_build_object('account', jsonb_build_object('id', new.account_id, 'label', new.account_label))
           else jsonb_build_object('was', old.status) end
   where new.status <> old.status and new.reconnected = old.reconnected;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  select 'connection.scope_changed', new.id, new.user_id, new.provider, jsonb_build_object(
           'added', array(select s from unnest(new.scope) s where s <> all (old.scope)),
           'removed', array(select s from unnest(old.scope) s where s <> all (new.scope)))
   where not (new.scope <@ old.scope and new.scope @> old.scope);
  return null;
end $$;

-- Other connections that end if our app is removed from the account of this one: of the same account, or of the accounts below it,
-- whose facts name it (the locations of an agency).
create or replace function gateway.same_account(c gateway.connection) returns setof gateway.connection
language sql stable as $$
  select x.* from gateway.connection x where x.provider = c.provider and x.account_id = c.account_id and x.id <> c.id and c.account_id <> ''
  union
  select x.* from jsonb_each_text(c.facts) f
    join gateway.connection x on x.provider = c.provider and x.facts @> jsonb_build_object(f.key, f.value) and x.id <> c.id
   where f.value = c.account_id and c.account_id <> ''
$$;

-- Whether a refused grant is held or has ended. An incident: of the connections that a provider was asked to refresh, or whose key was
-- checked, it refused at least half, and at least five. A response that we may have lost says nothing about the provider. The first refusal of
-- an incident also holds again what was refused just before it. An incident of an hour in which most grants were accepted was none: its
-- connections have ended; keys, which only a check tries again, are in use until then.
create or replace function gateway.judge_refusal(c gateway.connection) returns text
language plpgsql set search_path = '' as $$
declare
  moment      timestamptz := clock_timestamp();
  since       timestamptz := moment - interval '10 minutes';
  last        gateway.provider_incident;
  began       timestamptz;
  is_incident boolean;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway incident ' || c.provider, 0));
  select i.* into last from gateway.provider_incident i where i.provider = c.provider;
  began := case when last.ended_at is null then last.began_at end;
  -- Counted in the last ten minutes and since the last incident; while an incident lasts, from ten minutes before it began.
  since := case when began is null then greatest(since, last.ended_at) else least(since, began - interval '10 minutes') end;
  select x.refused >= 5 and 2 * x.refused >= x.asked into is_incident
    from (select count(distinct e.connection_id) filter (where e.type = 'grant.refresh_failed' or e.data ->> 'outcome' = 'refused') as refused,
                 count(distinct e.connection_id) as asked
            from gateway.event e
           where e.at > since and e.provider = c.provider
             and (e.type = 'grant.refreshed' or e.type = 'grant.refresh_failed' and e.data ->> 'error' = 'grant_refused'
                  or e.type = 'connection.checked' and e.data ->> 'outcome' in ('confirmed', 'refused')
                     and exists (select from gateway.connection x where x.id = e.connection_id and not x.refreshable))) x;
  if is_incident then
    perform gateway.set_status(array(
      select x.id from gateway.connection x
       where x.provider = c.provider and x.status = 'needs_reauthorization' and x.reason in ('grant_refused', 'response_lost')
         and (x.refusal ->> 'at')::timestamptz > coalesce(began, moment) - interval '10 minutes'), 'held', 'provider_incident');
    if began is null then
      insert into gateway.provider_incident (provider, began_at) values (c.provider, moment)
      on conflict on constraint provider_incident_pkey do update set began_at = excluded.began_at, ended_at = null, probe_at = null;
      insert into gateway.event (type, provider) values ('provider.incident', c.provider);
    end if;
    return 'held';
  elsif began > moment - interval '1 hour' then
    return 'held';
  elsif began is not null then
    perform gateway.set_status(array(
      select x.id from gateway.connection x where x.provider = c.provider and x.status = 'held' and x.refreshable), 'needs_reauthorization', 'grant_refused');
    perform gateway.end_incident(c.provider);
  end if;
  return 'needs_reauthorization';
end $$;

-- Connections that are locked by another transaction are left out, so that no two wait for each other; so are those whose account is not
-- confirmed, which only an import changes.
create or replace function gateway.set_status(p_ids uuid[], p_status text, p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
  update gateway.connection c
     set status = p_status, reason = p_reason, updated_at = clock_timestamp(), not_before = null,
         refresh_at = case when p_status = 'held' and c.refreshable then clock_timestamp() else c.refresh_at end
   where c.id = any (array(
     select x.id from gateway.connection x join public.provider_data d on d.id = x.id
      where x.id = any (p_ids) order by x.id for update skip locked)) and c.status not in (p_status, 'unverified');
end $$;

-- The provider accepts grants again: what is held is tried at once, and recovers or ends by its own refresh. A key is in use until its next check.
create or replace function gateway.end_incident(p_provider text) returns void
language plpgsql set search_path = '' as $$
begin
  perform gateway.set_status(array(
    select c.id from gateway.connection c where c.provider = p_provider and c.status = 'held' and not c.refreshable), 'active', null);
  update gateway.connection c set refresh_at = clock_timestamp(), not_before = null
   where c.id = any (array(select x.id from gateway.connection x where x.provider = p_provider and x.status = 'held' for update skip locked));
  update gateway.provider_incident i set ended_at = clock_timestamp() where i.provider = p_provider and i.ended_at is null;
  insert into gateway.event (type, provider) select 'provider.recovered', p_provider where found;
end $$;

-- For the operator: try a connection again, or all of a provider that wait, are held, suspended or were refused for long. None of an unconfirmed
-- account, and of keys those that are held.
create or replace function public.gateway_retry_v1(p_connection_id uuid default null, p_provider text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  ids uuid[] := array(
    select c.id from gateway.connection c
     where (c.refreshable or c.status = 'held') and c.status <> 'unverified' and coalesce(c.reason not in ('not_confirmed', 'another_account'), true)
       and case when p_connection_id is not null then c.id = p_connection_id
                                  else c.provider = p_provider and (c.status in ('held', 'suspended') or c.reason = 'refused_for_long' or c.status = 'active' and c.not_before > now()) end);
begin
  update gateway.connection c set not_before = null where c.id = any (ids);
  perform gateway.set_status(array(
    select c.id from gateway.connection c where c.id = any (ids) and c.status = 'needs_reauthorization'), 'held', 'retried');
  return to_jsonb(ids);
end $$;

-- The token of a connection, as the gateway reads it. `good`: valid for the seconds that were asked for; `alive`: valid now.
create or replace function gateway.token_json(
  c gateway.connection, p_token text, p_refresh text, p_moment timestamptz, p_min_seconds integer, p_reader uuid default null
)
returns json
language sql stable as $$
  select json_build_object(
    'id', c.id, 'user_id', c.user_id, 'provider', c.provider, 'generation', c.generation, 'seal_id', c.seal_id, 'status', gateway.status_of(c),
    'reason', gateway.reason_of(c), 'reader_id', p_reader, 'scope', c.scope, 'facts', c.facts,
    'expires_at', c.expires_at, 'token', p_token,
    'good', p_token <> '' and (c.expires_at is null or c.expires_at > p_moment + p_min_seconds * interval '1 second'),
    'alive', p_token <> '' and (c.expires_at is null or c.expires_at > p_moment),
    'refreshable', p_refresh <> '')
$$;

-- The refusal of a call while a limit of the provider is reached for an account; null: none is.
create or replace function gateway.provider_limit(p_provider text, p_account_id text) returns jsonb
language sql stable as $$
  select jsonb_build_object('refused', 'provider_limit', 'scope', x.kind) || gateway.quota(coalesce(x.most, 0), coalesce(x.most, 0), x.expires_at)
    from gateway.provider_pause x where x.provider = p_provider and x.account_id = p_account_id and x.expires_at > clock_timestamp()
$$;

-- The gateway's own read: no permission is checked, nothing is recorded. `p_scope`: `proxy` for a call of the provider's API.
create or replace function public.gateway_stored_token_v1(p_connection_id uuid, p_min_seconds integer default 0, p_scope text default 'tokens:read')
returns json language plpgsql stable security definer set search_path = '' as $$
begin
  return (select coalesce(case p_scope when 'proxy' then gateway.provider_limit(c.provider, c.account_id)::json end,
                          gateway.token_json(c, gateway.bounded(d.token), d.refresh, clock_timestamp(), p_min_seconds))
            from gateway.connection c join public.provider_data d on d.id = c.id where c.id = p_connection_id);
end $$;

-- A token for a caller, a partner or a user, in one call: key, reach, freezes, limits, row, and the record of the read. Null: no such
-- connection for this caller. `p_counted`: the first read of a request; the read after a refresh is checked again, but neither counted nor
-- recorded. `p_unreported`: reads of this reader that the calling process has counted since its last report; `p_report`: add them to the
-- hour now. The answer says whether the reads were added. `p_scope`: `proxy` for a proxied call, which
-- a freeze of token reads does not stop.
create or replace function public.gateway_read_token_v1(
  p_connection_id uuid, p_caller jsonb, p_min_seconds integer, p_location text default null,
  p_counted boolean default true, p_unreported integer default 0, p_report boolean default true, p_scope text default 'tokens:read'
)
returns json language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment    timestamptz := clock_timestamp();
  this_hour timestamptz := date_trunc('hour', moment, 'UTC');
  asks      record;
  p         gateway.partner;
  reader    uuid;
  per_hour  integer;
  used      gateway.usage;
  found_row record;
  is_new    boolean := false;
  setting   text;
begin
  select f.* into asks from gateway.caller(p_caller, p_scope) f;
  if asks.refusal is not null then
    return asks.refusal;
  end if;
  p := asks.partner;
  reader := coalesce(p.id, asks.user_id);
  per_hour := case when p.id is null then 3600 else p.reads_per_hour end;  -- null: no limit
  select u.* into used from gateway.usage u where u.reader_id = reader and u.hour = this_hour;
  -- One statement, so that token and generation are of one moment. Without a consent nothing is read: an id out of reach takes as long
  -- as an unknown one.
  select c.id, c.user_id, c.provider, gateway.status_of(c) as status, gateway.token_json(c, gateway.bounded(d.token), d.refresh, moment, p_min_seconds, reader) as answer,
         -- A user is checked above. For a partner, the tokens of a banned or deleted owner are frozen.
         exists (select from gateway.freeze f where f.target = 'provider:' || c.provider or f.target = 'reads' and p_scope = 'tokens:read')
         or p.id is not null and not exists (select from gateway.live_user(c.user_id)) as frozen,
         case p_scope when 'proxy' then gateway.provider_limit(c.provider, coalesce(p_location, c.account_id)) end as limited
    into found_row from gateway.connection c join public.provider_data d on d.id = c.id
   where (p.id is null or gateway.partner_has_consent(p, p_connection_id)) and c.id = p_connection_id
     and (p.providers is null or c.provider = any (p.providers)) and c.user_id = coalesce(asks.user_id, c.user_id) and (p_location is null or p_location = c.facts ->> 'locationId' or c.facts ->> 'userType' = 'Company');
  if not found then
    return case when exists (select from gateway.pending_link_connections(p) w where w.id = p_connection_id)
                then '{"refused": "pending_confirmation"}'::json end;
  elsif found_row.frozen then
    return '{"refused": "frozen"}';
  elsif found_row.status = 'unverified' then
    return '{"refused": "unverified"}';
  elsif not p_counted or found_row.status not in ('active', 'held') then
    return found_row.answer;
  elsif found_row.limited is not null then
    return found_row.limited;
  elsif used.reads + p_unreported >= per_hour then
    perform gateway.alert(p.id, 'reads', jsonb_build_object('per_hour', per_hour));
    return '{"refused": "rate_limited"}'::jsonb || gateway.quota(per_hour, used.reads + p_unreported, this_hour + interval '1 hour');
  elsif used.connections >= p.connections_per_hour and not exists (
    select from gateway.token_read r where r.connection_id = p_connection_id and r.reader_id = reader and r.hour = this_hour) then
    perform gateway.alert(p.id, 'connections', jsonb_build_object('per_hour', p.connections_per_hour));
    return '{"refused": "rate_limited"}'::jsonb || gateway.quota(p.connections_per_hour, used.connections, this_hour + interval '1 hour');
  end if;
  -- Recorded in this transaction, or the read fails. On disk within wal_writer_delay: a crash of Postgres loses the records of its last half
  -- second, a crash of the gateway none.
  setting := set_config('synchronous_commit', 'off', true);
  loop  -- update first: an upsert also writes a row lock, for each read
    update gateway.token_read r
       set reads = r.reads + 1, last_at = moment, networks = case when asks.net <> all (r.networks) then r.networks || asks.net else r.networks end
     where r.connection_id = p_connection_id and r.reader_id = reader and r.hour = this_hour and r.scope = p_scope;
    exit when found;
    insert into gateway.token_read (connection_id, reader_id, hour, scope, partner_id, user_id, provider, networks)
    values (p_connection_id, reader, this_hour, p_scope, p.id, found_row.user_id, found_row.provider, array_remove(array[asks.net], null))
    on conflict on constraint token_read_pkey do nothing;
    is_new := found;
    exit when is_new;
  end loop;
  if is_new or p_report then
    is_new := is_new and not exists (
      select from gateway.token_read r
       where r.connection_id = p_connection_id and r.reader_id = reader and r.hour = this_hour and r.scope <> p_scope);
    perform gateway.report_reads(reader, p.id, this_hour, p_unreported + 1, is_new::integer, per_hour is not null);
    found_row.answer := found_row.answer::jsonb || '{"reported": true}';
  end if;
  return found_row.answer::jsonb || gateway.quota(per_hour, coalesce(used.reads, 0) + p_unreported + 1, this_hour + interval '1 hour');
end $$;

-- Outgoing webhooks.

create or replace function gateway.webhook_json(w gateway.webhook) returns jsonb
language sql stable as $$
  select to_jsonb(w) - 'claim_id' - 'due_at' || jsonb_build_object(
    'partner', (select p.name from gateway.partner p where p.id = w.partner_id))
$$;

-- The endpoints of a partner, or for the operator all; of a single one also its latest attempts, newest first.
create or replace function public.gateway_webhooks_v1(p_caller jsonb, p_webhook_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(asks.refusal, jsonb_build_object(
    'webhooks', coalesce((
      select jsonb_agg(gateway.webhook_json(w) order by w.created_at, w.id) from gateway.webhook w
       where ((asks.partner).id is null or w.partner_id = (asks.partner).id) and (p_webhook_id is null or w.id = p_webhook_id)), '[]'),
    'deliveries', coalesce((
      select jsonb_agg(to_jsonb(d) - 'id' - 'webhook_id' order by d.id desc)
        from (select x.* from gateway.webhook_delivery x join gateway.webhook w on w.id = x.webhook_id
               where w.id = p_webhook_id and ((asks.partner).id is null or w.partner_id = (asks.partner).id)
               order by x.id desc limit 100) d), '[]')))
    from gateway.caller(p_caller, 'webhooks:write', true) asks);
end $$;

-- `p_change`: `create` makes the endpoint `p_new`, for the events from now on; `delete`; `test` appends an event for this endpoint alone; `replay`
-- delivers again what follows `p_after`; `rotate` adds a secret and lets the others expire a day later; ten may be valid at once, so that the header
-- with their signatures stays short. The endpoint as it is then; null: no such endpoint of this caller, or one more than the ten that a partner may have.
create or replace function public.gateway_change_webhook_v1(
  p_caller jsonb, p_webhook_id uuid, p_change text, p_after bigint default null, p_secret jsonb default null, p_new jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks record;
  w    gateway.webhook := jsonb_populate_record(null::gateway.webhook, p_new);
begin
  select f.* into asks from gateway.caller(p_caller, 'webhooks:write', true) f;
  if asks.refusal is not null then
    return asks.refusal;
  elsif p_change = 'create' then
    perform pg_advisory_xact_lock(hashtextextended('gateway webhooks ' || (asks.partner).id::text, 0));
    insert into gateway.webhook (id, partner_id, url, event_types, position)
    select p_webhook_id, (asks.partner).id, w.url, w.event_types, c.position from gateway.event_chain c
     where (select count(*) from gateway.webhook x where x.partner_id = (asks.partner).id) < 10
    returning * into w;
  else
    select x.* into w from gateway.webhook x
     where x.id = p_webhook_id and ((asks.partner).id is null or x.partner_id = (asks.partner).id) for update;
  end if;
  if w.id is null or p_change = 'test' and w.disabled_at is not null then
    return case when w.id is not null then gateway.webhook_json(w) end;
  elsif p_change = 'delete' then
    delete from gateway.webhook x where x.id = w.id;
  elsif p_change = 'replay' then
    update gateway.webhook x
       set position = least(p_after, (select c.position from gateway.event_chain c)), claim_id = null, failures = 0, disabled_at = null, due_at = clock_timestamp()
     where x.id = w.id returning * into w;
  elsif p_secret is not null then
    select count(*) as secrets, min(s.expires_at) as next_end into asks from gateway.webhook_secret s
     where s.webhook_id = w.id and (s.expires_at is null or s.expires_at > clock_timestamp());
    if asks.secrets >= 10 then
      return '{"refused": "rate_limited"}'::jsonb || gateway.quota(10, asks.secrets, asks.next_end);
    end if;
    update gateway.webhook_secret s set expires_at = clock_timestamp() + interval '1 day' where s.webhook_id = w.id and s.expires_at is null;
    insert into gateway.webhook_secret (seal_id, webhook_id, webhook_secret) values ((p_secret ->> 'seal_id')::uuid, w.id, p_secret ->> 'encrypted');
  end if;
  insert into gateway.event (type, partner_id, data)
  select case p_change when 'create' then 'webhook.created' when 'delete' then 'webhook.deleted' when 'test' then 'webhook.tested'
                       when 'replay' then 'webhook.replayed' else 'webhook.secret_rotated' end,
         w.partner_id, jsonb_build_object('webhook_id', w.id) || case p_change when 'replay' then jsonb_build_object('after', w.position) else '{}' end;
  return gateway.webhook_json(w);
end $$;

-- Claim an endpoint that is due and has events: of the partner with the fewest deliveries under way, at most `p_of_partner`, the one that has been
-- due longest. Cursors of endpoints without events move on, 5,000 positions at a time. null: there is nothing to deliver. A frozen partner keeps its place.
create or replace function public.gateway_claim_deliveries_v1(p_most integer, p_of_partner integer, p_lease_seconds double precision)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over  timestamptz := clock_timestamp();
  top   bigint := (select c.position from gateway.event_chain c);
  until bigint;
  w     gateway.webhook;
  p     gateway.partner;
  items jsonb;
begin
  for w in
    select x.* from gateway.webhook x join gateway.partner y on y.id = x.partner_id and y.frozen_at is null and y.revoked_at is null
     cross join lateral (select count(*) as running from gateway.webhook z
                          where z.partner_id = x.partner_id and z.claim_id is not null and z.due_at > over) r
     where x.disabled_at is null and x.due_at <= over and x.position < top and r.running < p_of_partner
     order by r.running, x.due_at limit 200 for update of x skip locked
  loop
    until := least(top, w.position + 5000);
    select y.* into p from gateway.partner y where y.id = w.partner_id;
    -- What its partner sees in /v1/events, of the chosen types, and its own test events.
    select jsonb_agg(gateway.event_json(e, p) order by e.position) into items
      from (select v.* from gateway.visible_events(p, null, w.position, until, 2147483647) v
             where case v.type when 'webhook.tested' then v.data ->> 'webhook_id' = w.id::text
                               else w.event_types is null or v.type = any (w.event_types) end
             order by v.position limit p_most) e;
    if items is null then
      update gateway.webhook x set position = until, due_at = over where x.id = w.id;
    else
      update gateway.webhook x set claim_id = gen_random_uuid(), due_at = over + make_interval(secs => p_lease_seconds)
       where x.id = w.id returning * into w;
      return jsonb_build_object(
        'id', w.id, 'claim_id', w.claim_id, 'url', w.url, 'failures', w.failures, 'events', items,
        'secrets', (select jsonb_agg(jsonb_build_object('seal_id', s.seal_id, 'encrypted', s.webhook_secret)) from (select x.* from gateway.webhook_secret x
                     where x.webhook_id = w.id and (x.expires_at is null or x.expires_at > over) order by x.created_at desc) s));
    end if;
  end loop;
  return null;
end $$;

-- What became of one event of a claim: the cursor moves behind it unless it failed; with `p_wait_seconds` the claim ends, and with a reason (`gone`,
-- `failing`) the endpoint is disabled. A claim that was taken over, or whose endpoint was replayed or deleted, moves nothing: false.
create or replace function public.gateway_end_delivery_v1(
  p_id uuid, p_claim_id uuid, p_attempt jsonb, p_failures integer default 0, p_wait_seconds double precision default null, p_disabled text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  a gateway.webhook_delivery := jsonb_populate_record(null::gateway.webhook_delivery, p_attempt);
  w gateway.webhook;
begin
  insert into gateway.webhook_delivery (webhook_id, position, event_id, type, status, error, duration_ms)
  select x.id, a.position, a.event_id, a.type, a.status, a.error, a.duration_ms from gateway.webhook x where x.id = p_id for key share;
  update gateway.webhook x
     set position = case when p_failures = 0 then greatest(x.position, a.position) else x.position end, failures = p_failures,
         claim_id = case when p_wait_seconds is null then x.claim_id end, due_at = coalesce(clock_timestamp() + make_interval(secs => p_wait_seconds), x.due_at),
         disabled_at = case when p_disabled is not null then clock_timestamp() end
   where x.id = p_id and x.claim_id = p_claim_id returning * into w;
  insert into gateway.event (type, partner_id, data)
  select 'webhook.disabled', w.partner_id, jsonb_build_object('webhook_id', w.id, 'after', w.position, 'reason', p_disabled)
   where w.disabled_at is not null;
  return to_jsonb(w.id is not null);
end $$;

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

do $fingerprints$
declare
  installed jsonb;
begin
  with
  own_table as (
    select c.*, 'public.' || c.relname as name from pg_catalog.pg_class c
     where c.relnamespace = 'public'::regnamespace and c.relname in ('user_profile', 'provider_data')),
  own_function as (
    select p.*, n.nspname = 'public' as is_offered, p.oid::regprocedure::text as name
      from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
     where n.nspname = 'gateway' or n.nspname = 'public' and p.proname ~ '^gateway_.*_v[0-9]+$'),
  policy as (  -- without `public.`, which Postgres prints or not, by the search_path of the reader
    select t.relname::text as table_name, y.polname::text as name, format('"%s" on %s', y.polname, t.relname) as key, y.polpermissive, p.roles,
           md5(concat_ws(' ', y.polpermissive, y.polcmd, array_remove(p.roles, 'public'),
             coalesce(replace(pg_catalog.pg_get_expr(y.polqual, y.polrelid), 'public.', ''), '-'),
             coalesce(replace(pg_catalog.pg_get_expr(y.polwithcheck, y.polrelid), 'public.', ''), '-'))) as hash
      from pg_catalog.pg_policy y join own_table t on t.oid = y.polrelid
     cross join lateral (select array(select coalesce(r.rolname::text, 'public') from unnest(y.polroles) o (id)
                                        left join pg_catalog.pg_roles r on r.oid = o.id order by 1) as roles) p),
  present (hashes) as (select jsonb_build_object(
    'functions', (
      select md5(string_agg(concat_ws(' ', n.nspname, f.proname, pg_catalog.oidvectortypes(f.proargtypes), f.prosecdef, f.proconfig, f.prosrc), ''
                            order by n.nspname, f.proname, f.proargtypes::text))
        from own_function f join pg_catalog.pg_namespace n on n.oid = f.pronamespace),
    'triggers', (
      select md5(string_agg(concat_ws(' ', t.tgenabled, translate(pg_catalog.pg_get_triggerdef(t.oid), '()', '')), '' order by n.nspname, c.relname, t.tgname))
        from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid join pg_catalog.pg_namespace n on n.oid = c.relnamespace
       where not t.tgisinternal and t.tgname ~ '^gateway_'),
    'policies', (
      select jsonb_object_agg(y.key, y.hash) from policy y
       where y.name ~ '^(Users can (view|update|insert)|Users reach only|Third-party apps reach no) ')))
  select n.hashes into installed from present n;
  execute format('comment on schema gateway is %L', 'What the gateway relies on. No client role can reach it. Applied: ' || installed::text);
end $fingerprints$;

-- An older release that is applied again replaces the newer ones.
delete from gateway.function_release r
 where r.applied_at > (select known.applied_at from gateway.function_release known where known.sha256 = '5370e144f53fcafc707ae828181ed9b2369b6c5ec8ebab408b37d1e1bf5c7a9a');
insert into gateway.function_release (sha256) values ('5370e144f53fcafc707ae828181ed9b2369b6c5ec8ebab408b37d1e1bf5c7a9a') on conflict do nothing;

notify pgrst, 'reload schema';
