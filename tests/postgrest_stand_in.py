"""
Stands in for PostgREST and the API gateway before it, over a real Postgres.

PostgREST itself is in no package registry and was not exercised: this does what its documentation says of the few requests
that are needed here. One transaction a request, as role `authenticator` that takes the role of the key or token and sets the
claims; functions by named notation over `json_to_record`, read-only where they are stable; rows of one table by `eq`; SQLSTATE to
status; errors as {code, message, details, hint}. https://docs.postgrest.org/en/stable/references/
"""

from __future__ import annotations

import json
import queue
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg
import requests
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OctKey
from psycopg import sql

SECRET_KEY = "sb_secret_northwind_0123456789abcdef"
PUBLISHABLE_KEY = "sb_publishable_northwind_0123456789"
JWT_SECRET = "a legacy secret that the project signs with"
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


def service_role_jwt() -> str:
    """The legacy secret key of the project."""
    claims = {"iss": "supabase", "ref": "northwind", "role": "service_role", "iat": 1, "exp": 4_000_000_000}
    return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, OctKey.import_key(JWT_SECRET))


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


@dataclass
class PostgRest:
    """`dsn`: the database, as a superuser. `auth`: where `/auth/v1` is passed on to. `fault`: see `_Handler.do_POST`."""

    dsn: str
    auth: str = ""
    keys: KeySet | None = None
    fault: Callable[[str], str] = field(default=lambda _: "")
    calls: Counter[str] = field(default_factory=Counter)
    """By the last part of the path; `""` counts connections."""
    seen: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as owner:
            try:
                owner.execute("create role authenticator login noinherit in role anon, authenticated, service_role")
            except (psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
                owner.execute("grant anon, authenticated, service_role to authenticator")
        self._login = psycopg.conninfo.make_conninfo(self.dsn, user="authenticator")
        self._free: queue.LifoQueue[psycopg.Connection | None] = queue.LifoQueue()
        for _ in range(_POOL):
            self._free.put(None)
        self._open: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Bound", (_Handler,), {"stand_in": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = {"target": self._server.serve_forever, "kwargs": {"poll_interval": 0.02}, "daemon": True}
        self._thread = threading.Thread(**serve)
        self._thread.start()

    def stop(self) -> None:
        """Ends every connection, to both sides."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for link in list(self._open):
            with _suppressed():
                link.shutdown(socket.SHUT_RDWR)
        while not self._free.empty():
            connection = self._free.get_nowait()
            if connection is not None:
                connection.close()

    def who(self, headers: Any) -> dict[str, Any]:
        """The claims of a request: the token's, else those that the API gateway puts in for a key."""
        apikey, bearer = headers.get("apikey", ""), headers.get("Authorization", "").removeprefix("Bearer ")
        claims = {SECRET_KEY: {"role": "service_role"}, PUBLISHABLE_KEY: {"role": "anon"}}.get(apikey)
        if claims is None and not (apikey.count(".") == 2 and self._verified(apikey)):
            raise Refused("401", "Invalid API key")
        if not bearer:
            return claims or {"role": "anon"}
        if bearer.count(".") != 2:
            raise Refused("PGRST301", f"Expected 3 parts in JWT; got {bearer.count('.') + 1}")
        found = self._verified(bearer)
        if found is None:
            raise Refused("PGRST301", "No suitable key or wrong key type")
        if found.get("exp", 0) < time.time():
            raise Refused("PGRST303", "JWT expired")
        return {"role": "anon"} | found

    def _verified(self, token: str) -> dict[str, Any] | None:
        for key, algorithm in ((OctKey.import_key(JWT_SECRET), "HS256"), (self.keys, "ES256")):
            if key is not None:
                with _suppressed():
                    return dict(jwt.decode(token, key, algorithms=[algorithm]).claims)
        return None

    @contextmanager
    def transaction(self, claims: dict[str, Any], *, read_only: bool) -> Iterator[psycopg.Connection]:
        """One request's, in its role."""
        anonymous = claims["role"] == "anon"
        try:
            connection = self._free.get(timeout=10)
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
        query = """
            select p.provolatile::text, p.pronargs - p.pronargdefaults, coalesce(p.proargnames, '{}'),
                   array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as u (t, n) order by n)
              from pg_proc p where p.pronamespace = 'public'::regnamespace and p.proname = %s"""
        try:
            with psycopg.connect(self._login) as schema_cache:
                found = schema_cache.execute(query, [function]).fetchall()
        except psycopg.OperationalError:
            raise Refused("PGRST000", "Database connection error. Retrying the connection.") from None
        for kind, needed, args, types in found:
            if set(args[:needed]) <= names <= set(args):
                return kind, dict(zip(args, types, strict=True))
        raise Refused("PGRST202", f"Could not find the function public.{function} in the schema cache")

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


@contextmanager
def _suppressed() -> Iterator[None]:
    try:
        yield
    except (OSError, JoseError, ValueError):
        return


class _Handler(BaseHTTPRequestHandler):
    """One kept connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 30
    stand_in: PostgRest

    def setup(self) -> None:
        super().setup()
        self.stand_in.calls[""] += 1
        self.stand_in._open.add(self.connection)

    def finish(self) -> None:
        self.stand_in._open.discard(self.connection)
        with _suppressed():
            super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        """
        `fault` is asked with the last part of the path, before anything is done: "before" drops the connection then, "after"
        once the transaction is committed, "drip" sends the answer's header a byte at a time; a number is an answer of that
        status, from a proxy that knows no JSON.
        """
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        last = parts.path.rpartition("/")[2]
        self.stand_in.calls[last] += 1
        self.stand_in.seen.append({name.lower(): value for name, value in self.headers.items()})
        if parts.path.startswith("/auth/v1/"):
            passed = requests.get(self.stand_in.auth + self.path, timeout=10)
            self._answer(passed.status_code, passed.text)
            return
        fault = self.stand_in.fault(last)
        if fault == "before":
            self._drop()
        elif fault.isdigit():
            self._answer(int(fault), "<h1>The proxy speaks</h1>", "text/html")
        else:
            status, text = self._asked(parts.path, parts.query, body)
            if fault == "after":
                self._drop()
            elif fault == "drip":
                self._drip()
            else:
                self._answer(status, text)

    def _asked(self, path: str, query: str, body: bytes) -> tuple[int, str]:
        try:
            claims, sent = self.stand_in.who(self.headers), json.loads(body) if body else {}
            if path.startswith("/rest/v1/rpc/"):
                return 200, self.stand_in.call(path.removeprefix("/rest/v1/rpc/"), sent, claims)
            return self.stand_in.rows(self.command, path.removeprefix("/rest/v1/"), query, sent, self.headers, claims)
        except Refused as refused:
            if refused.code == "401":  # the API gateway's own words, without a code
                return 401, json.dumps({"message": refused.message, "hint": "Double check your API key."})
            told = {"code": refused.code, "message": refused.message, "details": refused.details, "hint": None}
            return refused.status, json.dumps(told)

    def _answer(self, status: int, text: str, kind: str = "application/json; charset=utf-8") -> None:
        with _suppressed():
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status != 204:
                self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(b"" if status == 204 else text.encode())
            self.wfile.flush()

    def _drop(self) -> None:
        self.close_connection = True
        with _suppressed():
            self.connection.shutdown(socket.SHUT_RDWR)

    def _drip(self) -> None:
        """Until the other side has enough."""
        self.close_connection = True
        with _suppressed():
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(600):
                self.wfile.write(b"X-Drip: 1\r\n")
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""
