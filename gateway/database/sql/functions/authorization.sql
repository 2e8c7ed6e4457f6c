-- Authorization requests: the attempt a user starts, and what it meets when it returns.

-- What partners asked for to whom a user's connections at a provider are open, and with `granted` what these have: whoever connects
-- next asks for it again, so that no partner narrows what another was given. Told to that user alone: it says who else was let in.
create or replace function gateway.scope_beside(p_whose uuid, p_at_provider text, p_granted boolean) returns text[]
language sql stable as $$
  select array(
    select distinct n.name
      from gateway.connection c
      left join (gateway.consent x join gateway.partner p on p.id = x.partner_id and p.revoked_at is null)
        on x.connection_id = c.id and x.ended_at is null
      cross join lateral unnest(coalesce(x.scope, '{}') || case when p_granted then c.scope else '{}' end) as n (name)
     where c.user_id = p_whose and c.provider = p_at_provider order by 1)
$$;

-- One after the other, each once. Where nothing is asked for, permissions belong to the app, and nothing is added.
create or replace function gateway.united(p_asked text[], p_beside text[]) returns text[]
language sql immutable as $$
  select case when cardinality(p_asked) = 0 then p_asked
              else p_asked || array(select n.name from unnest(p_beside) with ordinality n (name, place)
                                   where n.name <> all (p_asked) order by n.place) end
$$;

-- Whether nothing may be connected at a provider just now, since its tokens are frozen. Whoever erases all of it waits for those who
-- are told no here to be done, or they would save behind its back.
create or replace function gateway.closed(p_at_provider text) returns boolean
language plpgsql set search_path = '' as $$
begin
  perform pg_advisory_xact_lock_shared(hashtextextended('gateway provider ' || p_at_provider, 0));
  return exists (select from gateway.freeze f where f.target = 'provider:' || p_at_provider);
end $$;

-- null: nobody is signed in there. An attempt lives ten minutes, and of one user about fifty do: one start in ten clears the oldest
-- away, since looking at every one would cost each of them more than that is worth.
create or replace function public.gateway_start_authorization_v1(
  p_session_hash text, p_state_hash text, p_browser_hash text, p_provider text, p_sealed text, p_scope text[], p_return_to text, p_display text,
  p_another boolean default false
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  signed_in record;
begin
  select s.user_id, s.label into signed_in from gateway.live_session(p_session_hash) s;
  if not found then
    return null;
  end if;
  if gateway.closed(p_provider) then
    return '{"refused": "frozen"}';
  end if;
  -- An attempt that a power cut takes is started again: nobody waits for the disk. For this transaction alone.
  perform set_config('synchronous_commit', 'off', true);
  if random() < 0.1 then
    delete from gateway.authorization_request a where a.state_hash = any (array(
      select x.state_hash from gateway.authorization_request x where x.user_id = signed_in.user_id
       order by x.created_at desc offset 49 for update skip locked));
  end if;
  p_scope := gateway.united(p_scope, gateway.scope_beside(signed_in.user_id, p_provider, false));
  insert into gateway.authorization_request
    (state_hash, browser_hash, user_id, provider, sealed, scope, return_to, display, another, expires_at)
  values
    (p_state_hash, p_browser_hash, signed_in.user_id, p_provider, p_sealed, p_scope, p_return_to, p_display, p_another,
     clock_timestamp() + interval '10 minutes');
  return jsonb_build_object('user_id', signed_in.user_id, 'label', signed_in.label, 'scope', p_scope);
end $$;

-- Whether a row from before the gateway is of this provider. Names were free text then; type 1 has always meant Go High Level.
create or replace function gateway.same_provider(p_name text, p_type numeric, p_provider text) returns boolean
language sql immutable as $$
  select coalesce(lower(btrim(p_name)) = p_provider, false)
      or (p_provider = 'ghl' and p_type = 1 and coalesce(lower(regexp_replace(p_name, '[^A-Za-z0-9]', '', 'g')), '')
                                            in ('', 'ghl', 'gohighlevel', 'highlevel', 'leadconnector'))
$$;

-- What stands of a user at a provider, newest first: the connections, or the oldest row from before the gateway, at
-- generation 0.
create or replace function gateway.standing(p_whose uuid, p_at_provider text)
returns table (id uuid, generation bigint, account_key text, account_id text, account_label text, refresh text, scope text[])
language plpgsql stable set search_path = '' as $$
begin
  return query
    select c.id, c.generation, c.account_key, c.account_id, c.account_label, d.refresh, c.scope
      from gateway.connection c join public.provider_data d on d.id = c.id
     where c.user_id = p_whose and c.provider = p_at_provider order by c.updated_at desc, c.id;
  if found then
    return;
  end if;
  return query
    select d.id, 0::bigint, ''::text, null::text, null::text, null::text, null::text[] from public.provider_data d
     where d.auth_provider_id = p_whose and gateway.same_provider(d.name, d.type, p_at_provider)
       and not exists (select from gateway.connection c where c.id = d.id)
     order by d.created_at nulls last, d.id limit 1;
end $$;

-- null: no such attempt, or an old one, or somebody took it before. One statement takes it, so one caller gets it.
create or replace function public.gateway_take_authorization_v1(p_state_hash text, p_session_hash text)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  taken     gateway.authorization_request;
  signed_in record;
begin
  delete from gateway.authorization_request a where a.state_hash = p_state_hash returning a.* into taken;
  if not found or taken.expires_at <= clock_timestamp() then
    return null;
  end if;
  select s.user_id, s.label into signed_in from gateway.live_session(p_session_hash) s;
  return jsonb_build_object(
    'provider', taken.provider, 'user_id', taken.user_id, 'browser_hash', taken.browser_hash, 'sealed', taken.sealed,
    'scope', taken.scope, 'return_to', taken.return_to, 'display', taken.display,
    'another', taken.another, 'connect_session_id', taken.connect_session_id, 'session_user_id', signed_in.user_id, 'session_label', coalesce(signed_in.label, ''),
    'taken_at', clock_timestamp(),
    'standing', coalesce((select jsonb_agg(x) from gateway.standing(taken.user_id, taken.provider) x), '[]')
  );
end $$;
