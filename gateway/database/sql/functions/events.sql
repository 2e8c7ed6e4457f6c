-- Events: append, positions, the hash chain, and what callers may read.

-- An uninstall of our app also ended the other connections of its account.
create or replace function public.gateway_record_v1(
  p_type text, p_connection_id uuid default null, p_user_id uuid default null, p_provider text default null, p_data jsonb default '{}'
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values (p_type, p_connection_id, p_user_id, p_provider, p_data);
  perform gateway.end_uninstalled(array(
    select x.id from gateway.connection c cross join gateway.same_account(c) x where c.id = p_connection_id)) where p_type = 'app.uninstalled';
  return null;
end $$;

-- Each event of a connection has its tags, so that a partner needs no second call to know whose it is.
create or replace function gateway.add_tags() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  new.data := coalesce((
    select new.data || jsonb_build_object('tags', c.tags) from gateway.connection c
     where c.id = new.connection_id and c.tags <> '{}'), new.data);
  return new;
end $$;

-- positions -----------------------------------------------------------------------------------------------------------

-- The next positions go to committed events that have none, oldest first. One caller at a time: an event that commits later gets a later
-- position, and no reader sees a position before all lower ones. `greatest`: a row that was inserted with a position must not stop this.
create or replace function public.gateway_assign_positions_v1(p_limit integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  top      bigint;
  assigned integer;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('gateway event positions', 0)) then
    return 0;
  end if;
  select greatest(c.position, (select max(e.position) from gateway.event e)) into top from gateway.event_chain c;
  update gateway.event e set position = top + x.place
    from (select o.id, row_number() over (order by o.at, o.id) as place
            from (select n.id, n.at from gateway.event n where n.position is null order by n.at, n.id limit p_limit) o) x
   where e.id = x.id;
  get diagnostics assigned = row_count;
  update gateway.event_chain c set position = top + assigned where assigned > 0;
  return to_jsonb(assigned);
end $$;

-- the hash chain ------------------------------------------------------------------------------------------------------

-- The state of the chain. The key is set once, before anything is sealed: a chain never gets another one. With `p_limit` a page: the rows
-- after the last seal at or before `p_after`, up to the last seal within `p_limit` positions, or else the next seal; where no seal follows, the
-- next rows after `p_after`.
create or replace function public.gateway_event_chain_v1(p_new_key text default null, p_after bigint default null, p_limit integer default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' set datestyle = 'ISO' as $$
declare
  previous gateway.event_seal;
  last     bigint;
begin
  update gateway.event_chain c set encrypted_key = p_new_key
   where p_new_key is not null and c.encrypted_key is null and not exists (select from gateway.event_seal s where s.hash <> '');
  if p_limit is null then
    return (
      select jsonb_build_object(
               'position', c.position, 'encrypted_key', c.encrypted_key,
               'start', (select to_jsonb(s) from gateway.event_seal s order by s.position limit 1),
               'end', (select to_jsonb(s) from gateway.event_seal s order by s.position desc limit 1),
               'rows_before_start', exists (select from gateway.event e
                                             where e.position <= (select min(s.position) from gateway.event_seal s)),
               'unassigned', (select count(*) from gateway.event e where e.position is null),
               'oldest_unassigned_seconds', (select coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0) from gateway.event e where e.position is null))
        from gateway.event_chain c);
  end if;
  select s.* into previous from gateway.event_seal s
   where s.position <= greatest(p_after, (select min(x.position) from gateway.event_seal x)) order by s.position desc limit 1;
  last := coalesce(
    (select max(s.position) from gateway.event_seal s where s.position > previous.position and s.position <= previous.position + p_limit),
    (select min(s.position) from gateway.event_seal s where s.position > previous.position));
  return jsonb_build_object(
    'previous', to_jsonb(previous),
    'seals', coalesce((select jsonb_agg(to_jsonb(s) order by s.position) from gateway.event_seal s
                        where s.position > previous.position and s.position <= last), '[]'),
    -- With all columns, as they are hashed. `data` and times are text, so that no conversion changes them.
    'rows', coalesce((select jsonb_agg(to_jsonb(x) || jsonb_build_object('at', (x.at at time zone 'UTC')::text, 'data', x.data::text) order by x.position)
                        from (select e.* from gateway.event e
                               where e.position > case when last is null then p_after else previous.position end and (last is null or e.position <= last)
                               order by e.position limit case when last is null then p_limit end) x), '[]'));
end $$;

-- Compare-and-set on the end of the chain.
create or replace function public.gateway_seal_events_v1(p_after bigint, p_position bigint, p_hash text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('gateway event seals', 0));
  insert into gateway.event_seal (position, hash)
  select p_position, p_hash where p_position > p_after and p_after = (select max(s.position) from gateway.event_seal s);
  return to_jsonb(found);
end $$;

-- Whole segments from the front of the chain, in which every event is older than `p_days` whole days (UTC). The chain then starts at the
-- last seal of what was dropped; an event records that, so that any other missing front is found.
create or replace function gateway.drop_old_events(p_days integer, p_limit integer) returns void
language plpgsql set search_path = '' as $$
declare
  kept_from timestamptz := (date_trunc('day', clock_timestamp() at time zone 'UTC') - make_interval(days => p_days)) at time zone 'UTC';
  first     bigint := (select min(s.position) from gateway.event_seal s);
  young     bigint;
  start     gateway.event_seal;
begin
  select coalesce(min(e.position), first + p_limit + 1) into young from gateway.event e
   where e.position > first and e.position <= first + p_limit and e.at >= kept_from;
  select s.* into start from gateway.event_seal s where s.position > first and s.position < young order by s.position desc limit 1;
  if not found then
    return;
  end if;
  delete from gateway.event e where e.position <= start.position;
  delete from gateway.event_seal s where s.position < start.position;
  insert into gateway.event (type, data) values ('events.dropped', to_jsonb(start));
end $$;

-- reading -------------------------------------------------------------------------------------------------------------

-- The events after `p_after` and up to `p_until` that a user may see, or a partner. A partner sees its own acts. With reach `all` it also
-- sees everything about its providers. With reach `own` it sees what users, the operator and the gateway did to connections
-- during its consent, and any disconnect of them until a moment after its consent ended.
create or replace function gateway.visible_events(
  p_partner gateway.partner, p_user_id uuid, p_after bigint, p_until bigint, p_limit integer
)
returns setof gateway.event language plpgsql stable set search_path = '' as $$
begin
  if p_partner.id is null then
    return query  -- by the negative position, or the planner could walk all positions for a user with few events
      select e.* from gateway.event e
       where e.user_id = p_user_id and e.position is not null and -e.position < -p_after and e.type !~ '^(partner|key|events)\.'
       order by -e.position desc limit p_limit;
  else
    return query
      select e.* from gateway.event e
       where e.position > p_after and e.position <= p_until
         and (e.partner_id = p_partner.id
              or e.provider is not null and (p_partner.providers is null or e.provider = any (p_partner.providers))
                 and (p_partner.reach = 'all' or (e.partner_id is null or e.type = 'connection.disconnected') and exists (
                   select from gateway.consent x
                    where x.partner_id = p_partner.id and x.connection_id = e.connection_id and x.created_at <= e.at
                      and (x.ended_at is null or e.at < x.ended_at
                           or e.type = 'connection.disconnected' and e.at < x.ended_at + interval '5 seconds'))))
       order by e.position limit p_limit;
  end if;
end $$;

-- An event as a partner sees it, or a user. A partner with reach `own` does not see who else acted. The body of a provider's event is kept
-- for a week only.
create or replace function gateway.event_json(e gateway.event, p_partner gateway.partner) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', e.id, 'position', e.position, 'type', e.type, 'at', e.at, 'connection_id', e.connection_id, 'user_id', e.user_id,
    'partner', case when (p_partner).reach = 'own' and e.partner_id is distinct from (p_partner).id then null else e.partner_id end,
    'provider', e.provider,
    'data', e.data - array['tags', case when (p_partner).reach = 'own' then 'by' end]
      || jsonb_strip_nulls(jsonb_build_object('tags', nullif(gateway.visible_tags(e.data -> 'tags', p_partner), '{}')))
      || coalesce((select jsonb_build_object('body', i.body) from gateway.incoming_event i where i.id = e.data ->> 'delivery_id'), '{}'))
