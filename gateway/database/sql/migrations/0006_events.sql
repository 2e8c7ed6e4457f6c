create table gateway.event (
  id            uuid constraint event_pkey primary key default gen_random_uuid(),
  at            timestamptz not null default clock_timestamp() check (at between '2000-01-01' and '3000-01-01'),
  type          text not null,
  connection_id uuid,
  user_id       uuid,
  partner_id    uuid,
  provider      text,
  data          jsonb not null default '{}' check (jsonb_typeof(data) = 'object'),
  position      bigint  -- the order in which events are read; assigned to committed rows by the worker, null until then
);
create unique index event_position on gateway.event (position);
create index event_unassigned on gateway.event (at, id) where position is null;
-- For the latest events of a connection, and for the limit of refreshes.
create index event_connection on gateway.event (connection_id, at);
create index event_user on gateway.event (user_id, (-position)) where position is not null;
-- For recent events. Small, because rows are inserted in order of time.
create index event_at on gateway.event using brin (at) with (pages_per_range = 16, autosummarize = on);
comment on index gateway.event_pkey is 'An event is reported once under one id.';
comment on index gateway.event_position is 'A position is assigned once, so that a cursor misses no event.';

create table gateway.event_chain (  -- the last assigned position, and the encrypted key of the hash chain
  only_one      boolean constraint event_chain_pkey primary key default true check (only_one),
  position      bigint not null default 0,
  encrypted_key text
);
insert into gateway.event_chain (only_one) values (true);
comment on index gateway.event_chain_pkey is 'There is one chain.';

create table gateway.event_seal (  -- The hash chain: each row covers the events since the row before. The chain begins at the first row.
  position bigint constraint event_seal_pkey primary key,
  hash     text not null  -- format version, dot, HMAC over the seal before it and the events; the key is not in this database
);
insert into gateway.event_seal values (0, '');
comment on index gateway.event_seal_pkey is 'The chain has one end.';
