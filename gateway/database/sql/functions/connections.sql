-- Connections: saving, listing, checking.

-- Secrets are sealed for an id and a generation. Were an erased id to come back, its generations would start over and what
-- was sealed for the old row would open in the new one.
create or replace function gateway.was_used(p_wanted uuid) returns boolean
language sql stable as $$
  select exists (select from gateway.event e where e.connection_id = p_wanted)
      or exists (select from gateway.used_id u where u.id = p_wanted)
$$;

create or replace function gateway.refuse_used_id() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if gateway.was_used(new.id)
     and not exists (select from public.provider_data d where d.id = new.id) then
    raise exception 'this id was a connection before' using errcode = 'unique_violation';
  end if;
  return new;
end $$;

create or replace function gateway.shown(p_connection gateway.connection) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', p_connection.id, 'user_id', p_connection.user_id, 'provider', p_connection.provider, 'type', p_connection.type, 'generation', p_connection.generation,
    'status', p_connection.status, 'account_id', p_connection.account_id, 'account_label', p_connection.account_label, 'scope', p_connection.scope,
    'expires_at', p_connection.expires_at, 'created_at', p_connection.created_at, 'updated_at', p_connection.updated_at)
$$;

-- Ahead of the end of the token, with jitter, so that what was connected together is not refreshed together; and in time for
-- a refresh token that would die unused. Null: there is nothing to refresh with, or nothing that ends.
create or replace function gateway.refresh_time(p_refreshable boolean, p_expires_at timestamptz, p_refresh_expires_at timestamptz)
returns timestamptz language sql volatile as $$
  select case when p_refreshable then least(
    p_expires_at - least((p_expires_at - clock_timestamp()) * (0.1 + 0.1 * random()), interval '15 minutes' * (0.5 + random())),
    clock_timestamp() + (p_refresh_expires_at - clock_timestamp()) * (0.7 + 0.1 * random())) end
$$;

-- What the provider said, of all that a front end is shown.
create or replace function gateway.facts_in(p_data jsonb) returns jsonb
language sql immutable as $$
  select case jsonb_typeof(p_data) when 'object' then p_data - array['account', 'scope', 'status'] else '{}'::jsonb end
$$;

