"""
`python -m gateway demo`: everything running on one machine, without a setting.

An embedded Postgres, the gateway on http://localhost, and the sandbox on http://127.0.0.1 (another site, so that cookies behave as
in production). The gateway runs as it does in production; only the settings differ, and the catalogue's addresses, which a
generated override points at the sandbox.
"""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.request import urlopen

import click
from cryptography.fernet import Fernet

from gateway.cli.context import port_option
from gateway.database import Database, open_postgres
from gateway.database.migrate import apply_schema
from gateway.database.queries import partners as queries
from gateway.embedded.postgres import start_or_join
from gateway.errors import SettingsRefused
from gateway.partners.admin import SCOPES, NewKey, Reach, add_key, add_partner

_START_SECONDS = 30
_SANDBOX = (sys.executable, "-m", "gateway.sandbox")
PARTNERS: dict[str, tuple[str, tuple[str, ...], Reach]] = {
    "northwind": ("Northwind back end", SCOPES, "all"),
    "acme": ("Acme Analytics", ("connections:read", "tokens:read", "sessions:write", "events:read"), "own"),
}
"""The demo's partners: the product's own server, and another company's."""


@click.command()
@port_option("--port", default=8000, help="The gateway's port, on localhost.")
@port_option("--sandbox-port", default=8001, help="The sandbox's port, on 127.0.0.1.")
def demo(port: int, sandbox_port: int) -> None:
    """Run everything on this machine, without settings: database, gateway, and a sandbox that simulates the providers."""
    from gateway.server import bind, run_server

    data = Path(os.environ.get("GATEWAY_DATA") or "var") / "demo"
    bind("127.0.0.1", port).close()
    bind("127.0.0.1", sandbox_port, "--sandbox-port").close()
    # As root, Postgres runs under another account, which needs access.
    data.mkdir(parents=True, exist_ok=True, mode=0o711)
    public, sandbox = f"http://localhost:{port}", f"http://127.0.0.1:{sandbox_port}"
    with start_or_join(data) as server:
        if server.joined:
            raise SettingsRefused(f"A demo runs in {data} already: end it, or set GATEWAY_DATA to another folder.")
        apply_schema(dsn := server.dsn)
        with closing(open_postgres(dsn)) as database:
            partners = {owner: _new_key(database, *partner).text for owner, partner in PARTNERS.items()}
        keys = {"SANDBOX_PARTNER_KEYS": json.dumps(partners), "SANDBOX_DATABASE_URL": dsn}
        simulator = subprocess.Popen(  # noqa: S603 - our own module
            [*_SANDBOX, "--port", str(sandbox_port), "--gateway", public, "--until-stdin-closes"],
            env=os.environ | keys,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_for(f"{sandbox}/", simulator)
            settings = demo_settings(data, public, sandbox, dsn)
            os.environ.update(settings)
            shown = (public, sandbox, command_settings(data, settings))
            threading.Thread(target=_announce, args=shown, daemon=True).start()
            run_server("127.0.0.1", port, 1)
        finally:
            simulator.terminate()
            simulator.wait(5)


# -- settings --------------------------------------------------------------------------------------------------------


def demo_settings(data: Path, public: str, sandbox: str, dsn: str) -> dict[str, str]:
    """The environment of a gateway for the sandbox's product and providers, which says how. Writes the catalogue override into `data`."""
    overrides = data / "catalog"
    overrides.mkdir(parents=True, exist_ok=True)
    with urlopen(f"{sandbox}/_sandbox/gateway", timeout=10) as answer:  # noqa: S310 - our own address on loopback
        found = json.load(answer)
    (overrides / "sandbox.toml").write_text(found["catalog"], encoding="utf-8")
    key_file = data / "keys"
    if not key_file.exists():
        key_file.touch(mode=0o600)
        key_file.write_text(Fernet.generate_key().decode("ascii"), encoding="utf-8")
    return {
        "GATEWAY_PUBLIC_URL": public,
        "GATEWAY_KEYS": key_file.read_text(encoding="utf-8"),
        "GATEWAY_DATA": str(data),
        "GATEWAY_CATALOG": str(overrides),
        "GATEWAY_ALLOW_PRIVATE_HOSTS": "1",
        "GATEWAY_UNCLAIMED_INSTALLS": "1",
        "DATABASE_URL": dsn,
        **found["settings"],
    }


def command_settings(data: Path, settings: dict[str, str]) -> Path:
    """
    A file for the shell of another terminal, so that commands there use this gateway's settings; written into `data`.

    It holds neither the key nor the database's address: those are found by the key's file and the data folder.
    """
    here = data.resolve()
    exports = {name: text for name, text in settings.items() if name not in ("GATEWAY_KEYS", "DATABASE_URL")}
    paths = {"GATEWAY_DATA": here, "GATEWAY_CATALOG": here / "catalog", "GATEWAY_KEYS_FILE": here / "keys"}
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in (exports | paths).items()]
    file = data / "env"
    file.write_text("\n".join(["unset DATABASE_URL GATEWAY_KEYS", *lines, ""]), encoding="utf-8")
    return file


# -- starting --------------------------------------------------------------------------------------------------------


def _new_key(database: Database, name: str, scope: tuple[str, ...], reach: Reach) -> NewKey:
    """A new key of a partner; keys of an earlier run are revoked."""
    existing = queries.list_partners(database, name)["partners"]
    if not existing or existing[0]["revoked_at"]:
        return add_partner(database, name, scope=scope, reach=reach)
    for key in existing[0]["keys"]:
        queries.revoke(database, name, uuid.UUID(key["id"]))
    return add_key(database, name)


def _wait_for(url: str, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        if process is not None and process.poll() is not None:
            raise SettingsRefused(f"the sandbox could not start: is the port of {url} taken? Try --sandbox-port.")
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - our own address on loopback
                return
        except OSError:
            time.sleep(0.05)
    raise SettingsRefused(f"{url} does not answer")


def _announce(public: str, sandbox: str, env: Path) -> None:
    _wait_for(f"{public}/readyz")
    bold = partial(click.style, bold=True)
    click.echo(
        f"\nThe demo is running. {bold(f'Open {sandbox}')} and click “Connect HighLevel”.\n\n"
        f"A small product with two signed-in users runs there, and simulated providers.\n"
        f"That page also shows a partner's call to paste into a terminal, and a partner's link to click.\n"
        f"The gateway itself is at {public}. Nothing leaves this machine.\n\n"
        f"For commands, in another terminal: {bold(f'. {shlex.quote(str(env))}')}\n"
        f"and then, for example, python -m gateway partners list\n\nCtrl-C stops everything."
    )
