-- Outgoing webhooks: endpoints of partners, their secrets, and a log of deliveries.

create table gateway.webhook (  -- Where partners want events to be sent. One cursor each, so that events arrive in order.
  id            uuid constraint webhook_pkey primary key,
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  url           text not null,
  event_types   text[],  -- null: every type
  position      bigint not null,  -- every event up to here was delivered, or is not for this endpoint
  claim_id      uuid,  -- of the worker that delivers now; an older claim cannot move the cursor
  failures      integer not null default 0,
  due_at        timestamptz not null default clock_timestamp(),
  disabled_at   timestamptz,
  created_at    timestamptz not null default clock_timestamp()
);
create index webhook_partner_id on gateway.webhook (partner_id);
comment on index gateway.webhook_pkey is 'An endpoint has one cursor.';

create table gateway.webhook_secret (  -- encrypted signing secrets: two of an endpoint while it changes its secret
  seal_id        uuid constraint webhook_secret_pkey primary key,
  webhook_id     uuid not null references gateway.webhook (id) on delete cascade,
  webhook_secret text not null,
  created_at     timestamptz not null default clock_timestamp(),
  expires_at     timestamptz
);
create index webhook_secret_webhook_id on gateway.webhook_secret (webhook_id);
comment on index gateway.webhook_secret_pkey is 'A secret is encrypted under a seal_id of its own.';

create table gateway.webhook_delivery (  -- each attempt to deliver an event, for a week
  webhook_id  uuid not null references gateway.webhook (id) on delete cascade,
  id          bigint generated always as identity,
  position    bigint not null,
  event_id    uuid not null,
  type        text not null,
  at          timestamptz not null default clock_timestamp(),
  status      integer,  -- the receiver's HTTP status; null where no response came
  error       text,
  duration_ms integer not null,
  constraint webhook_delivery_pkey primary key (webhook_id, id)
);
create index webhook_delivery_at on gateway.webhook_delivery using brin (at);
comment on index gateway.webhook_delivery_pkey is 'An attempt is logged once.';
