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
