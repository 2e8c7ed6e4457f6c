-- However a row is deleted (disconnect, the owner's server, or with its user), its grant is queued to be revoked and the profile drops its
-- id. Before the delete, because it needs the row in gateway.connection.
create or replace function gateway.queue_erased_grant() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into gateway.revocation as r (connection_id, generation, user_id, provider, account_id, facts, token, refresh, seal_id, refresh_seal_id, reason)
  select c.id, c.generation, c.user_id, c.provider, c.account_id, c.facts, old.token, old.refresh, c.seal_id, c.refresh_seal_id, 'erased'
    from gateway.connection c
   where c.id = old.id and (old.token is not null or old.refresh is not null)
  on conflict on constraint revocation_pkey do nothing;
  update public.user_profile p set providers = array_remove(p.providers, old.id::text)
   where (p.id = old.provider_id_ref or p.user_id_auth = old.auth_provider_id) and old.id::text = any (p.providers);
  update gateway.consent x set ended_at = clock_timestamp() where x.connection_id = old.id and x.ended_at is null;
  return old;
end $$;

-- `beside`: the same account is still connected, or again, by any user; the provider may end that together with this grant.
create or replace function gateway.revocation_json(r gateway.revocation) returns jsonb
language sql stable as $$
  select to_jsonb(r) || jsonb_build_object(
    'beside', exists (select from gateway.connection c where c.provider = r.provider and c.account_id = r.account_id))
$$;

-- Queue an encrypted grant that was not saved. The same seal_id again changes nothing.
create or replace function public.gateway_queue_revocation_v1(
  p_seal_id uuid, p_user_id uuid, p_provider text, p_account_id text, p_facts jsonb, p_token text, p_refresh text, p_reason text
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  insert into gateway.revocation (seal_id, refresh_seal_id, user_id, provider, account_id, facts, token, refresh, reason)
  values (p_seal_id, p_seal_id, p_user_id, p_provider, p_account_id, p_facts, p_token, p_refresh, p_reason)
  on conflict on constraint revocation_pkey do nothing;
  return (select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = p_seal_id);
end $$;

-- Whether the grant is still queued. Done: it leaves the queue; where the operator revoked it, `p_outcome` is recorded as the proof. Not done: it is due again after
-- 2, 4, 8 … minutes, at most 6 hours.
create or replace function public.gateway_settle_revocation_v1(p_seal_id uuid, p_done boolean, p_outcome text default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  gone gateway.revocation;
begin
  if p_done then
    delete from gateway.revocation r where r.seal_id = p_seal_id returning r.* into gone;
    insert into gateway.event (type, connection_id, provider, data)
    select 'grant.revoked', gone.connection_id, gone.provider, jsonb_build_object('revocation', p_outcome, 'generation', gone.generation)
     where gone.reason = 'revoked' and p_outcome is not null;
    return 'false';
  end if;
  update gateway.revocation r
     set attempts = r.attempts + 1,
         due_at = clock_timestamp() + least(interval '1 minute' * power(2, least(r.attempts + 1, 20)), interval '6 hours')
   where r.seal_id = p_seal_id;
  return to_jsonb(found);
end $$;

-- Claim up to `p_most` grants for two minutes: those that have been due longest, of no provider in `p_busy`; with `p_provider`, the next ones
-- in its queue after `p_after`, due or not.
create or replace function public.gateway_claim_revocations_v1(
  p_busy text[] default '{}', p_provider text default null, p_after uuid default null, p_most integer default 1
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over timestamptz := clock_timestamp();
  ids  uuid[];
begin
  if p_provider is null then
    ids := array(select x.seal_id from gateway.revocation x where x.due_at <= over and x.provider <> all (p_busy)
                  order by x.due_at limit p_most for update skip locked);
  else
    ids := array(select x.seal_id from gateway.revocation x where x.provider = p_provider and (p_after is null or x.seal_id > p_after)
                  order by x.seal_id limit p_most for update skip locked);
  end if;
  update gateway.revocation r set due_at = greatest(r.due_at, over + interval '2 minutes') where r.seal_id = any (ids);
  return coalesce((select jsonb_agg(gateway.revocation_json(r) order by r.seal_id) from gateway.revocation r where r.seal_id = any (ids)), '[]');
end $$;
