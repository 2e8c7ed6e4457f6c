"""
The database: SQL functions by name, over a direct connection (`postgres`) or REST (`rest`).

`queries` has a module for each topic, and declares each SQL function: values in, values out. Each promise is kept inside its SQL function, and
documented there. Hashes of secrets are passed, not the secrets.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, get_args

from pydantic import SecretStr, TypeAdapter
from pydantic_core import to_jsonable_python

from gateway.database.migrate import functions_sha256, schema_version
from gateway.database.postgres import FunctionMissing, PostgresBackend
from gateway.errors import (
    BrowserMismatch,
    Forbidden,
    Frozen,
    GatewayError,
    PendingConfirmation,
    ProviderLimit,
    Quota,
    RateLimited,
    Unauthenticated,
    Unverified,
    UserMismatch,
    counted,
)

if TYPE_CHECKING:
    from gateway.database.rest import SupabaseBackend

_R = TypeVar("_R")
SCHEMA_VERSION = schema_version()
"""The version of the schema that this code needs."""


class SchemaState(TypedDict):
    """
    The schema in the database: version 0 for none.

    `is_current`: it is of this release or a newer one. With the same migrations, the database has or has had this release's functions.
    """

    version: int
    is_current: bool


def open_postgres(database_url: str) -> "Database":
    """The database at that address, over a direct connection. Connects at the first call, so this may be called before a fork."""
    return Database(PostgresBackend(database_url))


def open_rest(
    supabase_url: str, secret_key: str, *, ca_bundle: Path | None = None, https_proxy: SecretStr | None = None
) -> "Database":
    """The same over the REST API of a Supabase project. Connects at the first call. SettingsRefused for a bad `ca_bundle`."""
    from gateway.database.rest import SupabaseBackend

    return Database(SupabaseBackend(supabase_url, secret_key, ca_bundle=ca_bundle, https_proxy=https_proxy))


class Database:
    """
    The one way to the database: functions by name, over a direct connection or REST.

    Any call may raise DatabaseUnavailable (then a write may have happened or not), Unexpected and, over REST, SettingsRefused when the
    project does not take the key; and Unauthenticated where it names a user who is banned or deleted. Times that decide anything are the
    database's.
    """

    def __init__(self, backend: "PostgresBackend | SupabaseBackend") -> None:
        self._backend = backend

    def call(self, function: str, **arguments: object) -> Any:
        """
        What `public.gateway_<function>_v1` answers, as JSON. UUIDs, times, tuples and dataclasses are encoded here.

        Raises the error with which a function refuses its caller.
        """
        prefixed = {f"p_{name}": to_jsonable_python(value) for name, value in arguments.items()}  # unlike any column
        answer = self._backend.call(f"gateway_{function}_v1", prefixed)
        if isinstance(answer, dict):
            if quota := answer.pop("quota", None):
                counted.set(Quota(**quota))
            if (refused := answer.get("refused")) is not None:
                raise _refusal(refused, f"{function}: the caller is refused", answer.get("scope"))
        return answer

    def close(self) -> None:
        self._backend.close()

    def check(self) -> SchemaState:
        """The schema in the database. Raises DatabaseUnavailable with one sentence about what is wrong."""
        self._backend.probe()
        return self.schema()

    def schema(self) -> SchemaState:
        """The version of the schema; 0 where there is none. Raises DatabaseUnavailable where it cannot be written."""
        try:
            row = self.call("schema")
        except FunctionMissing:
            return SchemaState(version=0, is_current=False)
        version, functions = row["version"], row.get("functions") or []
        is_current = version > SCHEMA_VERSION or (version == SCHEMA_VERSION and functions_sha256() in functions)
        return SchemaState(version=version, is_current=is_current)


class SqlFunction(Generic[_R]):
    """
    `public.gateway_<name>_v1`, whose JSON is decoded as `_R`. An argument with a default in SQL may be left out.

    It is called with the database and named arguments. Those in `positional` may be passed by position, those in `always` are always passed.
    """

    def __init__(self, name: str, *positional: str, **always: object) -> None:
        self._name, self._positional, self._always = name, positional, always

    def __call__(self, database: Database, *passed: object, **named: object) -> _R:
        by_position = zip(self._positional[: len(passed)], passed, strict=True)
        answer = database.call(self._name, **dict(by_position), **named, **self._always)
        return self._result.validate_python(answer)

    @cached_property
    def _result(self) -> TypeAdapter[_R]:
        [kind] = get_args(vars(self)["__orig_class__"])
        return TypeAdapter(kind)


def _refusal(slug: str, reason: str, scope: str | None) -> GatewayError:
    if slug == RateLimited.slug:
        return RateLimited(reason, counted.get())
    if slug == "provider_limit":
        return ProviderLimit(reason, str(scope), counted.get())
    error = _REFUSED[slug](reason)
    if slug == Forbidden.slug:
        error.detail = f"The key or access token lacks the scope `{scope}`, which this call needs."
    return error


_REFUSED: Mapping[str, type[GatewayError]] = {
    error.slug: error
    for error in (Unauthenticated, Forbidden, Frozen, PendingConfirmation, Unverified, BrowserMismatch, UserMismatch)
}
"""The result of a function that refuses its caller: {"refused": slug}, and the scope that is missing, or the quota."""
