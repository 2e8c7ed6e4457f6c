-- The scopes that the partners of a user's connections at a provider requested; with `granted`, also the granted ones. The next attempt
-- requests them again, so that one partner cannot reduce another's. Only for that user: it reveals other partners.
create or replace function gateway.scopes_of_other_partners(p_user_id uuid, p_provider text, p_granted boolean) returns text[]
language sql stable as $$
  select array(
    select distinct n.name
      from gateway.connection c
      left join (gateway.consent x join gateway.partner p on p.id = x.partner_id and p.revoked_at is null)
        on x.connection_id = c.id and x.ended_at is null
      cross join lateral unnest(coalesce(x.scope, '{}') || case when p_granted then c.scope else '{}' end) as n (name)
     where c.user_id = p_user_id and c.provider = p_provider order by 1)
$$;

-- Whether nothing may be connected: the provider is frozen, or the partner of the link is stopped. The shared lock lasts until the
-- transaction ends: erasing all of a provider waits for it.
create or replace function gateway.is_stopped(p_provider text, p_connect_session_id uuid) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('gateway provider ' || p_provider, 0));
  if p_connect_session_id is not null then
    perform from gateway.connect_session s join gateway.partner p on p.id = s.partner_id
      where s.id = p_connect_session_id and (p.frozen_at is not null or p.revoked_at is not null);
    if found then
      return true;
    end if;
  end if;
  return exists (select from gateway.freeze f where f.target = 'provider:' || p_provider);
end $$;

