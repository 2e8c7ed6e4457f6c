-- Rows whose secrets were written by the owner, or before the gateway.

-- What is written over our secrets is noted, so that nobody has to search for it. Ours begin as every Fernet token does.
create or replace function gateway.note_written() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.adoption as a (id) select c.id from gateway.connection c where c.id = new.id
  on conflict on constraint adoption_pkey do update set due_at = clock_timestamp(), attempts = 0;
  return null;
end $$;

-- What a client wrote is looked at in any case: it may be nothing, or begin as ours do. Who writes is known only to a function that
-- runs as they do, and what it says here is read by the trigger's condition for the same row.
create or replace function gateway.tell_client() returns trigger
language plpgsql set search_path = '' as $$
begin
  perform set_config('gateway.client_writes', case when
    pg_catalog.row_security_active(tg_relid) and current_user <> 'service_role' and not exists (
      select from pg_catalog.pg_class c where c.oid = tg_relid and pg_catalog.pg_get_userbyid(c.relowner) = current_user
    ) then 'yes' else 'no' end, true);
  return new;
end $$;

-- Neither empty nor sealed by us: somebody else wrote it.
create or replace function gateway.plain(p_secret text) returns boolean
language sql immutable as $$ select coalesce(p_secret !~ '^(gAAAA|$)', false) $$;

create or replace function gateway.hashed(p_secret text) returns text
language sql immutable as $$ select encode(sha256(convert_to(p_secret, 'UTF8')), 'hex') $$;

-- Every row that holds a secret, oldest first, so that of duplicates the oldest is seen first; a page at a time, behind
-- `after_at` and `after_id`. Plaintext stays here; what looks sealed goes along, to be looked at.
create or replace function public.gateway_adoptable_v1(p_after_at timestamptz, p_after_id uuid, p_most integer, p_providers text[])
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return jsonb_build_object(
    'total', (select count(*) from public.provider_data d where p_after_id is null and coalesce(nullif(d.token, ''), d.refresh, '') <> ''),
    'rows', coalesce((
      select jsonb_agg(jsonb_build_object(
               'id', x.id, 'at', x.at, 'user_id', x.auth_provider_id, 'name', x.name,
               'provider', coalesce(c.provider, (select p.id from unnest(p_providers) with ordinality p (id, place)
                                                  where gateway.same_provider(x.name, x.type, p.id) order by p.place limit 1)),
               'generation', coalesce(c.generation, 0), 'seal_id', c.seal_id, 'refresh_seal_id', c.refresh_seal_id,
               'plain', gateway.plain(x.token) or gateway.plain(x.refresh),
               'token', case when not gateway.plain(x.token) then nullif(x.token, '') end,
               'refresh', case when not gateway.plain(x.refresh) then nullif(x.refresh, '') end) order by x.at, x.id)
        from (select d.*, coalesce(d.created_at, 'infinity') as at from public.provider_data d
               where (nullif(d.token, '') is not null or nullif(d.refresh, '') is not null)
                 and (p_after_id is null or (coalesce(d.created_at, 'infinity'), d.id) > (p_after_at, p_after_id))
               order by coalesce(d.created_at, 'infinity'), d.id limit p_most) x
        left join gateway.connection c on c.id = x.id), '[]'));
end $$;

