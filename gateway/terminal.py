"""
What the commands stand on: sound settings, a database, and one way to say what has to be mended.

Looks only; what is done with them is the commands' business.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click

from gateway.config import Settings, read_settings
from gateway.errors import GatewayError, SettingsRefused
from gateway.runtime import judged_catalog
from gateway.store import Store, open_rest_store, open_store


def fail(problems: list[str]) -> NoReturn:
    """Says them all, each with its mend, and ends with 2."""
    click.echo("This cannot start yet:", err=True)
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
        _, problems = judged_catalog(settings)
    except SettingsRefused as refused:
        fail(refused.problems)
    if problems and whole:
        fail(problems)
    return settings


def secret(name: str) -> str:
    """A setting by itself, as it is or from its file; "" for none. Commands on the database need no others."""
    if os.environ.get(name + "_FILE"):
        try:
            return Path(os.environ[name + "_FILE"]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            fail([f"{name}_FILE cannot be read: name a text file that this process may read."])
    return os.environ.get(name, "").strip()


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
def reach_database() -> Iterator[Database]:
    """The database that is set, or an embedded one, joined or started."""
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
    from gateway.store.embedded import embedded_postgres

    with embedded_postgres(Path(os.environ.get("GATEWAY_DATA") or "var")) as dsn:
        yield Database(dsn, own=True)


@contextmanager
def checked_database() -> Iterator[MutableMapping[str, str]]:
    """The environment, in which DATABASE_URL leads to a database whose schema will do; else ends with what to mend."""
    from gateway.serving import check_rest_schema, check_schema

    with reach_database() as database:
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
