"""
The Runtime: built once per process, the first argument of every service.

Nothing in it belongs to a request. The database pool and the connections to providers open when first used, so that a
Runtime may be made before a server forks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches

from gateway import __version__
from gateway.catalog import AnyEntry, Catalog, Provider, read_catalog
from gateway.crypto.vault import Vault
from gateway.database import Database, open_postgres, open_rest
from gateway.errors import GatewayError, ProviderFailed, ProviderNotEnabled, SettingsRefused
from gateway.http import Bulkhead, Deadline, HttpClient, Response
from gateway.identity import Identity
from gateway.models import Client
from gateway.protocol.issuers import Issuers
from gateway.protocol.message import HttpRequest
from gateway.protocol.oauth import find_grant
from gateway.settings import Settings
from gateway.tokens.response_journal import ResponseJournal

NO_DATABASE = (
    "DATABASE_URL is missing: set it, or SUPABASE_SECRET_KEY for the project's REST API; `serve --embedded` runs on a Postgres of "
    "its own in GATEWAY_DATA."
)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a service needs, and nothing of any request."""

    settings: Settings
    catalog: Catalog
    clients: Mapping[str, Client]
    vault: Vault
    bulkhead: Bulkhead
    http: HttpClient
    issuers: Issuers
    identity: Identity
    database: Database
    journal: ResponseJournal
    enabled: Mapping[str, AnyEntry]
    """What users may connect: we have a registration there, or it is in GATEWAY_ENABLE."""
    now: Callable[[], datetime]

    def close(self) -> None:
        self.database.close()
        self.http.close()
        self.identity.issuers.http.close()

    def entry(self, provider_id: str, missing: type[GatewayError] = ProviderNotEnabled) -> AnyEntry:
        """The enabled provider of that id. Raises `missing`: of a connection, ClientRejected says that the operator has to act."""
        entry = self.catalog.named.get(provider_id)
        if entry is None or entry.id not in self.enabled:
            raise missing("no enabled provider of that id")
        return entry

    def provider(self, provider_id: str, missing: type[GatewayError] = ProviderNotEnabled) -> Provider:
        entry = self.entry(provider_id, missing)
        if not isinstance(entry, Provider):
            raise missing("the provider does not speak OAuth")
        return entry

    def registered(self) -> list[Provider]:
        return [provider for provider in self.catalog.providers.values() if provider.id in self.clients]

    def request_tokens(self, provider: Provider, request: HttpRequest, deadline: Deadline) -> Response:
        """
        The response to a token request. Where the connection broke, or the size is wrong, the part that came is the response if it is JSON
        with tokens in it: they are valid, and a provider that rotates accepts no other refresh token.
        """
        try:
            return self.http.request(
                request.method,
                request.url,
                headers=request.headers,
                body=request.body,
                deadline=deadline,
                provider=provider.id,
                limit=provider.response_bytes,
            )
        except ProviderFailed as error:
            part: Response | None = error.partial
            # Of a form that was cut, the last token may lack its end.
            if part is None or part.status >= 300 or part.body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"{":  # noqa: PLR2004
                raise
            if find_grant(part.body) is None:
                raise
            return part

    def seconds_until(self, moment: datetime | None) -> float | None:
        """For the database to add to its own clock: this process's clock may be wrong."""
        return None if moment is None else (moment - self.now()).total_seconds()


def utc_now() -> datetime:
    return datetime.now(UTC)


def checked_catalog(settings: Settings) -> tuple[Catalog, list[str]]:
    """
    The catalogue with the operator's scopes in it, and what is wrong with provider files, scopes and registrations.

    A name that is in no provider file may be in one that is wrong.
    """
    loaded, problems = read_catalog(
        settings.catalog, allow_private_hosts=settings.allow_private_hosts, webhook_keys=settings.webhook_keys
    )
    entries = dict(loaded.entries)
    if not problems:
        problems += _not_enabled(settings.enable, loaded)
        problems += (
            f"{name.upper()}_WEBHOOK_PUBLIC_KEY is for no provider that sends webhooks: remove it."
            for name in settings.webhook_keys
            if name not in loaded.providers or loaded.providers[name].webhooks is None
        )
    for name in sorted(settings.scopes.keys() & loaded.providers.keys()):
        provider = loaded.providers[name]
        try:
            entries[name] = Provider.model_validate(provider.model_dump() | {"scope": settings.scopes[name]})
        except ValueError:
            problems.append(
                f"{name.upper()}_SCOPE does not fit {provider.name}: write scopes in plain ASCII without quotes, and openid only "
                "where the catalogue has an issuer or jwks_uri."
            )
    for name in sorted(settings.clients.keys() & loaded.providers.keys()):
        provider = loaded.providers[name]
        if provider.needs_secret and not settings.clients[name].client_secret:
            problems.append(f"{name.upper()}_CLIENT_SECRET is missing: {provider.name} needs it beside the client id.")
    return Catalog.of(entries.values()), problems


