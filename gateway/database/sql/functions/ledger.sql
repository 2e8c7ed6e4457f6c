-- The hash chain over events.

-- How long the oldest event waits to be sealed. Times that somebody wrote in by hand may be infinite.
create or replace function gateway.unsealed_seconds() returns numeric
language sql stable as $$
  select coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0) from gateway.event e
   where e.position is null and e.at > '-infinity' and e.at < 'infinity'
$$;

-- A row as it stands, for whoever makes or checks its hash. The hash is made outside of this database: who changes rows might change
-- functions too.
create or replace function gateway.raw(p_event gateway.event) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', p_event.id, 'at', gateway.moment(p_event.at), 'type', p_event.type, 'connection_id', p_event.connection_id, 'user_id', p_event.user_id, 'partner_id', p_event.partner_id,
    'provider', p_event.provider, 'data', p_event.data::text, 'position', p_event.position, 'hash', p_event.hash)
$$;

-- What is said of where the chain ends and begins, and what really stands at its end and at the place `seen`.
create or replace function gateway.ends(p_head gateway.ledger, p_seen bigint) returns jsonb
language sql stable as $$
  select to_jsonb(p_head) - 'only_one' - 'lease_until' || jsonb_build_object(
    'at_head', (select e.hash from gateway.event e where e.position = p_head.position),
    'at_seen', (select e.hash from gateway.event e where e.position = p_seen))
$$;

-- What is to be sealed, oldest first, and behind which head; for `lease_seconds`, or until it is sealed, nobody else's. null: there is
-- nothing, or somebody is at it. Rows that commit late are found later, and get later positions. `seen`: a position whose hash
-- whoever seals has kept.
create or replace function public.gateway_unsealed_events_v1(p_most integer, p_lease_seconds double precision, p_seen bigint default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  head gateway.ledger;
begin
  if not exists (select from gateway.event e where e.position is null) then
    return null;
  end if;
  perform from gateway.ledger l where l.lease_until is null or l.lease_until <= clock_timestamp() for update skip locked;
  if not found then
    return null;
  end if;
  update gateway.ledger l set lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds) returning l.* into head;
  return gateway.ends(head, p_seen) || jsonb_build_object(
    'items', (select coalesce(jsonb_agg(gateway.raw(x) order by x.at, x.id), '[]')
                from (select e.* from gateway.event e where e.position is null order by e.at, e.id limit p_most) x));
end $$;

-- Compare-and-set on the head. `sealed`: {"items": [{id, hash}]}, in order. All of them or none: a row that went since it was read
-- would leave a gap.
create or replace function public.gateway_seal_events_v1(p_head_position bigint, p_head_hash text, p_sealed jsonb, p_mark text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  wanted integer := jsonb_array_length(p_sealed -> 'items');
  there  integer;
begin
  perform from gateway.ledger l where l.position = p_head_position and l.hash = p_head_hash for update;
  if not found then
    return jsonb_build_object('sealed', false);
  end if;
  perform from gateway.event e
    where e.position is null and e.id in (select (i ->> 'id')::uuid from jsonb_array_elements(p_sealed -> 'items') i) for update;
  get diagnostics there = row_count;
  if there <> wanted then
    return jsonb_build_object('sealed', false);
  end if;
  update gateway.event e set position = p_head_position + i.place, hash = i.item ->> 'hash'
    from jsonb_array_elements(p_sealed -> 'items') with ordinality i (item, place) where e.id = (i.item ->> 'id')::uuid;
  update gateway.ledger l
     set position = p_head_position + wanted, hash = p_sealed -> 'items' -> (wanted - 1) ->> 'hash', mark = p_mark, lease_until = null;
  return jsonb_build_object('sealed', true);
end $$;

-- Once, before anything is sealed: a chain never gets another key. What stands.
create or replace function public.gateway_keep_ledger_key_v1(p_sealed_key text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  update gateway.ledger l set sealed_key = p_sealed_key where l.sealed_key is null and l.position = 0;
  return (select jsonb_build_object('sealed_key', l.sealed_key) from gateway.ledger l);
end $$;

-- Where the chain begins and ends, what waits to be sealed, and whether anything stands where nothing may: at one moment.
create or replace function public.gateway_ledger_v1(p_seen bigint default null)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select gateway.ends(l, p_seen) || jsonb_build_object(
             'unsealed', (select count(*) from gateway.event e where e.position is null),
             'oldest_unsealed_seconds', gateway.unsealed_seconds(),
             'before', exists (select from gateway.event e where e.position <= l.dropped_position),
             'beyond', exists (select from gateway.event e where e.position > l.position))
      from gateway.ledger l);
end $$;

-- By the word of whoever runs the gateway the chain goes on from there, though it was longer before. Not past rows that still claim
-- a place behind it: those are somebody's doing. Told in the chain itself.
create or replace function public.gateway_accept_head_v1(
  p_from_position bigint, p_from_hash text, p_to_position bigint, p_to_hash text, p_mark text, p_accepted text, p_data jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  perform from gateway.ledger l where l.position = p_from_position and l.hash = p_from_hash for update;
  if not found or exists (select from gateway.event e where e.position > p_to_position) then
    return jsonb_build_object('accepted', false);
  end if;
  update gateway.ledger l set position = p_to_position, hash = p_to_hash, mark = p_mark, accepted = p_accepted;
  insert into gateway.event (type, data) values ('ledger.accepted', p_data);
  return jsonb_build_object('accepted', true);
end $$;

-- The whole days before the last `days`, in UTC.
create or replace function gateway.events_before(p_days integer) returns timestamptz
language sql stable as $$
  select (date_trunc('day', clock_timestamp() at time zone 'UTC') - make_interval(days => p_days)) at time zone 'UTC'
$$;

-- The rows of the next `most` positions behind `after`, as many as stand there. `days`: and which of them are old enough to go.
create or replace function public.gateway_ledger_page_v1(p_after bigint, p_most integer, p_days integer default null)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return jsonb_build_object(
    'before', gateway.events_before(p_days),
    'items', (select coalesce(jsonb_agg(gateway.raw(e) order by e.position), '[]')
                from gateway.event e where e.position > p_after and e.position <= p_after + p_most));
end $$;

-- From the front of the chain alone, and old rows alone; by compare-and-set on where it begins. `mark` is an HMAC over where it begins
-- then, so that whoever cuts rows off without the key is found. Of the connections they tell of, it is kept that there were such.
create or replace function public.gateway_drop_events_v1(
  p_from_position bigint, p_until_position bigint, p_until_hash text, p_mark text, p_days integer
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  old timestamptz := gateway.events_before(p_days);
begin
  perform from gateway.ledger l where l.dropped_position = p_from_position and l.position >= p_until_position for update;
  if not found or exists (
    select from gateway.event e where e.position > p_from_position and e.position <= p_until_position and e.at >= old
  ) then
    return jsonb_build_object('dropped', false);
  end if;
  insert into gateway.used_id (id)
  select distinct e.connection_id from gateway.event e
   where e.position > p_from_position and e.position <= p_until_position and e.connection_id is not null
  on conflict do nothing;
  delete from gateway.event e where e.position > p_from_position and e.position <= p_until_position;
  update gateway.ledger l set dropped_position = p_until_position, dropped_hash = p_until_hash, dropped_mark = p_mark;
  return jsonb_build_object('dropped', true);
end $$;