$$;

-- Token reads and proxied calls by hour, connection and partner: closed hours are events. A partner with reach `own` sees its own, a user
-- those of the own connections. `p_wanted`: the filters, and `after`: a key.
create or replace function gateway.usage_page(p_partner gateway.partner, p_user_id uuid, p_wanted jsonb, p_limit integer) returns jsonb
language sql stable as $$
  with counted as (
    select (e.data ->> 'hour')::timestamptz as hour, e.connection_id, e.partner_id, e.user_id, e.provider,
           (e.data ->> 'reads')::bigint as reads, (e.data ->> 'calls')::bigint as calls
      from gateway.event e where e.type in ('tokens.read', 'proxy.used') and e.at >= (p_wanted ->> 'from')::timestamptz
    union all
    select r.hour, r.connection_id, r.partner_id, r.user_id, r.provider,
           case r.scope when 'tokens:read' then r.reads end, case r.scope when 'proxy' then r.reads end from gateway.token_read r
  ), keyed as (
    select concat_ws('.', to_char(c.hour at time zone 'UTC', 'YYYY-MM-DD-HH24'), c.connection_id, c.partner_id) as key, c.* from counted c
  )
  select coalesce(jsonb_agg(to_jsonb(x) order by x.key), '[]') from (
    select c.key, c.hour, c.connection_id, c.partner_id as partner, c.provider,
           coalesce(sum(c.reads), 0) as token_reads, coalesce(sum(c.calls), 0) as proxied_calls
      from keyed c
     where c.key > coalesce(p_wanted ->> 'after', '') and c.hour >= (p_wanted ->> 'from')::timestamptz and c.hour < coalesce((p_wanted ->> 'to')::timestamptz, 'infinity')
       and c.connection_id = coalesce((p_wanted ->> 'connection_id')::uuid, c.connection_id)
       and (p_wanted ->> 'partner' is null or c.partner_id = (p_wanted ->> 'partner')::uuid)
       and case when p_user_id is not null then c.user_id = p_user_id when p_partner.reach = 'own' then c.partner_id = p_partner.id
                else p_partner.providers is null or c.provider = any (p_partner.providers) end
     group by 1, 2, 3, 4, 5 order by 1 limit p_limit) x
$$;

-- A page for one caller: the partner of a key, or a user. For a partner one call looks at 20,000 positions at most. `next`: where to
-- continue, if there is or may be more.
create or replace function public.gateway_events_v1(p_caller jsonb, p_after bigint, p_limit integer, p_usage jsonb default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks  record;
  top   bigint := (select c.position from gateway.event_chain c);
  until bigint := least(top, p_after + 20000);
  items jsonb;
begin
  select f.* into asks from gateway.caller(p_caller, 'events:read') f;
  if asks.refusal is not null then
    return asks.refusal;
  elsif p_usage is not null then
    return gateway.usage_page(asks.partner, asks.user_id, p_usage, p_limit);
  end if;
  select coalesce(jsonb_agg(gateway.event_json(x, asks.partner) order by x.position), '[]') into items
    from gateway.visible_events(asks.partner, asks.user_id, p_after, until, p_limit + 1) x;
  if jsonb_array_length(items) > p_limit then
    items := items - p_limit;
    until := (items -> (p_limit - 1) ->> 'position')::bigint;
  elsif asks.user_id is not null or until >= top then
    until := null;
  end if;
  return jsonb_build_object('items', items, 'next', until);
end $$;
