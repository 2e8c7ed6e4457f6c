-- Importing tokens that the gateway did not write. Triggers put such rows into gateway.import_queue.

-- The owner wrote a token, or removed one. Until its account is confirmed, no caller gets a token that the gateway did not write. Without a
-- refresh token the connection ends with its access token, without both at once.
create or replace function gateway.take_written() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  renewable  boolean := coalesce(new.refresh <> '', false);
  new_status text := case when tg_argv[0] = 'written' then 'unverified' when not renewable and coalesce(new.token, '') = '' then 'needs_reauthorization' end;
begin
  update gateway.connection c
     set status = coalesce(new_status, c.status), refreshable = renewable, updated_at = clock_timestamp(),
         reason = case new_status when 'unverified' then 'owner_wrote_tokens' when 'needs_reauthorization' then 'owner_removed_tokens' else c.reason end,
         refresh_at = case when renewable and new_status is distinct from 'unverified' then c.refresh_at end
   where c.id = new.id and (new_status = 'unverified' or c.status in ('active', 'suspended', 'held'));
  insert into gateway.import_queue as q (id) select new.id where new_status = 'unverified'
  on conflict on constraint import_queue_pkey do update set due_at = clock_timestamp(), attempts = 0;
  return null;
end $$;

create or replace function public.gateway_import_queue_v1()
returns jsonb language sql stable security definer set search_path = '' as $$
  select to_jsonb(array(select q.id from gateway.import_queue q order by q.id))
$$;

