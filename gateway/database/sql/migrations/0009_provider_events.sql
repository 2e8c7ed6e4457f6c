-- Events that providers send, and the accounts below a connection.

create table gateway.incoming_event (  -- webhooks of providers, for a week: so long a repeat is recognised, and partners can read the body
  id          text constraint incoming_event_pkey primary key,
  providers   text[] not null,
  type        text not null,
  accounts    text[] not null,  -- the account that it is about, and those above it
  below       jsonb,  -- facts of further connections that it is about: those below an agency
  topic       text,  -- What it changes; of two events about one topic the later one counts. Null: only handed on.
  is_end      boolean not null default false,
  facts       jsonb not null default '{}',
  label       text,
  body        text not null,
  at          timestamptz not null,
  received_at timestamptz not null default clock_timestamp(),
  due_at      timestamptz default clock_timestamp()  -- Null: done. `infinity`: an installation that waits for its connection.
);
create index incoming_event_due_at on gateway.incoming_event (due_at) where due_at is not null;
create index incoming_event_received_at on gateway.incoming_event (received_at);
create index incoming_event_accounts on gateway.incoming_event using gin (accounts) where topic is not null;
comment on index gateway.incoming_event_pkey is 'An event is handled once, however often the provider sends it.';

create table gateway.derived_token (  -- the accounts below a connection, such as the locations of an agency, and the tokens that were derived for them
  connection_id uuid not null references gateway.connection (id) on delete cascade,
  account_id    text not null,
  token         text,
  seal_id       uuid,
  scope         text[],
  derived_at    timestamptz,
  expires_at    timestamptz,
  lease_id      uuid,
  lease_until   timestamptz,
  constraint derived_token_pkey primary key (connection_id, account_id)
);
create index derived_token_account_id on gateway.derived_token (account_id);
comment on index gateway.derived_token_pkey is 'A token of one account is derived by one process at a time.';

create table gateway.provider_pause (  -- Until when a provider takes no calls for an account, as its responses say. `most`: how many it takes in the time of that limit.
  provider   text not null,
  account_id text not null,
  kind       text not null,
  most       integer,
  expires_at timestamptz not null,
  constraint provider_pause_pkey primary key (provider, account_id)
);
comment on index gateway.provider_pause_pkey is 'Every process keeps the same pause.';

create table gateway.unclaimed_install (  -- encrypted grants of installations that were started at the provider, until the user of that browser claims them
  id           uuid constraint unclaimed_install_pkey primary key,
  browser_hash text not null,
  provider     text not null,
  account_id   text not null,
  encrypted    text not null,
  expires_at   timestamptz not null default clock_timestamp() + interval '23 hours 50 minutes'  -- then our app is uninstalled there: its token is still valid
);
create index unclaimed_install_expires_at on gateway.unclaimed_install (expires_at);
create index unclaimed_install_browser_hash on gateway.unclaimed_install (browser_hash);
comment on index gateway.unclaimed_install_pkey is 'An installation is claimed once.';