-- Compare-and-set, since a seal is for an id and a generation: `saved` is false unless the proposal is the next generation of
-- what stands, or the first of a new id where nothing does. Then it says what to seal for instead, and what stands sealed, by which
-- whoever got no answer to a first try knows its own. `not_after`: when the caller has given up, by this clock. What is saved later
-- would stand though its user was told that it does not, and was given back.
create or replace function public.gateway_save_connection_v1(
  p_connection_id uuid, p_generation bigint, p_user_id uuid, p_user_label text, p_provider text, p_type integer, p_account_key text,
  p_account_id text, p_account_label text, p_scope text[], p_token text, p_refresh text, p_expires_at timestamptz,
  p_refresh_expires_at timestamptz, p_data jsonb, p_revoke_old boolean default false, p_parked_id uuid default null,
  p_expires_seconds double precision default null, p_refresh_expires_seconds double precision default null,
  p_not_after timestamptz default null, p_connect_session_id uuid default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  stands  record;
  seal    text;
  known   boolean;
  fits    boolean;
  profile uuid;
  answered boolean := false;
  was     gateway.parked_grant;
  partner uuid;
begin
  perform gateway.lock_user(p_user_id);
  -- Seconds, where they are given: whoever asked may have another clock than this one.
  p_expires_at := coalesce(clock_timestamp() + make_interval(secs => p_expires_seconds), p_expires_at);
  p_refresh_expires_at := coalesce(clock_timestamp() + make_interval(secs => p_refresh_expires_seconds), p_refresh_expires_at);
  -- By the key that the catalogue asks for now, else by the id that the caller saw: `accounts` may have changed since.
  select s.* into stands from gateway.standing(p_user_id, p_provider) s
   where s.account_key = p_account_key or s.id = p_connection_id order by (s.account_key = p_account_key) desc limit 1;
  select d.token into seal from public.provider_data d where d.id = stands.id for update;
  known := found;  -- otherwise it went while we waited for it
  if known then
    -- A refresh may have been saved while we waited for the row: what stands is read again, under the lock.
    select s.* into stands from gateway.standing(p_user_id, p_provider) s where s.id = stands.id;
    fits := p_connection_id = stands.id and p_generation = stands.generation + 1;
  else
    fits := p_generation = 1
      and not exists (select from public.provider_data d where d.id = p_connection_id)
      and not gateway.was_used(p_connection_id);
  end if;
  fits := coalesce(fits, false) and exists (select from gateway.live_user(p_user_id));
  if fits and (gateway.closed(p_provider) or gateway.link_stopped(coalesce(
       p_connect_session_id, (select p.connect_session_id from gateway.parked_grant p where p.id = p_parked_id)))) then
    return '{"refused": "frozen"}';
  end if;
  if fits and p_parked_id is not null then
    -- The question is answered once: whoever comes second finds nothing parked.
    perform set_config('gateway.parked_grant_used', p_parked_id::text, true);
    delete from gateway.parked_grant p
     where p.id = p_parked_id and p.user_id = p_user_id and p.parked_until > clock_timestamp() returning p.* into was;
    fits := found;
    answered := not found;
    p_connect_session_id := coalesce(p_connect_session_id, was.connect_session_id);
  end if;
  if not fits then
    return jsonb_build_object(
      'saved', false, 'created', false, 'answered', answered,
      'id', case when known then stands.id else gen_random_uuid() end,
      'generation', case when known then stands.generation else 0 end,
      'account_id', case when known then stands.account_id end,
      'account_label', case when known then stands.account_label end,
      'scope', case when known then stands.scope end,
      'connection', case when known then (select gateway.shown(c) from gateway.connection c where c.id = stands.id) end,
      'token', seal, 'refresh', case when known then stands.refresh end);
  end if;
  if p_revoke_old and known then
    insert into gateway.revocation (connection_id, generation, provider, account_id, token, refresh, reason)
    select d.id, stands.generation, p_provider, stands.account_id, d.token, d.refresh, 'superseded' from public.provider_data d
     where d.id = stands.id and (d.token is not null or d.refresh is not null)
    on conflict on constraint revocation_pkey do nothing;
  end if;
  profile := gateway.profile_of(p_user_id, p_user_label);
  insert into public.provider_data as d (id, provider_id_ref, auth_provider_id, name, type, token, refresh, expires, data)
  values (p_connection_id, profile, p_user_id, p_provider, p_type, p_token, p_refresh,
          to_char(p_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), coalesce(p_data, '{}'))
  on conflict (id) do update set
    provider_id_ref = excluded.provider_id_ref, auth_provider_id = excluded.auth_provider_id, name = excluded.name,
    type = excluded.type, token = excluded.token, refresh = excluded.refresh, expires = excluded.expires, data = excluded.data;
  insert into gateway.connection as c
    (id, user_id, provider, type, account_key, account_id, account_label, scope, generation, expires_at, refresh_expires_at,
     refresh_at, facts)
  values (p_connection_id, p_user_id, p_provider, p_type, p_account_key, p_account_id, p_account_label, p_scope, p_generation, p_expires_at,
          p_refresh_expires_at, gateway.refresh_time(p_refresh is not null, p_expires_at, p_refresh_expires_at), gateway.facts_in(p_data))
  on conflict (id) do update set
    type = excluded.type, account_key = excluded.account_key, account_id = excluded.account_id, account_label = excluded.account_label, scope = excluded.scope,
    facts = excluded.facts, reconnected = excluded.generation,
    status = 'active', generation = excluded.generation, expires_at = excluded.expires_at,
    refresh_expires_at = excluded.refresh_expires_at, refresh_at = excluded.refresh_at, lease_id = null, lease_until = null,
    lease_host = null, intent_at = null, failures = 0, not_before = null, announced_at = null, updated_at = clock_timestamp();
  perform gateway.list_in_profile(p_user_id, profile, p_connection_id);
  if p_connect_session_id is not null then
    partner := gateway.consent_through(p_connect_session_id, p_connection_id, p_generation = 1);
  end if;
  if was.confirmation_hash is not null then
    -- Kept, so that whoever missed the answer may ask for it again.
    update gateway.connect_session s set connection_id = p_connection_id, confirmation_hash = was.confirmation_hash
     where s.id = p_connect_session_id;
  end if;
  if was.confirmation_hash is not null and known and stands.account_id is distinct from p_account_id then
    -- What one partner confirmed, another's owner has not: their yes was to the account before.
    perform gateway.end_consents(p_connection_id, partner);
  end if;
  insert into gateway.event (type, connection_id, user_id, provider, partner_id, data)
  values (case p_generation when 1 then 'connection.created' else 'connection.reauthorized' end, p_connection_id, p_user_id, p_provider, partner,
          jsonb_build_object('generation', p_generation, 'account', jsonb_build_object('id', p_account_id, 'label', p_account_label)));
  if clock_timestamp() > p_not_after then
    raise exception 'whoever asked has given up by now' using errcode = 'query_canceled';
  end if;
  return jsonb_build_object('saved', true, 'created', p_generation = 1, 'id', p_connection_id, 'generation', p_generation,
                            'account_id', p_account_id, 'account_label', p_account_label, 'connection', case when partner is not null then
                              (select gateway.shown(c) from gateway.connection c where c.id = p_connection_id) end);
end $$;

-- Which partners may use a connection because its owner said so; those that reach every connection are the product itself.
create or replace function gateway.sharing(p_connection_id uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
begin
  return coalesce((
    select jsonb_agg(jsonb_build_object('id', p.id, 'name', p.name, 'made', x.made) order by p.name)
      from gateway.consent x join gateway.partner p on p.id = x.partner_id
     where x.connection_id = p_connection_id and x.ended_at is null and p.revoked_at is null and p.reach = 'own'), '[]');
end $$;

-- null: nobody is signed in there.
create or replace function public.gateway_connections_v1(p_session_hash text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select jsonb_build_object('user_id', s.user_id, 'label', s.label,
             'frozen', array(select substr(f.target, 10) from gateway.freeze f where f.target like 'provider:%'), 'connections', coalesce(
             (select jsonb_agg(gateway.shown(c) || jsonb_build_object('partners', gateway.sharing(c.id)) order by c.type, c.created_at, c.id)
                from gateway.connection c where c.user_id = s.user_id), '[]'))
      from gateway.live_session(p_session_hash) s
  );
end $$;

-- null: no such connection, or another's.
create or replace function public.gateway_connection_v1(p_session_hash text, p_connection_id uuid)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select gateway.shown(c)
      from gateway.live_session(p_session_hash) s join gateway.connection c on c.user_id = s.user_id and c.id = p_connection_id
  );
end $$;

-- null: no such connection, or another's. The right to probe a connection, once a minute.
create or replace function public.gateway_begin_check_v1(p_connection_id uuid, p_user_id uuid, p_key_hash text, p_address text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over timestamptz := clock_timestamp();
  seen jsonb := public.gateway_reached_connection_v1(p_connection_id, p_user_id, p_key_hash, p_address);
  provider_facts jsonb;
begin
  if seen is null or seen ? 'refused' or seen ? 'shut_out' then
    return seen;
  end if;
  if seen ->> 'status' = 'pending_confirmation' then
    return '{"refused": "pending_confirmation"}';
  end if;
  update gateway.connection c set checked_at = over
   where c.id = p_connection_id and (c.checked_at is null or c.checked_at <= over - interval '1 minute') returning c.facts into provider_facts;
  if not found then
    return (select jsonb_build_object('refused', 'rate_limited',
                                      'retry_after', greatest(1, ceil(60 - extract(epoch from over - c.checked_at))))
              from gateway.connection c where c.id = p_connection_id);
  end if;
  return seen || jsonb_build_object('facts', provider_facts);
end $$;

-- What came of it; what stands then, or null. `refused`: what the provider said of the grant of that generation ends it, by the name
-- of `error`; a newer one is not touched.
create or replace function public.gateway_end_check_v1(
  p_connection_id uuid, p_generation bigint, p_outcome text, p_error text, p_key_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c     gateway.connection;
  asker uuid := (select k.partner_id from gateway.api_key k where k.key_hash = p_key_hash);
begin
  if p_outcome = 'refused' then
    perform from public.provider_data d where d.id = p_connection_id for update;
    update gateway.connection x set status = 'needs_reauthorization', updated_at = clock_timestamp()
     where x.id = p_connection_id and x.generation = p_generation and x.status = 'active' returning x.* into c;
    if found then
      update public.provider_data d
         set data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end
                    || jsonb_build_object('status', 'needs_reauthorization')
       where d.id = p_connection_id;
      insert into gateway.event (type, connection_id, user_id, provider, data)
      values ('connection.needs_reauthorization', c.id, c.user_id, c.provider, jsonb_build_object('error', p_error));
    end if;
  end if;
  select x.* into c from gateway.connection x where x.id = p_connection_id;
  if not found then
    return null;
  end if;
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  values ('connection.checked', c.id, c.user_id, asker, c.provider, jsonb_build_object('outcome', p_outcome));
  return gateway.shown(c);
end $$;
