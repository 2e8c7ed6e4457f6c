"""
A command of `python -m gateway`, run in this process: as in its own, without the second that the imports take.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from click.testing import CliRunner, Result

from gateway.cli.main import main


def run_command(environ: Mapping[str, str], *arguments: str) -> Result:
    """What it printed, and its exit code. The log is set up as before afterwards."""
    try:
        return CliRunner().invoke(main, arguments, env=environ)
    finally:
        structlog.reset_defaults()