-- null: nothing is due, or somebody has it. Without an id, the next connection that something was written over. A lease lasts a
-- minute, longer than the provider may take, and keeps the refresh away meanwhile.
create or replace function public.gateway_claim_adoption_v1(p_connection_id uuid, p_provider text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over  timestamptz := clock_timestamp();
  found_id uuid;
  claimed gateway.adoption;
  known gateway.connection;
begin
  if p_connection_id is null then
    select a.id into found_id from gateway.adoption a
     where a.due_at <= over and (a.lease_until is null or a.lease_until <= over)
     order by a.due_at limit 1 for update skip locked;
  else
    insert into gateway.adoption (id, due_at) select d.id, 'infinity' from public.provider_data d where d.id = p_connection_id
    on conflict on constraint adoption_pkey do nothing;
    select a.id into found_id from gateway.adoption a
     where a.id = p_connection_id and (a.lease_until is null or a.lease_until <= over) for update skip locked;
  end if;
  if found_id is null then
    return null;
  end if;
  update gateway.adoption a
     set lease_id = gen_random_uuid(), lease_until = over + interval '1 minute', attempts = a.attempts + 1
   where a.id = found_id returning a.* into claimed;
  -- Under a refresh that is on its way nothing is touched: what it brings is newer than what we would keep.
  update gateway.connection c set lease_id = claimed.lease_id, lease_until = claimed.lease_until
   where c.id = claimed.id and (c.lease_until is null or c.lease_until <= over)
     and (c.intent_at is null or c.status <> 'active') returning c.* into known;
  if known.id is null and exists (select from gateway.connection c where c.id = claimed.id) then
    update gateway.adoption a set lease_id = null, lease_until = null, attempts = a.attempts - 1, due_at = over + interval '5 seconds'
     where a.id = claimed.id;
    return null;
  end if;
  update gateway.adoption a
     set due_at = case when known.id is null then 'infinity'
                       else over + least(interval '1 minute' * power(2, least(a.attempts - 1, 10)), interval '1 hour') end
   where a.id = claimed.id;
  return (
    select jsonb_build_object(
             'id', d.id, 'lease_id', claimed.lease_id, 'attempts', claimed.attempts, 'user_id', d.auth_provider_id,
             'provider', coalesce(known.provider, p_provider), 'generation', coalesce(known.generation, 0),
             'account_id', known.account_id, 'account_key', known.account_key, 'scope', coalesce(known.scope, '{}'),
             'refresh_expires_at', known.refresh_expires_at, 'seal_id', known.seal_id,
             'refresh_seal_id', known.refresh_seal_id,
             'token', nullif(d.token, ''), 'refresh', nullif(d.refresh, ''), 'expires', d.expires,
             'data', case when known.id is null then d.data else known.facts end,
             'refresh_hash', claimed.refresh_hash, 'sealed', claimed.sealed,
             'beside', exists (select from gateway.connection c
                                where c.user_id = d.auth_provider_id and c.id <> d.id
                                  and c.provider = coalesce(known.provider, p_provider)))
      from public.provider_data d where d.id = claimed.id);
end $$;

-- What a used refresh token brought is kept before anything is made of it: the token itself is worth nothing any more.
create or replace function public.gateway_keep_refreshed_v1(p_connection_id uuid, p_lease_id uuid, p_refresh_hash text, p_sealed text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  update gateway.adoption a set refresh_hash = p_refresh_hash, sealed = p_sealed
   where a.id = p_connection_id and a.lease_id = p_lease_id;
  return jsonb_build_object('kept', found);
end $$;

-- Compare-and-set: what was confirmed must still stand, and be the next generation. `why`: `changed`, `no_user`, `duplicate`.
create or replace function public.gateway_adopt_connection_v1(
  p_connection_id uuid, p_lease_id uuid, p_generation bigint, p_token_hash text, p_refresh_hash text, p_provider text, p_type integer,
  p_account_key text, p_account_id text, p_account_label text, p_scope text[], p_token text, p_refresh text, p_seal_id uuid, p_expires_at timestamptz,
  p_refresh_expires_at timestamptz, p_data jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  whose   uuid := (select d.auth_provider_id from public.provider_data d where d.id = p_connection_id);
  stands  public.provider_data;
  known   gateway.connection;
  profile uuid;
begin
  if whose is null or not exists (select from gateway.live_user(whose)) then
    return jsonb_build_object('adopted', false, 'why', 'no_user');
  end if;
  perform gateway.lock_user(whose);
  select d.* into stands from public.provider_data d where d.id = p_connection_id for no key update;
  perform from gateway.adoption a where a.id = p_connection_id and a.lease_id = p_lease_id for update;
  if not found or stands.auth_provider_id is distinct from whose
     or (gateway.hashed(nullif(stands.token, '')), gateway.hashed(nullif(stands.refresh, ''))) is distinct from (p_token_hash, p_refresh_hash) then
    return jsonb_build_object('adopted', false, 'why', 'changed');
  end if;
  select c.* into known from gateway.connection c where c.id = p_connection_id for no key update;
  if coalesce(known.generation, 0) + 1 <> p_generation
     or known.id is not null and (known.provider, known.account_id) is distinct from (p_provider, p_account_id) then
    return jsonb_build_object('adopted', false, 'why', 'changed');
  end if;
  if exists (select from gateway.connection c where c.user_id = whose and c.provider = p_provider and c.id <> p_connection_id
                and c.account_key = p_account_key) then
    return jsonb_build_object('adopted', false, 'why', 'duplicate');
  end if;
  profile := gateway.profile_of(whose, null);
  update public.provider_data d
     set provider_id_ref = profile, name = p_provider, type = p_type, token = p_token, refresh = p_refresh,
         expires = to_char(p_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
         data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end || p_data
   where d.id = p_connection_id;
  insert into gateway.connection as c
    (id, user_id, provider, type, account_key, account_id, account_label, scope, generation, seal_id, refresh_seal_id, expires_at, refresh_expires_at,
     refresh_at, facts)
  values (p_connection_id, whose, p_provider, p_type, p_account_key, p_account_id, p_account_label, p_scope, p_generation, p_seal_id, p_seal_id, p_expires_at,
          p_refresh_expires_at, gateway.refresh_time(p_refresh is not null, p_expires_at, p_refresh_expires_at), gateway.facts_in(p_data))
  on conflict (id) do update set  -- a token that was asked about by itself says nothing new: the facts before it hold still
    facts = c.facts || excluded.facts,
    account_label = excluded.account_label, scope = excluded.scope, status = 'active', generation = excluded.generation, seal_id = excluded.seal_id,
    refresh_seal_id = excluded.refresh_seal_id,
    expires_at = excluded.expires_at, refresh_expires_at = excluded.refresh_expires_at, refresh_at = excluded.refresh_at,
    lease_id = null, lease_until = null, lease_host = null, intent_at = null, failures = 0, not_before = null,
    announced_at = null, updated_at = clock_timestamp();
  perform gateway.list_in_profile(whose, profile, p_connection_id);
  delete from gateway.adoption a where a.id = p_connection_id;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values (case p_generation when 1 then 'connection.created' else 'connection.reauthorized' end, p_connection_id, whose, p_provider,
          jsonb_build_object('generation', p_generation, 'adopted', true,
                             'account', jsonb_build_object('id', p_account_id, 'label', p_account_label)));
  return jsonb_build_object('adopted', true);
end $$;

-- Gives the lease back. `refused`: the provider does not confirm what was written over a connection, so it is taken out and the
-- connection has to be made again; unless something else was written since. A row that is not ours yet stays as it is. `again`: the
-- connection has to be asked about once more, whatever stands in it.
create or replace function public.gateway_settle_adoption_v1(
  p_connection_id uuid, p_lease_id uuid, p_refused boolean, p_token_hash text, p_refresh_hash text, p_error text, p_again boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  stands public.provider_data;
  marked gateway.connection;
begin
  select d.* into stands from public.provider_data d where d.id = p_connection_id for no key update;
  perform from gateway.adoption a where a.id = p_connection_id and a.lease_id = p_lease_id for update;
  if not found then
    return jsonb_build_object('marked', false);
  end if;
  update gateway.connection c set lease_id = null, lease_until = null where c.id = p_connection_id and c.lease_id = p_lease_id;
  if p_refused and (gateway.hashed(nullif(stands.token, '')), gateway.hashed(nullif(stands.refresh, ''))) is not distinct from (p_token_hash, p_refresh_hash) then
    update gateway.connection c set status = 'needs_reauthorization', updated_at = clock_timestamp()
     where c.id = p_connection_id returning c.* into marked;
  end if;
  if marked.id is not null then
    update public.provider_data d
       set token = case when not gateway.plain(d.token) then d.token end,
           refresh = case when not gateway.plain(d.refresh) then d.refresh end,
           data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end
                  || jsonb_build_object('status', 'needs_reauthorization')
     where d.id = p_connection_id returning d.* into stands;
    insert into gateway.event (type, connection_id, user_id, provider, data)
    values ('connection.needs_reauthorization', marked.id, marked.user_id, marked.provider, jsonb_build_object('error', p_error));
  end if;
  -- Kept: what still has to be asked about again, and what a used refresh token has brought.
  delete from gateway.adoption a
   where a.id = p_connection_id and not p_again
     and (not (gateway.plain(stands.token) or gateway.plain(stands.refresh))
          or a.sealed is null and not exists (select from gateway.connection c where c.id = a.id));
  update gateway.adoption a set lease_id = null, lease_until = null where a.id = p_connection_id;
  return jsonb_build_object('marked', marked.id is not null);
end $$;
