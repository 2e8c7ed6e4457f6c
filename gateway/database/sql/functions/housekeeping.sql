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
