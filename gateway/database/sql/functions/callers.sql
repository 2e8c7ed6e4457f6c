-- The callers of /v1, and which connections they may see.

-- The caller of /v1: {"user_id", "key_hash", "address"}. The user of an access token, or the partner of a key, or why the call is refused:
-- `unauthenticated` (a banned or deleted user; the same for unknown, revoked and expired keys and for a wrong address), `frozen` or `forbidden`.
-- `net`: the network of the call. `p_needs`: the scope of the call, null where any key will do; a user has none for sessions and webhooks. Functions answer {"refused": slug}
-- then, and nothing else. `p_operator`: {"is_operator"} is the operator, who reaches everything: no partner, no user, no refusal. Only for
-- functions that answer no secret.
create or replace function gateway.caller(
  p_caller jsonb, p_needs text, p_operator boolean default false,
  out partner gateway.partner, out user_id uuid, out net inet, out refusal jsonb
)
language plpgsql set search_path = '' as $$
declare
  moment timestamptz := clock_timestamp();
  key    text := p_caller ->> 'key_hash';
  here   inet := nullif(p_caller ->> 'address', '')::inet;
  used   record;
begin
  if p_operator and p_caller ? 'is_operator' then
    return;
  end if;
  net := network(set_masklen(here, case family(here) when 4 then 24 else 48 end));
  if key is null then
    user_id := p_caller ->> 'user_id';
    -- On Supabase a missing user was deleted; on plain Postgres it is a new user.
    refusal := case when user_id is null or not exists (select from gateway.live_user(user_id))
                      and (exists (select from auth.users u where u.id = user_id) or not gateway.own_auth()) then '{"refused": "unauthenticated"}'
                    when p_needs in ('sessions:write', 'webhooks:write') then jsonb_build_object('refused', 'forbidden', 'scope', p_needs) end;
    return;
  end if;
  select p as partner, k.last_used_at, k.networks into used
    from (select) as one
    left join gateway.api_key k
      on k.key_hash = key and k.revoked_at is null and (k.expires_at is null or k.expires_at > moment) and (k.addresses is null or here <<= any (k.addresses))
    left join gateway.partner p on p.id = coalesce(k.partner_id, '00000000-0000-0000-0000-000000000000') and p.revoked_at is null;
  partner := used.partner;
  if partner.id is null then
    refusal := '{"refused": "unauthenticated"}';
    return;
  end if;
  -- To the minute. A further network of a partner is an event. Of calls at the same time one records it, and none waits.
  if here is not null and (used.last_used_at > moment - interval '1 minute' and net = any (used.networks)) is not true
     and pg_try_advisory_xact_lock(hashtextextended('gateway key use ' || key, 0)) then
    insert into gateway.event (type, partner_id, data)
    select 'partner.new_network', partner.id, jsonb_build_object('network', host(net) || '/' || masklen(net))
      from gateway.api_key k where k.partner_id = partner.id having bool_or(k.networks <> '{}') and bool_and(net <> all (k.networks));
    update gateway.api_key k
       set last_used_at = moment, last_used_from = here, networks = (net || array_remove(k.networks, net))[:100]
     where k.key_hash = key;
  end if;
  refusal := case when partner.frozen_at is not null then '{"refused": "frozen"}'
                  when p_needs <> all (partner.scope) then jsonb_build_object('refused', 'forbidden', 'scope', p_needs) end;
end $$;

-- Whether a partner has the owner's consent for a connection, or reach `all`. Callers check this before they read the connection, so that the
-- response time does not show whether it exists.
create or replace function gateway.partner_has_consent(p_partner gateway.partner, p_connection uuid) returns boolean
language sql stable as $$
  select p_partner.reach = 'all' or exists (
    select from gateway.consent x where x.partner_id = p_partner.id and x.connection_id = p_connection and x.ended_at is null)
$$;

-- Whether a connection is within a partner's reach.
create or replace function gateway.partner_can_see(p_partner gateway.partner, p_connection gateway.connection) returns boolean
language sql stable as $$
  select (p_partner.providers is null or p_connection.provider = any (p_partner.providers)) and gateway.partner_has_consent(p_partner, p_connection.id)
