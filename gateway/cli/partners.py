"""
`partners …`: who may call `/v1` with a key of its own, and what is frozen.

A key is printed once, when it is made. These commands need the database and no other setting.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import click

from gateway.cli.context import ask_first, checked_database, fail, judge_providers, reach_database
from gateway.database import Store
from gateway.errors import GatewayError
from gateway.partners import admin as room

AS_JSON = click.option("--json", "as_json", is_flag=True)
ADDRESS = click.option(
    "--address", "addresses", multiple=True, metavar="CIDR", help="A network the key may be used from; repeatable."
)
EXPIRES = click.option("--expires-days", type=int, help="After so many days the key is refused.")

SCOPE_HELP = f"One of {', '.join(room.SCOPES)}; repeatable. No call uses {' or '.join(room.UNUSED)} yet."


@click.group()
def partners() -> None:
    """Who may call /v1 with a key."""


@partners.command("add")
@click.argument("name")
@click.option("--scope", "scope", multiple=True, required=True, help=SCOPE_HELP)
@click.option("--provider", "providers", multiple=True, help="Repeatable; without it, every provider.")
@click.option(
    "--reach",
    type=click.Choice(get_args(room.Reach)),
    required=True,
    help="own: what its users consented to. all: every connection, for the product's own back end.",
)
@ADDRESS
@EXPIRES
@click.option("--reads-per-hour", type=int, help="Token reads; 10000 unless told.")
@click.option("--connections-per-hour", type=int, help="Different connections whose tokens are read; 1000 unless told.")
@click.option("--freeze-on-alert", is_flag=True, help="Over a limit, the partner is frozen until you thaw it.")
@AS_JSON
def add(name: str, *, as_json: bool, **said: Any) -> None:
    """Add a partner, and print its first key."""
    judge_providers(said["providers"])
    with _store() as store:
        _show_key(room.add_partner(store, name, **said), as_json=as_json)


@partners.command("list")
@AS_JSON
def list_(*, as_json: bool) -> None:
    """Every partner and its keys, less the keys themselves; and what is frozen."""
    with _store(made=True) as store:
        found = store.partners()
    if as_json:
        click.echo(json.dumps(found))
        return
    for partner in found["partners"]:
        click.echo(_line(partner))
        for key in partner["keys"]:
            click.echo(_key_line(key))
    for target in found["frozen"]:
        click.echo(f"frozen: {'all token reads' if target == 'reads' else target}")
    if not found["partners"]:
        click.echo("There are no partners: `partners add` makes one.")


@partners.command("keys")
@click.argument("name")
@click.option("--new", is_flag=True, help="Make one more; two may live. What is not said is as with the newest.")
@click.option("--revoke", type=click.UUID, metavar="KEY_ID", help="Refuse one from now on.")
@ADDRESS
@EXPIRES
@AS_JSON
def keys(
    name: str,
    *,
    new: bool,
    revoke: uuid.UUID | None,
    addresses: tuple[str, ...],
    expires_days: int | None,
    as_json: bool,
) -> None:
    """The keys of a partner; make a new one, or revoke one."""
    if new and revoke:
        fail(["--new and --revoke are two steps: first the new key, then, when nobody uses the old one, its end."])
    if (addresses or expires_days is not None) and not new:
        fail(["--address and --expires-days are decided when a key is made: they go with --new."])
    with _store(made=True) as store:
        if new:
            key = room.add_key(store, name, addresses=addresses, expires_days=expires_days)
            _show_key(key, as_json=as_json, key_id=str(key.key_id))
            return
        if revoke is not None:
            _tell_revoked(store.revoke_key(name=name, key_id=revoke), f"key {revoke}", as_json=as_json)
            return
        found = store.partners(name)["partners"]
    if not found:
        fail([f"there is no partner named {name}: `partners list` names them"])
    if as_json:
        click.echo(json.dumps(found[0]["keys"]))
        return
    for key in found[0]["keys"]:
        click.echo(_key_line(key))


@partners.command("revoke")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@AS_JSON
def revoke_(name: str, *, yes: bool, as_json: bool) -> None:
    """Refuse a partner and all of its keys, for good. Connections stay."""
    with _store(made=True) as store:
        if store.partners(name)["partners"]:
            ask_first(f"{name} and all of its keys will be refused. Connections stay.", yes=yes)
        _tell_revoked(store.revoke_partner(name), name, as_json=as_json)


@partners.command("freeze")
@click.argument("name", required=False)
@click.option("--provider", help="Every token of that provider, for everybody.")
@click.option("--reads", is_flag=True, help="Every token, for everybody.")
@click.option("--off", is_flag=True, help="Thaw it.")
@AS_JSON
def freeze(name: str | None, provider: str | None, *, reads: bool, off: bool, as_json: bool) -> None:
    """Stop a partner, the tokens of a provider, or all token reads, at once; --off lets them go on."""
    if [name is not None, provider is not None, reads].count(True) != 1:
        fail(["say one thing to freeze: the name of a partner, --provider, or --reads."])
    if provider is not None and not off:
        judge_providers((provider,))
    with _store() as store:
        changed = store.freeze(partner=name, provider=provider, reads=reads, off=off)
    if changed is None:
        fail([f"there is no partner named {name}: `partners list` names them"])
    if as_json:
        click.echo(json.dumps({"frozen": not off, "changed": changed}))
        return
    what = name or (f"every token of {provider}" if provider else "every token read")
    click.echo(f"{what}: {'thawed' if off else 'frozen'}{'' if changed else ' already'}.")


# -- saying it -------------------------------------------------------------------------------------------------------


@contextmanager
def _store(*, made: bool = False) -> Iterator[Store]:
    """The store, whose schema will do; what goes wrong ends with a sentence. `made`: not one that would be made just now."""
    with checked_database(made=made), reach_database() as database:
        store = database.store()
        try:
            yield store
        except room.PartnerRefused as refused:
            fail([f"{refused}."])
        except GatewayError as error:
            fail([f"{error.meaning} ({error})"])
        finally:
            store.close()


def _show_key(key: room.NewKey, *, as_json: bool, **more: str) -> None:
    if as_json:
        click.echo(json.dumps({"partner_id": str(key.partner_id), **more, "key": key.text}))
        return
    click.echo(key.text)
    click.echo(f"This is shown once, and kept nowhere: store it now. Its id is {key.key_id}.", err=True)


def _tell_revoked(revoked: bool | None, what: str, *, as_json: bool) -> None:  # noqa: FBT001 - a question's answer
    if revoked is None:
        fail([f"there is no {what}: `partners list` names them"])
    if as_json:
        click.echo(json.dumps({"revoked": True, "changed": revoked}))
    else:
        click.echo(f"{what}: {'refused from now on' if revoked else 'was revoked already'}.")
    sys.exit(0)


def _line(partner: Mapping[str, Any]) -> str:
    state = "revoked" if partner["revoked_at"] else "frozen" if partner["frozen_at"] else "live"
    where = ", ".join(partner["providers"]) if partner["providers"] is not None else "every provider"
    limits = f"{partner['reads_per_hour']} reads of {partner['connections_per_hour']} connections an hour"
    return f"{partner['name']} ({state}): reach {partner['reach']}, {where}; {' '.join(partner['scope'])}; {limits}" + (
        ", frozen when over" if partner["freeze_on_alert"] else ""
    )


def _key_line(key: Mapping[str, Any]) -> str:
    """One key; times to the minute, in UTC as the database writes them."""
    said = [f"  {key['id']}  …{key['hint']}  made {key['created_at'][:16]}"]
    said += [f"from {', '.join(key['addresses'])}"] if key["addresses"] else []
    said += [f"until {key['expires_at'][:16]}"] if key["expires_at"] else []
    said += (
        [f"last used {key['last_used_at'][:16]} from {key['last_used_from']}"]
        if key["last_used_at"]
        else ["never used"]
    )
    said += [f"revoked {key['revoked_at'][:16]}"] if key["revoked_at"] else []
    return ", ".join(said)
