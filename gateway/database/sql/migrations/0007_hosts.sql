create table gateway.host (  -- fingerprints of the encryption keys that the processes of a host use or recently used
  host    text not null,
  keys    text[] not null,
  seen_at timestamptz not null default clock_timestamp(),
  constraint host_pkey primary key (host, keys)
);
comment on index gateway.host_pkey is 'During a restart, the old and the new processes of a host each have a row.';
