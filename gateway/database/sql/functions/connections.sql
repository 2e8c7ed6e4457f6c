-- A stored secret as the gateway reads it: one that is larger than any provider's is no token, and costs no memory.
create or replace function gateway.bounded(p_secret text) returns text
language sql immutable as $$ select case when octet_length(p_secret) > 2000000 then '…' else p_secret end $$;

-- The tags that a partner may see: with reach `own` those of its own links. Without a partner, and with reach `all`: every one.
create or replace function gateway.visible_tags(p_tags jsonb, p_partner gateway.partner) returns jsonb
language sql stable as $$
  select coalesce(case when (p_partner).reach = 'own' then p_tags -> (p_partner).id::text
                       else (select jsonb_object_agg(t.key, t.value) from jsonb_each(p_tags) x cross join jsonb_each(x.value) t) end, '{}')
$$;

create or replace function gateway.public_data(c gateway.connection, p_partner gateway.partner default null) returns jsonb
language sql stable as $$
  select jsonb_build_object(
    'id', c.id, 'user_id', c.user_id, 'provider', c.provider, 'type', c.type, 'generation', c.generation,
    'status', gateway.status_of(c), 'reason', gateway.reason_of(c), 'account', jsonb_build_object('id', c.account_id, 'label', c.account_label),
    'scope', c.scope, 'facts', c.facts, 'tags', gateway.visible_tags(c.tags, p_partner), 'refreshable', c.refreshable, 'expires_at', c.expires_at, 'created_at', c.created_at, 'updated_at', c.updated_at)
$$;

-- Before the token expires, with jitter, so that connections made together are not refreshed together; and before an unused refresh token
-- expires. Null: no refresh token, or no expiry.
create or replace function gateway.refresh_time(p_refreshable boolean, p_expires_at timestamptz, p_refresh_expires_at timestamptz)
returns timestamptz language sql volatile as $$
  select case when p_refreshable then least(
    p_expires_at - least((p_expires_at - clock_timestamp()) * (0.1 + 0.1 * random()), interval '15 minutes' * (0.5 + random())),
    clock_timestamp() + (p_refresh_expires_at - clock_timestamp()) * (0.7 + 0.1 * random())) end
$$;

-- The user's oldest existing row for a provider that is not a connection yet.
create or replace function gateway.earlier_row(p_grant gateway.pending_grant) returns uuid
language sql stable as $$
  select d.id from public.provider_data d
   where d.auth_provider_id = p_grant.user_id and gateway.same_provider(d.name, d.type, p_grant.provider, p_grant.type, p_grant.row_names)
     and not exists (select from gateway.connection c where c.id = d.id)
   order by d.created_at nulls last, d.id limit 1
$$;

-- The connection that a grant would go to, locked: of the same account, else the newest of its user at that provider. It is read again once
-- it is locked, because a refresh may have been saved meanwhile.
create or replace function gateway.lock_existing(p_grant gateway.pending_grant) returns gateway.connection
language plpgsql set search_path = '' as $$
begin
  perform from public.provider_data d where d.id = (
    select c.id from gateway.connection c where c.user_id = p_grant.user_id and c.provider = p_grant.provider
     order by c.account_id = p_grant.account_id desc, c.updated_at desc, c.id limit 1) for update;
  return (select c from gateway.connection c where c.user_id = p_grant.user_id and c.provider = p_grant.provider
           order by c.account_id = p_grant.account_id desc, c.updated_at desc, c.id limit 1);
end $$;

-- Write a grant as the connection `p_id`: create it, or update what is there. A repeated call is recognised by `p_call_id`. The grant of an
-- account that is replaced is queued to be revoked.
create or replace function gateway.write_connection(p_grant gateway.pending_grant, p_id uuid, p_call_id uuid) returns gateway.connection
language plpgsql set search_path = '' as $$
declare
  g       gateway.pending_grant := p_grant;
  kept    uuid;
  old     gateway.connection;
  profile uuid := gateway.list_in_profile(g.user_id, p_id, coalesce(gateway.label_of(g.user_id), g.user_id::text));
  partner uuid;
  account jsonb := jsonb_build_object('id', g.account_id, 'label', g.account_label);
