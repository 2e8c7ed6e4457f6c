"""
`python -m gateway …` in a process of its own, without the seconds that its imports take: a fork of one that has imported everything.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["gateway.cli.main", "gateway.server", "gateway.web.app", "tests.support.database", "tests.support.frozen"]
)


class Command:
    """The process, with what tests need of `subprocess.Popen`. Its output is appended to `log`."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], log: Path) -> None:
        self._process = CONTEXT.Process(target=_run, args=(arguments, dict(environ), log))
        self._process.start()
        self.pid: int = self._process.pid or 0

    def poll(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("gateway", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: tuple[str, ...], environ: dict[str, str], log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environ)

    from gateway.cli.main import main

    main(arguments, prog_name="python -m gateway")
