-- Record the owner's consent for the partner of a connect session, which ends with it. Returns the partner; null: there is no session.
create or replace function gateway.give_consent(p_session_id uuid, p_connection_id uuid, p_made boolean) returns uuid
language plpgsql set search_path = '' as $$
declare
  s gateway.connect_session;
begin
  update gateway.connect_session x set ended_at = clock_timestamp() where x.id = p_session_id returning x.* into s;
  if not found then
    return null;
  end if;
  -- An ended consent stays ended: the new one begins now.
  update gateway.consent x
     set made = x.made or p_made, scope = array(select distinct n.name from unnest(x.scope || s.scope) n (name))
   where x.partner_id = s.partner_id and x.connection_id = p_connection_id and x.ended_at is null;
  insert into gateway.consent (partner_id, connection_id, made, scope) select s.partner_id, p_connection_id, p_made, s.scope where not found;
  update gateway.connection c set tags = c.tags || s.tags where c.id = p_connection_id and s.tags <> '{}';
  insert into gateway.event (type, connection_id, user_id, provider, partner_id, data)
  values ('consent.given', p_connection_id, s.user_id, s.provider, s.partner_id, jsonb_build_object('connect_session', s.id));
  return s.partner_id;
end $$;

-- null: not one of the partner's providers, or no such user. In the quarter of an hour that a link lives, a partner makes a thousand at most,
-- and twenty for one user.
create or replace function public.gateway_create_connect_session_v1(
  p_caller jsonb, p_secret_hash text, p_user_id uuid, p_provider text, p_scope text[], p_return_to text, p_tags jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  who     record;
  added   gateway.connect_session;
  limits  record;
begin
  select c.* into who from gateway.caller(p_caller, 'sessions:write') c;
  if who.refusal is not null then
    return who.refusal;
  elsif not coalesce(p_provider = any ((who.partner).providers), true) then
    return null;
  elsif gateway.own_auth() then
    insert into auth.users (id) values (p_user_id) on conflict do nothing;
  end if;
  if not exists (select from gateway.live_user(p_user_id)) then
    return null;
  end if;
  select q.most, count(x.created_at) as used, coalesce(min(x.created_at), clock_timestamp()) + interval '15 minutes' as until into limits
    from (values (1000, null), (20, p_user_id)) as q (most, user_id)
    left join lateral (
      select s.created_at from gateway.connect_session s
       where s.partner_id = (who.partner).id and (q.user_id is null or s.user_id = q.user_id) and s.created_at > clock_timestamp() - interval '15 minutes'
       order by s.created_at desc limit q.most) x on true
   group by q.most order by q.most - count(x.created_at) limit 1;
  if limits.used >= limits.most then
    return '{"refused": "rate_limited"}'::jsonb || gateway.quota(limits.most, limits.used, limits.until);
  end if;
  insert into gateway.connect_session as s (secret_hash, partner_id, user_id, provider, scope, return_to, tags)
  values (p_secret_hash, (who.partner).id, p_user_id, p_provider, p_scope, p_return_to,
          case when p_tags = '{}' then p_tags else jsonb_build_object((who.partner).id, p_tags) end) returning s.* into added;
  insert into gateway.event (type, user_id, provider, partner_id, data)
  values ('link.created', p_user_id, p_provider, added.partner_id, jsonb_strip_nulls(jsonb_build_object('connect_session', added.id, 'tags', nullif(added.tags, '{}'))));
  return jsonb_build_object('id', added.id, 'expires_at', added.expires_at) || gateway.quota(limits.most, limits.used + 1, limits.until);
end $$;

-- The link with this secret, if it can be started: unused, not expired, its partner and its user still active.
create or replace function gateway.open_link(p_wanted text) returns setof gateway.connect_session
language sql stable as $$
  select s.* from gateway.connect_session s join gateway.partner p on p.id = s.partner_id
   where s.secret_hash = p_wanted and s.started_at is null and s.expires_at > clock_timestamp() and p.revoked_at is null
     and exists (select from gateway.live_user(s.user_id))
$$;

-- null: no usable link. The content of its page; opening it does not use it up. The existing connection and the scopes of its partners are only
-- shown to its signed-in user; any other holder of the link sees only what the link requests.
create or replace function public.gateway_link_v1(p_secret_hash text, p_session_hash text)
returns jsonb language sql stable security definer set search_path = '' as $$
  select case when p.frozen_at is not null or exists (select from gateway.freeze f where f.target = 'provider:' || s.provider)
              then '{"refused": "frozen"}'::jsonb else jsonb_build_object(
           'id', s.id, 'provider', s.provider, 'return_to', s.return_to, 'user_id', s.user_id,
           'user_label', gateway.label_of(s.user_id), 'partner', p.name, 'partner_scope', p.scope, 'partner_reach', p.reach, 'scope', s.scope,
           'scope_of_others', case when i.user_id = s.user_id then gateway.scopes_of_other_partners(s.user_id, s.provider, true) else '{}' end,
           'session_user_id', i.user_id, 'session_label', i.label,
           'existing', (select jsonb_build_object('account_label', c.account_label, 'status', gateway.status_of(c), 'facts', c.facts) from gateway.connection c
                         where c.user_id = s.user_id and c.provider = s.provider and i.user_id = s.user_id
                         order by c.updated_at desc, c.id limit 1)) end
    from gateway.open_link(p_secret_hash) s join gateway.partner p on p.id = s.partner_id
    left join gateway.live_session(p_session_hash) i on true
$$;
