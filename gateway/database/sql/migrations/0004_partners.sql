-- Partners, keys, consents, links and freezes.

create table gateway.partner (  -- programs that call /v1 with a key: their scopes, providers and reach
  id                     uuid constraint partner_pkey primary key default gen_random_uuid(),
  name                   text not null,
  scope                  text[] not null,
  providers              text[],  -- null: every provider
  reach                  text not null check (reach in ('own', 'all')),
  reads_per_hour         integer check (reads_per_hour > 0),  -- null: no limit; a jump in reads raises an alert
  connections_per_hour   integer check (connections_per_hour > 0),
  freeze_on_alert        boolean not null default false,
  alerts                 jsonb not null default '{}',  -- when each kind of alert was last recorded
  frozen_at              timestamptz,
  revoked_at             timestamptz,
  created_at             timestamptz not null default clock_timestamp()
);
create unique index partner_name on gateway.partner (name) where revoked_at is null;
comment on index gateway.partner_pkey is 'A partner keeps its id when its keys change.';
comment on index gateway.partner_name is 'A name in a command or on a consent page means one partner; the name of a revoked partner can be used again.';

create table gateway.api_key (
  key_hash       text constraint api_key_pkey primary key,
  id             uuid not null constraint api_key_id unique default gen_random_uuid(),
  partner_id     uuid not null references gateway.partner (id) on delete cascade,
  hint           text not null,  -- the last four characters, so that people can tell keys apart
  addresses      inet[],  -- Networks from which the key works. Null: any.
  created_at     timestamptz not null default clock_timestamp(),
  expires_at     timestamptz,
  revoked_at     timestamptz,
  last_used_at   timestamptz,  -- to the minute
  last_used_from inet,
  networks       inet[] not null default '{}'  -- the last hundred (/24 or /48) from which it was used, newest first
);
create index api_key_partner_id on gateway.api_key (partner_id);
comment on index gateway.api_key_pkey is 'A key belongs to one partner.';
comment on index gateway.api_key_id is 'The id that commands use instead of the key.';

create table gateway.consent (  -- which connections a partner may use, by the owner's consent, from when to when
  partner_id    uuid not null references gateway.partner (id) on delete cascade,
  connection_id uuid not null,
  made          boolean not null,  -- the connection was created for this partner, and ends with its consent
  scope         text[] not null default '{}',  -- what the partner requested beside the default: the user's next attempt requests it again
  created_at    timestamptz not null default clock_timestamp(),
  ended_at      timestamptz,
  constraint consent_pkey primary key (partner_id, connection_id, created_at)
);
create unique index consent_standing on gateway.consent (partner_id, connection_id) where ended_at is null;
create index consent_connection_id on gateway.consent (connection_id);
-- No foreign key to the connection: a partner may still read the events of its time when the connection is gone.
comment on index gateway.consent_pkey is 'Each consent has its own time: a partner does not see what happened before it, or after its end.';
comment on index gateway.consent_standing is 'An owner consents to a partner once for a connection, until that ends.';

create table gateway.connect_session (  -- links that partners made for one user and one provider
  id                uuid constraint connect_session_pkey primary key default gen_random_uuid(),
  secret_hash       text not null constraint connect_session_secret unique,
  partner_id        uuid not null references gateway.partner (id) on delete cascade,
  user_id           uuid not null references auth.users (id) on delete cascade,
  provider          text not null,
  scope             text[] not null,
  tags              jsonb not null default '{}',  -- as they are stored in the connection: below the id of the partner
  return_to         text,
  connection_id     uuid,  -- the connection completed with this confirmation: a repeated call gets the same response for ten minutes
  confirmation_hash text,
  created_at        timestamptz not null default clock_timestamp(),
  expires_at        timestamptz not null default clock_timestamp() + interval '15 minutes',
  started_at        timestamptz,
  ended_at          timestamptz
);
create index connect_session_expires_at on gateway.connect_session (expires_at);
create index connect_session_user_id on gateway.connect_session (user_id);
create index connect_session_partner on gateway.connect_session (partner_id, created_at);
comment on index gateway.connect_session_pkey is 'A session is completed once.';
comment on index gateway.connect_session_secret is 'A link starts one session.';

create table gateway.freeze (  -- tokens that no caller may read: `reads` for all, `provider:<id>` for one provider
  target    text constraint freeze_pkey primary key,
  frozen_at timestamptz not null default clock_timestamp()
);
comment on index gateway.freeze_pkey is 'A target is frozen or not.';
