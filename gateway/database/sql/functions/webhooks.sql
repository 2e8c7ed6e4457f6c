-- Outgoing webhooks.

create or replace function gateway.webhook_json(w gateway.webhook) returns jsonb
language sql stable as $$
  select to_jsonb(w) - 'claim_id' - 'due_at' || jsonb_build_object(
    'partner', (select p.name from gateway.partner p where p.id = w.partner_id))
$$;

-- The endpoints of a partner, or for the operator all; of a single one also its latest attempts, newest first.
create or replace function public.gateway_webhooks_v1(p_caller jsonb, p_webhook_id uuid default null)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
begin
  return (select coalesce(asks.refusal, jsonb_build_object(
    'webhooks', coalesce((
      select jsonb_agg(gateway.webhook_json(w) order by w.created_at, w.id) from gateway.webhook w
       where ((asks.partner).id is null or w.partner_id = (asks.partner).id) and (p_webhook_id is null or w.id = p_webhook_id)), '[]'),
    'deliveries', coalesce((
      select jsonb_agg(to_jsonb(d) - 'id' - 'webhook_id' order by d.id desc)
        from (select x.* from gateway.webhook_delivery x join gateway.webhook w on w.id = x.webhook_id
               where w.id = p_webhook_id and ((asks.partner).id is null or w.partner_id = (asks.partner).id)
               order by x.id desc limit 100) d), '[]')))
    from gateway.caller(p_caller, 'webhooks:write', true) asks);
end $$;

