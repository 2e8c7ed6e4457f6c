-- Refreshing a token: lease, intent, compare-and-set.

create or replace function gateway.claimed(p_connection gateway.connection, p_again boolean) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'claimed', true, 'id', p_connection.id, 'user_id', p_connection.user_id, 'provider', p_connection.provider, 'generation', p_connection.generation,
    'lease_id', p_connection.lease_id, 'account_id', p_connection.account_id, 'scope', p_connection.scope, 'again', p_again, 'expires_at', p_connection.expires_at,
    'failures', p_connection.failures, 'seal_id', p_connection.refresh_seal_id,
    'refresh', (select d.refresh from public.provider_data d where d.id = p_connection.id),
    'facts', p_connection.facts)
$$;

-- Why no token request may be sent now, or null. A dead intent, claimed and never told of, blocks other hosts: the answer may
-- lie in the journal of the host that sent it. How long, `block_seconds`, is the provider's to say; a database that was away
-- does not count, since nobody could tell it anything.
create or replace function gateway.refresh_obstacle(p_connection gateway.connection, p_host text, p_block_seconds double precision)
returns text language sql volatile as $$
  select case
    when p_connection.status <> 'active' then 'moved'
    when p_connection.lease_until > clock_timestamp() then 'leased'
    when p_connection.not_before > clock_timestamp() then 'waiting'
    when p_connection.intent_at is not null and p_connection.lease_host <> p_host
         and clock_timestamp() <= greatest(p_connection.intent_at, pg_postmaster_start_time()) + make_interval(secs => p_block_seconds)
      then 'blocked'
  end
$$;

-- The breaker: closed; or open, when one caller in fifteen seconds may try.
create or replace function gateway.may_call(p_at_provider text) returns boolean
language plpgsql set search_path = '' as $$
declare
  health gateway.provider_health;
begin
  select h.* into health from gateway.provider_health h where h.provider = p_at_provider;
  if not found or health.open_until is null then
    return true;
  end if;
  update gateway.provider_health h set open_until = clock_timestamp() + interval '15 seconds'
   where h.provider = p_at_provider and h.open_until <= clock_timestamp();
  return found;
end $$;

-- The right to send one token request, by compare-and-set on the generation; the intent is written before the request is sent.
-- `often`: ten within a minute, which nobody's token is in need of.
create or replace function public.gateway_claim_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_host text, p_lease_seconds double precision, p_block_seconds double precision
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over     timestamptz := clock_timestamp();
  c        gateway.connection;
  repeated boolean;
  obstacle text;
begin
  select x.* into c from gateway.connection x where x.id = p_connection_id for update skip locked;
  obstacle := case when not found then 'leased' when c.generation <> p_generation then 'moved'
                   else gateway.refresh_obstacle(c, p_host, p_block_seconds) end;
  -- Not while the token lives: whoever has none is in need of one, and each of those came from a refresh that was due.
  if obstacle is null and (c.expires_at is null or c.expires_at > over)
     and (select count(*) from (select from gateway.event e
                                 where e.type = 'grant.refreshed' and e.connection_id = c.id and e.at > over - interval '1 minute'
                                 limit 10) x) = 10 then
    obstacle := 'often';
  end if;
  if obstacle is null and not gateway.may_call(c.provider) then
    obstacle := 'breaker';
  end if;
  if obstacle is not null then
    return jsonb_build_object('claimed', false, 'obstacle', obstacle);
  end if;
  repeated := c.intent_at is not null;
  update gateway.connection x
     set lease_id = gen_random_uuid(), lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds),
         lease_host = p_host, intent_at = clock_timestamp()
   where x.id = p_connection_id returning x.* into c;
  return gateway.claimed(c, repeated);
end $$;

-- The same for whatever was left behind by a process that died, or is due: one, or null. What cannot be taken now is passed over
-- where rows are looked for, so that it never stands before what can: a provider that is spared must not keep the others waiting.
create or replace function public.gateway_claim_due_v1(
  p_host text, p_lease_seconds double precision, p_block_seconds jsonb, p_providers text[]
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over   timestamptz := clock_timestamp();
  spared text[] := array(select h.provider from gateway.provider_health h where h.open_until > over);
  c      gateway.connection;
  repeated boolean;
begin
  select x.* into c from gateway.connection x
   where x.intent_at is not null and x.status = 'active' and x.provider = any (p_providers) and x.provider <> all (spared)
     and (x.lease_until is null or x.lease_until <= over)
     and gateway.refresh_obstacle(x, p_host, coalesce((p_block_seconds ->> x.provider)::double precision, 60)) is null
   order by x.intent_at limit 1 for update of x skip locked;
  if not found then
    select x.* into c from gateway.connection x
     where x.refresh_at <= over and x.status = 'active' and x.provider = any (p_providers) and x.provider <> all (spared)
       and x.intent_at is null and (x.lease_until is null or x.lease_until <= over) and (x.not_before is null or x.not_before <= over)
     order by x.refresh_at limit 1 for update of x skip locked;
  end if;
  if c.id is null or not gateway.may_call(c.provider) then
    return null;
  end if;
  repeated := c.intent_at is not null;
  update gateway.connection x
     set lease_id = gen_random_uuid(), lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds),
         lease_host = p_host, intent_at = clock_timestamp()
   where x.id = c.id returning x.* into c;
  return gateway.claimed(c, repeated);