def _not_enabled(names: Iterable[str], catalog: Catalog) -> Iterator[str]:
    offered = catalog.entries.keys() - catalog.providers
    for name in names:
        if name in catalog.providers:
            yield f"GATEWAY_ENABLE names {name}, which needs a registration: set {name.upper()}_CLIENT_ID instead."
        elif name not in offered:
            near = get_close_matches(name, offered, n=1)
            fix = f"did you mean {near[0]}?" if near else "`python -m gateway providers list` has their names."
            yield f"GATEWAY_ENABLE names {name}, which is no provider with API keys: {fix}"


def open_database(settings: Settings) -> Database:
    """Postgres directly where DATABASE_URL is set, else the Supabase project's REST API. Connects when it is first used."""
    if settings.database_url is not None:
        return open_postgres(settings.database_url.get_secret_value())
    if settings.supabase_url is None or settings.supabase_secret_key is None:
        raise SettingsRefused(NO_DATABASE)
    key = settings.supabase_secret_key.get_secret_value()
    return open_rest(settings.supabase_url, key, ca_bundle=settings.ca_bundle, https_proxy=settings.https_proxy)


def open_journal(settings: Settings, vault: Vault | None = None) -> ResponseJournal:
    """The journal of this host; in memory where GATEWAY_JOURNAL is 0. Raises SettingsRefused when it cannot be written."""
    vault = vault or Vault([key.get_secret_value() for key in settings.keys])
    return ResponseJournal(vault, settings.data / "journal" if settings.journal else None)


def build_runtime(
    settings: Settings, problems: Sequence[str] = (), *, now: Callable[[], datetime] = utc_now
) -> Runtime:
    """The Runtime for `settings`. Raises SettingsRefused with their `problems`, and those of catalogue, registrations and database."""
    catalog, further = checked_catalog(settings)
    is_named = any(problem.startswith(("DATABASE_URL", "SUPABASE_")) for problem in problems)
    if settings.database_url is None and settings.supabase_secret_key is None and not is_named:
        further.append(NO_DATABASE)
    if problems or further:
        raise SettingsRefused(*problems, *further)
    bulkhead = Bulkhead()
    http = HttpClient(
        allow_private=settings.allow_private_hosts,
        ca_bundle=settings.ca_bundle,
        bulkhead=bulkhead,
        https_proxy=settings.https_proxy,
        user_agent=f"oauth-gateway/{__version__} (+{settings.public_url})",
    )
    issuers = Issuers(http, bulkhead=bulkhead)
    # The operator names the project's address, so it may be a private one, over plain http too.
    project = HttpClient(
        allow_private=True, ca_bundle=settings.ca_bundle, bulkhead=bulkhead, https_proxy=settings.https_proxy
    )
    vault = Vault([key.get_secret_value() for key in settings.keys])
    in_order = sorted(catalog.entries.values(), key=lambda each: (each.type, each.name.lower()))
    clients = {name: client for name, client in settings.clients.items() if name in catalog.providers}
    return Runtime(
        settings=settings,
        catalog=catalog,
        clients=clients,
        enabled={each.id: each for each in in_order if each.id in clients or each.id in settings.enable},
        vault=vault,
        bulkhead=bulkhead,
        http=http,
        issuers=issuers,
        identity=Identity(settings, Issuers(project, bulkhead=bulkhead)),
        database=open_database(settings),
        journal=open_journal(settings, vault),
        now=now,
    )
