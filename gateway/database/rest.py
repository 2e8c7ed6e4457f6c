"""
The database over Supabase's REST API: supabase-py, whose `rpc` is PostgREST's `POST /rest/v1/rpc/<function>`.

One method, `call`, as of the direct connection, with the same answers and the same errors. Owns the connections, how long
anything may wait, and the translation of what PostgREST and the API gateway before it refuse; knows no function by name. Nothing
is sent twice, and no value that was passed ever stands in an error. Loaded only when it is chosen: supabase-py is heavy.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import certifi
import httpx
import structlog
from postgrest import APIError, SyncPostgrestClient
from psycopg import OperationalError, errors
from supabase import ClientOptions, create_client

from gateway.database.postgres import ANSWER_SECONDS, FunctionMissing
from gateway.errors import DatabaseUnavailable, GatewayError, SettingsRefused, Unexpected
from gateway.http import transport as road

log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 2.0
_FREE_CONNECTION_SECONDS = 3.0

_MISSING = {"PGRST202", "42883", "3F000"}
_NOT_REACHED = {"PGRST000", "PGRST001", "PGRST002", "PGRST003"}
"""PostgREST has no connection to the database, no schema cache yet, or no free place in its pool."""
_KEY_REFUSED = {"PGRST301", "PGRST302", "PGRST303", "42501"}
"""Not a key of this project, or one of less than service_role."""
_TOO_MANY = 429
_NO_LEAVE = (401, 403)


class SupabaseBackend:
    """Calls functions as service_role, through a client that is made at the first call, in each process anew."""

    def __init__(self, supabase_url: str, secret_key: str, *, ca_bundle: Path | None = None) -> None:
        """`secret_key`: `sb_secret_…` or the legacy service_role JWT. `ca_bundle`: PEM file, for a project of one's own."""
        self._url = supabase_url.rstrip("/")
        self._key = secret_key
        self._tls = _tls_context(ca_bundle) if self._url.startswith("https:") else None
        self._opening = threading.Lock()
        self._rest: SyncPostgrestClient | None = None
        self._pid = 0
        self._inherited: list[SyncPostgrestClient] = []

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        """
        What `public.<function>` answers, as JSON values, to arguments of JSON types.

        Raises DatabaseUnavailable when there was no answer (a write may then have happened or not), FunctionMissing,
        SettingsRefused when the key is not taken, and Unexpected for every other refusal.
        """
        if not all(name.isidentifier() and name.isascii() for name in (function, *arguments)):
            raise Unexpected("a function or an argument of it is not a name")
        rest = self._rest if self._pid == os.getpid() and self._rest is not None else self._open()
        road.here.begin(ANSWER_SECONDS)  # for the whole of it: a connection, connecting, sending, reading to the end
        problem: GatewayError
        try:
            return rest.rpc(function, dict(arguments)).execute().data  # type: ignore[arg-type]
        except APIError as error:
            problem = _translated(function, error.code or "", road.here.status)
        except httpx.HTTPError as error:
            problem = DatabaseUnavailable(
                f"{function}: {error if isinstance(error, road.Lost) else type(error).__name__}"
            )
        except (TypeError, ValueError, RecursionError) as error:
            problem = Unexpected(f"{function}: {type(error).__name__}, an argument is no JSON value")
        # Outside of the handlers: what httpx and postgrest raise may quote what was passed, and would be remembered.
        raise problem

    def warm(self, calls: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        """Each once: the sessions are PostgREST's."""
        for function, arguments in calls:
            self.call(function, arguments)

    def close(self) -> None:
        """Closes the connections; a later call opens new ones."""
        with self._opening:
            if self._rest is not None and self._pid == os.getpid():
                self._rest.aclose()
            self._rest = None

    def _open(self) -> SyncPostgrestClient:
        with self._opening:
            if self._rest is not None and self._pid == os.getpid():
                return self._rest
            if self._rest is not None:
                # A fork's copy: its sockets belong to the parent. Kept and never touched.
                self._inherited.append(self._rest)
            timeout = httpx.Timeout(ANSWER_SECONDS, connect=_CONNECT_SECONDS, pool=_FREE_CONNECTION_SECONDS)
            http = httpx.Client(transport=road.Road(self._tls), timeout=timeout, follow_redirects=False)
            options = ClientOptions(
                httpx_client=http,
                postgrest_client_retry=False,  # it sleeps 1 + 2 + 4 s, unbounded by any timeout
                auto_refresh_token=False,
                persist_session=False,
            )
            rest = create_client(self._url, self._key, options).postgrest
            if self._key.startswith("sb_"):
                # The client sends every key as a Bearer token too. These are not JWTs: the hosted API gateway may let that
                # pass, PostgREST itself answers PGRST301. `apikey` alone is what is documented for them.
                del rest.headers["Authorization"]
            self._rest, self._pid = rest, os.getpid()
            return rest


def _tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except OSError:  # ssl.SSLError among them
            raise SettingsRefused(["GATEWAY_CA_BUNDLE is not a readable file of certificates in PEM form."]) from None
    return context


def _translated(function: str, code: str, status: int) -> GatewayError:
    """
    Our error for a refusal, by PostgREST's code or SQLSTATE, else by HTTP status. Its message and details may quote values.

    A SQLSTATE means here what psycopg takes it for, so that both backends judge alike.
    https://docs.postgrest.org/en/stable/references/errors.html
    """
    known = code if code.isalnum() and len(code) <= len("PGRST000") else ""
    told = f"{function}: HTTP {status} {known}".rstrip()
    if known in _MISSING:
        return FunctionMissing(told)
    if known in _KEY_REFUSED or (status in _NO_LEAVE and known in ("", str(status))):
        log.error("database.refused", status=status, code=known)
        return SettingsRefused(
            [f"the project refuses SUPABASE_SECRET_KEY (HTTP {status} {known}): copy the secret key of this project."]
        )
    lost = known in _NOT_REACHED or _is_operational(known)
    nobody_home = known in ("", str(status)) and (status >= 500 or status == _TOO_MANY)  # noqa: PLR2004 - RFC 9110
    return DatabaseUnavailable(told) if lost or nobody_home else Unexpected(told)


def _is_operational(sqlstate: str) -> bool:
    try:
        return issubclass(errors.lookup(sqlstate), OperationalError)
    except KeyError:
        return False
