"""What the commands share: settings, the database, and how results, problems, questions and progress are shown."""

import errno
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

import click
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict
from pydantic_core import to_json, to_jsonable_python

from gateway.catalog import Catalog, load_catalog
from gateway.database import SCHEMA_VERSION, Database, SchemaState
from gateway.database.migrate import apply_schema
from gateway.database.postgres import FunctionMissing
from gateway.database.unreachable import NOT_RELOADED
from gateway.database_url import read_dsn
from gateway.embedded.paths import holds_database
from gateway.embedded.postgres import start_or_join
from gateway.errors import DatabaseUnavailable, GatewayError, ProviderNotEnabled, SettingsRefused, Unexpected
from gateway.partners.admin import PartnerRefused
from gateway.services import NO_DATABASE, Runtime, build_runtime, checked_catalog, open_database, open_journal
from gateway.settings import Settings, judge_settings, process_environment, read_settings

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
YES = click.option("--yes", is_flag=True, help="Do not ask.")
_S = TypeVar("_S")
port_option = partial(click.option, show_default=True, type=click.IntRange(0, 65_535))
_TIME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d):\d\d.*$")
"""ISO 8601; people see it to the minute."""
_WIDE = 8
"""Rows with more fields are shown as blocks."""
SCHEMA_MISSING = "the database's schema is missing or older: run `python -m gateway db apply`."


# -- what the operator sees ------------------------------------------------------------------------------------------


class Commands(click.Group):
    """The root group: an error ends a command with sentences and exit code 2."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.exceptions.Abort, click.ClickException, BrokenPipeError):
            raise
        except SettingsRefused as refused:
            fail(*refused.problems, starting=context.invoked_subcommand in ("demo", "serve", "worker"))
        except FunctionMissing:
            fail(SCHEMA_MISSING)
        except ProviderNotEnabled as error:
            fail(f"{error}: `python -m gateway providers list` names them.")
        except (PartnerRefused, DatabaseUnavailable) as error:
            fail(f"{error}.")
        except GatewayError as error:
            fail(f"{error.title} ({error}).")
        except OSError as error:
            fail(file_problem(error))
        except Exception as error:  # noqa: BLE001 - a traceback may quote a secret
            frames = traceback.extract_tb(error.__traceback__)
            place = next(frame for frame in reversed(frames) if "/gateway/" in frame.filename or frame is frames[0])
            where = f"{Path(place.filename).name}:{place.lineno}"
            fail(f"{where}: {type(error).__name__}. This is a bug of the gateway: please report it.")


def file_problem(error: OSError) -> str:
    reason = os.strerror(error.errno).lower() if error.errno else type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space there, or let GATEWAY_DATA name a folder on another disk"
    elif error.errno == errno.ENOENT and not error.filename:
        fix = "the working directory does not exist any more, change to another one"
    else:
        fix = "use a folder that this account may write (the gateway's own is GATEWAY_DATA)"
    return f"{where}{reason}: {fix}."


def fail(*problems: str, starting: bool = False) -> NoReturn:
    """Print all problems, each with its fix, and end with exit code 2."""
    click.echo("This cannot start yet:" if starting else "This cannot be done:", err=True)
    for problem in problems:
        click.echo(f"  - {problem}", err=True)
    sys.exit(2)


class Report(NamedTuple):
    """The result of a command: JSON with `--json`, else `lines`, by default made of `value`. The command ends with 1 unless it is `ok`."""

    value: Any
    lines: Iterable[str] | None = None
    ok: bool = True


def reporting(command: Callable[..., Report]) -> Callable[..., None]:
    """Give a command the option `--json`, and print the Report that it returns."""

    @AS_JSON
    @wraps(command)
    def run(*, as_json: bool, **options: Any) -> None:
        report = command(**options)
        if as_json:
            click.echo(to_json(report.value))
        else:
            for line in rendered(report.value) if report.lines is None else report.lines:
                click.echo(line)
        sys.exit(0 if report.ok else 1)

    return run


def rendered(value: Any) -> Iterator[str]:
    """A result for people: each field on a line; rows as a table, or as blocks where they have many fields."""
    value = to_jsonable_python(value)
    if isinstance(value, dict):
        for name, item in value.items():
            label = name.replace("_", " ")
            if isinstance(item, dict) or (isinstance(item, list) and item and isinstance(item[0], dict)):
                yield label
                yield from (f"  {line}" for line in rendered(item))
            else:
                yield f"{label:<20} {_cell(item)}"
    elif any(len(row) > _WIDE for row in value):
        for row in value:
            yield from rendered(row)
            yield ""
    elif value:
        rows = [[name.replace("_", " ") for name in value[0]], *(list(map(_cell, row.values())) for row in value)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return _TIME.sub(r"\1", "".join(letter for letter in text if letter.isprintable())) or "–"


def printable(name: str | None) -> str:
    """Text from a user or a provider, without terminal control characters."""
    return "".join(letter for letter in name or "" if letter.isprintable())[:60]


def counted(count: int, noun: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def confirm(consequence: str, *, yes: bool) -> None:
    """Ask before a step that cannot be undone; without a terminal, require `--yes`."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{consequence} This cannot be undone: add --yes to continue without a question.")
    click.confirm(f"{consequence} This cannot be undone. Continue?", abort=True, err=True)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """
    Set at the first Ctrl-C or SIGTERM, so that the step under way is finished; a second one interrupts as usual.

    This thread looks at it and never waits for it: a signal that arrives while `wait` takes the event's lock would wait for that lock.
    """
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: FrameType | None) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def carry_out(steps: Iterable[_S], progress: Callable[[_S], tuple[str, int, int]]) -> tuple[_S, bool]:
    """Carry out one step or more, with their progress on a line of the terminal; the last one, and whether the user interrupted there."""
    with interruptible() as stopped:
        for step in steps:
            title, count, total = progress(step)
            if sys.stderr.isatty():
                click.echo(f"\r{title}: {count:,} of {total:,}", err=True, nl=count >= total)
            if stopped.is_set():
                break
    return step, stopped.is_set()


