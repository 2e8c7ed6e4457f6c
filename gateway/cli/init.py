"""`init`: asks for the settings that an installation needs, and writes `.env`."""

import re
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
from cryptography.fernet import Fernet
from dotenv import dotenv_values, set_key

from gateway.catalog import Catalog, load_catalog
from gateway.cli.context import YES, fail
from gateway.errors import SettingsRefused
from gateway.settings import Settings, process_environment, read_settings

_PLAIN = re.compile(r"[\w.,:;/@%+=?&~*!()\[\]-]*")
"""Values that need no quotes: `docker run --env-file` takes quotes for a part of the value."""


class Question(NamedTuple):
    """A setting that is asked for; a secret is read without echo."""

    option: str
    name: str
    text: str
    is_secret: bool = False


_TABLES = tomllib.loads(Path(__file__).with_name("init.toml").read_text(encoding="utf-8"))
QUESTIONS = [Question(option, **table) for option, table in _TABLES.items()]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for question in reversed(QUESTIONS):
        command = click.option(f"--{question.option.replace('_', '-')}", help=f"{question.text}.")(command)
    return command


@click.command()
@_options
@click.option("--provider", help="The first provider: an id in the catalogue, like ghl or google.")
@click.option("--client-id", help="Your registration there.")
@click.option("--client-secret", help="Its secret.")
@YES
def init(*, yes: bool, provider: str | None, **given: str | None) -> None:
    """Ask for the settings that an installation needs, make a key, and write `.env`; --yes takes options and proposals."""
    present = process_environment()
    own = Path(present["GATEWAY_CATALOG"]) if present.get("GATEWAY_CATALOG") else None
    catalog = load_catalog(own, allow_private_hosts=present.get("GATEWAY_ALLOW_PRIVATE_HOSTS") == "1")
    chosen: dict[str, str] = {}

    def answer(question: Question) -> None:
        """Add the answer to `chosen`, unless it is the present value."""
        known, before = {**present, **chosen}, present.get(question.name, "")
        value = _ask(
            question,
            given[question.option],
            lambda value: _problem(question.name, value, known) if value not in ("", before) else None,
            default="" if question.is_secret else before or _proposal(question.name, chosen),
            yes=yes,
        )
        if value not in ("", before):
            chosen[question.name] = value

    if not yes:
        click.echo("Enter takes the value in brackets, else leaves the setting as it is. Ctrl-C writes nothing.")
    for question in QUESTIONS:
        needless = question.name == "SUPABASE_SECRET_KEY" and (present | chosen).get("DATABASE_URL")
        if given[question.option] or not needless:
            answer(question)
    for question in _registration(catalog, provider, given, yes=yes):
        answer(question)
    made = not present.get("GATEWAY_KEYS") and not present.get("GATEWAY_KEYS_FILE")
    if made:
        chosen["GATEWAY_KEYS"] = Fernet.generate_key().decode("ascii")
    settings = read_settings(present | chosen)
    _write(chosen, yes=yes)
    click.echo("\n".join(_what_next(settings, catalog, made=made)))


def _ask(question: Question, given: str | None, check: Callable[[str], str | None], *, default: str, yes: bool) -> str:
    """The option, else the answer to a prompt, asked until `check` finds no problem; "" for none."""
    asked, value = given is None and not yes, default if given is None else given
    while True:
        if asked:
            value = click.prompt(question.text, default, question.is_secret, show_default=bool(default))
        if not (problem := check(value.strip())):
            return value.strip()
        if not asked:
            raise click.BadParameter(problem)
        click.echo(f"Error: {problem}", err=True)


def _proposal(name: str, chosen: Mapping[str, str]) -> str:
    """A default that follows from earlier answers."""
    if name == "GATEWAY_TRUSTED_PROXIES":
        return "1" if chosen.get("GATEWAY_PUBLIC_URL", "").startswith("https://") else "0"
    if name == "GATEWAY_APP_LOGIN_URL" and (origins := chosen.get("GATEWAY_APP_ORIGINS")):
        return f"{origins.split(',')[0].strip('/ ')}/login"
    return "http://localhost:8000" if name == "GATEWAY_PUBLIC_URL" else ""


def _registration(
    catalog: Catalog, given: str | None, more: Mapping[str, str | None], *, yes: bool
) -> Iterator[Question]:
    """The two settings of the first provider."""

    def check(value: str) -> str | None:
        known = value.lower() in ("", *catalog.providers)
        return None if known else f"there is no provider {value}: `providers list` names them."

    question = Question("provider", "", "First provider (an id like ghl or google)")
    chosen = _ask(question, given, check, default="", yes=yes).lower()
    if chosen:
        name = catalog.providers[chosen].name
        yield Question("client_id", f"{chosen.upper()}_CLIENT_ID", f"Client id at {name}")
        yield Question("client_secret", f"{chosen.upper()}_CLIENT_SECRET", "Its secret", is_secret=True)
    elif more["client_id"] or more["client_secret"]:
        fail("--client-id and --client-secret need --provider.")


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
    file = Path(".env").resolve()
    if not chosen:
        click.echo("Nothing to change in .env.")
        return
    if file.exists() and not yes:
        click.confirm(f".env exists. Change {', '.join(chosen)} in it?", default=True, abort=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".env.") as folder:
        part = Path(folder) / file.name
        if file.exists():
            shutil.copyfile(file, part)
        for name, value in chosen.items():
            set_key(part, name, value, quote_mode="never" if _PLAIN.fullmatch(value) else "always")
        if dotenv_values(part) != {**dotenv_values(file), **chosen}:
            fail(".env has lines that this command cannot change safely: edit it by hand.")
        part.chmod(0o600)
        part.replace(file)
    click.echo(f"Wrote {', '.join(chosen)} to .env; only its owner may read it.")


def _what_next(settings: Settings, catalog: Catalog, *, made: bool) -> Iterator[str]:
    if made:
        yield "It has a new key, GATEWAY_KEYS. Back it up: without it no stored token can be decrypted."
    for provider in filter(None, map(catalog.providers.get, settings.clients)):
        yield f"\nRegister this redirect URI at {provider.name}, exactly:"
        yield f"  {provider.redirect_uri(settings.public_url)}"
    embedded = settings.database_url is None and settings.supabase_secret_key is None
    if embedded:
        yield "\nNo database is set: compose.yaml brings one, and `serve --embedded` runs its own."
    yield "\nNext:"
    steps = ("serve --embedded", "doctor  # in another terminal") if embedded else ("db apply", "doctor", "serve")
    yield from (f"  python -m gateway {step}" for step in steps)
