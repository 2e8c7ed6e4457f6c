-- Events, and the hash chain over them.

create table gateway.event (
  id            uuid constraint event_pkey primary key default gen_random_uuid(),
  at            timestamptz not null default clock_timestamp(),
  type          text not null,
  connection_id uuid,
  user_id       uuid,
  provider      text,
  data          jsonb not null default '{}',
  partner_id    uuid,
  position      bigint,
  hash          text
);
create index event_connection on gateway.event (connection_id, (-position));
create index event_at on gateway.event (at);
create index event_unsealed on gateway.event (at, id) where position is null;
-- Token reads are many, and these are looked for among them.
create index event_refresh on gateway.event (at) where type in ('grant.refreshed', 'grant.refresh_failed');
-- How often one connection was refreshed lately.
create index event_refreshed on gateway.event (connection_id, at) where type = 'grant.refreshed';
-- Partial, so that a request that appends does not pay for them: the sealer does. By the negative of the position, so that no plan
-- uses the index of positions in their place, in the belief that a rare value is soon met there.
create index event_partner on gateway.event (partner_id, (-position)) where position is not null and partner_id is not null;
create index event_user on gateway.event (user_id, (-position)) where position is not null;
create index event_provider on gateway.event (provider, (-position)) where position is not null;
create unique index event_position on gateway.event (position);
comment on column gateway.event.position is 'Its place in the chain, given to committed rows by the sealer; null until then.';
comment on column gateway.event.hash is 'HMAC over the row and the hash of the row before it; the key is not in this database.';
comment on index gateway.event_pkey is 'An event is reported once under one id.';
comment on index gateway.event_position is 'A place in the chain is given once, so that a cursor over places misses no event.';

create table gateway.ledger (
  only_one         boolean constraint ledger_pkey primary key default true check (only_one),
  sealed_key       text,
  position         bigint not null default 0,
  hash             text not null default '',
  mark             text not null default '',
  dropped_position bigint not null default 0,
  dropped_hash     text not null default '',
  dropped_mark     text not null default '',
  accepted         text not null default '',
  lease_until      timestamptz
);
insert into gateway.ledger (only_one) values (true);
comment on table gateway.ledger is 'The end of the chain of events, its encrypted key, and where it begins since older segments were dropped.';
comment on column gateway.ledger.mark is 'HMAC over position and hash of the end; dropped_mark is that of the beginning.';
comment on column gateway.ledger.accepted is 'An older end that the operator went on from, and its HMAC: after a backup was restored.';
comment on index gateway.ledger_pkey is 'There is one chain.';

create table gateway.used_id (
  id uuid constraint used_id_pkey primary key
);
comment on table gateway.used_id is 'Connections that dropped events told of: secrets are encrypted for an id, so none may come back.';
comment on index gateway.used_id_pkey is 'An id is used once.';
