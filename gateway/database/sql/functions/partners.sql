-- The partner that a command means: the one in use, else the last that was revoked.
create or replace function gateway.named_partner(p_name text) returns gateway.partner
language sql stable as $$
  select p from gateway.partner p where p.name = p_name order by p.revoked_at is not null, p.created_at desc limit 1
$$;

-- The first key of a new partner with the columns `p_partner`, or one more of a partner: at most two valid ones, so that one can replace the
-- other without a pause and none is forgotten. Omitted restrictions are copied from the newest key, so that a new key is never wider by
-- accident. Answers `taken`, `two_keys` or `revoked` where it is not made; null: no such partner.
create or replace function public.gateway_add_key_v1(
  p_name text, p_key_hash text, p_hint text, p_addresses text[], p_expires_seconds double precision, p_partner jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p      gateway.partner := jsonb_populate_record(null::gateway.partner, p_partner);
  newest gateway.api_key;
  added  gateway.api_key;
begin
  if p_partner is not null then
    insert into gateway.partner as x (name, scope, providers, reach, reads_per_hour, connections_per_hour, freeze_on_alert)
    values (p_name, p.scope, p.providers, p.reach, coalesce(p.reads_per_hour, case p.reach when 'own' then 10000 end),
            coalesce(p.connections_per_hour, case p.reach when 'own' then 1000 end), p.freeze_on_alert)
    on conflict (name) where revoked_at is null do nothing returning x.* into p;
    if not found then
      return '"taken"';
    end if;
    insert into gateway.event (type, partner_id, data)
    values ('partner.added', p.id, p_partner || jsonb_build_object(
      'name', p_name, 'reads_per_hour', p.reads_per_hour, 'connections_per_hour', p.connections_per_hour));
  else
    select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_name)).id for update;
    if not found then
      return null;
    elsif p.revoked_at is not null then
      return '"revoked"';
    elsif (select count(*) from gateway.api_key k
            where k.partner_id = p.id and k.revoked_at is null and (k.expires_at is null or k.expires_at > clock_timestamp())) >= 2 then
      return '"two_keys"';
    end if;
    select k.* into newest from gateway.api_key k where k.partner_id = p.id order by k.created_at desc limit 1;
  end if;
  insert into gateway.api_key as k (key_hash, partner_id, hint, addresses, expires_at)
  values (p_key_hash, p.id, p_hint, coalesce(p_addresses::inet[], newest.addresses), clock_timestamp() + coalesce(
            make_interval(secs => p_expires_seconds), newest.expires_at - newest.created_at))
  returning k.* into added;
  insert into gateway.event (type, partner_id, data)
  values ('key.added', p.id, jsonb_build_object('key', added.id, 'hint', p_hint, 'expires_at', added.expires_at));
  return jsonb_build_object('partner_id', p.id, 'key_id', added.id);
end $$;

