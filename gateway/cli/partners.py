"""`partners …`: partners, their keys, and freezes. A key is printed once, when it is made."""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, get_args

import click

from gateway.cli.context import YES, Report, checked_providers, confirm, fail, opened_database, rendered, reporting
from gateway.database.queries import partners as queries
from gateway.partners.admin import SCOPES, NewKey, Reach, add_key, add_partner, set_partner

ADDRESS = click.option(
    "--address", "addresses", multiple=True, metavar="CIDR", help="A network the key may be used from; repeatable."
)
EXPIRES = click.option("--expires-days", type=int, help="The key expires after this many days.")
SCOPE_HELP = f"One of {', '.join(SCOPES)}; repeatable."


@click.group()
def partners() -> None:
    """Partners and their keys."""


@partners.command("add")
@click.argument("name")
@click.option("--scope", "scope", multiple=True, required=True, help=SCOPE_HELP)
@click.option("--provider", "providers", multiple=True, help="Repeatable; without it, every provider.")
@click.option(
    "--reach",
    type=click.Choice(get_args(Reach)),
    required=True,
    help="own: connections whose users consented. all: every connection, for the product's own back end.",
)
@ADDRESS
@EXPIRES
@click.option("--reads-per-hour", type=int, help="Token reads; with reach own 10000 by default, else no limit.")
@click.option(
    "--connections-per-hour",
    type=int,
    help="Different connections whose tokens are read; with reach own 1000 by default, else no limit.",
)
@click.option("--freeze-on-alert", is_flag=True, help="Freeze the partner when it exceeds a limit.")
@reporting
def partners_add(name: str, **options: Any) -> Report:
    """Add a partner, and print its first key."""
    checked_providers(options["providers"])
    with opened_database(existing=False) as database:
        key = add_partner(database, name, **options)
    return _shown_once(key, {"partner_id": key.partner_id, "key": key.text})


def _read_limit(_context: click.Context, _option: click.Parameter, text: str | None) -> str | int | None:
    if text in (None, "none"):
        return text
    if not (text.isascii() and text.isdecimal()):
        raise click.BadParameter("write a whole number, or none.")
    return int(text)


@partners.command("set")
@click.argument("name")
@click.option("--scope", "scope", multiple=True, help=f"Replaces the scopes. {SCOPE_HELP}")
@click.option(
    "--provider", "providers", multiple=True, help="Replaces the providers; repeatable. `all`: every provider."
)
@click.option("--reach", type=click.Choice(get_args(Reach)), help="Replaces the reach, and with it the default limits.")
@click.option("--reads-per-hour", metavar="NUMBER|none", callback=_read_limit, help="Token reads.")
@click.option(
    "--connections-per-hour",
    metavar="NUMBER|none",
    callback=_read_limit,
    help="Different connections whose tokens are read.",
)
@click.option(
    "--freeze-on-alert/--no-freeze-on-alert", default=None, help="Freeze the partner when it exceeds a limit."
)
@reporting
def partners_set(name: str, **options: Any) -> Report:
    """Change a partner; options left out stay as they are. Its keys stay valid."""
    changes = {option: value for option, value in options.items() if value not in (None, ())}
    if not changes:
        fail("name what to change: `partners set --help` lists the options.")
    if changes.get("providers") != ("all",):
        checked_providers(changes.get("providers", ()))
    changes = {
        option: None if value in ("none", ("all",)) else sorted(set(value)) if isinstance(value, tuple) else value
        for option, value in changes.items()
    }
    with opened_database() as database:
        set_partner(database, name, changes)
        (partner,) = queries.list_partners(database, name)["partners"]
    return Report(partner, [_line(partner)])


