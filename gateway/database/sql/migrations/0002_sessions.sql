create table gateway.session (
  session_hash text constraint session_pkey primary key,
  user_id      uuid not null references auth.users (id) on delete cascade,
  label        text not null,
  created_at   timestamptz not null default clock_timestamp(),
  expires_at   timestamptz not null
);
create index session_expires_at on gateway.session (expires_at);
create index session_user_id on gateway.session (user_id);
comment on index gateway.session_pkey is 'A session cookie belongs to one user.';

create table gateway.authorization_request (
  state_hash         text constraint authorization_request_pkey primary key,
  browser_hash       text not null,
  user_id            uuid not null references auth.users (id) on delete cascade,
  provider           text not null,
  encrypted          text not null,
  scope              text[] not null,
  return_to          text,
  display            text not null check (display in ('page', 'popup')),
  add_account        boolean not null default false,
  connect_session_id uuid,  -- of a partner's link; null where the user started without one
  refused_at         timestamptz,
  used_at            timestamptz,  -- When it was taken. It is kept for ten minutes, for a browser that loads the callback again.
  seal_id            uuid,  -- of the grant that was saved: its result
  created_at         timestamptz not null default clock_timestamp(),
  expires_at         timestamptz not null
);
create index authorization_request_expires_at on gateway.authorization_request (expires_at);
create index authorization_request_user_id on gateway.authorization_request (user_id);
comment on index gateway.authorization_request_pkey is 'A state names one attempt, and it can be taken once.';
