-- The status of a connection: what it is now, how a change is recorded, and what many refusals at once mean.

-- Whether time alone has ended it: its access token expired, and no refresh token can renew it.
create or replace function gateway.is_over(c gateway.connection) returns boolean
language sql stable as $$
  select not c.refreshable and c.expires_at <= now() and c.status in ('active', 'suspended', 'held')
$$;

-- Whether it is a key that its provider advises to replace: `refresh_expires_at` of a key is the time for that, and not an end.
create or replace function gateway.is_rotation_due(c gateway.connection) returns boolean
language sql stable as $$
  select not c.refreshable and c.expires_at is null and coalesce(c.refresh_expires_at <= now(), false)
$$;

create or replace function gateway.status_of(c gateway.connection) returns text
language sql stable as $$ select case when gateway.is_over(c) then 'needs_reauthorization' else c.status end $$;

create or replace function gateway.reason_of(c gateway.connection) returns text
language sql stable as $$ select case when gateway.is_over(c) then 'access_token_expired' else c.reason end $$;

-- After an update of gateway.connection: the owner's copy of what a front end may show, and the event of each change. A save by the user has
-- its own event.
create or replace function gateway.record_change() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.provider_data d
     set data = (case jsonb_typeof(d.data) when 'object' then d.data - 'reason' else '{}' end) || new.facts
                || jsonb_strip_nulls(jsonb_build_object('scope', new.scope, 'status', new.status, 'reason', new.reason, 'account',
                     case when new.account_id <> '' then jsonb_build_object('id', new.account_id, 'label', new.account_label) end))
   where d.id = new.id;
  delete from gateway.derived_token t where t.connection_id = new.id and new.status = 'needs_reauthorization';
  insert into gateway.event (type, connection_id, user_id, provider, data)
  select case when new.status = 'unverified' then 'connection.unverified' when new.status = 'suspended' then 'connection.suspended'
              when new.status = 'held' then 'connection.held' when new.status = 'needs_reauthorization' then 'connection.needs_reauthorization'
              when old.status = 'unverified' then 'connection.imported' else 'connection.recovered' end,
         new.id, new.user_id, new.provider, case
           when new.status <> 'active' then jsonb_build_object('reason', new.reason)
           when old.status = 'unverified' then jsonb_build_object('account', jsonb_build_object('id', new.account_id, 'label', new.account_label))
           else jsonb_build_object('was', old.status) end
   where new.status <> old.status and new.reconnected = old.reconnected;
  insert into gateway.event (type, connection_id, user_id, provider, data)
  select 'connection.scope_changed', new.id, new.user_id, new.provider, jsonb_build_object(
           'added', array(select s from unnest(new.scope) s where s <> all (old.scope)),
           'removed', array(select s from unnest(old.scope) s where s <> all (new.scope)))
   where not (new.scope <@ old.scope and new.scope @> old.scope);
  return null;
end $$;

-- Other connections that end if our app is removed from the account of this one: of the same account, or of the accounts below it,
-- whose facts name it (the locations of an agency).
create or replace function gateway.same_account(c gateway.connection) returns setof gateway.connection
language sql stable as $$
  select x.* from gateway.connection x where x.provider = c.provider and x.account_id = c.account_id and x.id <> c.id and c.account_id <> ''
  union
  select x.* from jsonb_each_text(c.facts) f
    join gateway.connection x on x.provider = c.provider and x.facts @> jsonb_build_object(f.key, f.value) and x.id <> c.id
   where f.value = c.account_id and c.account_id <> ''
$$;

