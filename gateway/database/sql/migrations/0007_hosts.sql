-- Hosts that run the gateway.

create table gateway.host (
  host    text not null,
  keys    text[] not null,
  seen_at timestamptz not null default clock_timestamp(),
  constraint host_pkey primary key (host, keys)
);
comment on table gateway.host is 'Which keys, by marks that show nothing of them, the processes of a host have now or had lately.';
comment on index gateway.host_pkey is 'While a host restarts, its old processes and its new ones are both seen.';
