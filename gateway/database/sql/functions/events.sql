-- Events: appending them, and reading them through /v1.

create or replace function public.gateway_record_v1(p_type text, p_connection_id uuid, p_user_id uuid, p_provider text, p_data jsonb)
returns jsonb language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.event (type, connection_id, user_id, provider, data)
  values (p_type, p_connection_id, p_user_id, p_provider, coalesce(p_data, '{}'));
  return '{}';
end $$;

-- A time for whoever reads it elsewhere. What is no time there (infinite, before year 1, beyond 9998) is a text, in UTC.
create or replace function gateway.moment(p_t timestamptz) returns jsonb
language sql stable as $$
  select case when p_t > timestamptz '0001-01-03 00:00:00+00' and p_t < timestamptz '9999-01-01 00:00:00+00' then to_jsonb(p_t)
              else to_jsonb(p_t at time zone 'UTC') end
$$;

-- How far one call of a partner with reach `own` looks, whatever it finds: 2000 events. Where it was given few connections, that is
-- 2000 events of these, which may lie far apart; else, or near the end, the next 2000 of the chain. Null: as far as the page has room.
create or replace function gateway.looked_until(p_partner gateway.partner, p_after bigint) returns bigint
language plpgsql stable set search_path = '' set enable_bitmapscan = off set enable_seqscan = off as $$
declare
  head  bigint := (select l.position from gateway.ledger l);
  lanes uuid[];
begin
  if p_partner.id is null or p_partner.reach <> 'own' then
    return null;
  end if;
  lanes := array(select distinct c.connection_id from gateway.consent c where c.partner_id = p_partner.id order by c.connection_id limit 21);
  if head - p_after <= 2000 then
    return head;
  elsif cardinality(lanes) > 20 then
    return p_after + 2000;
  end if;
  return least(head, (
    select min(o.position) from unnest(lanes) as known (id) cross join lateral (
      select e.position from gateway.event e
       where e.connection_id = known.id and e.position is not null and -e.position < -p_after
       order by -e.position desc offset 2000 / greatest(cardinality(lanes), 1) - 1 limit 1) o));
end $$;

-- The sealed events that a user may be told of, or a partner, behind `after` and up to `until`, in order: its own acts; and of its
-- providers' connections everything (reach `all`), or what others than partners did to those it was given, while it was; that they were
-- erased, by whomever, is told a moment after that ended. Every way is along an index and bounded, so that a page costs what it shows;
-- near the end, where whoever asks again and again is, the chain itself is walked.
create or replace function gateway.told(p_partner gateway.partner, p_whose uuid, p_after bigint, p_until bigint, p_most integer)
returns setof gateway.event language plpgsql stable set search_path = '' set enable_bitmapscan = off set enable_seqscan = off as $$
declare
  near boolean := p_after > (select l.position from gateway.ledger l) - 1000;
begin
  if p_partner.id is null then
    return query
      select e.* from gateway.event e
       where e.user_id = p_whose and e.position is not null and -e.position < -p_after and e.type !~ '^(partner|key)\.'
       order by -e.position desc limit p_most;
  elsif p_partner.reach = 'own' then
    return query
      select e.* from (
        select c.* from gateway.event c where p_until - p_after <= 2000 and c.position > p_after and c.position <= p_until
        union all
        select o.* from (select distinct c.connection_id from gateway.consent c where c.partner_id = p_partner.id and p_until - p_after > 2000) known
         cross join lateral (
          select c.* from gateway.event c
           where c.connection_id = known.connection_id and -c.position < -p_after and -c.position >= -p_until
             and c.partner_id is distinct from p_partner.id) o
        union all
        (select c.* from gateway.event c
          where p_until - p_after > 2000 and c.partner_id = p_partner.id and c.position is not null and -c.position < -p_after and -c.position >= -p_until
          order by -c.position desc limit p_most)
      ) e
       where e.partner_id = p_partner.id
          or (e.partner_id is null or e.type = 'connection.disconnected')
             and (p_partner.providers is null or e.provider = any (p_partner.providers)) and exists (
               select from gateway.consent x
                where x.partner_id = p_partner.id and x.connection_id = e.connection_id and x.created_at <= e.at
                  and (x.ended_at is null or e.at < x.ended_at
                       or e.type = 'connection.disconnected' and e.at < x.ended_at + interval '5 seconds'))
       order by e.position limit p_most;
  elsif p_partner.providers is null or near then
    return query
      select e.* from gateway.event e
       where e.position > p_after
         and (e.partner_id = p_partner.id or e.provider is not null and (p_partner.providers is null or e.provider = any (p_partner.providers)))
       order by e.position limit p_most;
  else
    return query
      select distinct on (x.position) x.* from (
        select o.* from unnest(p_partner.providers) known (id) cross join lateral (
          select e.* from gateway.event e where e.provider = known.id and e.position is not null and -e.position < -p_after
           order by -e.position desc limit p_most) o
        union all
        (select e.* from gateway.event e where e.partner_id = p_partner.id and e.position is not null and -e.position < -p_after
          order by -e.position desc limit p_most)
      ) x order by x.position limit p_most;
  end if;
end $$;

-- A page for one caller: the partner of a key, or a user. `next`: from where to go on, where there is more, or may be. A partner that
-- was given connections is not told who else erased one.
create or replace function public.gateway_events_v1(p_key_hash text, p_address text, p_user_id uuid, p_after bigint, p_most integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks  record;
  own   boolean;
  until bigint;
  items jsonb;
begin
  if p_key_hash is not null then
    select f.* into asks from gateway.caller(p_key_hash, p_address, 'events:read') f;
    if asks.refused is not null then
      return jsonb_build_object('refused', asks.refused);
    end if;
  elsif p_user_id is null or gateway.shut_out(p_user_id) then
    return '{"shut_out": true}';
  else
    select null::gateway.partner as partner, null::text as refused into asks;
  end if;
  own := coalesce((asks.partner).reach = 'own', false);
  until := gateway.looked_until(asks.partner, p_after);
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', x.id, 'position', x.position, 'type', x.type,
           'at', least(greatest(x.at, timestamptz '0001-01-03 00:00:00+00'), timestamptz '9998-12-31 00:00:00+00'),
           'connection_id', x.connection_id, 'user_id', x.user_id,
           'partner', case when not own or x.partner_id = (asks.partner).id then x.partner_id end, 'provider', x.provider,
           'data', case when own then x.data - 'by' else x.data end) order by x.position), '[]') into items
    from gateway.told(asks.partner, p_user_id, p_after, until, p_most + 1) x;
  if jsonb_array_length(items) > p_most then
    items := items - p_most;
    until := (items -> (p_most - 1) ->> 'position')::bigint;
  elsif until >= (select l.position from gateway.ledger l) or until <= p_after then
    until := null;
  end if;
  return jsonb_build_object('items', items, 'next', until);
end $$;
