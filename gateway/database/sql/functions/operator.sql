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
