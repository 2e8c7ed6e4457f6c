"""
What the commands stand on: sound settings, a database, and one way to say what has to be mended.

Looks only; what is done with them is the commands' business.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click

from gateway.catalog import load_catalog
from gateway.database import FunctionMissing, Store, open_rest_store, open_store
from gateway.errors import GatewayError, SettingsRefused
from gateway.log_setup import start_log
from gateway.services import Runtime, build_runtime, checked_catalog
from gateway.settings import Settings, read_settings


def fail(problems: list[str], *, starting: bool = False) -> NoReturn:
    """Says them all, each with its mend, and ends with 2. `starting`: what cannot be done is to start."""
    click.echo("This cannot start yet:" if starting else "This cannot be done:", err=True)
    for problem in problems:
        click.echo(f"  - {problem}", err=True)
    sys.exit(2)


def judged_settings(*, whole: bool = False) -> Settings:
    """
    The settings of this environment, or all that is wrong with them and exit code 2.

    `whole`: registrations and scopes too, for what is to serve with them.
    """
    try:
        settings = read_settings(os.environ)
        _, problems = checked_catalog(settings)
    except SettingsRefused as refused:
        fail(refused.problems, starting=whole)
    if problems and whole:
        fail(problems, starting=True)
    return settings


def secret(name: str) -> str:
    """A setting by itself, as it is or from its file; "" for none. Commands on the database need no others."""
    if os.environ.get(name + "_FILE"):
        try:
            return Path(os.environ[name + "_FILE"]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            fail([f"{name}_FILE cannot be read: name a text file that this process may read."])
    return os.environ.get(name, "").strip()


def plainly(name: str | None) -> str:
    """What a user or a provider wrote, without what would steer the operator's terminal."""
    return "".join(letter for letter in name or "" if letter.isprintable())[:60]


def counted(count: int, noun: str) -> str:
    """`1 connection`, `2 connections`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def ask_first(says: str, *, yes: bool) -> None:
    """Before what cannot be undone: asks, unless there is a `--yes`; where nobody can be asked it is not done without one."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail([f"{says} There is no way back: add --yes where nobody can be asked."])
    click.confirm(f"{says} There is no way back. Go on?", abort=True, err=True)


def judge_providers(given: Sequence[str]) -> None:
    """Ends with 2 for one that is not in the catalogue: misspelt, it would be one that nobody ever connects."""
    folder = os.environ.get("GATEWAY_CATALOG")
    try:
        catalog = load_catalog(
            Path(folder) if folder else None,
            allow_private_hosts=os.environ.get("GATEWAY_ALLOW_PRIVATE_HOSTS") == "1",
        )
    except SettingsRefused as refused:
        fail(refused.problems)
    unknown = [provider for provider in given if catalog.get(provider) is None]
    if unknown:
        fail([f"there is no provider {', '.join(unknown)}: `providers list` names them."])


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Set at the first Ctrl-C or SIGTERM, so that what is at hand is finished; a second one interrupts as usual."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        put_back()

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        put_back()


@dataclass(frozen=True)
class Database:
    """Where the database is: `dsn` of one that is reached directly, ours if `own`; else the project's REST API."""

    dsn: str = ""
    own: bool = False
    project: str = ""

    def store(self) -> Store:
        """The store over it, not connected yet."""
        if self.dsn:
            return open_store(self.dsn)
        bundle = os.environ.get("GATEWAY_CA_BUNDLE")
        key = secret("SUPABASE_SECRET_KEY")
        return open_rest_store(self.project, key, ca_bundle=Path(bundle) if bundle else None)


@contextmanager
def reach_database(*, made: bool = False) -> Iterator[Database]:
    """The database that is set, or an embedded one, joined or started. `made`: for who would find nothing in one made just now."""
    url = secret("DATABASE_URL")
    if url and not url.startswith(("postgres://", "postgresql://")):
        fail(["DATABASE_URL is not a Postgres address: write it like postgresql://user:password@host:5432/name."])
    if url:
        yield Database(url)
        return
    if secret("SUPABASE_SECRET_KEY"):
        project = os.environ.get("SUPABASE_URL", "").strip().rstrip("/")
        if not project.startswith(("https://", "http://")):
            fail(["SUPABASE_SECRET_KEY needs SUPABASE_URL too: it names the project."])
        yield Database(project=project)
        return
    from gateway.embedded.paths import holds_one
    from gateway.embedded.postgres import embedded_postgres

    folder = Path(os.environ.get("GATEWAY_DATA") or "var")
    if made and not holds_one(folder):
        fail(
            [
                f"there is no database in {folder}/ yet: set GATEWAY_DATA or DATABASE_URL as for the gateway that you mean."
            ]
        )
    with embedded_postgres(folder) as dsn:
        yield Database(dsn, own=True)


@contextmanager
def opened_store() -> Iterator[Store]:
    """The store over it, for commands that need no other setting; what goes wrong under it ends the command, and is said."""
    with _said(), reach_database(made=True) as database:
        store = database.store()
        try:
            yield store
        finally:
            store.close()


@contextmanager
def opened_runtime() -> Iterator[Runtime]:
    """All instruments, over a database whose schema will do; the same of what goes wrong."""
    start_log()
    with _said(), checked_database(made=True) as environ:
        rt = build_runtime(read_settings(environ))
        try:
            yield rt
        finally:
            rt.store.close()
            rt.outbound.close()


@contextmanager
def _said() -> Iterator[None]:
    try:
        yield
    except SettingsRefused as refused:
        fail(refused.problems)
    except FunctionMissing:
        fail(["the schema is missing or older: run `python -m gateway db apply`."])
    except GatewayError as error:
        fail([f"{error.meaning} ({error})"])


@contextmanager
def checked_database(*, made: bool = False) -> Iterator[MutableMapping[str, str]]:
    """The environment, in which DATABASE_URL leads to a database whose schema will do; else ends with what to mend. `made`: as above."""
    from gateway.server import check_rest_schema, check_schema

    with reach_database(made=made) as database:
        try:
            if database.dsn:
                check_schema(database.dsn, own=database.own)
                os.environ["DATABASE_URL"] = database.dsn
                os.environ.pop("DATABASE_URL_FILE", None)
            else:
                check_rest_schema(database.store())
        except SettingsRefused as refused:
            fail(refused.problems)
        except GatewayError as error:
            fail([str(error)])
        yield os.environ