-- `p_change`: `create` makes the endpoint `p_new`, for the events from now on; `delete`; `test` appends an event for this endpoint alone; `replay`
-- delivers again what follows `p_after`; `rotate` adds a secret and lets the others expire a day later; ten may be valid at once, so that the header
-- with their signatures stays short. The endpoint as it is then; null: no such endpoint of this caller, or one more than the ten that a partner may have.
create or replace function public.gateway_change_webhook_v1(
  p_caller jsonb, p_webhook_id uuid, p_change text, p_after bigint default null, p_secret jsonb default null, p_new jsonb default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  asks record;
  w    gateway.webhook := jsonb_populate_record(null::gateway.webhook, p_new);
begin
  select f.* into asks from gateway.caller(p_caller, 'webhooks:write', true) f;
  if asks.refusal is not null then
    return asks.refusal;
  elsif p_change = 'create' then
    perform pg_advisory_xact_lock(hashtextextended('gateway webhooks ' || (asks.partner).id::text, 0));
    insert into gateway.webhook (id, partner_id, url, event_types, position)
    select p_webhook_id, (asks.partner).id, w.url, w.event_types, c.position from gateway.event_chain c
     where (select count(*) from gateway.webhook x where x.partner_id = (asks.partner).id) < 10
    returning * into w;
  else
    select x.* into w from gateway.webhook x
     where x.id = p_webhook_id and ((asks.partner).id is null or x.partner_id = (asks.partner).id) for update;
  end if;
  if w.id is null or p_change = 'test' and w.disabled_at is not null then
    return case when w.id is not null then gateway.webhook_json(w) end;
  elsif p_change = 'delete' then
    delete from gateway.webhook x where x.id = w.id;
  elsif p_change = 'replay' then
    update gateway.webhook x
       set position = least(p_after, (select c.position from gateway.event_chain c)), claim_id = null, failures = 0, disabled_at = null, due_at = clock_timestamp()
     where x.id = w.id returning * into w;
  elsif p_secret is not null then
    select count(*) as secrets, min(s.expires_at) as next_end into asks from gateway.webhook_secret s
     where s.webhook_id = w.id and (s.expires_at is null or s.expires_at > clock_timestamp());
    if asks.secrets >= 10 then
      return '{"refused": "rate_limited"}'::jsonb || gateway.quota(10, asks.secrets, asks.next_end);
    end if;
    update gateway.webhook_secret s set expires_at = clock_timestamp() + interval '1 day' where s.webhook_id = w.id and s.expires_at is null;
    insert into gateway.webhook_secret (seal_id, webhook_id, webhook_secret) values ((p_secret ->> 'seal_id')::uuid, w.id, p_secret ->> 'encrypted');
  end if;
  insert into gateway.event (type, partner_id, data)
  select case p_change when 'create' then 'webhook.created' when 'delete' then 'webhook.deleted' when 'test' then 'webhook.tested'
                       when 'replay' then 'webhook.replayed' else 'webhook.secret_rotated' end,
         w.partner_id, jsonb_build_object('webhook_id', w.id) || case p_change when 'replay' then jsonb_build_object('after', w.position) else '{}' end;
  return gateway.webhook_json(w);
end $$;

-- Claim an endpoint that is due and has events: of the partner with the fewest deliveries under way, at most `p_of_partner`, the one that has been
-- due longest. Cursors of endpoints without events move on, 5,000 positions at a time. null: there is nothing to deliver. A frozen partner keeps its place.
create or replace function public.gateway_claim_deliveries_v1(p_most integer, p_of_partner integer, p_lease_seconds double precision)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  over  timestamptz := clock_timestamp();
  top   bigint := (select c.position from gateway.event_chain c);
  until bigint;
  w     gateway.webhook;
  p     gateway.partner;
  items jsonb;
begin
  for w in
    select x.* from gateway.webhook x join gateway.partner y on y.id = x.partner_id and y.frozen_at is null and y.revoked_at is null
     cross join lateral (select count(*) as running from gateway.webhook z
                          where z.partner_id = x.partner_id and z.claim_id is not null and z.due_at > over) r
     where x.disabled_at is null and x.due_at <= over and x.position < top and r.running < p_of_partner
     order by r.running, x.due_at limit 200 for update of x skip locked
  loop
    until := least(top, w.position + 5000);
    select y.* into p from gateway.partner y where y.id = w.partner_id;
    -- What its partner sees in /v1/events, of the chosen types, and its own test events.
    select jsonb_agg(gateway.event_json(e, p) order by e.position) into items
      from (select v.* from gateway.visible_events(p, null, w.position, until, 2147483647) v
             where case v.type when 'webhook.tested' then v.data ->> 'webhook_id' = w.id::text
                               else w.event_types is null or v.type = any (w.event_types) end
             order by v.position limit p_most) e;
    if items is null then
      update gateway.webhook x set position = until, due_at = over where x.id = w.id;
    else
      update gateway.webhook x set claim_id = gen_random_uuid(), due_at = over + make_interval(secs => p_lease_seconds)
       where x.id = w.id returning * into w;
      return jsonb_build_object(
        'id', w.id, 'claim_id', w.claim_id, 'url', w.url, 'failures', w.failures, 'events', items,
        'secrets', (select jsonb_agg(jsonb_build_object('seal_id', s.seal_id, 'encrypted', s.webhook_secret)) from (select x.* from gateway.webhook_secret x
                     where x.webhook_id = w.id and (x.expires_at is null or x.expires_at > over) order by x.created_at desc) s));
    end if;
  end loop;
  return null;
end $$;

-- What became of one event of a claim: the cursor moves behind it unless it failed; with `p_wait_seconds` the claim ends, and with a reason (`gone`,
-- `failing`) the endpoint is disabled. A claim that was taken over, or whose endpoint was replayed or deleted, moves nothing: false.
create or replace function public.gateway_end_delivery_v1(
  p_id uuid, p_claim_id uuid, p_attempt jsonb, p_failures integer default 0, p_wait_seconds double precision default null, p_disabled text default null
)
returns jsonb language plpgsql security definer set search_path = '' set lock_timeout = '3s' as $$
declare
  a gateway.webhook_delivery := jsonb_populate_record(null::gateway.webhook_delivery, p_attempt);
  w gateway.webhook;
begin
  insert into gateway.webhook_delivery (webhook_id, position, event_id, type, status, error, duration_ms)
  select x.id, a.position, a.event_id, a.type, a.status, a.error, a.duration_ms from gateway.webhook x where x.id = p_id for key share;
  update gateway.webhook x
     set position = case when p_failures = 0 then greatest(x.position, a.position) else x.position end, failures = p_failures,
         claim_id = case when p_wait_seconds is null then x.claim_id end, due_at = coalesce(clock_timestamp() + make_interval(secs => p_wait_seconds), x.due_at),
         disabled_at = case when p_disabled is not null then clock_timestamp() end
   where x.id = p_id and x.claim_id = p_claim_id returning * into w;
  insert into gateway.event (type, partner_id, data)
  select 'webhook.disabled', w.partner_id, jsonb_build_object('webhook_id', w.id, 'after', w.position, 'reason', p_disabled)
   where w.disabled_at is not null;
  return to_jsonb(w.id is not null);
end $$;
