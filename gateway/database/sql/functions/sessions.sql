-- Whether auth.users is the gateway's own table, not Supabase's. By its comment, because a database may be moved.
create or replace function gateway.own_auth() returns boolean
language sql stable as $$
  select coalesce(obj_description('auth.users'::regclass, 'pg_class') like 'Made by the gateway:%', false)
$$;

create or replace function gateway.touch_profile() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := clock_timestamp();
  return new;
end $$;

-- The functions without a `set` can be inlined by the planner; their names are qualified, and only definer functions can call them. Through
-- to_jsonb, because Supabase may change the columns of auth.users.
create or replace function gateway.live_user(p_user_id uuid) returns table (id uuid)
language sql stable as $$
  select u.id from auth.users u
   where u.id = p_user_id and to_jsonb(u) ->> 'deleted_at' is null
     and coalesce((to_jsonb(u) ->> 'banned_until')::timestamptz <= clock_timestamp(), true)
$$;

-- A label for a user without a session: shown masked, never used for a decision.
create or replace function gateway.label_of(p_user_id uuid) returns text
language sql stable as $$
  select coalesce((select s.label from gateway.session s where s.user_id = p_user_id order by s.created_at desc limit 1),
                  (select nullif(to_jsonb(u) ->> 'email', '') from auth.users u where u.id = p_user_id))
$$;

create or replace function gateway.live_session(p_wanted text)
returns table (user_id uuid, label text, expires_at timestamptz)
language sql stable as $$
  select s.user_id, s.label, s.expires_at
    from gateway.session s cross join lateral gateway.live_user(s.user_id) u
   where s.session_hash = p_wanted and s.expires_at > clock_timestamp()
$$;

-- null: no such user. On plain Postgres a verified user is inserted; on Supabase never. A user keeps the fifty newest sessions.
create or replace function public.gateway_open_session_v1(p_session_hash text, p_user_id uuid, p_label text, p_expires_at timestamptz)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  if gateway.own_auth() then
    insert into auth.users (id) values (p_user_id) on conflict do nothing;
  end if;
  if p_expires_at <= clock_timestamp() or not exists (select from gateway.live_user(p_user_id)) then
    return null;
  end if;
  delete from gateway.session s where s.session_hash = any (array(
    select x.session_hash from gateway.session x where x.user_id = p_user_id order by x.created_at desc offset 49 for update skip locked));
  insert into gateway.session (session_hash, user_id, label, expires_at) values (p_session_hash, p_user_id, p_label, p_expires_at);
  return to_jsonb(p_user_id);
end $$;

-- null: there is none. `p_end`: it ends.
create or replace function public.gateway_session_v1(p_session_hash text, p_end boolean default false)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  shown jsonb := (
    select jsonb_build_object('user', jsonb_build_object('id', s.user_id, 'label', s.label), 'expires_at', s.expires_at)
      from gateway.live_session(p_session_hash) s);
begin
  if p_end then
    delete from gateway.session s where s.session_hash = p_session_hash;
  end if;
  return shown;
end $$;

-- The lock on a user's rows. Without `p_wait`, false for a user whose rows another transaction has locked.
create or replace function gateway.lock_user(p_user_id uuid, p_wait boolean default true) returns boolean
language plpgsql set search_path = '' as $$
declare
  key bigint := hashtextextended('gateway user ' || p_user_id::text, 0);
begin
  if p_wait then
    perform pg_advisory_xact_lock(key);
  elsif not pg_try_advisory_xact_lock(key) then
    return false;
  end if;
  -- Then the profiles, before provider_data: the same order as when a user is deleted.
  perform from public.user_profile p where p.user_id_auth = p_user_id order by p.id for no key update;
  return true;
end $$;

-- The oldest profile of a user, created if missing, with the id in its array once; the user's other profiles lose the id. Under lock_user, so
-- that two callers create one profile.
create or replace function gateway.list_in_profile(p_user_id uuid, p_connection uuid, p_called text) returns uuid
language plpgsql set search_path = '' as $$
declare
  profile uuid;
  listed  text := p_connection::text;
begin
  select p.id into profile from public.user_profile p
   where p.user_id_auth = p_user_id order by p.created_at nulls last, p.id limit 1;
  if profile is null then
    insert into public.user_profile as p (user_id_auth, user_name, providers) values (p_user_id, p_called, '{}')
    returning p.id into profile;
  end if;
  update public.user_profile p
     set providers = array_remove(coalesce(p.providers, '{}'), listed) || case when p.id = profile then array[listed] else '{}'::text[] end
   where p.user_id_auth = p_user_id
     and coalesce(cardinality(array_positions(p.providers, listed)), 0) <> case when p.id = profile then 1 else 0 end;
  return profile;
end $$;
