"""
The assembled instruments: one Runtime a process, made once, passed first to every service.

Nothing in it belongs to a request. The database pool and the connections to providers open when first used, so that a
Runtime may be made before a server forks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway import __version__
from gateway.catalog import Catalog, Provider, load_catalog
from gateway.crypto.vault import Vault
from gateway.database import Store, open_rest_store, open_store
from gateway.errors import NotFound, SettingsRefused
from gateway.http import Outbound
from gateway.identity import Identity
from gateway.models import Client
from gateway.protocol.discovery import Issuers
from gateway.settings import Settings
from gateway.tokens.response_journal import Journal, NoJournal


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a service needs, and nothing of any request."""

    settings: Settings
    catalog: Catalog
    clients: Mapping[str, Client]
    vault: Vault
    outbound: Outbound
    issuers: Issuers
    identity: Identity
    store: Store
    journal: Journal | NoJournal
    now: Callable[[], datetime]

    @property
    def database(self) -> Store:
        """What the functions in gateway.database.queries take first."""
        return self.store

    def provider(self, provider_id: str) -> Provider:
        """The enabled provider of that id; NotFound when there is none or we have no registration there."""
        provider = self.catalog.get(provider_id)
        if provider is None or provider_id not in self.clients:
            raise NotFound("no enabled provider of that id")
        return provider

    def enabled(self) -> list[Provider]:
        """The providers that users may connect, as the catalogue orders them."""
        return [provider for provider in self.catalog.providers.values() if provider.id in self.clients]

    def redirect_uri(self, provider: Provider) -> str:
        """The one redirect URI of a provider (RFC 9700 section 4.4.2), from the public URL alone, never from a request."""
        return f"{self.settings.public_url}/{provider.path}/{provider.slug}/callback"


def utc_now() -> datetime:
    """The time by this machine's clock, in UTC."""
    return datetime.now(UTC)


def _with_scopes(catalog: Catalog, scopes: Mapping[str, tuple[str, ...]]) -> tuple[Catalog, list[str]]:
    """The catalogue with the operator's scopes in it, judged as a whole once more, and what is wrong with them."""
    providers, problems = [], []
    for provider in catalog.providers.values():
        try:
            providers.append(
                Provider.model_validate(provider.model_dump() | {"scope": scopes.get(provider.id, provider.scope)})
            )
        except ValueError:
            problems.append(
                f"{provider.id.upper()}_SCOPE does not fit {provider.name}: openid needs an issuer or jwks_uri."
            )
    return Catalog(providers), problems


def _store(settings: Settings) -> Store:
    """Postgres directly where DATABASE_URL says so, else the project's REST API."""
    if settings.database_url is not None:
        return open_store(settings.database_url.get_secret_value())
    if settings.supabase_url is None or settings.supabase_secret_key is None:
        raise SettingsRefused(["DATABASE_URL is missing."])
    key = settings.supabase_secret_key.get_secret_value()
    return open_rest_store(settings.supabase_url, key, ca_bundle=settings.ca_bundle)


def judged_catalog(settings: Settings) -> tuple[Catalog, list[str]]:
    """
    The catalogue as the settings make it, and what does not fit in scopes and registrations.

    Raises SettingsRefused when a provider file does not.
    """
    catalog = load_catalog(settings.catalog, allow_private_hosts=settings.allow_private_hosts)
    catalog, problems = _with_scopes(catalog, settings.scopes)
    problems += [
        f"{name.upper()}_CLIENT_SECRET is missing: {provider.name} needs it beside the client id."
        for name, provider in catalog.providers.items()
        if name in settings.clients and not settings.clients[name].client_secret and provider.needs_secret
    ]
    return catalog, problems


def build_runtime(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Runtime:
    """The instruments for `settings`. Raises SettingsRefused when the catalogue or a registration does not fit."""
    catalog, problems = judged_catalog(settings)
    clients = {name: client for name, client in settings.clients.items() if catalog.get(name)}
    if settings.database_url is None and settings.supabase_secret_key is None:
        problems.append(
            "DATABASE_URL is missing, and SUPABASE_SECRET_KEY too: `python -m gateway serve` starts a database of its own, "
            "a WSGI server does not."
        )
    if problems:
        raise SettingsRefused(problems)
    outbound = Outbound(
        allow_private=settings.allow_private_hosts,
        ca_bundle=settings.ca_bundle,
        user_agent=f"oauth-gateway/{__version__} (+{settings.public_url})",
    )
    issuers = Issuers(outbound)
    vault = Vault([key.get_secret_value() for key in settings.keys])
    return Runtime(
        settings=settings,
        catalog=catalog,
        clients=clients,
        vault=vault,
        outbound=outbound,
        issuers=issuers,
        identity=Identity(settings, issuers),
        store=_store(settings),
        journal=Journal(settings.data / "journal", vault) if settings.journal else NoJournal(),
        now=now,
    )