-- `p_changes`: some of the columns; null for a limit: none; null for providers: every one. Without it the partner is revoked with all its
-- keys, or the key `p_key_id` alone. null: no such partner or key; false: it was revoked before.
create or replace function public.gateway_change_partner_v1(p_name text, p_changes jsonb default null, p_key_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p gateway.partner;
  k gateway.api_key;
begin
  select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_name)).id for update;
  select x.* into k from gateway.api_key x where x.id = p_key_id and x.partner_id = p.id for update;
  if p.id is null or p_key_id is not null and k.id is null then
    return null;
  elsif coalesce(k.revoked_at, p.revoked_at) is not null then
    return 'false';
  elsif p_changes is not null then
    -- The default limits go with the reach; any other number stays.
    p_changes := case when p_changes ->> 'reach' = p.reach then '{}'
                      when p_changes ->> 'reach' = 'own' then jsonb_build_object(
                        'reads_per_hour', coalesce(p.reads_per_hour, 10000), 'connections_per_hour', coalesce(p.connections_per_hour, 1000))
                      when p_changes ->> 'reach' = 'all' then jsonb_build_object(
                        'reads_per_hour', nullif(p.reads_per_hour, 10000), 'connections_per_hour', nullif(p.connections_per_hour, 1000))
                      else '{}' end || p_changes;
    p := jsonb_populate_record(p, p_changes);
    update gateway.partner x
       set scope = p.scope, providers = p.providers, reach = p.reach, reads_per_hour = p.reads_per_hour,
           connections_per_hour = p.connections_per_hour, freeze_on_alert = p.freeze_on_alert
     where x.id = p.id;
  else
    update gateway.partner x set revoked_at = clock_timestamp() where x.id = p.id and p_key_id is null;
    update gateway.api_key x set revoked_at = clock_timestamp()
     where x.partner_id = p.id and x.id = coalesce(p_key_id, x.id) and x.revoked_at is null;
  end if;
  insert into gateway.event (type, partner_id, data)
  values (case when p_changes is not null then 'partner.changed' when p_key_id is not null then 'key.revoked' else 'partner.revoked' end, p.id,
          coalesce(p_changes, case when p_key_id is null then jsonb_build_object('name', p_name) else jsonb_build_object('key', k.id, 'hint', k.hint) end));
  return 'true';
end $$;

-- One of three targets: a partner, by name; all tokens of a provider; all tokens.
create or replace function public.gateway_freeze_v1(
  p_partner text default null, p_provider text default null, p_reads boolean default false, p_off boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  p      gateway.partner;
  wanted text := case when p_provider is not null then 'provider:' || p_provider when p_reads then 'reads' end;
  moved  boolean;
begin
  if p_partner is not null then
    select x.* into p from gateway.partner x where x.id = (gateway.named_partner(p_partner)).id for update;
    if not found then
      return null;
    end if;
    -- The operator has seen the alert: the next one is recorded, and freezes, again.
    update gateway.partner x
       set frozen_at = case when not p_off then clock_timestamp() end, alerts = case when p_off then '{}' else x.alerts end
     where x.id = p.id and (x.frozen_at is not null) = p_off;
  elsif p_off then
    delete from gateway.freeze f where f.target = wanted;
  else
    insert into gateway.freeze (target) values (wanted) on conflict on constraint freeze_pkey do nothing;
  end if;
  moved := found;
  insert into gateway.event (type, partner_id, provider)
  select case when p_partner is not null then 'partner' when p_provider is not null then 'provider' else 'reads' end
         || case when p_off then '.thawed' else '.frozen' end, p.id, p_provider where moved;
  return to_jsonb(moved);
end $$;

-- All partners, or one, with their use in this hour and their keys' ids and uses, never the keys; and what is frozen.
create or replace function public.gateway_partners_v1(p_name text default null)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'frozen', (select coalesce(jsonb_agg(f.target order by f.target), '[]') from gateway.freeze f),
    'frozen_since', (select coalesce(jsonb_object_agg(f.target, f.frozen_at), '{}') from gateway.freeze f),
    'partners', coalesce((
      select jsonb_agg(to_jsonb(p) || jsonb_build_object(
               'reads_this_hour', coalesce(h.reads, 0), 'connections_this_hour', coalesce(h.connections, 0), 'keys', coalesce((
               select jsonb_agg(jsonb_build_object(
                        'id', k.id, 'hint', k.hint, 'addresses', k.addresses, 'created_at', k.created_at,
                        'expires_at', k.expires_at, 'revoked_at', k.revoked_at, 'last_used_at', k.last_used_at,
                        'last_used_from', host(k.last_used_from)) order by k.created_at, k.id)
                 from gateway.api_key k where k.partner_id = p.id), '[]')) order by p.created_at, p.name)
        from gateway.partner p
        left join gateway.usage h on h.reader_id = p.id and h.hour = date_trunc('hour', clock_timestamp(), 'UTC')
       where p_name is null or p.id = (gateway.named_partner(p_name)).id), '[]'))
$$;
