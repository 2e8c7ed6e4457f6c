-- Reading a token.

-- What a token read needs, in one call: whose key, how far it reaches, what is frozen, how much was read, the row, the event. `good`:
-- for `min_seconds` still; `alive`: now. Another's id is like none, and counts for nothing. `counted`: the first look of a request;
-- what a refresh looks at afterwards is judged again and neither counted nor told. No user and no key: the gateway itself.
-- `location`: only the connection of that one.
create or replace function public.gateway_grant_v1(
  p_connection_id uuid, p_user_id uuid, p_min_seconds integer, p_key_hash text default null, p_address text default null,
  p_counted boolean default false, p_location text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over    timestamptz := clock_timestamp();
  asks    record;
  p       gateway.partner;
  let     boolean := true;
  x       record;
  limited jsonb;
begin
  if p_key_hash is not null then
    asks := gateway.caller(p_key_hash, p_address, 'tokens:read');
    if asks.refused is not null then
      return jsonb_build_object('refused', asks.refused);
    end if;
    p := asks.partner;
    if p.reach = 'own' then
      let := gateway.lets(p, p_connection_id);
    end if;
  end if;
  -- In one statement, so that token and generation are of one moment; and none of it is read where nobody said yes: an id out of
  -- reach takes as long as none.
  select c.id, c.user_id, c.provider, c.generation, c.seal_id, c.status, c.scope, c.expires_at, c.lease_until, c.not_before,
         d.token, nullif(d.refresh, '') is not null as refreshable,
         exists (select from gateway.freeze f where f.target in ('reads', 'provider:' || c.provider)) as frozen
    into x from gateway.connection c join public.provider_data d on d.id = c.id
   where let and c.id = p_connection_id
     and (p_key_hash is null or p.providers is null or c.provider = any (p.providers))
     and (p_user_id is null or c.user_id = p_user_id and exists (select from gateway.live_user(p_user_id)))
     and (p_location is null or c.facts ->> 'locationId' = p_location);
  if not found then
    return case when p_key_hash is not null and exists (select from gateway.waiting(p) w where w.id = p_connection_id)
                then '{"refused": "pending_confirmation"}'::jsonb
                when gateway.shut_out(p_user_id) then '{"shut_out": true}'::jsonb end;
  end if;
  if x.frozen and (p_key_hash is not null or p_user_id is not null) then
    return '{"refused": "frozen"}';
  end if;
  if p_counted and x.status = 'active' then
    if p_key_hash is not null then
      limited := gateway.count_read(p, x.id, p_address, asks.recent);
      if limited is not null then
        return limited;
      end if;
    end if;
    -- Told in this transaction or not at all, and on disk within wal_writer_delay: nothing of ours that dies takes it along, a crash of
    -- Postgres itself the reads of its last half second.
    perform set_config('synchronous_commit', 'off', true);
    insert into gateway.event (type, connection_id, user_id, partner_id, provider)
    values ('token.read', x.id, x.user_id, p.id, x.provider);
  end if;
  return jsonb_build_object(
    'id', x.id, 'user_id', x.user_id, 'provider', x.provider, 'generation', x.generation, 'seal_id', x.seal_id, 'status', x.status,
    'scope', x.scope, 'expires_at', x.expires_at, 'token', x.token,
    'good', nullif(x.token, '') is not null
            and (x.expires_at is null or x.expires_at > over + make_interval(secs => p_min_seconds)),
    'alive', nullif(x.token, '') is not null and (x.expires_at is null or x.expires_at > over),
    'refreshable', x.refreshable,
    'leased', x.lease_until > over,
    'wait_seconds', greatest(0, ceil(extract(epoch from x.not_before - over))));
end $$;
