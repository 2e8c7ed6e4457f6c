"""
The schema: numbered migrations, functions, access rules, and the one script that applies them.

`script()` is everything as one SQL text that sets up and updates a database, any number of times. `apply_schema` runs it over a direct
connection; schema.sql is the same text, to be pasted, and the file in supabase/migrations for `supabase db push`. `python -m
gateway.database` writes both.
"""

# ruff: noqa: S608 -- the statements are made of the files beside this module
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import errors

from gateway.database.postgres import connect
from gateway.errors import DatabaseUnavailable, SettingsRefused, Unexpected

SQL = Path(__file__).parent / "sql"
_CHECKOUT = Path(__file__).resolve().parents[2]
PASTED = _CHECKOUT / "schema.sql"
"""The script in the checkout, for Supabase's SQL editor."""
GENERATED = (PASTED, _CHECKOUT / "supabase" / "migrations" / "20261128000000_gateway.sql")
_TRIES = 5
_PAUSE_SECONDS = 1.0
"""Between two tries to lock the tables, so that the requests that waited meanwhile are served."""
_BUSY = (errors.DeadlockDetected, errors.LockNotAvailable)

_LATEST_FUNCTIONS = "select sha256 from gateway.function_release order by applied_at desc limit 1"

_HEADER = """\
-- Generated from gateway/database/sql: do not edit. `python -m gateway.database` writes it.
--
-- Sets up and updates the gateway's database, any number of times: on Supabase (paste it into the SQL editor, or run
-- `python -m gateway db apply`) and on PostgreSQL 15 to 18. Run it as one transaction, as the role that owns the two tables.
-- It deletes nothing. Each migration runs once and is recorded in gateway.migration; functions and access rules are replaced each time.
"""


class Migration(NamedTuple):
    """One numbered file: it runs once, and does not change after a release."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """Of the text: a migration that was applied is recognised by it."""
        return _sha256(self.text)


@cache
def migrations() -> tuple[Migration, ...]:
    found = []
    for path in sorted((SQL / "migrations").glob("[0-9]*.sql")):
        number, _, name = path.stem.partition("_")
        found.append(Migration(int(number), name, path.read_text(encoding="utf-8")))
    return tuple(found)


def schema_version() -> int:
    """The version that this code needs: the highest number of a migration."""
    return migrations()[-1].number


@cache
def functions_sha256() -> str:
    return _sha256(_functions_and_access())


def script(through: int | None = None) -> str:
    """Everything as one SQL text. `through`: the migrations up to that number alone, as a database of an earlier release."""
    parts = [_HEADER, _read("bootstrap.sql"), _refuse_newer()]
    parts += [_once(migration) for migration in migrations() if through is None or migration.number <= through]
    if through is None:
        parts += [_functions_and_access(), _record_functions(functions_sha256()), "notify pgrst, 'reload schema';\n"]
    return "\n".join(parts)


def apply_schema(dsn: str) -> list[str]:
    """
    Sets up or updates the database, in one transaction; returns what the script reports about what it found there.

    Raises DatabaseUnavailable, SettingsRefused where the operator has to act, and Unexpected with the server's own words: the script
    handles no secret.
    """
    reports: list[str] = []

    def hear(notice: errors.Diagnostic) -> None:
        message = notice.message_primary or ""
        if message.startswith("gateway: "):
            reports.append(message.removeprefix("gateway: "))

    for tries_left in range(_TRIES - 1, -1, -1):
        reports.clear()
        try:
            with _connected(dsn) as connection:
                connection.add_notice_handler(hear)
                connection.execute(script().encode())
        except _BUSY:
            if not tries_left:
                raise DatabaseUnavailable(
                    "other transactions hold the tables: try again when they have ended"
                ) from None
            time.sleep(_PAUSE_SECONDS)
        else:
            break
    return reports


def plan(dsn: str) -> list[str]:
    """What `apply_schema` would do: the migrations to run, and whether functions and access rules change."""
    with _connected(dsn) as connection:
        applied, latest = set(), None
        with suppress(errors.UndefinedTable):
            applied = {number for (number,) in connection.execute("select number from gateway.migration")}
            latest = connection.execute(_LATEST_FUNCTIONS).fetchone()
    steps = [f"run migration {each.number} ({each.name})" for each in migrations() if each.number not in applied]
    unchanged = latest == (functions_sha256(),)
    return [*steps, f"replace functions and access rules ({'unchanged' if unchanged else 'changed'})"]


def export_supabase(folder: Path) -> Path:
    """
    Writes the script as a timestamped migration for `supabase db push`, and returns its path; the newest one, if that is the same.

    Supabase runs a migration once, so each change of the schema needs a new file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(folder.glob("*_gateway.sql"), default=None)
    if newest is not None and newest.read_text(encoding="utf-8") == script():
        return newest
    path = folder / f"{datetime.now(UTC):%Y%m%d%H%M%S}_gateway.sql"
    path.write_text(script(), encoding="utf-8")
    return path


