-- How many tokens a partner or a user may read in an hour. A proxied call counts as a read.

-- Record a reached limit or a jump in reads: one event an hour for each kind. Freeze the partner if it is configured so.
create or replace function gateway.alert(p_partner_id uuid, p_kind text, p_data jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  moment timestamptz := clock_timestamp();
  frozen boolean;
begin
  update gateway.partner p
     set alerts = p.alerts || jsonb_build_object(p_kind, moment),
         frozen_at = case when p.freeze_on_alert then coalesce(p.frozen_at, moment) else p.frozen_at end
   where p.id = p_partner_id and coalesce((p.alerts ->> p_kind)::timestamptz <= moment - interval '1 hour', true)
  returning p.freeze_on_alert into frozen;
  if not found then
    return;
  end if;
  insert into gateway.event (type, partner_id, data) values ('partner.alerted', p_partner_id, p_data || jsonb_build_object('limit', p_kind));
  insert into gateway.event (type, partner_id, data) select 'partner.frozen', p_partner_id, '{"why": "alert"}' where frozen;
end $$;

-- Of an answer that counts towards a limit: how much is used, and in how many seconds that ends.
create or replace function gateway.quota(p_limit integer, p_used bigint, p_until timestamptz) returns jsonb
language sql stable as $$
  select case when p_limit is null then '{}' else jsonb_build_object('quota', jsonb_build_object(
    'limit', p_limit, 'used', p_used, 'seconds', greatest(1, ceil(extract(epoch from p_until - clock_timestamp()))))) end
$$;

-- Add a process's reads to the hour of their reader. A partner without a limit raises an alert when it reads five times as much as in
-- the busiest hour of the day before, and a thousand tokens at least; so does one that was not used for a day.
create or replace function gateway.report_reads(
  p_reader_id uuid, p_partner_id uuid, p_hour timestamptz, p_reads integer, p_connections integer, p_limited boolean
)
returns void language plpgsql set search_path = '' as $$
declare
  total bigint;
  usual bigint;
begin
  insert into gateway.usage as u (reader_id, hour, reads, connections) values (p_reader_id, p_hour, p_reads, p_connections)
  on conflict on constraint usage_pkey do update set reads = u.reads + excluded.reads, connections = u.connections + excluded.connections
  returning u.reads into total;
  if p_partner_id is not null and not p_limited and total >= 1000 then
    select coalesce(max(u.reads), 0) into usual from gateway.usage u
     where u.reader_id = p_reader_id and u.hour between p_hour - interval '1 day' and p_hour - interval '1 hour';
    perform gateway.alert(p_partner_id, 'reads', jsonb_build_object('reads', total, 'usual', usual)) where total > 5 * usual;
  end if;
end $$;

-- Make one event of each past hour, and delete counts that no limit and no alert needs any more. Part of housekeeping.
create or replace function gateway.close_hours(p_most integer) returns void
language plpgsql set search_path = '' as $$
declare
  this_hour timestamptz := date_trunc('hour', clock_timestamp(), 'UTC');
begin
  with closed as (
    delete from gateway.token_read r where (r.connection_id, r.reader_id, r.hour, r.scope) in (
      select x.connection_id, x.reader_id, x.hour, x.scope from gateway.token_read x
       where x.hour < this_hour order by x.hour limit p_most for update skip locked)
    returning r.*)
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  select case c.scope when 'proxy' then 'proxy.used' else 'tokens.read' end, c.connection_id, c.user_id, c.partner_id, c.provider, jsonb_build_object(
           case c.scope when 'proxy' then 'calls' else 'reads' end, c.reads, 'hour', c.hour, 'first_at', c.first_at, 'last_at', c.last_at,
           'networks', (select coalesce(jsonb_agg(host(n) || '/' || masklen(n)), '[]') from unnest(c.networks) n))
    from closed c;
  delete from gateway.usage u where u.hour < this_hour - interval '1 day';
end $$;
