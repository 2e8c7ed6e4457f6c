"""`init`: asks for the settings that an installation needs, and writes `.env`."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
from cryptography.fernet import Fernet
from dotenv import dotenv_values

from gateway.catalog import Catalog, load_catalog
from gateway.cli.context import YES, fail
from gateway.errors import SettingsRefused
from gateway.settings import Settings, process_environment, read_settings

FILE = Path(".env")
_PLAIN = re.compile(r"[\w.,:;/@%+=?&~*!()\[\]-]*")


@dataclass(frozen=True, slots=True)
class Question:
    """One setting: the option that answers it, its name, and what is asked. A secret is read without echo."""

    option: str
    name: str
    text: str
    example: str = ""
    is_secret: bool = False


QUESTIONS = (
    Question("public_url", "GATEWAY_PUBLIC_URL", "Public URL of the gateway", "http://localhost:8000"),
    Question("trusted_proxies", "GATEWAY_TRUSTED_PROXIES", "Reverse proxies in front of it", "0"),
    Question(
        "supabase_url", "SUPABASE_URL", "URL of your Supabase project (http://127.0.0.1:54321 after `supabase start`)"
    ),
    Question("database_url", "DATABASE_URL", "Connection string of the database", is_secret=True),
    Question(
        "supabase_secret_key", "SUPABASE_SECRET_KEY", "Or the project's secret key, for its REST API", is_secret=True
    ),
    Question("app_origin", "GATEWAY_APP_ORIGINS", "Origin of your front end, like https://app.example.com"),
    Question("login_url", "GATEWAY_APP_LOGIN_URL", "Its sign-in page"),
)


@click.command()
@click.option("--public-url", help="The gateway's origin.")
@click.option("--trusted-proxies", help="The number of reverse proxies in front.")
@click.option("--supabase-url", help="The Supabase project whose users sign in.")
@click.option("--database-url", help="Postgres. Asked without echo when left out.")
@click.option("--supabase-secret-key", help="Without a database URL: the project's REST API. Asked without echo.")
@click.option("--app-origin", help="Your front end's origin; several separated by commas.")
@click.option("--login-url", help="Your front end's sign-in page.")
@click.option("--provider", help="The first provider: an id in the catalogue, like ghl or google.")
@click.option("--client-id", help="Your registration there.")
@click.option("--client-secret", help="Its secret. Asked without echo.")
@YES
def init(
    *, yes: bool, provider: str | None, client_id: str | None, client_secret: str | None, **given: str | None
) -> None:
    """Ask for the settings that an installation needs, make a key, and write `.env`; --yes takes options alone."""
    present = process_environment()
    own = Path(present["GATEWAY_CATALOG"]) if present.get("GATEWAY_CATALOG") else None
    catalog = load_catalog(own, allow_private_hosts=present.get("GATEWAY_ALLOW_PRIVATE_HOSTS") == "1")
    chosen: dict[str, str] = {}
    if not yes:
        click.echo("Enter keeps what is in brackets, or leaves the setting out. Ctrl-C writes nothing.")
    for question in QUESTIONS:
        if (
            question.name == "SUPABASE_SECRET_KEY"
            and (present | chosen).get("DATABASE_URL")
            and given[question.option] is None
        ):
            continue
        _answer(question, given[question.option], present, chosen, ask=not yes)
    for question, answer in _registration(catalog, provider, client_id, client_secret, ask=not yes):
        _answer(question, answer, present, chosen, ask=not yes)
    made = not present.get("GATEWAY_KEYS") and not present.get("GATEWAY_KEYS_FILE")
    if made:
        chosen["GATEWAY_KEYS"] = Fernet.generate_key().decode("ascii")
    settings = read_settings(present | chosen)
    _write(chosen, yes=yes)
    for line in _what_next(settings, catalog, made=made):
        click.echo(line)


# -- questions -------------------------------------------------------------------------------------------------------


def _answer(
    question: Question, given: str | None, present: Mapping[str, str], chosen: dict[str, str], *, ask: bool
) -> None:
    """Add the answer to `chosen`. An invalid one is asked again, or ends the command."""
    before = present.get(question.name, "")
    while True:
        value = (_prompt(question, before, chosen) if given is None and ask else given or "").strip()
        if not value or value == before:
            return
        problem = _problem(question.name, value, {**present, **chosen})
        if problem is None:
            chosen[question.name] = value
            return
        if given is not None or not ask:
            fail(problem)
        click.echo(f"  {problem}", err=True)


def _prompt(question: Question, before: str, chosen: Mapping[str, str]) -> str:
    if question.is_secret:
        more = " (Enter keeps the present one)" if before else " (Enter: none)"
        return str(click.prompt(question.text + more, default="", hide_input=True, show_default=False))
    example = question.example
    if question.name == "GATEWAY_TRUSTED_PROXIES" and chosen.get("GATEWAY_PUBLIC_URL", "").startswith("https://"):
        example = "1"
    if question.name == "GATEWAY_APP_LOGIN_URL" and "GATEWAY_APP_ORIGINS" in chosen:
        example = chosen["GATEWAY_APP_ORIGINS"].split(",")[0].rstrip("/") + "/login"
    default = before or example
    return str(click.prompt(question.text, default=default, show_default=bool(default)))


def _registration(
    catalog: Catalog, provider: str | None, client_id: str | None, client_secret: str | None, *, ask: bool
) -> Iterator[tuple[Question, str | None]]:
    """The two settings of the first provider."""
    while True:
        chosen = provider
        if chosen is None and ask:
            chosen = click.prompt("First provider (an id like ghl or google)", default="", show_default=False)
        if not chosen:
            if client_id or client_secret:
                fail("--client-id and --client-secret need --provider.")
            return
        if catalog.get(chosen) is not None:
            break
        if provider is not None:
            fail(f"there is no provider {chosen}: `providers list` names them.")
        click.echo(f"  There is no provider {chosen}.", err=True)
    name = chosen.upper()
    yield Question("client_id", f"{name}_CLIENT_ID", f"Client id at {catalog.providers[chosen].name}"), client_id
    yield Question("client_secret", f"{name}_CLIENT_SECRET", "Its secret", is_secret=True), client_secret


def _problem(name: str, value: str, others: Mapping[str, str]) -> str | None:
    """What is wrong with one value, in a sentence that does not repeat it."""
    if not value.isprintable() or "${" in value:
        return f"{name} has a character that .env cannot hold: put it into a file, and set {name}_FILE."
    related = {"SUPABASE_URL": others["SUPABASE_URL"]} if others.get("SUPABASE_URL") else {}
    try:
        read_settings(related | {"GATEWAY_KEYS": Fernet.generate_key().decode("ascii"), name: value})
    except SettingsRefused as refused:
        return next((problem for problem in refused.problems if problem.startswith(f"{name} ")), None)
    return None


# -- the file --------------------------------------------------------------------------------------------------------


def _write(chosen: Mapping[str, str], *, yes: bool) -> None:
    """Replace the file in one step; it keeps its other lines. Only its owner may read it."""
    file = FILE.resolve()
    before = file.read_text(encoding="utf-8") if file.exists() else ""
    if not chosen:
        click.echo("Nothing to change in .env.")
        return
    if before and not yes:
        click.confirm(f".env exists. Change {', '.join(chosen)} in it?", default=True, abort=True)
    lines = before.splitlines()
    for name, value in chosen.items():
        lines = _with_setting(lines, name, value)
    part = file.with_name(f".env.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
            out.flush()
            os.fsync(out.fileno())
        if dotenv_values(part) != {**dotenv_values(file), **chosen}:
            fail(".env has lines that this command cannot change safely: edit it by hand.")
        part.replace(file)
    except OSError as error:
        fail(f".env cannot be written: {(error.strerror or '').lower()}.")
    finally:
        part.unlink(missing_ok=True)
    click.echo("Wrote .env; only its owner may read it.")


def _with_setting(lines: list[str], name: str, value: str) -> list[str]:
    """The lines with the setting in place of its first mention, or at the end."""
    old = re.compile(rf"\s*(export\s+)?{name}\s*=")
    at = next((index for index, line in enumerate(lines) if old.match(line)), len(lines))
    return [*lines[:at], f"{name}={_quoted(value)}", *(line for line in lines[at:] if not old.match(line))]


def _quoted(value: str) -> str:
    """Plain where possible: `docker run --env-file` takes quotes for a part of the value."""
    if _PLAIN.fullmatch(value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _what_next(settings: Settings, catalog: Catalog, *, made: bool) -> Iterator[str]:
    if made:
        yield "It has a new key, GATEWAY_KEYS. Back it up: without it no stored token can be decrypted."
    for provider in filter(None, map(catalog.get, settings.clients)):
        yield f"\nRegister this redirect URI at {provider.name}, exactly:"
        yield f"  {settings.redirect_uri(provider.path, provider.slug)}"
    embedded = settings.database_url is None and settings.supabase_secret_key is None
    if embedded:
        yield "\nNo database is set: compose.yaml brings one, and `serve --embedded` runs its own."
    yield "\nNext:"
    if not embedded:
        yield "  python -m gateway db apply"
    yield "  python -m gateway doctor"
    yield f"  python -m gateway serve{' --embedded' if embedded else ''}"
