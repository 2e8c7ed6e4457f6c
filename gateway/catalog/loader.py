"""The catalogue: TOML tables, ours and the operator's, checked as a whole."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from gateway.catalog.api_key import ApiKeyProvider
from gateway.catalog.provider import ENDPOINTS, Provider, places
from gateway.errors import SettingsRefused, plain_reason
from gateway.settings import is_loopback

AnyEntry = Annotated[Provider | ApiKeyProvider, Field(discriminator="auth")]
"""A catalogue entry of any kind; `auth` says which."""
_ENTRY: TypeAdapter[AnyEntry] = TypeAdapter(AnyEntry)


@dataclass(frozen=True)
class Catalog:
    """
    Every entry by id, `named` by its id in addresses too; those that speak OAuth also as `providers`, and `by_slug` of the redirect URI
    `/<path>/<slug>/callback`.
    """

    entries: Mapping[str, AnyEntry]
    named: Mapping[str, AnyEntry]
    providers: Mapping[str, Provider]
    by_slug: Mapping[tuple[str, str], Provider]

    @classmethod
    def of(cls, entries: Iterable[AnyEntry]) -> "Catalog":
        by_id = {entry.id: entry for entry in entries}
        providers = {name: entry for name, entry in by_id.items() if isinstance(entry, Provider)}
        named = {entry.public_id: entry for entry in by_id.values()} | by_id
        return cls(by_id, named, providers, {(each.path, each.slug): each for each in providers.values()})


def load_catalog(folder: Path | None = None, *, allow_private_hosts: bool = False) -> Catalog:
    """As `read_catalog`. Raises SettingsRefused with every problem."""
    catalog, problems = read_catalog(folder, allow_private_hosts=allow_private_hosts)
    if problems:
        raise SettingsRefused(*problems)
    return catalog


def read_catalog(
    folder: Path | None, *, allow_private_hosts: bool, webhook_keys: Mapping[str, bytes] | None = None
) -> tuple[Catalog, list[str]]:
    """
    Our own entries, overridden key by key and extended by the TOML files in `folder`; and every problem, with its file and key.

    An entry that is wrong is not in it. `webhook_keys`: the operator's, by provider; they also hold for entries that are like that one.
    """
    problems: list[str] = []
    tables: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    files = list(_own_files())
    for file in sorted(folder.glob("*.toml")) if folder else ():
        try:
            files.append((file.name, tomllib.loads(file.read_text(encoding="utf-8-sig"))))
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"{file.name} cannot be read as TOML: {error}")
    for name, entries in files:
        for provider_id, entry in entries.items():
            if not isinstance(entry, dict):
                problems.append(f"{name}: {provider_id} is outside a table: put it below [name_of_the_provider].")
                continue
            tables.setdefault(provider_id, {}).update(entry)
            origin[provider_id] = name
    for provider_id, key in (webhook_keys or {}).items():
        if rule := tables.get(provider_id, {}).get("webhooks"):
            tables[provider_id]["webhooks"] = rule | {"public_key": key}
    found: list[AnyEntry] = []
    for provider_id, table in tables.items():
        entry = {**tables.get(str(table.get("like")), {}), **table}
        if str(entry.pop("like", provider_id)) not in tables:
            problems.append(f"{origin[provider_id]}: [{provider_id}] like names a provider that does not exist.")
        checked, wrong = _checked(provider_id, entry, allow_private_hosts=allow_private_hosts)
        problems += [f"{origin[provider_id]}: [{provider_id}] {text}" for text in wrong]
        found += [checked] if checked else []
    problems += _collisions(found, origin)
    return Catalog.of(found), problems


@cache
def _own_files() -> list[tuple[str, dict[str, Any]]]:
    """Read once: a process loads the catalogue several times when it starts."""
    files = sorted((Path(__file__).parent / "entries").glob("*/*.toml"))
    return [(file.name, tomllib.loads(file.read_text(encoding="utf-8"))) for file in files]


def _checked(
    provider_id: str, entry: Mapping[str, Any], *, allow_private_hosts: bool
) -> tuple[AnyEntry | None, list[str]]:
    if "id" in entry:
        return None, ["id is the name of the table: leave it out."]
    try:
        checked = _ENTRY.validate_python({"auth": "oauth2", "slug": provider_id, **entry, "id": provider_id})
    except ValidationError as refused:
        return None, [_sentence(error) for error in refused.errors(include_url=False, include_input=False)]
    urls = [(name, getattr(checked, name, None)) for name in ("issuer", *ENDPOINTS, "api_base_url")]
    if isinstance(checked, Provider):
        starts = {name for _, url in urls if url and url.startswith("{") for name in places(url[: url.index("}") + 1])}
        urls += [
            (name, part.pattern.pattern.replace("\\", "")) for name, part in checked.values.items() if name in starts
        ]
    wrong = [
        f"{name} {fault}"
        for name, url in urls
        if url and not url.startswith("{") and (fault := _url_problem(url, allow_private_hosts=allow_private_hosts))
    ]
    return checked, wrong


def _url_problem(url: str, *, allow_private_hosts: bool) -> str | None:
    if url.startswith("https://"):
        return None
    if allow_private_hosts and url.startswith("http://") and is_loopback(urlsplit(url).hostname or ""):
        return None
    return "is plain http: only https is spoken, except to loopback with GATEWAY_ALLOW_PRIVATE_HOSTS=1"


_TAGS = ("function-after", "oauth2", "api_key", "basic")
"""Steps of pydantic's path to an error that are no key of the table."""


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in _TAGS) or "the table"
    if error["type"] == "extra_forbidden":
        return f"{where} is not a known key: look it up in docs/providers.md."
    return f"{where}: {plain_reason(error)}."


def _collisions(entries: Iterable[AnyEntry], origin: Mapping[str, str]) -> list[str]:
    """Each provider has its own redirect URI (RFC 9700 section 4.4.2)."""
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for entry in entries:
        first = seen.setdefault((entry.path, entry.slug), entry.id)
        if first != entry.id:
            problems.append(f"{origin[entry.id]}: [{entry.id}] slug {entry.slug} is taken by {first}.")
        if entry.public_id != entry.id and entry.public_id in origin:
            problems.append(f"{origin[entry.id]}: [{entry.id}] slug {entry.slug} is the id of another provider.")
    return problems