# -- settings --------------------------------------------------------------------------------------------------------


def database_settings() -> Settings:
    """The settings for database commands, which need no keys: these have a random one."""
    return read_settings(
        process_environment() | {"GATEWAY_KEYS_FILE": "", "GATEWAY_KEYS": Fernet.generate_key().decode()}
    )


def starting_settings(*, embedded: bool = False) -> tuple[Settings, Catalog]:
    """What `serve`, `worker` and `doctor` start with; the journal can be written. Raises SettingsRefused with every problem at once."""
    environ = process_environment()
    settings, problems = judge_settings(environ)
    if not (embedded or database_is_set(environ) or uses_embedded(environ)):
        problems.append(NO_DATABASE)
    catalog, further = checked_catalog(settings)
    if problems or further:
        raise SettingsRefused(*problems, *further)
    with closing(open_journal(settings)) as journal:
        journal.check()
    return settings, catalog


def database_is_set(environ: Mapping[str, str]) -> bool:
    names = ("DATABASE_URL", "DATABASE_URL_FILE", "SUPABASE_SECRET_KEY", "SUPABASE_SECRET_KEY_FILE")
    return any(environ.get(name, "").strip() for name in names)


def uses_embedded(environ: Mapping[str, str]) -> bool:
    """
    Whether these settings lead to the embedded Postgres.

    A public gateway, or one with a Supabase project, uses that only where `serve --embedded` has created it: a forgotten
    DATABASE_URL must not look like an empty installation.
    """
    public = environ.get("GATEWAY_PUBLIC_URL", "").strip().lower().startswith("https://") or environ.get("SUPABASE_URL")
    exists = holds_database(Path(environ.get("GATEWAY_DATA") or "var"))
    return not database_is_set(environ) and (not public or exists)


