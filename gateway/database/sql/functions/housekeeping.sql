-- Removing what has expired.

create or replace function gateway.sweep(p_most integer) returns void
language plpgsql set search_path = '' as $$
declare
  over timestamptz := clock_timestamp();  -- a variable, since a volatile function cannot look into an index
begin
  -- An array, since a join with a subquery that locks may run it, and its limit, more than once.
  delete from gateway.session s where s.session_hash = any (array(
    select x.session_hash from gateway.session x where x.expires_at <= over
     order by x.expires_at limit p_most for update skip locked));
  delete from gateway.authorization_request a where a.state_hash = any (array(
    select x.state_hash from gateway.authorization_request x where x.expires_at <= over
     order by x.expires_at limit p_most for update skip locked));
  -- A link of fifteen minutes, an attempt of ten and ten for its completion: nobody asks for it an hour later.
  delete from gateway.connect_session s where s.id = any (array(
    select x.id from gateway.connect_session x where x.expires_at <= over - interval '1 hour'
     order by x.expires_at limit p_most for update skip locked));
end $$;
