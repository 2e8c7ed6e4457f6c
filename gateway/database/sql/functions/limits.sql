-- How much a partner may read in an hour.

-- Whether the network of this call was first seen for this partner less than an hour ago, while it has older ones: where keys are
-- used that were taken from whom they belong to.
create or replace function gateway.from_elsewhere(p_partner gateway.partner, p_address text) returns boolean
language plpgsql stable set search_path = '' as $$
declare
  here  inet := nullif(p_address, '')::inet;
  net   inet := network(set_masklen(here, case family(here) when 4 then 24 else 48 end));
  since timestamptz := clock_timestamp() - interval '1 hour';
begin
  return coalesce((
    select bool_or(u.network <> net) and not bool_or(u.network = net)
      from gateway.key_use u join gateway.api_key k on k.key_hash = u.key_hash
     where k.partner_id = p_partner.id and u.first_at <= since), false);
end $$;

-- The answer to a partner that is over one of its limits. Told once an hour for each kind; where it was asked for, the partner is
-- frozen with it.
create or replace function gateway.alert(p_partner gateway.partner, p_kind text, p_wait_seconds double precision, p_data jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  over timestamptz := clock_timestamp();
  seen timestamptz := case p_kind when 'reads' then p_partner.reads_alerted_at else p_partner.connections_alerted_at end;
begin
  if seen is null or seen <= over - interval '1 hour' then
    update gateway.partner x
       set reads_alerted_at = case p_kind when 'reads' then over else x.reads_alerted_at end,
           connections_alerted_at = case p_kind when 'connections' then over else x.connections_alerted_at end,
           frozen_at = case when x.freeze_on_alert then coalesce(x.frozen_at, over) else x.frozen_at end
     where x.id = p_partner.id and seen is not distinct from case p_kind when 'reads' then x.reads_alerted_at else x.connections_alerted_at end;
    if found then
      insert into gateway.event (type, partner_id, data) values ('partner.alerted', p_partner.id, p_data || jsonb_build_object('limit', p_kind));
      if p_partner.freeze_on_alert then
        insert into gateway.event (type, partner_id, data) values ('partner.frozen', p_partner.id, jsonb_build_object('why', 'alert'));
      end if;
    end if;
  end if;
  return jsonb_build_object('refused', 'rate_limited', 'retry_after', greatest(1, ceil(p_wait_seconds)));
end $$;

-- When there is room for one more below `most`, in seconds: `this` counts whole, and `last`, of the hour before, by the share of it
-- that is less than an hour ago.
create or replace function gateway.until_room(p_most bigint, p_this bigint, p_last bigint, p_passed double precision) returns double precision
language sql immutable as $$
  select case when p_this < p_most then 3600 * (1 - (p_most - 1 - p_this)::double precision / nullif(p_last, 0)) - p_passed
              else 3600 - p_passed + 3600 * (1 - (p_most - 1)::double precision / p_this) end
$$;

-- One token read of a partner counts, or null becomes the refusal. Both limits are of a sliding hour, this one and its share of the
-- last: reads; and different connections, of which those of both hours count once; a tenth of these, and never less than ten, from
-- networks that are new to the partner. `recent`: the network may be one.
-- Nobody waits for another's read to end: each database session counts in a slot of its own, and of those who meet a connection
-- first in the hour, one notes it. Reads under way at the same moment do not see one another, so a limit may be passed by these.
create or replace function gateway.count_read(p_partner gateway.partner, p_connection uuid, p_address text, p_recent boolean) returns jsonb
language plpgsql set search_path = '' as $$
declare
  over      timestamptz := clock_timestamp();
  this      timestamptz := date_trunc('hour', over, 'UTC');
  last      timestamptz := this - interval '1 hour';
  passed    double precision := extract(epoch from over - this);
  share     double precision := 1 - passed / 3600;
  seat      integer := pg_backend_pid() % 64;
  most      bigint := greatest(10, p_partner.connections_per_hour / 10);
  used      record;
  fresh     boolean;
  before    boolean := false;
begin
  p_recent := p_recent and gateway.from_elsewhere(p_partner, p_address);
  if not p_recent then
    -- Nearly every read: of a connection that was met in this hour, and below the limit. In one statement, which is what it costs.
    update gateway.usage u set reads = u.reads + 1
     where u.partner_id = p_partner.id and u.hour = this and u.slot = seat
       and exists (select from gateway.usage_connection c where c.partner_id = p_partner.id and c.hour = this and c.connection_id = p_connection)
       and (select sum(case x.hour when this then x.reads else x.reads * share end) from gateway.usage x
             where x.partner_id = p_partner.id and x.hour in (this, last)) + 1 <= p_partner.reads_per_hour;
    if found then
      return null;
    end if;
  end if;
  select coalesce(sum(u.reads) filter (where u.hour = this), 0)::bigint as reads,
         coalesce(sum(u.reads) filter (where u.hour = last), 0)::bigint as reads_last,
         coalesce(sum(u.connections) filter (where u.hour = this), 0)::bigint as known,
         coalesce(sum(case u.hour when last then u.connections else -u.again end), 0)::bigint as known_last
    into used from gateway.usage u where u.partner_id = p_partner.id and u.hour in (this, last);
  if used.reads + used.reads_last * share + 1 > p_partner.reads_per_hour then
    return gateway.alert(p_partner, 'reads', gateway.until_room(p_partner.reads_per_hour, used.reads, used.reads_last, passed),
                         jsonb_build_object('per_hour', p_partner.reads_per_hour));
  end if;
  fresh := not exists (select from gateway.usage_connection u where u.partner_id = p_partner.id and u.hour = this and u.connection_id = p_connection);
  if fresh then
    before := exists (select from gateway.usage_connection u where u.partner_id = p_partner.id and u.hour = last and u.connection_id = p_connection);
    used.known_last := used.known_last - before::integer;
    if used.known + used.known_last * share + 1 > p_partner.connections_per_hour then
      return gateway.alert(p_partner, 'connections', gateway.until_room(p_partner.connections_per_hour, used.known, used.known_last, passed),
                           jsonb_build_object('per_hour', p_partner.connections_per_hour));
    end if;
  end if;
  if p_recent and not exists (
    select from gateway.usage_elsewhere u where u.partner_id = p_partner.id and u.hour = this and u.connection_id = p_connection) then
    select count(*) filter (where x.hour = this) as known, count(*) filter (where x.hour = last) as known_last into used
      from (select max(u.hour) as hour from gateway.usage_elsewhere u
             where u.partner_id = p_partner.id and u.hour in (this, last) and u.connection_id <> p_connection group by u.connection_id) x;
    if used.known + used.known_last * share + 1 > most then
      return gateway.alert(p_partner, 'connections', gateway.until_room(most, used.known, used.known_last, passed),
                           jsonb_build_object('per_hour', most, 'elsewhere', true));
    end if;
    if pg_try_advisory_xact_lock(hashtextextended('gateway elsewhere ' || p_partner.id::text || p_connection::text, 0)) then
      insert into gateway.usage_elsewhere (partner_id, hour, connection_id) values (p_partner.id, this, p_connection) on conflict do nothing;
    end if;
  end if;
  if fresh then
    fresh := pg_try_advisory_xact_lock(hashtextextended('gateway usage ' || p_partner.id::text || p_connection::text, 0));
    if fresh then
      insert into gateway.usage_connection (partner_id, hour, connection_id) values (p_partner.id, this, p_connection) on conflict do nothing;
      fresh := found;
    end if;
  end if;
  insert into gateway.usage as u (partner_id, hour, slot, reads, connections, again)
  values (p_partner.id, this, seat, 1, fresh::integer, (fresh and before)::integer)
  on conflict on constraint usage_pkey do update
    set reads = u.reads + 1, connections = u.connections + excluded.connections, again = u.again + excluded.again;
  return null;
end $$;

create or replace function gateway.sweep_usage() returns void
language plpgsql set search_path = '' as $$
declare
  over timestamptz := date_trunc('hour', clock_timestamp(), 'UTC') - interval '1 hour';
begin
  delete from gateway.usage u where u.ctid = any (array(
    select x.ctid from gateway.usage x where x.hour < over limit 5000 for update skip locked));
  delete from gateway.usage_connection u where u.ctid = any (array(
    select x.ctid from gateway.usage_connection x where x.hour < over limit 5000 for update skip locked));
  delete from gateway.usage_elsewhere u where u.ctid = any (array(
    select x.ctid from gateway.usage_elsewhere x where x.hour < over limit 5000 for update skip locked));
end $$;
