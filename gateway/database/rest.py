"""
The database over Supabase's REST API: supabase-py, whose `rpc` is PostgREST's `POST /rest/v1/rpc/<function>`.

Same answers and same errors as the direct connection. It knows no function by name, sends nothing twice, and no error holds a
value that was passed. Imported only when it is used: supabase-py is heavy.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import structlog
from psycopg import errors
from pydantic import SecretStr

from gateway.database.postgres import ANSWER_SECONDS, FunctionMissing, translated
from gateway.database.unreachable import NOT_RELOADED
from gateway.errors import DatabaseUnavailable, GatewayError, ProviderFailed, SettingsRefused, Unexpected
from gateway.http import Deadline, HttpClient
from supabase import ClientOptions, create_client

log = structlog.get_logger(__name__)

_LARGEST_BODY = 16 * 1024 * 1024

_NOT_REACHED = {"PGRST000", "PGRST001", "PGRST002", "PGRST003"}
"""PostgREST has no connection to the database, no schema cache yet, or no free connection in its pool."""
_KEY_REFUSED = {"PGRST301", "PGRST302", "PGRST303", "42501"}
"""Not a key of this project, or one with fewer rights than service_role."""
_TOO_MANY = 429
_NOT_ALLOWED = (401, 403)


class SupabaseBackend:
    """Calls functions as service_role. Connections open at the first call, in each process anew."""

    def __init__(
        self, supabase_url: str, secret_key: str, *, ca_bundle: Path | None = None, https_proxy: SecretStr | None = None
    ) -> None:
        """`secret_key`: `sb_secret_…` or the legacy service_role JWT. `ca_bundle`: PEM file, for a self-hosted project."""
        self._http = HttpClient(allow_private=True, ca_bundle=ca_bundle, https_proxy=https_proxy)
        options = ClientOptions(
            httpx_client=httpx.Client(transport=_Transport(self._http), follow_redirects=False, trust_env=False),
            postgrest_client_retry=False,  # it sleeps 1 + 2 + 4 s, beyond any timeout
            auto_refresh_token=False,
            persist_session=False,
        )
        self._rest = create_client(supabase_url.rstrip("/"), secret_key, options).postgrest
        if secret_key.startswith("sb_"):
            # supabase-py also sends every key as a Bearer token. These keys are not JWTs: the hosted API gateway may let
            # that pass, PostgREST itself answers PGRST301. Only `apikey` is documented for them.
            del self._rest.headers["Authorization"]

    def call(self, function: str, arguments: Mapping[str, object]) -> Any:
        """
        The JSON value that `public.<function>` returns for arguments of JSON types.

        Raises DatabaseUnavailable when there was no response (a write may have happened or not), FunctionMissing,
        SettingsRefused when the key is refused, and Unexpected for every other refusal.
        """
        if not all(name.isidentifier() and name.isascii() for name in (function, *arguments)):
            raise Unexpected("a function or an argument of it is not a name")
        problem: GatewayError
        try:
            return self._rest.rpc(function, dict(arguments)).execute().data  # type: ignore[arg-type]
        except GatewayError as error:
            problem = error.with_traceback(None)  # its frames hold the arguments
        except httpx.HTTPError as error:
            problem = DatabaseUnavailable(f"{function}: {type(error).__name__}")
        except (TypeError, ValueError, RecursionError) as error:
            problem = Unexpected(f"{function}: {type(error).__name__}, an argument is no JSON value")
        # Outside the handlers: what httpx and postgrest raise may quote arguments, and must not be attached.
        raise problem

    def probe(self) -> None:
        """Nothing: each call says what is wrong."""

    def close(self) -> None:
        self._http.close()


class _Transport(httpx.BaseTransport):
    """Sends what supabase-py asks for through our client."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The response to `request`, which calls a function. Raises what SupabaseBackend.call raises."""
        function = request.url.path.rpartition("/")[2]
        try:
            response = self._http.request(
                request.method,
                str(request.url),
                headers=request.headers,
                body=request.read(),
                deadline=Deadline.after(ANSWER_SECONDS),
                limit=_LARGEST_BODY,
            )
        except ProviderFailed as error:
            raise DatabaseUnavailable(f"{function}: {error}") from None
        if not 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110 section 15.3
            raise _translated(function, _code(response.body), response.status)
        if not response.headers.get("Content-Type", "").startswith("application/json"):
            # supabase-py would take a proxy's sign-in page for a function that returned text.
            raise DatabaseUnavailable(f"{function}: HTTP {response.status} with another response than JSON")
        return httpx.Response(response.status, headers=response.headers, content=response.body)


def _code(body: bytes) -> str:
    """PostgREST's or Postgres' code of an error response, where it has one."""
    try:
        return str(json.loads(body).get("code") or "")
    except (ValueError, AttributeError, RecursionError):
        return ""


def _translated(function: str, code: str, status: int) -> GatewayError:
    """
    Our error for a refusal, by PostgREST's code or SQLSTATE, else by HTTP status; its message may quote values and is not used.

    An SQLSTATE is judged as over a direct connection.
    https://docs.postgrest.org/en/stable/references/errors.html
    """
    known = code if code.isalnum() and len(code) <= len("PGRST000") else ""
    message = f"{function}: HTTP {status} {known}".rstrip()
    if known == "PGRST202":
        return FunctionMissing(f"{message}: {NOT_RELOADED}")
    if known in _KEY_REFUSED or (status in _NOT_ALLOWED and known in ("", str(status))):
        log.error("database.refused", status=status, code=known)
        return SettingsRefused(
            f"the project refuses SUPABASE_SECRET_KEY (HTTP {status} {known}): copy the secret key of this project."
        )
    is_down = known in ("", str(status)) and (status >= 500 or status == _TOO_MANY)  # noqa: PLR2004 - RFC 9110
    if known in _NOT_REACHED or is_down:
        return DatabaseUnavailable(message)
    try:
        return translated(function, errors.lookup(known)())
    except KeyError:
        return Unexpected(message)
