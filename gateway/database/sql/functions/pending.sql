-- Queue a deleted pending grant to be revoked, also if it is deleted with its user.
create or replace function gateway.queue_pending_grant() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if old.ending is distinct from 'saved' then
    insert into gateway.revocation (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason, due_at)
    values (old.id, 1, old.user_id, old.provider, old.account_id, old.facts, old.token, old.refresh, old.seal_id, old.seal_id, 'not_confirmed', clock_timestamp())
    on conflict on constraint revocation_pkey do nothing;
    insert into gateway.event (type, user_id, provider, partner_id, data)
    select 'link.refused', old.user_id, old.provider, s.partner_id, jsonb_build_object('connect_session', s.id, 'error', coalesce(old.ending, 'expired'))
      from gateway.connect_session s where s.id = old.connect_session_id;
  end if;
  return old;
end $$;

-- null: the session has ended, or this user has no pending grant in this browser. The content of the confirm page.
create or replace function public.gateway_pending_grant_v1(p_session_hash text, p_browser_hash text, p_provider text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
           'id', g.id, 'user', jsonb_build_object('id', g.user_id, 'label', s.label), 'provider', g.provider,
           'account', jsonb_build_object('id', g.account_id, 'label', g.account_label), 'return_to', g.return_to, 'display', g.display,
           'clock', jsonb_build_object('at', clock_timestamp()),
           'existing_label', coalesce((
             select c.account_label from gateway.connection c where c.user_id = g.user_id and c.provider = g.provider
              order by c.updated_at desc, c.id limit 1), ''),
           'scopes_removed', coalesce((
             select array(select n.name from unnest(c.scope) with ordinality n (name, place) where n.name <> all (g.scope) order by n.place)
               from gateway.connection c where c.user_id = g.user_id and c.provider = g.provider and c.account_id = g.account_id
              order by c.updated_at desc limit 1), '{}'),
           'shared_with', array(
             select distinct w.partner ->> 'name'
               from gateway.connection c cross join jsonb_array_elements(gateway.sharing(c.id)) as w (partner)
              where c.user_id = g.user_id and c.provider = g.provider order by 1))
    from gateway.live_session(p_session_hash) s
    join gateway.pending_grant g on g.user_id = s.user_id and g.provider = p_provider and g.browser_hash = p_browser_hash
   where g.pending_until > clock_timestamp() and g.confirmation_hash is null
$$;

-- Delete a pending grant; the trigger queues it to be revoked. `p_error`: the reason in the partner's event. Returns the queued grant.
create or replace function gateway.refuse_pending(p_id uuid, p_error text) returns jsonb
language plpgsql set search_path = '' as $$
declare
  gone gateway.pending_grant;
begin
  update gateway.pending_grant g set ending = p_error where g.id = p_id;
  delete from gateway.pending_grant g where g.id = p_id returning g.* into gone;
  return (select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = gone.seal_id);
end $$;

-- Carry out a decision about a pending grant, under lock_user. `p_choice` is null where a partner has made none.
--   ending: `saved`, `access_denied` and `frozen` (the grant has to be revoked), `one_account` (a user has one connection of this provider)
create or replace function gateway.decide_pending(
  p_grant gateway.pending_grant, p_choice text, p_call_id uuid, p_partner gateway.partner default null
)
returns jsonb language plpgsql set search_path = '' as $$
declare
  existing gateway.connection;
  saved    gateway.connection;
  target   uuid;
begin
  if p_choice = 'both' and not p_grant.many_accounts then
    return '{"ending": "one_account"}';
  elsif p_choice = 'no' then
    return jsonb_build_object('ending', 'access_denied', 'revocation', gateway.refuse_pending(p_grant.id, 'access_denied'));
  elsif gateway.is_stopped(p_grant.provider, p_grant.connect_session_id) then
    return jsonb_build_object('ending', 'frozen', 'revocation', gateway.refuse_pending(p_grant.id, 'access_denied'));
  end if;
  existing := gateway.lock_existing(p_grant);
  target := case
    when existing.id is null then coalesce(gateway.earlier_row(p_grant), p_grant.id)
    when existing.account_id = p_grant.account_id then
      case when p_choice = 'replace' or existing.scope <@ p_grant.scope then existing.id end
    when p_choice = 'both' then p_grant.id
    when p_choice = 'replace' then existing.id end;
  if target is null then
    return '{"refused": "pending_confirmation"}';
  end if;
  update gateway.pending_grant g set ending = 'saved' where g.id = p_grant.id;
  delete from gateway.pending_grant g where g.id = p_grant.id;
  saved := gateway.write_connection(p_grant, target, p_call_id);
  return jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(saved, p_partner));
