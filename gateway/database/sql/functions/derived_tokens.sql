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
