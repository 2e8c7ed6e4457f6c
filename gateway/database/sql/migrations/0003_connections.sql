-- Connections, pending grants, grants to revoke, and rows to import.

create table gateway.connection (  -- the state of a connection; its encrypted tokens are in provider_data
  id                 uuid not null constraint connection_pkey primary key references public.provider_data (id) on delete cascade,
  user_id            uuid not null,
  provider           text not null,
  type               integer not null,
  account_key        text not null default '',  -- empty where a user has one connection of a provider, else the account id
  account_id         text not null,
  account_label      text not null,
  scope              text[] not null default '{}',
  facts              jsonb not null default '{}',  -- Facts from the token response. provider_data.data has a copy for the owner, who may change it.
  tags               jsonb not null default '{}',  -- By partner: the pairs that it named in its link. A partner with reach own sees only its own.
  status             text not null default 'active'  -- as it was recorded; gateway.status_of adds what time decides
                     check (status in ('active', 'unverified', 'suspended', 'held', 'needs_reauthorization')),
  reason             text,
  generation         bigint not null check (generation > 0),
  seal_id            uuid not null,  -- random, one per save: the key that encrypts the access token is derived from it
  refresh_seal_id    uuid not null,  -- the same for the refresh token; of an earlier save if a reconnect had no refresh token
  saved_by           uuid,  -- the id of the user's last save: a repeated call is recognised by it
  client_id          text,  -- our registration that the grant belongs to (RFC 6749 section 6); null where it is not known
  refreshable        boolean not null default true,
  reconnected        bigint not null default 0,  -- the generation of the user's last reconnect
  expires_at         timestamptz,
  refresh_expires_at timestamptz,
  refresh_at         timestamptz,  -- when the worker refreshes the token, before a caller needs it
  lease_id           uuid,
  lease_until        timestamptz,
  lease_host         text,
  intent_at          timestamptz,  -- start of a refresh whose result is not known yet
  failures           integer not null default 0,
  refused_since      timestamptz,  -- the first of the refusals, in any form, since the last token
  refusal            jsonb,  -- status and error code of the last refusal, for the operator
  not_before         timestamptz,  -- after a failure: no token request before this time
  announced_at       timestamptz,
  checked_at         timestamptz,  -- when it was last checked at its provider on request
  listed_at          timestamptz,  -- when the accounts below it were last compared with the provider's list
  created_at         timestamptz not null default clock_timestamp(),
  updated_at         timestamptz not null default clock_timestamp(),
  constraint connection_user_provider_account unique (user_id, provider, account_key),
  constraint connection_reason check ((status = 'active') = (reason is null))
);
create index connection_refresh_at on gateway.connection (refresh_at) where status in ('active', 'suspended', 'held');
create index connection_not_active on gateway.connection (provider, status) where status <> 'active';
create index connection_expires_at on gateway.connection (expires_at) where not refreshable;
create index connection_facts on gateway.connection using gin (facts jsonb_path_ops);
create index connection_intent_at on gateway.connection (intent_at) where intent_at is not null;
create index connection_provider_account on gateway.connection (provider, account_id);
create index connection_provider_id on gateway.connection (provider, id);
-- No foreign key to auth.users: when a user is deleted, the trigger on provider_data still has to read this row.
comment on index gateway.connection_pkey is 'A connection is one row of provider_data, under the same id.';
comment on index gateway.connection_user_provider_account is 'A connection exists once, even if several callbacks create it at the same time.';

create table gateway.pending_grant (  -- encrypted grants that wait for a decision
  id                 uuid constraint pending_grant_pkey primary key,
  user_id            uuid not null references auth.users (id) on delete cascade,
  provider           text not null,
  type               integer not null,
  many_accounts      boolean not null,
  browser_hash       text not null,
  account_id         text not null,
  account_label      text not null,
  scope              text[] not null,
  token              text,
  refresh            text,
  seal_id            uuid not null,
  client_id          text,
  expires_at         timestamptz,
  refresh_expires_at timestamptz,
  row_names          text[],  -- names, without case and punctuation, that existing rows of this type have for the provider
  facts              jsonb not null default '{}',
  return_to          text,
  display            text not null check (display in ('page', 'popup')),
  connect_session_id uuid,
  confirmation_hash  text,  -- hash of the confirmation in the finishing browser; set where no user was signed in and the partner decides
  ending             text,  -- Set in the transaction that deletes the row: saved, or why not. The trigger reads it.
  created_at         timestamptz not null default clock_timestamp(),
  pending_until      timestamptz not null default clock_timestamp() + interval '10 minutes'
);
create unique index pending_grant_user_provider on gateway.pending_grant (user_id, provider) where confirmation_hash is null;
create unique index pending_grant_connect_session on gateway.pending_grant (connect_session_id) where confirmation_hash is not null;
create index pending_grant_pending_until on gateway.pending_grant (pending_until);
comment on index gateway.pending_grant_pkey is 'A grant is pending once, and one decision ends it.';
comment on index gateway.pending_grant_user_provider is 'A user is asked one question per provider: a newer grant replaces the one before.';
comment on index gateway.pending_grant_connect_session is 'A link has one pending grant, separate from the user''s own question.';

create table gateway.revocation (  -- encrypted grants that still have to be revoked at their provider
  seal_id         uuid constraint revocation_pkey primary key,
  refresh_seal_id uuid not null,
  connection_id   uuid,  -- null for a grant that was never saved
  generation      bigint,
  user_id         uuid not null,
  provider        text not null,
  account_id      text,
  token           text,
  refresh         text,
  facts           jsonb not null default '{}',
  reason          text not null,
  attempts        integer not null default 0,
  due_at          timestamptz not null default clock_timestamp() + interval '1 minute',
  created_at      timestamptz not null default clock_timestamp()
);
-- `due_at`: in the first minute, the process that queued the grant revokes it.
create index revocation_connection_id on gateway.revocation (connection_id);
create index revocation_due_at on gateway.revocation (due_at);
comment on index gateway.revocation_pkey is 'A grant is queued once, even if the call is repeated.';

create table gateway.provider_incident (  -- The last incident of a provider: it refuses many grants. Connections are held, and one is tried now and then.
  provider text constraint provider_incident_pkey primary key,
  began_at timestamptz not null,
  ended_at timestamptz,
  probe_at timestamptz
);
comment on index gateway.provider_incident_pkey is 'All processes see one incident per provider.';

create table gateway.import_queue (  -- rows with tokens that the gateway did not write: encrypted and verified by the worker
  id            uuid constraint import_queue_pkey primary key references public.provider_data (id) on delete cascade,
  attempts      integer not null default 0,
  due_at        timestamptz not null default clock_timestamp(),
  claimed_until timestamptz
);
create index import_queue_due_at on gateway.import_queue (due_at);
-- Rows that existed before the gateway.
insert into gateway.import_queue (id)
select d.id from public.provider_data d where d.token !~ '^(gAAAA|$)' or d.refresh !~ '^(gAAAA|$)';
comment on index gateway.import_queue_pkey is 'A row is imported by one process at a time.';
