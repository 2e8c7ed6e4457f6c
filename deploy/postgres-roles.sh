#!/bin/sh
# Runs once, when the Postgres container makes its database: the role that the gateway connects with.
# `db apply` finds the role and gives it the right to call the gateway's functions, and nothing else.
set -eu
psql --username postgres --set ON_ERROR_STOP=1 --set password="$POSTGRES_APP_PASSWORD" <<'SQL'
create role gateway_app login password :'password';
SQL
