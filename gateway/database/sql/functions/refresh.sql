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
