"""`keys …`: the encryption keys."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain

import click
from cryptography.fernet import Fernet

from gateway.cli.context import Report, carry_out, opened_runtime, rendered, reporting
from gateway.connections.rotate_keys import Report as Rotated
from gateway.connections.rotate_keys import require_newest_key_everywhere, rotate

_SHOWN = 20


@click.group()
def keys() -> None:
    """The encryption keys."""


@keys.command("new")
def keys_new() -> None:
    """Print a new key for GATEWAY_KEYS."""
    click.echo(Fernet.generate_key().decode("ascii"))


@keys.command("rotate")
@click.option("--check", is_flag=True, help="Only count values that are encrypted with an older key.")
@reporting
def keys_rotate(*, check: bool) -> Report:
    """Encrypt everything again with the newest key, while the gateway runs; ends with 1 if something is left."""
    with opened_runtime() as rt:
        if not check:
            require_newest_key_everywhere(rt)
        title = "Looking" if check else "Encrypting again"
        report, interrupted = carry_out(rotate(rt, check=check), lambda at: (title, at.looked_at, at.total))
    clean = report.is_clean and not interrupted
    counts = asdict(report) | {"unreadable": len(report.unreadable), "interrupted": interrupted, "clean": clean}
    whole = counts | {"unreadable_places": report.unreadable[:_SHOWN]}
    return Report(whole, chain(rendered(whole), _next_steps(report, interrupted=interrupted)), ok=clean)


def _next_steps(report: Rotated, *, interrupted: bool) -> Iterator[str]:
    if report.old_key:
        yield "Some values are still encrypted with an older key: run `python -m gateway keys rotate`."
    if report.unreadable:
        yield "Put the key that encrypted the unreadable ones back into GATEWAY_KEYS, or ask their users to connect again."
    if interrupted:
        yield "Interrupted: run it again to continue."
    elif report.is_clean:
        yield "Everything in the database is encrypted with the newest key."
        yield "If there is an older key, keep it for a day: the refresh journals of the hosts and open attempts to connect still need it."
