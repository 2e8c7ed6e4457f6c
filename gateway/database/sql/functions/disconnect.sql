-- Disconnect: by the user, a partner or the operator.

-- Whether a disconnect by this partner erases the connection: with reach `all` always, else if it was made for this partner and no other
-- partner uses it.
create or replace function gateway.disconnect_deletes(p_partner gateway.partner, p_connection uuid) returns boolean
language sql stable as $$
  select p_partner.reach = 'all' or (
    exists (select from gateway.consent x where x.partner_id = p_partner.id and x.connection_id = p_connection and x.ended_at is null and x.made)
    and not exists (
      select from gateway.consent x join gateway.partner o on o.id = x.partner_id
       where x.connection_id = p_connection and x.partner_id <> p_partner.id and x.ended_at is null and o.revoked_at is null))
$$;

-- Whether the same account has another connection or a pending grant.
create or replace function gateway.account_used_elsewhere(p_connection gateway.connection) returns boolean
language sql stable as $$
  select exists (select from gateway.same_account(p_connection))
      or exists (select from gateway.pending_grant g where g.provider = p_connection.provider and g.account_id = p_connection.account_id)
$$;

-- null: no such connection for this caller. The data that an uninstall at the provider needs. `kept`: the connection stays, for other
-- partners. `shared`: the app there also serves connections that this partner may not end.
create or replace function public.gateway_uninstall_target_v1(
  p_session_hash text, p_user_id uuid, p_connection_id uuid, p_key_hash text default null, p_address text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  allowed record;
  c       gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, p_session_hash, p_user_id, p_key_hash, p_address, 'connections:write') f;
  c := allowed.connection;
  return coalesce(allowed.refusal, case when c.id is not null then jsonb_build_object(
    'user_id', c.user_id, 'provider', c.provider, 'account_id', c.account_id, 'facts', c.facts,
    -- A pending grant is revoked without an uninstall.
    'kept', p_key_hash is not null and (c.status = 'pending_confirmation' or not gateway.disconnect_deletes(allowed.partner, c.id)),
    'shared', p_key_hash is not null and (allowed.partner).reach = 'own' and gateway.account_used_elsewhere(c)) end);
end $$;

-- Record that a connection was erased, or that only a partner's use of it ended: `p_kept`. The receipt, with the grant that is left to revoke.
create or replace function gateway.record_disconnect(
  p_connection gateway.connection, p_partner_id uuid, p_kept boolean, p_data jsonb default '{}'
)
returns jsonb language plpgsql set search_path = '' as $$
declare
  account  jsonb := jsonb_build_object('id', p_connection.account_id, 'label', p_connection.account_label);
  event_id uuid;
begin
  insert into gateway.event (type, connection_id, user_id, partner_id, provider, data)
  values (case when p_kept then 'consent.ended' else 'connection.disconnected' end, p_connection.id, p_connection.user_id,
          p_partner_id, p_connection.provider, p_data || jsonb_build_object('account', account))
  returning id into event_id;
  return jsonb_build_object(
    'connection_id', p_connection.id, 'event_id', event_id, 'provider', p_connection.provider, 'account', account,
    'erased_at', clock_timestamp(), 'kept', p_kept, 'revocation', case when not p_kept then (
      select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = p_connection.seal_id) end);
end $$;

