"""
The command line: `python -m gateway …`.

A command reads its arguments, calls a service and prints. A failure prints one sentence per problem.
"""

import click

from gateway import __version__
from gateway.cli.connections import connections
from gateway.cli.context import Commands
from gateway.cli.database import db
from gateway.cli.demo import demo
from gateway.cli.events import events
from gateway.cli.init import init
from gateway.cli.keys import keys
from gateway.cli.partners import partners
from gateway.cli.providers import doctor, providers
from gateway.cli.serve import serve, worker
from gateway.cli.webhooks import webhooks
from gateway.log_setup import start_log


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="oauth-gateway %(version)s")
def main() -> None:
    """The OAuth integration gateway."""
    start_log()  # to stderr, so that a result in JSON is the only thing on stdout


for command in (demo, init, serve, worker, doctor, db, keys, providers, partners, connections, events, webhooks):
    main.add_command(command)