$$;

-- Check a caller and nothing else. The providers of a partner; null for all, and for a user.
create or replace function public.gateway_caller_v1(p_caller jsonb, p_needs text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(f.refusal, to_jsonb((f.partner).providers)) from gateway.caller(p_caller, p_needs) f);
end $$;

-- A grant that waits for its partner, as the connection it would become. Without its account and facts: the browser that finished may
-- belong to another user than the link's.
create or replace function gateway.pending_link_connections(p_partner gateway.partner) returns setof gateway.connection
language sql stable as $$
  select (jsonb_populate_record(null::gateway.connection, to_jsonb(g) || jsonb_build_object(
           'account_key', '', 'account_id', '', 'account_label', '', 'facts', '{}'::jsonb, 'tags', s.tags, 'status', 'pending_confirmation',
           'reason', 'not_confirmed', 'refreshable', g.refresh is not null, 'generation', 1, 'updated_at', g.created_at))).*
    from gateway.pending_grant g join gateway.connect_session s on s.id = g.connect_session_id
   where g.pending_until > clock_timestamp() and g.confirmation_hash is not null and s.partner_id = p_partner.id
     and (p_partner.providers is null or g.provider = any (p_partner.providers))
$$;

-- The connection that a caller may act on, whose scope has to cover `p_needs`, or the user of a session: without `p_caller`. `connection` is null
-- for one that does not exist and for one that the caller cannot reach. A partner also reaches the pending grants of its links.
create or replace function gateway.authorize(
  p_connection_id uuid, p_session_hash text, p_caller jsonb, p_needs text,
  out connection gateway.connection, out partner gateway.partner, out refusal jsonb
)
language plpgsql set search_path = '' as $$
declare
  asks record;
begin
  if p_caller is null then
    select c.* into connection from gateway.live_session(p_session_hash) s join gateway.connection c on c.user_id = s.user_id
     where c.id = p_connection_id;
    return;
  end if;
  select f.* into asks from gateway.caller(p_caller, p_needs) f;
  refusal := asks.refusal;
  partner := asks.partner;
  if refusal is null then
    select c.* into connection from gateway.connection c
     where (partner.id is null or gateway.partner_has_consent(partner, p_connection_id)) and c.id = p_connection_id
       and (partner.providers is null or c.provider = any (partner.providers)) and c.user_id = coalesce(asks.user_id, c.user_id);
    if not found then
      select w.* into connection from gateway.pending_link_connections(partner) w where w.id = p_connection_id;
    end if;
  end if;
end $$;

-- null: no such connection for this caller. `p_check`: the right to check it, once a minute.
create or replace function public.gateway_reached_connection_v1(
  p_connection_id uuid, p_caller jsonb, p_check boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over    timestamptz := clock_timestamp();
  allowed record;
  c       gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, null, p_caller, 'connections:read') f;
  c := allowed.connection;
  if c.id is null then
    return allowed.refusal;
  elsif p_check and c.status = 'pending_confirmation' then
    return '{"refused": "pending_confirmation"}';
  elsif p_check then
    update gateway.connection x set checked_at = over, not_before = case when x.status = 'suspended' then null else x.not_before end
     where x.id = c.id and (x.checked_at is null or x.checked_at <= over - interval '1 minute');
    if not found then
      return '{"refused": "rate_limited"}'::jsonb || gateway.quota(1, 1, c.checked_at + interval '1 minute');
    end if;
  end if;
  return gateway.public_data(c, allowed.partner) || case when p_check then gateway.quota(1, 1, over + interval '1 minute') else '{}' end;
end $$;

