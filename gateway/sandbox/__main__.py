"""
`python -m gateway.sandbox`: the sandbox as a separate process.

Keys of the partners whose servers it simulates come as JSON in the environment variable `SANDBOX_PARTNER_KEYS`: every account on the
machine can read arguments.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import types

from .app import OFFERS
from .server import make_server

_ENDING = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C reaches every process of the terminal, and the parent's SIGTERM follows: only the first counts."""


def main() -> int:
    """Serve until interrupted or terminated."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.sandbox", description="Simulates the catalogue's providers."
    )
    parser.add_argument("--port", type=int, default=8001, help="port to listen on (default 8001; 0 takes a free one)")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--gateway", default="http://localhost:8000", help="origin of the gateway that is sent here")
    parser.add_argument("--origin", action="append", default=[], help="further origin that redirect URIs may point to")
    parser.add_argument("--offer", default=",".join(OFFERS), help="providers that the front end has buttons for")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when the parent process ends")
    chosen = parser.parse_args()
    offers = [name for name in chosen.offer.split(",") if name]
    keys = json.loads(os.environ.pop("SANDBOX_PARTNER_KEYS", "{}"))
    server = make_server(chosen.port, gateway=chosen.gateway, bind=chosen.bind, origins=chosen.origin, offers=offers)
    server.state.partner_keys.update(keys)
    server.state.database = os.environ.pop("SANDBOX_DATABASE_URL", "")
    for number in _ENDING:
        signal.signal(number, _interrupt)
    if chosen.until_stdin_closes:
        threading.Thread(target=_watch_stdin, daemon=True).start()
    sys.stdout.write(f"Sandbox on {server.origin} for the gateway on {server.state.gateway}\n")
    sys.stdout.flush()
    try:
        server.serve()
    except KeyboardInterrupt:
        server.stop()
    return 0


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _watch_stdin() -> None:
    """The pipe closes when the parent ends, in any way."""
    while os.read(sys.stdin.fileno(), 1024):  # past the buffer, whose lock would be missed at exit
        continue
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