-- Whether a refused grant is held or has ended. An incident: of the connections that a provider was asked to refresh, or whose key was
-- checked, it refused at least half, and at least five. A response that we may have lost says nothing about the provider. The first refusal of
-- an incident also holds again what was refused just before it. An incident of an hour in which most grants were accepted was none: its
-- connections have ended; keys, which only a check tries again, are in use until then.
create or replace function gateway.judge_refusal(c gateway.connection) returns text
language plpgsql set search_path = '' as $$
declare
  moment      timestamptz := clock_timestamp();
  since       timestamptz := moment - interval '10 minutes';
  last        gateway.provider_incident;
  began       timestamptz;
  is_incident boolean;
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway incident ' || c.provider, 0));
  select i.* into last from gateway.provider_incident i where i.provider = c.provider;
  began := case when last.ended_at is null then last.began_at end;
  -- Counted in the last ten minutes and since the last incident; while an incident lasts, from ten minutes before it began.
  since := case when began is null then greatest(since, last.ended_at) else least(since, began - interval '10 minutes') end;
  select x.refused >= 5 and 2 * x.refused >= x.asked into is_incident
    from (select count(distinct e.connection_id) filter (where e.type = 'grant.refresh_failed' or e.data ->> 'outcome' = 'refused') as refused,
                 count(distinct e.connection_id) as asked
            from gateway.event e
           where e.at > since and e.provider = c.provider
             and (e.type = 'grant.refreshed' or e.type = 'grant.refresh_failed' and e.data ->> 'error' = 'grant_refused'
                  or e.type = 'connection.checked' and e.data ->> 'outcome' in ('confirmed', 'refused')
                     and exists (select from gateway.connection x where x.id = e.connection_id and not x.refreshable))) x;
  if is_incident then
    perform gateway.set_status(array(
      select x.id from gateway.connection x
       where x.provider = c.provider and x.status = 'needs_reauthorization' and x.reason in ('grant_refused', 'response_lost')
         and (x.refusal ->> 'at')::timestamptz > coalesce(began, moment) - interval '10 minutes'), 'held', 'provider_incident');
    if began is null then
      insert into gateway.provider_incident (provider, began_at) values (c.provider, moment)
      on conflict on constraint provider_incident_pkey do update set began_at = excluded.began_at, ended_at = null, probe_at = null;
      insert into gateway.event (type, provider) values ('provider.incident', c.provider);
    end if;
    return 'held';
  elsif began > moment - interval '1 hour' then
    return 'held';
  elsif began is not null then
    perform gateway.set_status(array(
      select x.id from gateway.connection x where x.provider = c.provider and x.status = 'held' and x.refreshable), 'needs_reauthorization', 'grant_refused');
    perform gateway.end_incident(c.provider);
  end if;
  return 'needs_reauthorization';
end $$;

-- Connections that are locked by another transaction are left out, so that no two wait for each other; so are those whose account is not
-- confirmed, which only an import changes.
create or replace function gateway.set_status(p_ids uuid[], p_status text, p_reason text) returns void
language plpgsql set search_path = '' as $$
begin
  update gateway.connection c
     set status = p_status, reason = p_reason, updated_at = clock_timestamp(), not_before = null,
         refresh_at = case when p_status = 'held' and c.refreshable then clock_timestamp() else c.refresh_at end
   where c.id = any (array(
     select x.id from gateway.connection x join public.provider_data d on d.id = x.id
      where x.id = any (p_ids) order by x.id for update skip locked)) and c.status not in (p_status, 'unverified');
end $$;

-- The provider accepts grants again: what is held is tried at once, and recovers or ends by its own refresh. A key is in use until its next check.
create or replace function gateway.end_incident(p_provider text) returns void
language plpgsql set search_path = '' as $$
begin
  perform gateway.set_status(array(
    select c.id from gateway.connection c where c.provider = p_provider and c.status = 'held' and not c.refreshable), 'active', null);
  update gateway.connection c set refresh_at = clock_timestamp(), not_before = null
   where c.id = any (array(select x.id from gateway.connection x where x.provider = p_provider and x.status = 'held' for update skip locked));
  update gateway.provider_incident i set ended_at = clock_timestamp() where i.provider = p_provider and i.ended_at is null;
  insert into gateway.event (type, provider) select 'provider.recovered', p_provider where found;
end $$;

-- For the operator: try a connection again, or all of a provider that wait, are held, suspended or were refused for long. None of an unconfirmed
-- account, and of keys those that are held.
create or replace function public.gateway_retry_v1(p_connection_id uuid default null, p_provider text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  ids uuid[] := array(
    select c.id from gateway.connection c
     where (c.refreshable or c.status = 'held') and c.status <> 'unverified' and coalesce(c.reason not in ('not_confirmed', 'another_account'), true)
       and case when p_connection_id is not null then c.id = p_connection_id
                                  else c.provider = p_provider and (c.status in ('held', 'suspended') or c.reason = 'refused_for_long' or c.status = 'active' and c.not_before > now()) end);
begin
  update gateway.connection c set not_before = null where c.id = any (ids);
  perform gateway.set_status(array(
    select c.id from gateway.connection c where c.id = any (ids) and c.status = 'needs_reauthorization'), 'held', 'retried');
  return to_jsonb(ids);
end $$;
