-- How much partners read.

create table gateway.usage (
  partner_id  uuid not null references gateway.partner (id) on delete cascade,
  hour        timestamptz not null,
  slot        integer not null,
  reads       bigint not null,
  connections bigint not null default 0,
  again       bigint not null default 0,
  constraint usage_pkey primary key (partner_id, hour, slot)
) with (fillfactor = 50);  -- a row changes with each read, and its new version fits on the same page
create index usage_hour on gateway.usage (hour);
comment on table gateway.usage is 'Token reads of a partner in an hour, in slots, so that readers do not wait for one another.';
comment on column gateway.usage.connections is 'Of these reads, how many were the first of their connection in the hour.';
comment on column gateway.usage.again is 'Of these connections, how many were read in the hour before, too.';
comment on index gateway.usage_pkey is 'A read is counted once.';

create table gateway.usage_connection (
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  hour          timestamptz not null,
  connection_id uuid not null,
  constraint usage_connection_pkey primary key (partner_id, hour, connection_id)
);
create index usage_connection_hour on gateway.usage_connection (hour);
comment on table gateway.usage_connection is 'Which connections a partner read in an hour.';
comment on index gateway.usage_connection_pkey is 'A connection counts once an hour, however often it is read.';

create table gateway.usage_elsewhere (
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  hour          timestamptz not null,
  connection_id uuid not null,
  constraint usage_elsewhere_pkey primary key (partner_id, hour, connection_id)
);
create index usage_elsewhere_hour on gateway.usage_elsewhere (hour);
comment on table gateway.usage_elsewhere is 'Those of them that were read from a network that was new to the partner.';
comment on index gateway.usage_elsewhere_pkey is 'A connection counts once an hour, from however many new networks it is read.';
