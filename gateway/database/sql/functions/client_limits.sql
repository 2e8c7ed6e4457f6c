-- What a client may write into its own rows, and what the gateway reads of a row.

-- A client is a role that row-level security binds, other than the owner of the functions and the owner's server. Runs as the client, which
-- cannot call functions of this schema: so each trigger's function has this test in it.

-- One sentence for every value that is too large. The sizes are in the conditions of the triggers.
create or replace function gateway.refuse_large_value() returns trigger
language plpgsql set search_path = '' as $$
begin
  if pg_catalog.row_security_active(tg_relid) and current_user <> 'service_role' and not exists (
    select from pg_catalog.pg_class c where c.oid = tg_relid and pg_catalog.pg_get_userbyid(c.relowner) = current_user
  ) then
    raise exception 'a value is too large: token, refresh and data hold 65536 bytes each, name, user_name and expires 500, type 20'
      using errcode = 'program_limit_exceeded';
  end if;
  return new;
end $$;

create or replace function gateway.refuse_many_rows() returns trigger
language plpgsql set search_path = '' as $$
begin
  if pg_catalog.row_security_active(tg_relid) and current_user <> 'service_role' and not exists (
    select from pg_catalog.pg_class c where c.oid = tg_relid and pg_catalog.pg_get_userbyid(c.relowner) = current_user
  ) and (select count(*) from (
    select from public.provider_data d where d.auth_provider_id = new.auth_provider_id limit 1000) x) = 1000 then
    raise exception 'a user has 1000 rows of provider_data at most' using errcode = 'program_limit_exceeded';
  end if;
  return new;
end $$;

-- A stored secret as the gateway reads it: one that is larger than any provider's is no token, and costs no memory.
create or replace function gateway.bounded(p_secret text) returns text
language sql immutable as $$ select case when octet_length(p_secret) > 2000000 then '…' else p_secret end $$;