-- null: no such connection for this caller. A trigger queues the grant; the answer has it too, so that the caller can revoke it at once.
-- `p_user_id`: a user with an access token instead of a session. `p_key_hash`: a partner; if other partners use the connection, or it was not
-- made for this one, only this partner's access ends: `kept`.
create or replace function public.gateway_disconnect_v1(
  p_session_hash text, p_connection_id uuid, p_user_id uuid default null, p_key_hash text default null, p_address text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  allowed record;
  p       gateway.partner;
  owner   uuid;
  gone    gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, p_session_hash, p_user_id, p_key_hash, p_address, 'connections:write') f;
  p := allowed.partner;
  gone := allowed.connection;
  owner := gone.user_id;
  if owner is null then
    return allowed.refusal;
  elsif gone.status = 'pending_confirmation' then
    return case when gateway.refuse_pending(gone.id, 'disconnected') is not null then gateway.record_disconnect(gone, p.id, false) end;
  end if;
  perform gateway.lock_user(owner);
  perform from public.provider_data d where d.id = p_connection_id for update;
  select c.* into gone from gateway.connection c
   where c.id = p_connection_id and c.user_id = owner and (p_key_hash is null or gateway.partner_can_see(p, c));
  if not found then
    return null;
  end if;
  if p_key_hash is not null then
    -- Lock, so that two partners that disconnect at the same time do not both keep it for the other.
    perform from gateway.consent x where x.connection_id = gone.id and x.ended_at is null order by x.partner_id for update;
    if not gateway.disconnect_deletes(p, gone.id) then
      update gateway.consent x set ended_at = clock_timestamp()
       where x.partner_id = p.id and x.connection_id = gone.id and x.ended_at is null;
      return gateway.record_disconnect(gone, p.id, true);
    end if;
  end if;
  delete from public.provider_data d where d.id = gone.id;
  update gateway.revocation r set reason = 'disconnected' where r.seal_id = gone.seal_id;
  return gateway.record_disconnect(gone, p.id, false);
end $$;

-- The operator's erasure: the trigger queues the grant, and the process that erases revokes it in the next five minutes.
create or replace function gateway.erase_for_operator(p_connection gateway.connection) returns jsonb
language plpgsql set search_path = '' as $$
begin
  delete from public.provider_data d where d.id = p_connection.id;
  update gateway.revocation r set reason = 'revoked', due_at = clock_timestamp() + interval '5 minutes'
   where r.seal_id = p_connection.seal_id;
  return gateway.record_disconnect(p_connection, null, false, '{"by": "operator"}');
end $$;

-- Any user's connection, for the operator. null: there is none.
create or replace function public.gateway_erase_connection_v1(p_connection_id uuid)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  gone gateway.connection;
begin
  perform gateway.lock_user((select c.user_id from gateway.connection c where c.id = p_connection_id));
  perform from public.provider_data d where d.id = p_connection_id for update;
  select c.* into gone from gateway.connection c where c.id = p_connection_id;
  if not found then
    return null;
  end if;
  return gateway.erase_for_operator(gone);
end $$;

-- Erase up to `p_most` connections of a provider, its pending grants and its attempts. The answer counts them and says whether there are
-- more.
create or replace function public.gateway_erase_provider_v1(p_provider text, p_most integer)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c        gateway.connection;
  gone     gateway.connection;
  erased   integer := 0;
  pending   integer;
  stopped  integer;
begin
  -- After this lock, every save that began before the freeze has ended.
  perform pg_advisory_xact_lock(hashtextextended('gateway provider ' || p_provider, 0));
  delete from gateway.authorization_request a where a.state_hash = any (array(
    select x.state_hash from gateway.authorization_request x where x.provider = p_provider limit 1000 for update skip locked));
  get diagnostics stopped = row_count;
  delete from gateway.pending_grant p where p.id = any (array(
    select x.id from gateway.pending_grant x where x.provider = p_provider limit p_most for update skip locked));
  get diagnostics pending = row_count;
  for c in select x.* from gateway.connection x where x.provider = p_provider order by x.account_id limit p_most loop
    continue when not gateway.try_lock_user(c.user_id);
    perform from public.provider_data d where d.id = c.id for update;
    select x.* into gone from gateway.connection x where x.id = c.id;
    if found then
      perform gateway.erase_for_operator(gone);
      erased := erased + 1;
    end if;
  end loop;
  return jsonb_build_object(
    'erased', erased, 'pending', pending, 'attempts', stopped,
    'more', exists (select from gateway.connection x where x.provider = p_provider)
            or exists (select from gateway.pending_grant p where p.provider = p_provider)
            or exists (select from gateway.authorization_request a where a.provider = p_provider));
end $$;
