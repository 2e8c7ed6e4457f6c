"""
The database's side of the stand-in for PostgREST: one transaction per request, in the caller's role.

Functions by named notation over `json_to_record`, read-only where they are stable; rows of one table by `eq`. Knows no HTTP
beyond statuses. https://docs.postgrest.org/en/stable/references/
"""

from __future__ import annotations

import json
import queue
import select
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import psycopg
from psycopg import sql

OBJECT = "application/vnd.pgrst.object+json"
_POOL = 10
STATUS = [
    *[(code, 403) for code in ("42501", "28")],
    *[(code, 409) for code in ("23503", "23505")],
    *[(code, 404) for code in ("42883", "42P01", "PGRST202", "PGRST205")],
    *[(code, 401) for code in ("PGRST301", "PGRST302", "PGRST303")],
    *[(code, 503) for code in ("53", "08", "57P01", "PGRST000", "PGRST001", "PGRST002")],
    *[("PGRST003", 504), ("PGRST116", 406), ("25006", 405), ("P0001", 400)],
    *[("22", 400), ("23", 400), ("42", 400), ("PGRST", 400)],
]
"""The first that fits counts; 500 where none does."""


@dataclass
class Refused(Exception):
    """An error as PostgREST words it."""

    code: str
    message: str = "refused"
    details: str | None = None
    anonymous: bool = False

    @property
    def status(self) -> int:
        if self.code.startswith("PT"):
            return int(self.code[2:])
        found = next((status for code, status in STATUS if self.code.startswith(code)), 500)
        return 401 if found == 403 and self.anonymous else found


class Exposed:
    """What a request may do in the database behind `dsn` (as a superuser), through at most ten connections."""

    def __init__(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as owner:
            try:
                owner.execute("create role authenticator login noinherit in role anon, authenticated, service_role")
            except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                owner.execute("grant anon, authenticated, service_role to authenticator")
        self._login = psycopg.conninfo.make_conninfo(dsn, user="authenticator")
        self._functions: dict[str, list[Any]] = {}
        self._free: queue.LifoQueue[psycopg.Connection | None] = queue.LifoQueue()
        for _ in range(_POOL):
            self._free.put(None)
        self._closed = False

    def close(self) -> None:
        self._closed = True
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                connection.close()

    @contextmanager
    def transaction(self, claims: dict[str, Any], *, read_only: bool) -> Iterator[psycopg.Connection]:
        """One request's, in its role."""
        anonymous = claims["role"] == "anon"
        try:
            connection = self._free.get(timeout=60)
        except queue.Empty:
            raise Refused("PGRST003", "Timed out acquiring connection from connection pool.") from None
        try:
            if connection is not None and select.select([connection.fileno()], [], [], 0)[0]:
                connection.close()  # the server has ended it while it was idle
            if connection is None or connection.closed:
                try:
                    connection = psycopg.connect(self._login)
                except psycopg.OperationalError:
                    raise Refused("PGRST000", "Database connection error. Retrying the connection.") from None
            with connection.transaction():
                if read_only:
                    connection.execute("set transaction read only")
                settings = "select set_config('role', %s, true), set_config('request.jwt.claims', %s, true)"
                connection.execute(settings, [claims["role"], json.dumps(claims)])
                yield connection
        except psycopg.Error as error:
            diag = error.diag
            raise Refused(
                error.sqlstate or "PGRST001", diag.message_primary or "lost", diag.message_detail, anonymous
            ) from None
        finally:
            self._free.put(None if connection is None or connection.closed else connection)
            if self._closed:
                self.close()  # a request that outlived the server

    # -- what is asked for -------------------------------------------------------------------------------------------

    def call(self, function: str, body: dict[str, Any], claims: dict[str, Any]) -> Any:
        """POST /rpc/<function>: the one whose arguments fit the names that were sent."""
        kind, types = self._known(function, set(body))
        passed = sql.SQL(", ").join(sql.SQL("{0} := b.{0}").format(sql.Identifier(name)) for name in body)
        record = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(types[name])) for name in body
        )
        source = sql.SQL("from json_to_record(%s) as b ({})").format(record) if body else sql.SQL("")
        query = sql.SQL("select public.{}({})::text {}").format(sql.Identifier(function), passed, source)
        with self.transaction(claims, read_only=kind != "v") as connection:
            (answer,) = connection.execute(query, [json.dumps(body)] if body else None).fetchone()
        return answer or "null"

    def _known(self, function: str, names: set[str]) -> tuple[str, dict[str, str]]:
        """From the schema cache, which is read again where nothing fits."""
        for found in (self._functions.get(function, []), self._functions_named(function)):
            for kind, needed, args, types in found:
                if set(args[:needed]) <= names <= set(args):
                    return kind, dict(zip(args, types, strict=True))
        raise Refused("PGRST202", f"Could not find the function public.{function} in the schema cache")

    def _functions_named(self, function: str) -> list[Any]:
        query = """
            select p.provolatile::text, p.pronargs - p.pronargdefaults, coalesce(p.proargnames, '{}'),
                   array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as u (t, n) order by n)
              from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = %s"""
        try:
            with psycopg.connect(self._login) as schema_cache:
                self._functions[function] = schema_cache.execute(query, [function]).fetchall()
        except psycopg.OperationalError:
            raise Refused("PGRST000", "Database connection error. Retrying the connection.") from None
        return self._functions[function]

    def rows(
        self, method: str, table: str, query: str, body: Any, headers: Any, claims: dict[str, Any]
    ) -> tuple[int, str]:
        """GET, PATCH and POST on a table: every column, filters by `eq` only. Status and body."""
        filters = [
            (name, value.removeprefix("eq.")) for name, value in parse_qsl(query) if name not in ("select", "columns")
        ]
        where = sql.SQL(" and ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Literal(v)) for n, v in filters)
        named, target = list(body or ()), sql.Identifier("public", table)
        columns = sql.SQL(", ").join(map(sql.Identifier, named))
        record = sql.SQL("select {} from json_populate_record(null::{}, {})").format(
            columns, target, sql.Literal(json.dumps(body))
        )
        shown = method == "GET" or "return=representation" in headers.get("Prefer", "")
        statement = {
            "GET": sql.SQL("select * from {} where {}").format(target, where if filters else sql.SQL("true")),
            "PATCH": sql.SQL("update {} set ({}) = ({}) where {}").format(target, columns, record, where if filters else sql.SQL("true")),
            "POST": sql.SQL("insert into {} ({}) {}").format(target, columns, record),
        }[method]  # fmt: skip
        if method == "PATCH" and len(named) == 1:
            statement = sql.SQL("update {} set {} = ({}) where {}").format(
                target, columns, record, where if filters else sql.SQL("true")
            )
        if method != "GET":
            statement += sql.SQL(" returning *" if shown else " returning 1")
        whole = sql.SQL("with t as ({}) select coalesce(json_agg(t), '[]')::text, count(*) from t").format(statement)
        with self.transaction(claims, read_only=method == "GET") as connection:
            found, count = connection.execute(whole).fetchone()
            if shown and OBJECT in headers.get("Accept", ""):
                if count != 1:
                    # Raised inside, so that a change that answers with other than one row is rolled back.
                    raise Refused(
                        "PGRST116",
                        "Cannot coerce the result to a single JSON object",
                        f"The result contains {count} rows",
                    )
                found = found.strip()[1:-1]
        return (200 if method == "GET" else 201 if method == "POST" else 200 if shown else 204), found if shown else ""
