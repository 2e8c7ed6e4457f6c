-- Token reads and proxied calls, for the record and for limits.

create table gateway.token_read (  -- Token reads and proxied calls by connection, reader and hour. A closed hour becomes one event, and its row is deleted.
  connection_id uuid not null,
  reader_id     uuid not null,  -- a partner, or the owner of the connection
  hour          timestamptz not null,
  scope         text not null check (scope in ('tokens:read', 'proxy')),  -- what the token was read for: a caller, or one proxied call
  partner_id    uuid,  -- null if the owner reads
  user_id       uuid not null,
  provider      text not null,
  first_at      timestamptz not null default clock_timestamp(),
  last_at       timestamptz not null default clock_timestamp(),
  reads         integer not null default 1,
  networks      inet[] not null default '{}',
  constraint token_read_pkey primary key (connection_id, reader_id, hour, scope)
) with (fillfactor = 70);  -- a row changes with each read, and its new version fits on the same page
create index token_read_hour on gateway.token_read (hour);
comment on index gateway.token_read_pkey is 'A read is recorded once.';

create table gateway.usage (  -- token reads and proxied calls, together, and distinct connections of a reader in an hour, as reported by the processes
  reader_id   uuid not null,
  hour        timestamptz not null,
  reads       bigint not null,
  connections bigint not null,
  constraint usage_pkey primary key (reader_id, hour)
) with (fillfactor = 50);
create index usage_hour on gateway.usage (hour);
comment on index gateway.usage_pkey is 'A read counts once towards a limit.';
