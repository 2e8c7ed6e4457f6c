-- Housekeeping: once a minute, by one worker.

-- An array in each delete, since a join with a subquery that locks may run it, and its limit, more than once. Times are compared with a
-- variable, since a volatile function cannot use an index.
create or replace function gateway.delete_expired(p_limit integer) returns void
language plpgsql set search_path = '' as $$
declare
  over timestamptz := clock_timestamp();
begin
  delete from gateway.session s where s.session_hash = any (array(
    select x.session_hash from gateway.session x where x.expires_at <= over
     order by x.expires_at limit p_limit for update skip locked));
  delete from gateway.authorization_request a where a.state_hash = any (array(
    select x.state_hash from gateway.authorization_request x where x.expires_at <= over
     order by x.expires_at limit p_limit for update skip locked));
  -- After an hour a connect session is over: 15 minutes for the link, 10 for the attempt, 10 for its completion.
  delete from gateway.connect_session s where s.id = any (array(
    select x.id from gateway.connect_session x where x.expires_at <= over - interval '1 hour'
     order by x.expires_at limit p_limit for update skip locked));
  -- Without a decision the grant is revoked: a trigger queues it.
  delete from gateway.pending_grant p where p.id = any (array(
    select x.id from gateway.pending_grant x where x.pending_until <= over
     order by x.pending_until limit p_limit for update skip locked));
  delete from gateway.incoming_event i where i.id = any (array(
    select x.id from gateway.incoming_event x where x.received_at < over - interval '7 days' limit p_limit for update skip locked));
  delete from gateway.webhook_secret s where s.expires_at <= over;
  delete from gateway.webhook_delivery d where (d.webhook_id, d.id) in (
    select x.webhook_id, x.id from gateway.webhook_delivery x where x.at < over - interval '7 days' limit p_limit);
end $$;

-- A grant that could not be revoked in 72 hours.
create or replace function gateway.abandon_revocations(p_limit integer) returns void
language plpgsql set search_path = '' as $$
declare
  over timestamptz := clock_timestamp();
begin
  with abandoned as (
    delete from gateway.revocation r where r.seal_id in (
      select x.seal_id from gateway.revocation x
       where x.due_at <= over and x.created_at < over - interval '72 hours' limit p_limit for update skip locked)
    returning r.connection_id, r.provider
  )
  insert into gateway.event (type, connection_id, provider)
  select 'grant.revocation_abandoned', a.connection_id, a.provider from abandoned a;
end $$;

-- The end of a connection is announced once, a week before: of a refresh token whose refreshes fail, and of an access token without one. So is a
-- key that should be replaced, when that is due.
-- An incident whose connections were all disconnected or connected again is over.
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
   where i.ended_at is null and not exists (select from gateway.connection c where c.provider = i.provider and c.status = 'held');
end $$;

create or replace function public.gateway_housekeeping_v1(p_events_days integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  if not pg_try_advisory_xact_lock(hashtextextended('gateway housekeeping', 0)) then
    return 'false';
  end if;
  perform gateway.delete_expired(1000);
  perform gateway.close_hours(10000);
  perform gateway.abandon_revocations(100);
  perform gateway.announce_ends(100);
  perform gateway.drop_old_events(p_events_days, 2000);
  return 'true';
end $$;