def checked_providers(names: Sequence[str] = ()) -> Catalog:
    """The catalogue, without the operator's scopes. Raises SettingsRefused when one of `names` is not in it."""
    settings = database_settings()
    catalog = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts)
    if unknown := [name for name in names if catalog.entries.get(name) is None]:
        raise SettingsRefused(f"there is no provider {', '.join(unknown)}: `providers list` names them.")
    return catalog


# -- the database ----------------------------------------------------------------------------------------------------


class ReachedDatabase(NamedTuple):
    database: Database
    settings: Settings
    is_embedded: bool

    @property
    def dsn(self) -> str:
        """Of a direct connection; empty for the project's REST API."""
        return self.settings.database_url.get_secret_value() if self.settings.database_url else ""

    @property
    def place(self) -> str:
        """Where it is, without a password."""
        if self.is_embedded:
            return f"embedded Postgres in {self.settings.data}"
        if not self.dsn:
            return f"REST API of {self.settings.supabase_url}"
        found = conninfo_to_dict(read_dsn(self.dsn)[0])
        return f"Postgres {found.get('dbname', '')} at {found.get('host', '')}:{found.get('port') or 5432} as {found.get('user', '')}"

    def schema(self) -> SchemaState:
        """Its schema; of version 0 when there is none."""
        try:
            return self.database.check()
        except Unexpected as error:
            problem = f"the database cannot be used ({error}): check the role or key, and the address."
            raise SettingsRefused(problem) from None
        except DatabaseUnavailable as error:
            fix = "" if self.dsn else ": check SUPABASE_URL, and whether the project is running or paused"
            raise SettingsRefused(f"{error}{fix}.") from None


@contextmanager
def reach_database(*, existing: bool = False, embedded: bool = False) -> Iterator[ReachedDatabase]:
    """
    The database that is set, or the embedded one: joined or started, and created unless it must be `existing`.

    Meanwhile DATABASE_URL names the embedded one, for this process and its children. Raises SettingsRefused where a database was
    forgotten, unless the operator asks for the `embedded` one.
    """
    settings = database_settings()
    is_embedded = settings.database_url is None and settings.supabase_secret_key is None
    if is_embedded and not embedded and not uses_embedded(process_environment()):
        raise SettingsRefused(NO_DATABASE)
    if is_embedded and existing and not holds_database(settings.data):
        fail(f"there is no database in {settings.data}/ yet: set GATEWAY_DATA or DATABASE_URL as `serve` has it.")
    with ExitStack() as stack:
        if is_embedded:
            os.environ["DATABASE_URL"] = stack.enter_context(start_or_join(settings.data)).dsn
            stack.callback(os.environ.pop, "DATABASE_URL", None)
            settings = database_settings()
        database = stack.enter_context(closing(open_database(settings)))
        yield ReachedDatabase(database, settings, is_embedded)


@contextmanager
def checked_database(*, existing: bool = True, embedded: bool = False) -> Iterator[ReachedDatabase]:
    """A database whose schema is current; the embedded one is brought up to date."""
    with reach_database(existing=existing, embedded=embedded) as database:
        schema = database.schema()
        if database.is_embedded and schema["version"] <= SCHEMA_VERSION:
            apply_schema(database.dsn)
        elif not schema["is_current"]:
            raise SettingsRefused(SCHEMA_MISSING if database.dsn else f"{NOT_RELOADED}.")
        yield database


@contextmanager
def opened_database(*, existing: bool = True) -> Iterator[Database]:
    """The database, for commands that need no other setting."""
    with checked_database(existing=existing) as reached:
        yield reached.database


@contextmanager
def opened_runtime() -> Iterator[Runtime]:
    """The Runtime of this environment, over a database whose schema is current."""
    with checked_database(), closing(build_runtime(*judge_settings())) as rt:
        yield rt