begin
  select c.* into old from gateway.connection c where c.id = p_id;
  if old.account_id not in (g.account_id, '') then
    insert into gateway.revocation
      (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason)
    select d.id, old.generation, old.user_id, old.provider, old.account_id, old.facts, d.token, d.refresh, old.seal_id, old.refresh_seal_id, 'superseded'
      from public.provider_data d where d.id = old.id and (d.token is not null or d.refresh is not null)
    on conflict on constraint revocation_pkey do nothing;
  elsif g.refresh is null and old.account_id = g.account_id and old.refreshable then
    -- The same account without a new refresh token keeps the one it has: Google sends one with the first consent only.
    select d.refresh, old.refresh_seal_id, coalesce(g.refresh_expires_at, old.refresh_expires_at)
      into g.refresh, kept, g.refresh_expires_at
      from public.provider_data d where d.id = old.id and d.refresh like 'gAAAA%';
  end if;
  insert into public.provider_data as d (id, provider_id_ref, auth_provider_id, name, type, token, refresh, expires, data)
  values (p_id, profile, g.user_id, g.provider, g.type, g.token, g.refresh,
          to_char(g.expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
          g.facts || jsonb_build_object('account', account, 'scope', to_jsonb(g.scope), 'status', 'active'))
  on conflict (id) do update set
    provider_id_ref = excluded.provider_id_ref, auth_provider_id = excluded.auth_provider_id, name = excluded.name,
    type = excluded.type, token = excluded.token, refresh = excluded.refresh, expires = excluded.expires, data = excluded.data;
  insert into gateway.connection as c
    (id, user_id, provider, type, account_key, account_id, account_label, scope, facts, generation, seal_id, refresh_seal_id,
     saved_by, client_id, refreshable, expires_at, refresh_expires_at, refresh_at)
  values (p_id, g.user_id, g.provider, g.type, case when g.many_accounts then g.account_id else '' end, g.account_id, g.account_label,
          g.scope, g.facts - array['account', 'scope', 'status', 'reason'], 1, g.seal_id, coalesce(kept, g.seal_id), p_call_id, g.client_id,
          g.refresh is not null, g.expires_at, g.refresh_expires_at, gateway.refresh_time(g.refresh is not null, g.expires_at, g.refresh_expires_at))
  on conflict (id) do update set
    type = excluded.type, account_id = excluded.account_id, account_label = excluded.account_label, scope = excluded.scope,
    -- `accounts` may have changed in the catalogue: the key of the row stays where another row has the new one.
    account_key = case when exists (
      select from gateway.connection o where o.user_id = c.user_id and o.provider = c.provider
         and o.account_key = excluded.account_key and o.id <> c.id) then c.account_key else excluded.account_key end,
    facts = excluded.facts, generation = c.generation + 1, reconnected = c.generation + 1, seal_id = excluded.seal_id,
    refresh_seal_id = excluded.refresh_seal_id, saved_by = excluded.saved_by, client_id = excluded.client_id,
    refreshable = excluded.refreshable, status = 'active', reason = null, refused_since = null, refusal = null, expires_at = excluded.expires_at,
    refresh_expires_at = excluded.refresh_expires_at, refresh_at = excluded.refresh_at, lease_id = null, lease_until = null,
    lease_host = null, intent_at = null, failures = 0, not_before = null, announced_at = null, updated_at = clock_timestamp();
  delete from gateway.derived_token x where x.connection_id = p_id and old.account_id <> g.account_id;
  update gateway.incoming_event x set due_at = clock_timestamp()
   where x.topic is not null and x.accounts @> array[g.account_id] and x.due_at = 'infinity';
  partner := gateway.give_consent(g.connect_session_id, p_id, old.id is null);
  if g.confirmation_hash is not null then
    -- Stored, so that a partner that lost the response can repeat the call.
    update gateway.connect_session s set connection_id = p_id, confirmation_hash = g.confirmation_hash where s.id = g.connect_session_id;
    with ended as (  -- of other partners, which had consent for the previous account
      update gateway.consent x set ended_at = clock_timestamp()
       where x.connection_id = p_id and x.ended_at is null and x.partner_id is distinct from partner and old.account_id <> g.account_id
      returning x.partner_id)
    insert into gateway.event (type, connection_id, user_id, provider, partner_id)
    select 'consent.ended', p_id, g.user_id, g.provider, e.partner_id from ended e;
  end if;
  insert into gateway.event (type, connection_id, user_id, provider, partner_id, data)
  values (case when old.id is null then 'connection.created' else 'connection.reauthorized' end, p_id, g.user_id, g.provider, partner,
          jsonb_build_object('generation', coalesce(old.generation, 0) + 1, 'account', account));
  return (select c from gateway.connection c where c.id = p_id);
end $$;

-- Save a new grant in one call: create or update a connection, or keep the grant as pending: null. `p_grant`: a row of gateway.pending_grant.
-- The user has to decide where another account is connected and no further one was asked for, and where a partner's link asked for less than
-- the connection allows, or a required scope that the connection has was refused. A repeated call, by its `seal_id`, gets the same answer.
-- After `p_not_after` nothing is saved: the caller has reported a failure and revokes the grant. `p_state_hash`: the attempt, which keeps the
-- result.
create or replace function public.gateway_save_connection_v1(
  p_grant jsonb, p_requested_scope text[], p_required_scope text[], p_add_account boolean, p_expires_seconds double precision,
  p_refresh_expires_seconds double precision, p_not_after timestamptz default null, p_state_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  g        gateway.pending_grant := jsonb_populate_record(null::gateway.pending_grant, p_grant || jsonb_build_object(
             'id', gen_random_uuid(), 'created_at', clock_timestamp(), 'pending_until', clock_timestamp() + interval '10 minutes'));
  existing gateway.connection;
  saved    gateway.connection;
  target   uuid;
begin
  perform gateway.lock_user(g.user_id);
  select c.* into saved from gateway.connection c where c.user_id = g.user_id and c.saved_by = g.seal_id;
  if found or exists (select from gateway.pending_grant p where p.user_id = g.user_id and p.seal_id = g.seal_id) then
    return case when saved.id is not null then gateway.public_data(saved) end;
  elsif not exists (select from gateway.live_user(g.user_id)) then
    return '{"refused": "unauthenticated"}';
  elsif gateway.is_stopped(g.provider, g.connect_session_id) then
    return '{"refused": "frozen"}';
  end if;
  g.expires_at := clock_timestamp() + make_interval(secs => p_expires_seconds);
  g.refresh_expires_at := clock_timestamp() + make_interval(secs => p_refresh_expires_seconds);
  existing := gateway.lock_existing(g);
  if g.confirmation_hash is null then
    if existing.id is null then
      target := coalesce(gateway.earlier_row(g), g.id);
    elsif existing.account_id not in (g.account_id, '') then  -- '': imported, and never confirmed
      target := case when p_add_account and g.many_accounts then g.id end;
    elsif not exists (select from unnest(existing.scope) s where s = any (p_required_scope) and s <> all (g.scope))
      and (g.connect_session_id is null or cardinality(p_requested_scope) = 0 or existing.scope <@ (p_requested_scope || g.scope)) then
      target := existing.id;
    end if;
  end if;
  if target is null then
    -- It replaces what is pending for the same user and provider.
    delete from gateway.pending_grant p
     where p.user_id = g.user_id and p.provider = g.provider and p.confirmation_hash is null and g.confirmation_hash is null;
    insert into gateway.pending_grant select g.*;
    insert into gateway.event (type, user_id, provider, partner_id, data)
    values ('grant.pending', g.user_id, g.provider, (select s.partner_id from gateway.connect_session s where s.id = g.connect_session_id),
            case when g.confirmation_hash is null  -- the account of an unconfirmed grant is not shown to the link's user
                 then jsonb_build_object('account', jsonb_build_object('id', g.account_id, 'label', g.account_label)) else '{}' end);
  else
    saved := gateway.write_connection(g, target, g.seal_id);
  end if;
  update gateway.authorization_request a set seal_id = g.seal_id where a.state_hash = p_state_hash;
  if clock_timestamp() > p_not_after then
    raise exception 'the caller has given up' using errcode = 'query_canceled';
  end if;
  return case when target is not null then gateway.public_data(saved) end;
end $$;

-- The partners that may use a connection by its owner's consent. Partners with reach `all` are the product itself and not listed.
create or replace function gateway.sharing(p_connection_id uuid) returns jsonb
language sql stable as $$
  select coalesce((
    select jsonb_agg(jsonb_build_object('id', p.id, 'name', p.name, 'made', x.made) order by p.name)
      from gateway.consent x join gateway.partner p on p.id = x.partner_id
     where x.connection_id = p_connection_id and x.ended_at is null and p.revoked_at is null and p.reach = 'own'), '[]')
$$;

-- null: no user is signed in.
create or replace function public.gateway_connections_v1(p_session_hash text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
           'user', jsonb_build_object('id', s.user_id, 'label', s.label),
           'frozen', array(select substr(f.target, 10) from gateway.freeze f where f.target like 'provider:%'),
           'connections', coalesce(jsonb_agg(gateway.public_data(c) order by c.type, c.created_at, c.id) filter (where c.id is not null), '[]'),
           'sharing', coalesce(jsonb_object_agg(c.id, gateway.sharing(c.id)) filter (where c.id is not null), '{}'),
           'ends_with', coalesce(jsonb_object_agg(c.id, (select count(*) from gateway.same_account(c))) filter (where c.id is not null), '{}'))
    from gateway.live_session(p_session_hash) s left join gateway.connection c on c.user_id = s.user_id
   group by s.user_id, s.label
$$;

-- The result of a check; returns the connection, or null. A check of that generation may change the status: `another_account` ends the
-- connection, `suspended` suspends it, `confirmed` ends a suspension. `refused` (of a key) counts as a refused refresh does, and ends it after a
-- week in any case. Any other outcome says nothing about the grant. `p_label`: the account's name, for a connection that shows its id.
create or replace function public.gateway_end_check_v1(
  p_connection_id uuid, p_generation bigint, p_outcome text, p_label text default null, p_caller jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c       gateway.connection;
  refused text;
begin
  perform from public.provider_data d where d.id = p_connection_id for update;
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  select 'connection.checked', x.id, x.user_id, (select k.partner_id from gateway.api_key k where k.key_hash = p_caller ->> 'key_hash'),
         x.provider, jsonb_build_object('outcome', p_outcome) from gateway.connection x where x.id = p_connection_id;
  select x.* into c from gateway.connection x where x.id = p_connection_id and x.generation = p_generation;
  refused := case when p_outcome = 'refused' and c.status in ('active', 'held') then
               case when c.refused_since < clock_timestamp() - interval '7 days' then 'needs_reauthorization' else gateway.judge_refusal(c) end end;
  update gateway.connection x
     set status = v.status, reason = v.reason, updated_at = clock_timestamp(),
         refresh_at = case when x.refreshable and v.status = 'suspended' then clock_timestamp() + interval '1 hour' else x.refresh_at end
    from (values ('refused', '{active,held}', refused, case refused when 'held' then 'provider_incident' else 'grant_refused' end),
                 ('another_account', '{active,held}', 'needs_reauthorization', 'another_account'), ('suspended', '{active}', 'suspended', 'account_not_active'),
                 ('confirmed', '{suspended,held}', 'active', null)) as v (outcome, before, status, reason)
   where x.id = c.id and v.outcome = p_outcome and x.status = any (v.before::text[])
     and (x.refreshable or v.status <> 'suspended') and (x.status <> 'held' or not x.refreshable);  -- which a refresh ends by itself
  update gateway.connection x
     set refusal = case p_outcome when 'refused' then jsonb_build_object('at', clock_timestamp()) end,
         refused_since = case p_outcome when 'refused' then coalesce(x.refused_since, clock_timestamp()) end
   where x.id = c.id and p_outcome in ('refused', 'confirmed') and not x.refreshable;
  perform gateway.end_incident(c.provider) where c.status = 'held' and not c.refreshable and p_outcome = 'confirmed';
  update gateway.connection x set account_label = p_label, updated_at = clock_timestamp()
   where x.id = p_connection_id and x.generation = p_generation and x.account_label = x.account_id and p_label <> x.account_id;
  return (select gateway.public_data(x) from gateway.connection x where x.id = p_connection_id);
end $$;
