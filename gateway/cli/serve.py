"""`serve` and `worker`: the two processes of an installation."""

import os

import click
import structlog

from gateway import __version__
from gateway.catalog import Catalog
from gateway.cli.context import checked_database, database_is_set, interruptible, port_option, starting_settings
from gateway.errors import SettingsRefused
from gateway.services import NO_DATABASE
from gateway.settings import Settings, forget_secrets, ignored_parameters, process_environment

log = structlog.get_logger(__name__)


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 in a container."
)
@port_option("--port", default=8000, envvar="PORT", show_envvar=True, help="Or the variable PORT.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--no-worker", is_flag=True, help="Do no background work: `worker` runs in another process.")
@click.option("--embedded", is_flag=True, help="Run its own Postgres, in GATEWAY_DATA.")
def serve(host: str, port: int, workers: int, *, no_worker: bool, embedded: bool) -> None:
    """Serve the pages and the API."""
    from gateway.server import bind, run_server

    settings, catalog = starting_settings(embedded=embedded)
    has_database = database_is_set(process_environment())
    if embedded and has_database:
        raise SettingsRefused("--embedded starts a database, and the settings name another one: remove one of the two.")
    if not embedded and not has_database and (settings.secure or settings.supabase_url):
        raise SettingsRefused(NO_DATABASE)
    bind(host, port).close()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with checked_database(existing=False, embedded=embedded) as database:
        _log_start(settings, catalog, address, database.place, workers=workers, work=not no_worker)
        run_server(host, port, workers, work=not no_worker)


def _log_start(settings: Settings, catalog: Catalog, address: str, database: str, *, workers: int, work: bool) -> None:
    """What this installation is, in five lines; `server.ready` follows. No secret."""
    log.info("server.starting", version=__version__, address=address, public_url=settings.public_url, processes=workers)
    ignored = {"ignored_parameters": names} if (names := list(ignored_parameters(settings))) else {}
    log.info("server.database", database=database, **ignored)
    log.info("server.sign_in", project=settings.supabase_url or "none: no user can sign in, set SUPABASE_URL")
    enabled = [provider for provider in catalog.providers.values() if provider.id in settings.clients]
    log.info("server.providers", redirect_uris={each.id: each.redirect_uri(settings.public_url) for each in enabled})
    log.info("server.worker", worker="in each process" if work else "none here: run `python -m gateway worker`")


@click.command()
def worker() -> None:
    """Do the background work: refreshes, revocations, events. Any number of workers, on any machine."""
    from gateway.worker.loop import run_workers

    starting_settings()
    with checked_database(existing=False), interruptible() as stopped:
        environ = process_environment()
        forget_secrets(os.environ)
        run_workers(environ, stopped)
