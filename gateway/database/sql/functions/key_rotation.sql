-- Encrypted values, to be encrypted again with a newer key.

-- What is sealed, a page at a time behind `after` (`<id>/<generation>` of the last one), with all that its key is derived from.
create or replace function public.gateway_sealed_v1(p_kind text, p_after text, p_most integer)
returns jsonb language plpgsql stable security definer set search_path = '' as $$
declare
  from_id uuid   := coalesce(nullif(split_part(p_after, '/', 1), ''), '00000000-0000-0000-0000-000000000000')::uuid;
  from_gen bigint := coalesce(nullif(split_part(p_after, '/', 2), ''), '-1')::bigint;
  items   jsonb;
  total   bigint;
begin
  if p_kind = 'connection' then
    total := case when p_after is null then (select count(*) from gateway.connection) end;
    select jsonb_agg(jsonb_build_object('id', x.id, 'generation', x.generation, 'values', jsonb_strip_nulls(jsonb_build_object(
             'token', case when x.token like 'gAAAA%' then x.token end,
             'refresh', case when x.refresh like 'gAAAA%' then x.refresh end))) order by x.id) into items
      from (select c.id, c.generation, d.token, d.refresh from gateway.connection c join public.provider_data d on d.id = c.id
             where c.id > from_id or p_after is null order by c.id limit p_most) x;
  elsif p_kind = 'adoption' then
    total := case when p_after is null then (select count(*) from gateway.adoption a where a.sealed is not null) end;
    select jsonb_agg(jsonb_build_object('id', x.id, 'generation', x.generation, 'values',
                                        jsonb_build_object('adoption', x.sealed)) order by x.id) into items
      from (select a.id, coalesce(c.generation, 0) as generation, a.sealed
              from gateway.adoption a left join gateway.connection c on c.id = a.id
             where a.sealed is not null and (a.id > from_id or p_after is null) order by a.id limit p_most) x;
  elsif p_kind = 'parked_grant' then
    total := case when p_after is null then (select count(*) from gateway.parked_grant) end;
    select jsonb_agg(jsonb_build_object('id', x.id, 'generation', 1, 'values', jsonb_strip_nulls(jsonb_build_object(
             'token', x.token, 'refresh', x.refresh))) order by x.id) into items
      from (select p.id, p.token, p.refresh from gateway.parked_grant p
             where p.id > from_id or p_after is null order by p.id limit p_most) x;
  elsif p_kind = 'revocation' then
    total := case when p_after is null then (select count(*) from gateway.revocation) end;
    select jsonb_agg(jsonb_build_object('id', x.connection_id, 'generation', x.generation, 'values',
             jsonb_strip_nulls(jsonb_build_object('token', x.token, 'refresh', x.refresh))) order by x.connection_id, x.generation) into items
      from (select r.* from gateway.revocation r where (r.connection_id, r.generation) > (from_id, from_gen)
             order by r.connection_id, r.generation limit p_most) x;
  elsif p_kind = 'ledger' then
    total := case when p_after is null then (select count(*) from gateway.event_chain l where l.encrypted_key is not null) end;
    select jsonb_agg(jsonb_build_object('id', from_id, 'generation', 0, 'values', jsonb_build_object('ledger', l.encrypted_key))) into items
      from gateway.event_chain l where l.encrypted_key is not null and p_after is null;
  else
    raise exception 'no such kind of sealed values' using errcode = 'invalid_parameter_value';
  end if;
  return jsonb_build_object('total', total, 'items', coalesce(items, '[]'));
end $$;

-- Compare-and-set on the sealed text itself, which no two seals share: what was refreshed, connected again or moved meanwhile
-- stays as it is. Nothing is waited for: a row that somebody has locked is left for the next pass. `changes`: {"items": [{id,
-- generation, column, old, new}]}.
create or replace function public.gateway_reseal_v1(p_kind text, p_changes jsonb)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  x    record;
  n    integer := 0;
begin
  for x in
    select i.* from jsonb_to_recordset(p_changes -> 'items') as i (id uuid, generation bigint, "column" text, old text, new text)
     where i.new ~ '^gAAAA' order by i.id
  loop
    if p_kind = 'connection' then
      perform from public.provider_data d
        where d.id = x.id and x.old = case x."column" when 'token' then d.token else d.refresh end for no key update skip locked;
      continue when not found;
      update public.provider_data d
         set token = case x."column" when 'token' then x.new else d.token end,
             refresh = case x."column" when 'refresh' then x.new else d.refresh end
       where d.id = x.id and exists (select from gateway.connection c where c.id = d.id);
    elsif p_kind = 'adoption' then
      perform from gateway.adoption a where a.id = x.id and a.sealed = x.old for update skip locked;
      continue when not found;
      update gateway.adoption a set sealed = x.new where a.id = x.id;
    elsif p_kind = 'parked_grant' then
      perform from gateway.parked_grant p
        where p.id = x.id and x.old = case x."column" when 'token' then p.token else p.refresh end for update skip locked;
      continue when not found;
      update gateway.parked_grant p
         set token = case x."column" when 'token' then x.new else p.token end,
             refresh = case x."column" when 'refresh' then x.new else p.refresh end
       where p.id = x.id;
    elsif p_kind = 'revocation' then
      perform from gateway.revocation r
        where r.connection_id = x.id and r.generation = x.generation
          and x.old = case x."column" when 'token' then r.token else r.refresh end for update skip locked;
      continue when not found;
      update gateway.revocation r
         set token = case x."column" when 'token' then x.new else r.token end,
             refresh = case x."column" when 'refresh' then x.new else r.refresh end
       where r.connection_id = x.id and r.generation = x.generation;
    elsif p_kind = 'ledger' then
      update gateway.event_chain l set encrypted_key = x.new where l.encrypted_key = x.old;
    else
      raise exception 'no such kind of sealed values' using errcode = 'invalid_parameter_value';
    end if;
    n := n + case when found then 1 else 0 end;
  end loop;
  return jsonb_build_object('resealed', n);
end $$;
