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
          p_partner_id, p_connection.provider, p_data || jsonb_strip_nulls(jsonb_build_object('account', account, 'tags', nullif(p_connection.tags, '{}'))))
  returning id into event_id;
  return jsonb_build_object(
    'connection_id', p_connection.id, 'event_id', event_id, 'provider', p_connection.provider, 'account', account,
    'facts', p_connection.facts, 'erased_at', clock_timestamp(), 'kept', p_kept, 'revocation', case when not p_kept then (
      select gateway.revocation_json(r) from gateway.revocation r where r.seal_id = p_connection.seal_id) end);
end $$;

-- null: no such connection for this caller. A trigger queues the grant; the answer has it too, so that the caller can revoke it at once.
-- `p_caller`: a user with an access token instead of a session, or a partner; if other partners use the connection, or it was not made for this
-- one, only this partner's access ends: `kept`. With `p_partner_id` the user ends that partner's access alone. With `p_look` nothing ends: the answer is what an uninstall at the provider needs. `shared`: the app there also serves connections that this partner may
-- not end.
create or replace function public.gateway_disconnect_v1(
  p_connection_id uuid, p_session_hash text default null, p_caller jsonb default null, p_look boolean default false, p_partner_id uuid default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  allowed record;
  p       gateway.partner;
  owner   uuid;
  gone    gateway.connection;
begin
  select f.* into allowed from gateway.authorize(p_connection_id, p_session_hash, p_caller, 'connections:write') f;
  p := allowed.partner;
  gone := allowed.connection;
  owner := gone.user_id;
  if owner is null then
    return allowed.refusal;
  elsif p_look then
    return jsonb_build_object(
      'user_id', owner, 'provider', gone.provider, 'account_id', gone.account_id, 'facts', gone.facts,
      -- A pending grant is revoked without an uninstall.
      'kept', p.id is not null and (gone.status = 'pending_confirmation' or not gateway.disconnect_deletes(p, gone.id)),
      'shared', p.id is not null and p.reach = 'own' and (
        exists (select from gateway.same_account(gone))
        or exists (select from gateway.pending_grant g where g.provider = gone.provider and g.account_id = gone.account_id)));
  elsif gone.status = 'pending_confirmation' then
    return case when gateway.refuse_pending(gone.id, 'disconnected') is not null then gateway.record_disconnect(gone, p.id, false) end;
  end if;
  perform gateway.lock_user(owner);
  perform from public.provider_data d where d.id = p_connection_id for update;
  select c.* into gone from gateway.connection c
   where c.id = p_connection_id and c.user_id = owner and (p.id is null or gateway.partner_can_see(p, c));
  if not found then
    return null;
  elsif p.id is not null then
    -- Lock, so that two partners that disconnect at the same time do not both keep it for the other.
    perform from gateway.consent x where x.connection_id = gone.id and x.ended_at is null order by x.partner_id for update;
    p_partner_id := case when not gateway.disconnect_deletes(p, gone.id) then p.id end;
  end if;
  if p_partner_id is not null then
    update gateway.consent x set ended_at = clock_timestamp()
     where x.partner_id = p_partner_id and x.connection_id = gone.id and x.ended_at is null;
    return case when found then gateway.record_disconnect(gone, p_partner_id, true) end;
  end if;
  delete from public.provider_data d where d.id = gone.id;
  update gateway.revocation r set reason = 'disconnected' where r.seal_id = gone.seal_id;
  return gateway.record_disconnect(gone, p.id, false);
end $$;

-- For the operator: erase one connection, or up to `p_most` of a provider with its pending grants and attempts. A trigger queues each grant, and
-- the process that erases revokes it in the next five minutes. The answer has the receipts, and says whether there are more.
create or replace function public.gateway_erase_v1(p_connection_id uuid default null, p_provider text default null, p_most integer default 1)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  c       gateway.connection;
  gone    gateway.connection;
  erased  jsonb := '[]';
  pending integer;
  stopped integer;
begin
  if p_provider is not null then
    -- After this lock, every save that began before the freeze has ended.
    perform pg_advisory_xact_lock(hashtextextended('gateway provider ' || p_provider, 0));
    delete from gateway.authorization_request a where a.state_hash = any (array(
      select x.state_hash from gateway.authorization_request x where x.provider = p_provider limit 1000 for update skip locked));
    get diagnostics stopped = row_count;
    delete from gateway.pending_grant p where p.id = any (array(
      select x.id from gateway.pending_grant x where x.provider = p_provider limit p_most for update skip locked));
    get diagnostics pending = row_count;
  end if;
  for c in select x.* from gateway.connection x where x.id = p_connection_id or x.provider = p_provider order by x.account_id limit p_most loop
    continue when not gateway.lock_user(c.user_id, p_connection_id is not null);
    perform from public.provider_data d where d.id = c.id for update;
    select x.* into gone from gateway.connection x where x.id = c.id;
    continue when not found;
    delete from public.provider_data d where d.id = gone.id;
    update gateway.revocation r set reason = 'revoked', due_at = clock_timestamp() + interval '5 minutes' where r.seal_id = gone.seal_id;
    erased := erased || gateway.record_disconnect(gone, null, false, '{"by": "operator"}');
  end loop;
  return jsonb_build_object(
    'erased', erased, 'pending', pending, 'attempts', stopped,
    'more', exists (select from gateway.connection x where x.provider = p_provider)
            or exists (select from gateway.pending_grant p where p.provider = p_provider)
            or exists (select from gateway.authorization_request a where a.provider = p_provider));
end $$;
