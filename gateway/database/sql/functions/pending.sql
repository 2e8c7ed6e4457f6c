-- Grants that wait for a decision of their user or their partner.

-- A parked grant that goes with its user, too.
create or replace function gateway.keep_parked_for_revocation() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if current_setting('gateway.parked_grant_used', true) is distinct from old.id::text then
    insert into gateway.revocation (connection_id, generation, provider, account_id, token, refresh, reason, due_at)
    values (old.id, 1, old.provider, old.account_id, old.token, old.refresh, 'not_confirmed', clock_timestamp())
    on conflict on constraint revocation_pkey do nothing;
    if old.connect_session_id is not null then
      insert into gateway.event (type, user_id, provider, partner_id, data)
      values ('link.refused', old.user_id, old.provider,
              (select s.partner_id from gateway.connect_session s where s.id = old.connect_session_id),
              jsonb_build_object('connect_session', old.connect_session_id,
                                 'error', coalesce(nullif(current_setting('gateway.link_error', true), ''), 'expired')));
    end if;
  end if;
  return old;
end $$;

create or replace function gateway.keep_all_parked_for_revocation() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.revocation (connection_id, generation, provider, token, refresh, reason)
  select p.id, 1, p.provider, p.token, p.refresh, 'not_confirmed' from gateway.parked_grant p
  on conflict on constraint revocation_pkey do nothing;
  return null;
end $$;

-- Another account came back: kept until its user says what becomes of it. One that was parked before is given back. `not_after` as
-- where a connection is saved.
create or replace function public.gateway_park_grant_v1(
  p_parked_id uuid, p_user_id uuid, p_provider text, p_browser_hash text, p_account_id text, p_account_label text, p_scope text[],
  p_token text, p_refresh text, p_expires_at timestamptz, p_refresh_expires_at timestamptz, p_facts jsonb, p_return_to text, p_display text,
  p_not_after timestamptz default null, p_connect_session_id uuid default null, p_confirmation_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  if gateway.closed(p_provider) or gateway.link_stopped(p_connect_session_id) then
    return '{"refused": "frozen"}';
  end if;
  perform gateway.lock_user(p_user_id);
  if p_confirmation_hash is null then
    delete from gateway.parked_grant p where p.user_id = p_user_id and p.provider = p_provider and p.confirmation_hash is null;
  end if;
  insert into gateway.parked_grant
    (id, user_id, provider, browser_hash, account_id, account_label, scope, token, refresh, expires_at, refresh_expires_at,
     facts, return_to, display, connect_session_id, confirmation_hash)
  values
    (p_parked_id, p_user_id, p_provider, p_browser_hash, p_account_id, p_account_label, p_scope, p_token, p_refresh, p_expires_at,
     p_refresh_expires_at, coalesce(p_facts, '{}'), p_return_to, p_display, p_connect_session_id, p_confirmation_hash);
  insert into gateway.event (type, user_id, provider, partner_id, data)
  values ('grant.parked', p_user_id, p_provider, (select s.partner_id from gateway.connect_session s where s.id = p_connect_session_id),
          case when p_confirmation_hash is null  -- until it is confirmed, nobody knows whose business the account is
               then jsonb_build_object('account', jsonb_build_object('id', p_account_id, 'label', p_account_label)) else '{}' end);
  if clock_timestamp() > p_not_after then
    raise exception 'whoever asked has given up by now' using errcode = 'query_canceled';
  end if;
  return '{}';
end $$;

-- null: nobody is signed in, or nothing of theirs is parked for this browser.
create or replace function public.gateway_parked_grant_v1(p_session_hash text, p_browser_hash text, p_provider text)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
begin
  return (
    select to_jsonb(p) || jsonb_build_object(
             'label', s.label, 'told_at', clock_timestamp(),
             'standing', coalesce((select jsonb_agg(x) from gateway.standing(p.user_id, p.provider) x), '[]'),
             'shared_with', coalesce((select jsonb_agg(distinct w.partner ->> 'name')
                                        from gateway.connection c cross join jsonb_array_elements(gateway.sharing(c.id)) as w (partner)
                                       where c.user_id = p.user_id and c.provider = p.provider), '[]'))
      from gateway.live_session(p_session_hash) s
      join gateway.parked_grant p on p.user_id = s.user_id and p.provider = p_provider and p.browser_hash = p_browser_hash
     where p.parked_until > clock_timestamp() and p.confirmation_hash is null
  );
end $$;

-- null: it is answered already. The trigger puts the grant into the queue.
create or replace function public.gateway_refuse_parked_grant_v1(p_parked_id uuid)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  gone gateway.parked_grant;
begin
  perform set_config('gateway.link_error', 'access_denied', true);
  delete from gateway.parked_grant p where p.id = p_parked_id returning p.* into gone;
  if not found then
    return null;
  end if;
  return (select gateway.to_give_back(r) from gateway.revocation r where r.connection_id = gone.id and r.generation = 1);
end $$;
