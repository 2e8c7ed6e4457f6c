-- Events that providers send: stored at once, settled by a worker.

-- The connections that an event is about: of the account and those above it, and of everything below an agency.
create or replace function gateway.event_targets(e gateway.incoming_event) returns setof gateway.connection
language sql stable as $$
  select c.* from gateway.connection c where c.provider = any (e.providers) and c.account_id = any (e.accounts)
  union
  select c.* from gateway.derived_token t join gateway.connection c on c.id = t.connection_id
   where t.account_id = any (e.accounts) and c.provider = any (e.providers)
  union
  select c.* from gateway.connection c where c.provider = any (e.providers) and c.facts @> e.below
$$;

-- `p_event`: a row of gateway.incoming_event. Nothing is stored of an account that is not connected, except an installation: its connection
-- may follow.
create or replace function public.gateway_receive_event_v1(p_event jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  e gateway.incoming_event := jsonb_populate_record(null::gateway.incoming_event, p_event);
begin
  if exists (select from gateway.event_targets(e)) or e.topic = 'installation' and not e.is_end then
    insert into gateway.incoming_event (id, providers, type, accounts, below, topic, is_end, facts, label, body, at)
    values (e.id, e.providers, e.type, e.accounts, e.below, e.topic, e.is_end, e.facts, e.label, e.body, coalesce(e.at, clock_timestamp()))
    on conflict on constraint incoming_event_pkey do nothing;
    if found and e.topic = 'installation' and cardinality(e.accounts) = 1 then
      -- Of a new location whose agency is not named: the lists of the agencies that let the app be installed in new ones will say.
      update gateway.connection c set listed_at = null
       where c.provider = any (e.providers) and c.facts @> '{"userType": "Company", "installToFutureLocations": true}';
      return 'true';
    end if;
    return to_jsonb(found);
  end if;
  return 'false';
end $$;

-- Our app was removed at the provider. A refresh under way does not bring a connection back, because its generation is over.
create or replace function gateway.end_uninstalled(p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  perform gateway.set_status(p_ids, 'needs_reauthorization', 'uninstalled');
  update gateway.connection c set generation = c.generation + 1, lease_id = null, lease_until = null, lease_host = null, intent_at = null
   where c.id = any (p_ids) and c.reason = 'uninstalled' and c.intent_at is not null;
end $$;

-- What an event changes of the connections `p_ids`, which are locked. An earlier event than the last one about its topic changes nothing, and a
-- connection that was made after an uninstall stays.
create or replace function gateway.apply_event(e gateway.incoming_event, p_ids uuid[]) returns void
language plpgsql set search_path = '' as $$
begin
  if e.topic is null or exists (
    select from gateway.incoming_event o
     where o.topic = e.topic and o.accounts @> e.accounts[1:1] and o.accounts[1] = e.accounts[1] and o.due_at is null and o.at > e.at) then
    return;
  elsif e.topic = 'installation' and e.is_end then
    delete from gateway.derived_token t where t.connection_id = any (p_ids) and t.account_id = e.accounts[1];
    perform gateway.end_uninstalled(array(
      select c.id from gateway.connection c
       where c.id = any (p_ids) and (c.account_id = e.accounts[1] or c.facts @> e.below)
         and not exists (select from gateway.event v where v.connection_id = c.id and v.at > e.at
                            and v.type in ('connection.created', 'connection.reauthorized'))));
  elsif e.topic = 'installation' then
    insert into gateway.derived_token (connection_id, account_id)
    select c.id, e.accounts[1] from gateway.connection c where c.id = any (p_ids) and c.account_id = e.accounts[2]
    on conflict on constraint derived_token_pkey do nothing;
    update gateway.incoming_event x set due_at = clock_timestamp() where x.due_at = 'infinity' and x.topic is not null and x.accounts = e.accounts[1:1];
  else
    update gateway.connection c
       set facts = c.facts || e.facts, account_label = coalesce(e.label, c.account_label), updated_at = clock_timestamp(),
           refresh_at = case when e.topic = 'version' and c.refreshable then clock_timestamp() else c.refresh_at end
     where c.id = any (p_ids) and c.account_id = e.accounts[1];
  end if;
end $$;

-- A connection whose accounts below were not compared with the provider's list for a day, and those that are known here; null: none is due. An
-- hour later it is due again, unless a call says that it is `p_listed`.
create or replace function public.gateway_due_listing_v1(p_providers text[], p_listed uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c gateway.connection;
begin
  select x.* into c from gateway.connection x
   where x.facts @> '{"userType": "Company"}' and x.provider = any (p_providers) and x.status = 'active'
     and (x.listed_at is null or x.listed_at < clock_timestamp() - interval '1 day') and gateway.provider_limit(x.provider, x.account_id) is null
   order by x.listed_at nulls first limit 1 for update skip locked;
  update gateway.connection x set listed_at = clock_timestamp() - interval '23 hours' where x.id = c.id;
  update gateway.connection x set listed_at = clock_timestamp() where x.id = p_listed and x.listed_at is not null;
  return case when c.id is not null then jsonb_build_object('at', clock_timestamp(), 'connection', gateway.public_data(c), 'known', array(
    select t.account_id from gateway.derived_token t where t.connection_id = c.id
    union
    select x.account_id from gateway.connection x
     where x.provider = c.provider and x.facts @> jsonb_build_object('companyId', c.account_id) and x.id <> c.id and x.status in ('active', 'suspended')
       and x.account_id <> c.account_id)) end;
end $$;

-- Settle up to `p_most` stored events: change the connections, and hand each event on, once for each connection. An event waits while one of
-- its connections is locked. What the gateway found out itself has no body, and is not handed on.
create or replace function public.gateway_settle_events_v1(p_most integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  e       gateway.incoming_event;
  ids     uuid[];
  free    uuid[];
  settled integer := 0;
begin
  for e in
    select x.* from gateway.incoming_event x where x.due_at <= clock_timestamp() order by x.due_at, x.at limit p_most for update skip locked
  loop
    ids := array(select t.id from gateway.event_targets(e) t);
    free := array(select c.id from gateway.connection c join public.provider_data d on d.id = c.id
                   where c.id = any (ids) order by c.id for update skip locked);
    update gateway.incoming_event x
       set due_at = case when ids = '{}' and e.topic = 'installation' and not e.is_end then 'infinity'
                         when cardinality(free) < cardinality(ids) then clock_timestamp() + interval '1 second' end
     where x.id = e.id;
    if cardinality(free) = cardinality(ids) then
      perform gateway.apply_event(e, ids);
      insert into gateway.event (type, connection_id, user_id, provider, data)
      select case when e.topic = 'installation' and not e.is_end then 'install.received' else 'provider_event.received' end, c.id, c.user_id, c.provider,
             jsonb_build_object('event', e.type, 'account_id', e.accounts[1], 'delivery_id', e.id)
        from gateway.connection c where c.id = any (ids) and e.body <> '';
      settled := settled + 1;
    end if;
  end loop;
  return to_jsonb(settled);
end $$;
