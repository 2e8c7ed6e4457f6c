"""
Starting the server: the schema is looked at first, then granian takes over.

64 blocking threads a process: waiting readers hold threads, and a provider that hangs must not take them all.
"""

from __future__ import annotations

import errno
import socket
import sys

from flask import Flask

from gateway import create_app
from gateway.errors import DatabaseUnavailable, NotFound, SettingsRefused, Unexpected
from gateway.presence import keep_announcing
from gateway.store import SCHEMA_VERSION, Store, apply_schema, open_store
from gateway.worker import start_worker

BLOCKING_THREADS = 64


def schema_version(store: Store) -> int | None:
    """The version that stands in the database, None where there is none. Closes `store`."""
    try:
        return int(store.schema()["version"]) or None
    except (NotFound, Unexpected):
        return None
    finally:
        store.close()


def check_schema(dsn: str, *, own: bool) -> None:
    """
    Raises SettingsRefused, naming `db apply`, when the schema is missing or older than this gateway.

    `own`: an embedded database is nobody's but ours, so its schema is simply brought up to date.
    """
    try:
        version = schema_version(open_store(dsn))
        if own and (version is None or version <= SCHEMA_VERSION):
            apply_schema(dsn)
            return
    except DatabaseUnavailable:
        raise SettingsRefused(
            ["the database does not answer: check DATABASE_URL and whether Postgres is running"]
        ) from None
    _judge(version)


def check_rest_schema(store: Store) -> None:
    """The same for a Supabase project's REST API, over which no schema can be applied. Closes `store`."""
    try:
        version = schema_version(store)
    except DatabaseUnavailable as error:
        raise SettingsRefused(
            [f"the project's REST API does not answer ({error}): check SUPABASE_URL and whether the project is paused"]
        ) from None
    _judge(version)


def _judge(version: int | None) -> None:
    if version is None or version < SCHEMA_VERSION:
        raise SettingsRefused(["the database's schema is missing or older: run `python -m gateway db apply`"])


def served_app() -> Flask:
    """The application in one of our own server's processes, with a worker beside it."""
    app = served_app_alone()
    start_worker(app.extensions["gateway"])
    return app


def served_app_alone() -> Flask:
    """The same where workers have processes of their own."""
    app = create_app()
    keep_announcing(app.extensions["gateway"])
    return app


def require_free(host: str, port: int, option: str) -> None:
    """Raises SettingsRefused if somebody listens there: granian would share the port with them, or panic."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # not REUSEPORT, which is how it would be shared
            try:
                probe.bind(address)
            except OSError as error:
                why = "is in use by another program" if error.errno == errno.EADDRINUSE else "cannot be listened on"
                mend = f"stop that program, or choose another with {option}"
                raise SettingsRefused([f"Port {port} of {host} {why}: {mend}."]) from None


def run_server(host: str, port: int, workers: int, *, work: bool = True, quiet: bool = False) -> None:
    """Serves until it is told to stop; requests under way are finished. `work`: with a worker in each process."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    Granian(
        "gateway.serving:served_app" if work else "gateway.serving:served_app_alone",
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=workers,
        blocking_threads=BLOCKING_THREADS,
        backpressure=BLOCKING_THREADS,
        websockets=False,
        log_level=LogLevels.error if quiet else LogLevels.info,
        respawn_failed_workers=True,
        workers_kill_timeout=2 if quiet else 15,
    ).serve()


def python_module(*arguments: str) -> list[str]:
    """The command line of another of our processes, by this interpreter."""
    return [sys.executable, "-m", *arguments]