end $$;

-- The lease is not asked for: whoever holds the answer to this generation's request holds what the provider believes now, also where
-- another's try with the token before was refused meanwhile. Seconds come in and not times: the clock is this one. Without
-- `renewed` the refresh token is the one that stood, and so is its end unless a new one is said.
--   ending: `saved`; `gone`; `reconnected`: the user was there first; `refreshed`: this answer stands already (whoever saved it was
--   not told, or two brought it), or one to the same request. Nothing of that may be given back: it is what stands.
create or replace function public.gateway_finish_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_token text, p_refresh text, p_seal_id uuid, p_scope text[], p_expires_seconds double precision,
  p_refresh_expires_seconds double precision, p_renewed boolean
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
    return jsonb_build_object('ending', case
      when not exists (select from gateway.connection x where x.id = p_connection_id) then 'gone'
      when exists (select from gateway.connection x where x.id = p_connection_id and x.reconnected > p_generation) then 'reconnected'
      else 'refreshed' end);
  end if;
  if not p_renewed then
    new_refresh_expires_at := coalesce(new_refresh_expires_at, c.refresh_expires_at);
  end if;
  update gateway.connection x
     set generation = x.generation + 1, seal_id = p_seal_id, refresh_seal_id = p_seal_id,
         scope = p_scope, expires_at = new_expires_at, refresh_expires_at = new_refresh_expires_at,
         refresh_at = gateway.refresh_time(p_refresh is not null, new_expires_at, new_refresh_expires_at), lease_id = null,
         lease_until = null, lease_host = null, intent_at = null, failures = 0, not_before = null, announced_at = null,
         status = 'active', updated_at = clock_timestamp()
   where x.id = p_connection_id returning x.* into c;
  update public.provider_data d
     set token = p_token, refresh = p_refresh, expires = to_char(new_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
         data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end
                || jsonb_build_object('scope', to_jsonb(p_scope), 'status', 'active')
   where d.id = p_connection_id;
  update gateway.provider_health h set failures = 0, open_until = null where h.provider = c.provider and h.failures > 0;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values ('grant.refreshed', c.id, c.user_id, c.provider, jsonb_build_object('generation', c.generation));
  return jsonb_build_object('ending', 'saved');
end $$;

-- outcome: `wait` (the provider is having trouble), `alone` (it answers, but not for this connection just now), `operator` (our
-- registration is refused, or a key is missing) or `refused` (the grant is, for good). Only what failed for the provider's own
-- reasons counts towards its breaker, and an answer of any other kind shows that it is well.
create or replace function public.gateway_fail_refresh_v1(
  p_connection_id uuid, p_generation bigint, p_lease_id uuid, p_outcome text, p_error text, p_wait_seconds double precision
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c gateway.connection;
begin
  perform from public.provider_data d where d.id = p_connection_id for update;  -- first, as everywhere, or two could lock each other out
  update gateway.connection x
     set lease_id = null, lease_until = null, lease_host = null, intent_at = null, failures = x.failures + 1,
         not_before = clock_timestamp() + make_interval(secs => p_wait_seconds),
         status = case p_outcome when 'refused' then 'needs_reauthorization' else x.status end,
         updated_at = case p_outcome when 'refused' then clock_timestamp() else x.updated_at end
   where x.id = p_connection_id and x.generation = p_generation and x.lease_id = p_lease_id returning x.* into c;
  if not found then
    return jsonb_build_object('told', false);
  end if;
  if p_outcome = 'refused' then
    update public.provider_data d
       set data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end
                  || jsonb_build_object('status', 'needs_reauthorization')
     where d.id = p_connection_id;
    insert into gateway.event (type, connection_id, user_id, provider, data)
    values ('connection.needs_reauthorization', c.id, c.user_id, c.provider, jsonb_build_object('error', p_error));
  end if;
  if p_outcome in ('alone', 'refused') then
    update gateway.provider_health h set failures = 0, open_until = null where h.provider = c.provider and h.failures > 0;
  elsif p_outcome = 'wait' then
    insert into gateway.provider_health as h (provider, failures) values (c.provider, 1)
    on conflict (provider) do update
      set failures = h.failures + 1,
          open_until = case when h.failures + 1 >= 5 then clock_timestamp() + interval '15 seconds' end;
  end if;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values ('grant.refresh_failed', c.id, c.user_id, c.provider,
          jsonb_build_object('error', p_error, 'remedy', case p_outcome when 'refused' then 'reconnect' when 'alone' then 'wait' else p_outcome end));
  return jsonb_build_object('told', true);
end $$;

-- What became of refreshes lately, by whichever process on whichever machine.
create or replace function public.gateway_recent_refreshes_v1(p_seconds integer)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare
  since timestamptz := clock_timestamp() - make_interval(secs => p_seconds);  -- a variable, so that the index is used
begin
  return coalesce((
    select jsonb_object_agg(x.outcome, x.n)
      from (select case e.type when 'grant.refreshed' then 'refreshed' else coalesce(e.data ->> 'remedy', 'wait') end as outcome,
                   count(*) as n
              from gateway.event e where e.at > since and e.type in ('grant.refreshed', 'grant.refresh_failed') group by 1) x), '{}');
end $$;