-- `p_wanted`: any of `type`, `status`, `account_id` and `tag`; `clients`, our registration at each provider: only connections of another one;
-- `scopes`, the required scopes of each provider: only connections that lack one. Without a subquery, so that the planner can inline it.
create or replace function gateway.is_wanted(c gateway.connection, p_partner gateway.partner, p_wanted jsonb) returns boolean
language sql stable as $$
  select (p_wanted ->> 'type' is null or c.type = (p_wanted ->> 'type')::integer)
     and (p_wanted ->> 'status' is null or gateway.status_of(c) = p_wanted ->> 'status')
     and (p_wanted ->> 'account_id' is null or c.account_id = p_wanted ->> 'account_id')
     and (p_wanted ->> 'tag' is null or c.tags <> '{}' and gateway.visible_tags(c.tags, p_partner) @> (p_wanted -> 'tag'))
     and (p_wanted ->> 'clients' is null or c.client_id is distinct from coalesce(p_wanted -> 'clients' ->> c.provider, c.client_id))
     and (p_wanted ->> 'scopes' is null or not to_jsonb(c.scope) @> (p_wanted -> 'scopes' -> c.provider))
     and (p_wanted ->> 'rotation_due' is null or gateway.is_rotation_due(c))
$$;

-- The connections of a user, or within a partner's reach, after an id and in the order of ids. Each combination of user, provider and reach
-- has an index for this, so every page costs the same. Without a partner: all connections of that user, or with neither all of them.
create or replace function gateway.visible_connections(
  p_partner gateway.partner, p_user_id uuid, p_provider text, p_after uuid, p_wanted jsonb, p_most integer
)
returns setof gateway.connection language plpgsql stable set search_path = '' as $$
declare
  among text[] := case when p_provider is null then p_partner.providers
                       when p_provider = any (p_partner.providers) or p_partner.providers is null then array[p_provider] else '{}' end;
begin
  if p_user_id is not null then
    return query
      select c.* from gateway.connection c
       where c.user_id = p_user_id and (p_partner.id is null or gateway.partner_can_see(p_partner, c)) and (p_provider is null or c.provider = p_provider)
         and c.id > p_after and gateway.is_wanted(c, p_partner, p_wanted)
       order by c.id limit p_most;
  elsif p_partner.reach = 'own' then
    return query
      select c.* from gateway.consent x join gateway.connection c on c.id = x.connection_id
       where x.partner_id = p_partner.id and x.connection_id > p_after and x.ended_at is null and (among is null or c.provider = any (among))
         and gateway.is_wanted(c, p_partner, p_wanted)
       order by x.connection_id limit p_most;
  elsif among is null then
    return query
      select c.* from gateway.connection c
       where c.id > p_after and gateway.is_wanted(c, p_partner, p_wanted)
       order by c.id limit p_most;
  else
    return query
      select c.* from unnest(among) as w (id) cross join lateral (
        select x.* from gateway.connection x
         where x.provider = w.id and x.id > p_after and gateway.is_wanted(x, p_partner, p_wanted)
         order by x.id limit p_most) c
       order by c.id limit p_most;
  end if;
end $$;

-- A page of the connections that a caller reaches, or the operator. `p_of_user` filters a partner's list; for a user it finds all or none.
create or replace function public.gateway_reached_connections_v1(
  p_caller jsonb, p_of_user uuid default null, p_provider text default null, p_wanted jsonb default '{}', p_after uuid default null,
  p_most integer default 100
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(asks.refusal, (
    select coalesce(jsonb_agg(gateway.public_data(c, asks.partner) order by c.id), '[]')
      from (select x.* from gateway.visible_connections(asks.partner, w.owner, p_provider, w.after, p_wanted, p_most) x
            union all
            select x.* from gateway.pending_link_connections(asks.partner) x
             where x.id > w.after and (w.owner is null or x.user_id = w.owner) and (p_provider is null or x.provider = p_provider)
               and gateway.is_wanted(x, asks.partner, p_wanted)
            order by id limit p_most) c
     where coalesce(w.owner = p_of_user, true)))
    from gateway.caller(p_caller, 'connections:read', true) asks
   cross join lateral (select coalesce(asks.user_id, p_of_user) as owner, coalesce(p_after, '00000000-0000-0000-0000-000000000000') as after) w);
end $$;