@partners.command("list")
@reporting
def partners_list() -> Report:
    """Every partner and its keys (not their text), and what is frozen."""
    with opened_database() as database:
        found = queries.list_partners(database)
    return Report(found, _lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    for partner in found["partners"]:
        yield _line(partner)
        yield from (f"  {line}" for line in rendered(partner["keys"]))
    yield from (f"frozen: {'all token reads' if target == 'reads' else target}" for target in found["frozen"])
    if not found["partners"]:
        yield "There are no partners: `partners add` makes one."


def _line(partner: Mapping[str, Any]) -> str:
    state = "revoked" if partner["revoked_at"] else "frozen" if partner["frozen_at"] else "live"
    where = ", ".join(partner["providers"]) if partner["providers"] is not None else "every provider"
    used = ", ".join(
        f"{partner[f'{what}_this_hour']} {what}{f' of {limit}' if (limit := partner[f'{what}_per_hour']) else ''}"
        for what in ("reads", "connections")
    )
    frozen = "; frozen when it exceeds a limit" if partner["freeze_on_alert"] else ""
    scope = " ".join(partner["scope"])
    return f"{partner['name']} ({state}): reach {partner['reach']}, {where}; {scope}; this hour {used}{frozen}"


@partners.command("keys")
@click.argument("name")
@click.option("--new", is_flag=True, help="Make a second key; options left out are those of the newest key.")
@click.option("--revoke", type=click.UUID, metavar="KEY_ID", help="Revoke a key.")
@ADDRESS
@EXPIRES
@reporting
def partners_keys(name: str, *, new: bool, revoke: uuid.UUID | None, **options: Any) -> Report:
    """The keys of a partner; make a new one, or revoke one."""
    if new and revoke:
        fail("--new and --revoke are two steps: make the new key, and revoke the old one when it is not used any more.")
    if any(value not in (None, ()) for value in options.values()) and not new:
        fail("--address and --expires-days are set when a key is made: use them with --new.")
    with opened_database() as database:
        if new:
            key = add_key(database, name, **options)
            return _shown_once(key, {"partner_id": key.partner_id, "key_id": key.key_id, "key": key.text})
        if revoke is not None:
            return _revoked(queries.revoke(database, name, revoke), f"key {revoke}")
        found = queries.list_partners(database, name)["partners"] or _fail_unknown(f"partner {name}")
        return Report(found[0]["keys"])


@partners.command("revoke")
@click.argument("name")
@YES
@reporting
def partners_revoke(name: str, *, yes: bool) -> Report:
    """Revoke a partner and all its keys, permanently. Connections stay."""
    with opened_database() as database:
        if queries.list_partners(database, name)["partners"]:
            confirm(f"{name} and all its keys will be revoked. Connections stay.", yes=yes)
        return _revoked(queries.revoke(database, name), f"partner {name}")


@partners.command("freeze")
@click.argument("name", required=False)
@click.option("--provider", help="All tokens of that provider, for every caller.")
@click.option("--reads", is_flag=True, help="All tokens, for every caller.")
@click.option("--off", is_flag=True, help="Thaw it.")
@reporting
def partners_freeze(name: str | None, provider: str | None, *, reads: bool, off: bool) -> Report:
    """Freeze a partner, the tokens of a provider, or all token reads; --off thaws."""
    if [name is not None, provider is not None, reads].count(True) != 1:
        fail("name one thing to freeze: a partner, --provider, or --reads.")
    if provider is not None and not off:
        checked_providers([provider])
    with opened_database(existing=False) as database:
        changed = queries.freeze(database, partner=name, provider=provider, reads=reads, off=off)
    if changed is None:
        _fail_unknown(f"partner {name}")
    return Report({"frozen": not off, "changed": changed})


def _shown_once(key: NewKey, value: Mapping[str, object]) -> Report:
    click.echo(f"This key is shown once and not stored: keep it now. Its id is {key.key_id}.", err=True)
    return Report(value, [key.text])


def _revoked(changed: bool | None, what: str) -> Report:  # noqa: FBT001 - the database's answer
    if changed is None:
        _fail_unknown(what)
    return Report({"revoked": True, "changed": changed})


def _fail_unknown(what: str) -> NoReturn:
    fail(f"there is no {what}: `partners list` names them")