-- One row: the oldest of those that are due and of no provider in `p_busy`, or the one of that id. For a minute no other process gets it,
-- which is longer than a verification takes. null: there is none, or another process has it. The provider of a row is that of its connection,
-- else by its name.
create or replace function public.gateway_claim_import_v1(p_providers jsonb, p_busy text[] default '{}', p_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over    timestamptz := clock_timestamp();
  claimed record;
begin
  select q.id, q.attempts, w.provider into claimed from gateway.import_queue q cross join lateral (
      select coalesce(c.provider, (select p.id from rows from (jsonb_to_recordset(nullif(p_providers, '{}')) as (id text, type integer, names text[]))
                                                    with ordinality p (id, type, names, place)
                                    where gateway.same_provider(d.name, d.type, p.id, p.type, p.names) order by p.place limit 1)) as provider
        from public.provider_data d left join gateway.connection c on c.id = d.id where d.id = q.id) w
   where case when p_id is null then q.due_at <= over else q.id = p_id end and (q.claimed_until is null or q.claimed_until <= over)
     and coalesce(w.provider <> all (p_busy), true)
   order by q.due_at limit 1 for update of q skip locked;
  if not found then
    return null;
  end if;
  update gateway.import_queue q set claimed_until = over + interval '1 minute', attempts = q.attempts + 1 where q.id = claimed.id;
  return (
    select jsonb_build_object(
             'id', d.id, 'user_id', d.auth_provider_id, 'name', d.name, 'provider', claimed.provider,
             'seal_id', c.seal_id, 'refresh_seal_id', c.refresh_seal_id, 'generation', coalesce(c.generation, 0), 'account_id', c.account_id, 'status', c.status,
             'scope', coalesce(c.scope, '{}'), 'token', gateway.bounded(nullif(d.token, '')), 'refresh', gateway.bounded(nullif(d.refresh, '')),
             'expires', left(d.expires, 100), 'expires_at', c.expires_at, 'data', case when c.id is not null then c.facts when octet_length(d.data::text) <= 65536 then d.data end,
             'attempts', claimed.attempts + 1, 'version', d.xmin::text)
      from public.provider_data d left join gateway.connection c on c.id = d.id where d.id = claimed.id);
end $$;

-- Compare-and-set on the row that was read: `p_version` is its transaction. Answers `stored`; `changed`: it was written since; `no_user`;
-- `duplicate`: another row of this user holds the place, unless that one was itself imported and refused.
create or replace function public.gateway_store_import_v1(
  p_id uuid, p_version text, p_provider text, p_type integer, p_one_account boolean, p_seal_id uuid, p_token text, p_refresh text,
  p_expires_at timestamptz, p_scope text[], p_facts jsonb
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  owner   uuid := (select d.auth_provider_id from public.provider_data d where d.id = p_id);
  key     text := case when p_one_account then '' else p_id::text end;  -- until the account is known
  profile uuid;
begin
  if owner is null or not exists (select from gateway.live_user(owner)) then
    return '"no_user"';
  end if;
  perform gateway.lock_user(owner);
  perform from public.provider_data d where d.id = p_id and d.auth_provider_id = owner and d.xmin::text = p_version for update;
  if not found then
    return '"changed"';
  elsif not exists (select from gateway.connection c where c.id = p_id) then
    update gateway.connection c set account_key = c.id::text
     where c.user_id = owner and c.provider = p_provider and c.account_key = key
       and c.account_id = '' and c.status = 'needs_reauthorization';
    if exists (select from gateway.connection c where c.user_id = owner and c.provider = p_provider and c.account_key = key) then
      return '"duplicate"';
    end if;
    profile := gateway.list_in_profile(owner, p_id, null);
  end if;
  insert into gateway.connection as c
    (id, seal_id, refresh_seal_id, user_id, provider, type, account_key, account_id, account_label, scope, generation, status, reason,
     refreshable, expires_at, facts)
  values (p_id, p_seal_id, p_seal_id, owner, p_provider, p_type, key, '', '', p_scope, 1, 'unverified', 'imported',
          p_refresh is not null, p_expires_at, p_facts)
  on conflict (id) do update set
    seal_id = excluded.seal_id, refresh_seal_id = excluded.seal_id, generation = c.generation + 1, status = 'unverified',
    reason = 'owner_wrote_tokens', refreshable = excluded.refreshable, client_id = null, refused_since = null, expires_at = excluded.expires_at,
    refresh_at = null, lease_id = null, lease_until = null, lease_host = null, intent_at = null, failures = 0, not_before = null,
    updated_at = clock_timestamp();
  update public.provider_data d
     set provider_id_ref = coalesce(profile, d.provider_id_ref), name = p_provider, type = p_type, token = p_token, refresh = p_refresh,
         expires = to_char(p_expires_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
         data = case jsonb_typeof(d.data) when 'object' then d.data else '{}' end || jsonb_build_object('status', 'unverified', 'reason',
                  (select c.reason from gateway.connection c where c.id = p_id))
   where d.id = p_id;
  return '"stored"';
end $$;

-- `confirmed`: the connection of that save is active; without an account a refresh has confirmed it before. `refused`: it needs
-- reauthorization. `later`: due again after `p_wait_seconds`. What was written since the claim stays in the queue as it is.
create or replace function public.gateway_finish_import_v1(
  p_id uuid, p_outcome text, p_seal_id uuid default null, p_account jsonb default null, p_error text default '',
  p_wait_seconds double precision default 0
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  perform from public.provider_data d where d.id = p_id for update;
  update gateway.import_queue q
     set claimed_until = null, due_at = case q.attempts when 0 then q.due_at else clock_timestamp() + make_interval(secs => p_wait_seconds) end
   where q.id = p_id and (p_outcome = 'later' or q.attempts = 0);  -- 0: written again since it was claimed
  if found then
    return null;
  end if;
  update gateway.connection x
     set status = case p_outcome when 'confirmed' then 'active' else 'needs_reauthorization' end,
         reason = case when p_outcome <> 'confirmed' then p_error end,
         account_id = coalesce(p_account ->> 'id', x.account_id), account_label = coalesce(p_account ->> 'label', x.account_label),
         account_key = case when x.account_key = '' or p_account is null then x.account_key else p_account ->> 'id' end,
         refresh_at = gateway.refresh_time(exists (select from public.provider_data d where d.id = x.id and d.refresh is not null),
                                           x.expires_at, x.refresh_expires_at),
         updated_at = clock_timestamp()
   where x.id = p_id and x.seal_id = p_seal_id and x.status = 'unverified';
  delete from gateway.import_queue q where q.id = p_id;
  return null;
end $$;