def write_generated() -> None:
    for path in GENERATED:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(), encoding="utf-8")


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection]:
    try:
        with connect(dsn, psycopg.Connection) as connection:
            yield connection
    except _BUSY:
        raise
    except errors.InsufficientPrivilege:
        raise SettingsRefused(
            "DATABASE_URL has a role that may not set up the schema: run `db apply` with the role that owns the tables, on Supabase "
            "`postgres`; `gateway_app` is for serving."
        ) from None
    except errors.RaiseException as error:
        raise SettingsRefused(f"{(error.diag.message_primary or '').removeprefix('gateway: ')}.") from None
    except errors.ReadOnlySqlTransaction:
        raise DatabaseUnavailable("the database is read-only: name the primary in DATABASE_URL") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        reason = f"{type(error).__name__} {error.sqlstate or ''}".rstrip()
        raise DatabaseUnavailable(f"the database ended the run ({reason}), nothing was changed: run it again") from None
    except psycopg.Error as error:
        raise Unexpected(f"schema.sql: {error.diag.message_primary}") from None


def _functions_and_access() -> str:
    functions = [path.read_text(encoding="utf-8") for path in sorted((SQL / "functions").glob("*.sql"))]
    return "\n".join([*functions, _read("access.sql"), _record_fingerprints()])


def _read(name: str) -> str:
    return (SQL / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _record_fingerprints() -> str:
    """Records what is installed, by the expressions with which checks.sql compares later."""
    query = _read("checks.sql").partition(",\n  -- So far")[0].partition("\nwith\n")[2]
    return f"""\
do $fingerprints$
declare
  installed jsonb;
begin
  with
{query}
  select n.hashes into installed from present n;
  execute format('comment on schema gateway is %L', 'What the gateway relies on. No client role can reach it. Applied: ' || installed::text);
end $fingerprints$;
"""


def _refuse_newer() -> str:
    return f"""\
do $newer$
begin
  if exists (select from gateway.migration m where m.number > {schema_version()}) then
    raise exception 'gateway: a newer release has set up this database: run that one, or restore a backup from before it';
  end if;
end $newer$;
"""


def _once(migration: Migration) -> str:
    number, name, digest = migration.number, migration.name, migration.sha256
    return f"""\
do $apply$
begin
  if exists (select from gateway.migration m where m.number = {number} and m.sha256 <> '{digest}') then
    raise exception 'gateway: migration {number} ({name}) is not the one that was applied to this database: run the release that set it up, or begin with an empty database';
  elsif not exists (select from gateway.migration m where m.number = {number}) then
    execute $migration$
{migration.text.rstrip()}
    $migration$;
    insert into gateway.migration (number, name, sha256) values ({number}, '{name}', '{digest}');
  end if;
end $apply$;
"""


def _record_functions(digest: str) -> str:
    return f"""\
-- An older release that is applied again replaces the newer ones.
delete from gateway.function_release r
 where r.applied_at > (select known.applied_at from gateway.function_release known where known.sha256 = '{digest}');
insert into gateway.function_release (sha256) values ('{digest}') on conflict do nothing;
"""