end $$;

-- The user's decision. `state_invalid`: it was decided before; a call of the same `p_call_id` gets the same answer.
create or replace function public.gateway_decide_pending_grant_v1(
  p_pending_id uuid, p_user_id uuid, p_choice text, p_call_id uuid, p_not_after timestamptz default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  g       gateway.pending_grant;
  decided jsonb;
begin
  perform gateway.lock_user(p_user_id);
  select x.* into g from gateway.pending_grant x
   where x.id = p_pending_id and x.user_id = p_user_id and x.pending_until > clock_timestamp() for update;
  if not found then
    return coalesce(
      (select jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(c)) from gateway.connection c
        where c.user_id = p_user_id and c.saved_by = p_call_id), '{"ending": "state_invalid"}');
  elsif not exists (select from gateway.live_user(p_user_id)) then
    return '{"refused": "unauthenticated"}';
  end if;
  decided := gateway.decide_pending(g, p_choice, p_call_id);
  if clock_timestamp() > p_not_after then
    raise exception 'the caller has given up' using errcode = 'query_canceled';
  end if;
  return decided;
end $$;

-- null: no such session of this partner. The partner's decision, for a link that was finished without a signed-in user: `saved`, also
-- if the call is repeated within ten minutes. A wrong user or confirmation deletes the grant. Otherwise as gateway.decide.
create or replace function public.gateway_complete_connect_session_v1(
  p_caller jsonb, p_connect_session_id uuid, p_user_id uuid, p_confirmation_hash text, p_choice text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks  record;
  s     gateway.connect_session;
  g     gateway.pending_grant;
  wrong text;
begin
  select c.* into asks from gateway.caller(p_caller, 'sessions:write') c;
  if asks.refusal is not null then
    return asks.refusal;
  end if;
  select x.* into s from gateway.connect_session x where x.id = p_connect_session_id and x.partner_id = (asks.partner).id;
  if not found then
    return null;
  end if;
  perform gateway.lock_user(s.user_id);
  select x.* into g from gateway.pending_grant x
   where x.connect_session_id = s.id and x.confirmation_hash is not null and x.pending_until > clock_timestamp() for update;
  if not found then
    -- A repeated call may have completed it while this one waited for the lock.
    select x.* into s from gateway.connect_session x where x.id = s.id;
    return coalesce((
      select jsonb_build_object('ending', 'saved', 'connection', gateway.public_data(c, asks.partner)) from gateway.connection c
       where c.id = s.connection_id and c.user_id = p_user_id and s.confirmation_hash = p_confirmation_hash
         and p_choice is distinct from 'no' and s.ended_at > clock_timestamp() - interval '10 minutes'
         and gateway.partner_can_see(asks.partner, c) and exists (select from gateway.live_user(p_user_id))), '{"ending": "state_invalid"}');
  end if;
  wrong := case when s.user_id <> p_user_id or not exists (select from gateway.live_user(s.user_id)) then 'user_mismatch'
                when g.confirmation_hash is distinct from p_confirmation_hash then 'state_invalid' end;
  if wrong is not null then
    update gateway.connect_session x set ended_at = clock_timestamp() where x.id = s.id;
    return jsonb_build_object('ending', wrong, 'revocation', gateway.refuse_pending(g.id, wrong));
  end if;
  return gateway.decide_pending(g, p_choice, gen_random_uuid(), asks.partner);
end $$;

-- An installation that was started at the provider. With `p_put` it is kept; else the newest of that browser, or without a browser one that was
-- not claimed in time; with `p_take` it is removed. `shared`: its account is connected. null: there is none.
create or replace function public.gateway_unclaimed_install_v1(p_browser_hash text, p_put jsonb default null, p_take boolean default false)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  u gateway.unclaimed_install;
begin
  if p_put is not null then
    insert into gateway.unclaimed_install (id, browser_hash, provider, account_id, encrypted)
    select x.id, p_browser_hash, x.provider, x.account_id, x.encrypted from jsonb_populate_record(null::gateway.unclaimed_install, p_put) x;
    return null;
  end if;
  select x.* into u from gateway.unclaimed_install x
   where case when p_browser_hash is null then x.expires_at <= clock_timestamp() else x.browser_hash = p_browser_hash and x.expires_at > clock_timestamp() end
   order by x.expires_at desc limit 1 for update skip locked;
  delete from gateway.unclaimed_install x where x.id = u.id and p_take;
  return case when u.id is not null then to_jsonb(u) || jsonb_build_object(
    'clock', jsonb_build_object('at', clock_timestamp()),
    'shared', exists (select from gateway.connection c where c.provider = u.provider and c.account_id = u.account_id)) end;
end $$;
