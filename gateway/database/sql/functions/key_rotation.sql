-- Every encrypted value with the context that its key is derived from.
create or replace view gateway.encrypted_value as
  select 'connection' as kind, c.id, v."column", v.text, c.user_id, c.provider, v.seal_id::text
    from gateway.connection c join public.provider_data d on d.id = c.id
   cross join lateral (values ('token', gateway.bounded(d.token), c.seal_id), ('refresh', gateway.bounded(d.refresh), c.refresh_seal_id)) as v ("column", text, seal_id)
   where v.text like 'gAAAA%'
  union all
  select 'pending_grant', g.id, v."column", v.text, g.user_id, g.provider, g.seal_id::text
    from gateway.pending_grant g cross join lateral (values ('token', g.token), ('refresh', g.refresh)) as v ("column", text)
   where v.text is not null
  union all
  select 'revocation', r.seal_id, v."column", v.text, r.user_id, r.provider, v.seal_id::text
    from gateway.revocation r
   cross join lateral (values ('token', r.token, r.seal_id), ('refresh', r.refresh, r.refresh_seal_id)) as v ("column", text, seal_id)
   where v.text like 'gAAAA%'
  union all
  select 'webhook', s.seal_id, 'webhook_secret', s.webhook_secret, null, '', s.seal_id::text from gateway.webhook_secret s
  union all
  select 'unclaimed_install', u.id, 'unclaimed_install', u.encrypted, null, '', u.id::text from gateway.unclaimed_install u
  union all
  select 'event_chain', '00000000-0000-0000-0000-000000000000', 'event_chain', l.encrypted_key, null, '', 'event_chain'
    from gateway.event_chain l where l.encrypted_key is not null;

-- A page of one kind, after `p_after_id` and `p_after_column`.
create or replace function public.gateway_encrypted_values_v1(p_kind text, p_after_id uuid, p_after_column text, p_most integer)
returns jsonb language sql stable security definer set search_path = '' as $$
  select jsonb_build_object(
    'total', case when p_after_id is null then (select count(*) from gateway.encrypted_value v where v.kind = p_kind) end,
    'items', coalesce((
      select jsonb_agg(jsonb_build_object('id', x.id, 'text', x.text, 'context', to_jsonb(x) - array['kind', 'id', 'text']) order by x.id, x."column")
        from (select v.* from gateway.encrypted_value v
               where v.kind = p_kind and (p_after_id is null or v.id >= p_after_id)
                 and (p_after_id is null or (v.id, v."column") > (p_after_id, p_after_column))
               order by v.id, v."column" limit p_most) x), '[]'))
$$;

-- Compare-and-set on the encrypted text itself, because no two are the same: a value that was replaced meanwhile stays as it
-- is. Locked rows are skipped. `p_changes`: {"items": [{id, column, old, new}]}.
create or replace function public.gateway_replace_encrypted_v1(p_kind text, p_changes jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  place    record;
  change   record;
  changed  integer;
  replaced integer := 0;
begin
  select v.* into strict place from (values
    ('connection', 'public.provider_data', 'id'), ('pending_grant', 'gateway.pending_grant', 'id'),
    ('revocation', 'gateway.revocation', 'seal_id'), ('webhook', 'gateway.webhook_secret', 'seal_id'),
    ('unclaimed_install', 'gateway.unclaimed_install', 'id'), ('event_chain', 'gateway.event_chain', null)) as v (kind, target, key) where v.kind = p_kind;
  for change in
    select i.id, i.old, i.new, case i."column" when 'event_chain' then 'encrypted_key' when 'unclaimed_install' then 'encrypted' else i."column" end as "column"
      from jsonb_to_recordset(p_changes -> 'items') as i (id uuid, "column" text, old text, new text)
     where i.new ~ '^gAAAA' order by i.id
  loop
    execute format(
      'with free as (select x.ctid from %1$s x where %3$s and x.%2$I = $2 for no key update skip locked)
       update %1$s t set %2$I = $3 from free where t.ctid = free.ctid',
      place.target, change."column", case when place.key is null then '$1 is not null' else format('x.%I = $1', place.key) end)
    using change.id, change.old, change.new;
    get diagnostics changed = row_count;
    replaced := replaced + changed;
  end loop;
  return to_jsonb(replaced);
end $$;