-- The scopes to request; null: no user is signed in. An attempt expires after ten minutes. A user keeps about fifty: one start in ten deletes
-- the oldest, which is cheaper than a check at every start. `p_link_hash`: an attempt of a partner's link, which it uses up after the caller was
-- checked; null then: no usable link, or already started. `user_mismatch`: another user is signed in. `unauthenticated`: no user is, and
-- the link has no `return_to` whose server could name the user.
create or replace function public.gateway_start_authorization_v1(
  p_session_hash text, p_state_hash text, p_browser_hash text, p_encrypted text, p_scope text[], p_provider text default null,
  p_return_to text default null, p_display text default 'page', p_add_account boolean default false, p_link_hash text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  who  uuid := (select s.user_id from gateway.live_session(p_session_hash) s);
  link gateway.connect_session;
begin
  if p_link_hash is not null then
    select s.* into link from gateway.open_link(p_link_hash) s;
    p_provider := link.provider;
    p_return_to := link.return_to;
  end if;
  if p_link_hash is null and who is null or p_link_hash is not null and link.id is null then
    return null;
  elsif gateway.is_stopped(p_provider, link.id) then
    return '{"refused": "frozen"}';
  elsif who <> link.user_id then
    insert into gateway.event (type, user_id, provider, partner_id, data)
    values ('connect.refused', link.user_id, link.provider, link.partner_id,
            jsonb_build_object('error', 'user_mismatch', 'connect_session', link.id));
    return '"user_mismatch"';
  elsif who is null and link.return_to is null then
    return '"unauthenticated"';
  elsif link.id is not null then
    update gateway.connect_session s set started_at = clock_timestamp() where s.id = link.id and s.started_at is null;
    if not found then
      return null;
    end if;
  else
    -- This transaction does not wait for the disk: a user can repeat an attempt that a crash lost.
    perform set_config('synchronous_commit', 'off', true);
    if random() < 0.1 then
      delete from gateway.authorization_request a where a.state_hash = any (array(
        select x.state_hash from gateway.authorization_request x where x.user_id = who
         order by x.created_at desc offset 49 for update skip locked));
    end if;
    -- An empty request stays empty: the permissions then belong to the app.
    p_scope := p_scope || array(select n from unnest(gateway.scopes_of_other_partners(who, p_provider, false)) n
                                 where cardinality(p_scope) > 0 and n <> all (p_scope));
  end if;
  insert into gateway.authorization_request
    (state_hash, browser_hash, user_id, provider, encrypted, scope, return_to, display, add_account, connect_session_id, expires_at)
  values
    (p_state_hash, p_browser_hash, coalesce(link.user_id, who), p_provider, p_encrypted, p_scope, p_return_to, p_display, p_add_account, link.id,
     clock_timestamp() + interval '10 minutes');
  return to_jsonb(p_scope);
end $$;

-- Whether an existing row is of this provider. Its name is free text; a row of the provider's type may also have one of `p_names`.
create or replace function gateway.same_provider(p_name text, p_type numeric, p_provider text, p_of_type integer, p_names text[]) returns boolean
language sql immutable as $$
  select coalesce(lower(btrim(p_name)) = p_provider or p_type = p_of_type and
                  coalesce(lower(regexp_replace(p_name, '[^A-Za-z0-9]', '', 'g')), '') = any (p_names), false)
$$;

create or replace function gateway.request_json(r gateway.authorization_request, p_user_id uuid) returns jsonb
language sql stable as $$
  select to_jsonb(r) || jsonb_build_object(
    'is_signed_in', p_user_id is not null, 'clock', jsonb_build_object('at', clock_timestamp()),
    'has_connection', exists (select from gateway.connection c where c.user_id = r.user_id and c.provider = r.provider))
$$;

-- The attempt, taken. One statement takes it, so only one caller gets it. The browser and the user that finished it get its result for ten
-- minutes: {"request", "connection"}, without a connection while the grant is pending; {} while that visit is under way. null: an unknown or
-- expired state, one that failed, or one of another provider, which uses it up. For another browser or user the attempt stays valid, so that a
-- link scanner or prefetch cannot use it up; one event records it.
-- `p_failed`: the attempt that was taken has failed, and a later visit finds nothing.
create or replace function public.gateway_take_authorization_v1(
  p_state_hash text, p_provider text default null, p_browser_hash text default null, p_session_hash text default null, p_failed boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  moment    timestamptz := clock_timestamp();
  r         gateway.authorization_request;
  made      gateway.connection;
  signed_in uuid := (select s.user_id from gateway.live_session(p_session_hash) s);
  mismatch  text;
begin
  select a.* into r from gateway.authorization_request a where a.state_hash = p_state_hash and a.expires_at > moment;
  if not found then
    return null;
  elsif p_failed then
    delete from gateway.authorization_request a where a.state_hash = p_state_hash and a.used_at is not null;
    return null;
  end if;
  -- A partner's link may be finished without a signed-in user: the partner's server names the user afterwards.
  mismatch := case when r.browser_hash <> p_browser_hash then 'browser_mismatch'
                   when signed_in is null and r.connect_session_id is not null and r.return_to is not null then null
                   when signed_in is distinct from r.user_id then 'user_mismatch' end;
  if r.used_at is not null and (mismatch is not null or r.provider is distinct from p_provider) then
    return null;
  elsif r.used_at is not null and r.seal_id is null then
    return case when r.used_at > moment - interval '12 seconds' then '{}'::jsonb end;
  elsif r.used_at is not null then
    select c.* into made from gateway.connection c
     where c.user_id = r.user_id and c.provider = r.provider and r.seal_id in (c.saved_by, c.seal_id);
    return case when found or exists (select from gateway.pending_grant g where g.user_id = r.user_id and g.seal_id = r.seal_id) then
      jsonb_build_object('request', gateway.request_json(r, signed_in), 'connection', case when found then gateway.public_data(made) end) end;
  elsif mismatch is not null then
    update gateway.authorization_request a set refused_at = moment where a.state_hash = p_state_hash and a.refused_at is null;
    insert into gateway.event (type, user_id, provider, data)
    select 'connect.refused', r.user_id, r.provider, jsonb_build_object('error', mismatch) where found;
    return jsonb_build_object('refused', mismatch);
  elsif r.provider is distinct from p_provider then
    delete from gateway.authorization_request a where a.state_hash = p_state_hash;
    return null;
  end if;
  update gateway.authorization_request a set used_at = moment, expires_at = moment + interval '10 minutes'
   where a.state_hash = p_state_hash and a.used_at is null;
  return case when found then gateway.request_json(r, signed_in) else '{}' end;
end $$;
