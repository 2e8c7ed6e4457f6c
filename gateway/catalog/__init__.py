"""
The catalogue: TOML tables become Providers, frozen and judged.

One table a provider, with the names of RFC 6749, 7591 and 8414 where those have one. The operator's own files override ours
key by key. Nine providers in ten are pure data; a deviation that is not has a name in `quirks`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from gateway.catalog.deviations import QUIRKS, Quirk
from gateway.errors import SettingsRefused
from gateway.settings import is_loopback

TYPES: Mapping[int, str] = {1: "crm", 2: "email", 3: "phone"}
"""The owner's provider types, and the public path of each."""

Url = Annotated[
    str, StringConstraints(pattern=r"^https?://[A-Za-z0-9._:*\[\]-]+([/?][!$-;=?A-\[\]^-~]*)?$", max_length=2000)
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
DottedPath = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Paths = tuple[DottedPath, ...]

ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "userinfo_endpoint",
    "jwks_uri",
)


class AccountRule(BaseModel):
    """
    Where the account's id and label stand, as dotted paths into the account answer, the id_token or the token response.

    `id` may name several paths: all of them make the id. `label` may too: the first that is there is shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[Paths, Field(min_length=1)]
    label: Paths = ()

    @field_validator("id", "label", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Provider(BaseModel):
    """One service that users connect to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    name: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    type: Literal[1, 2, 3]
    docs_url: Url | None = None
    issuer: Url | None = None
    authorization_response_iss_parameter_supported: bool = False
    issuer_pattern: str | None = None
    """For providers whose id_tokens name a tenant in `iss`: the issuer with `{tenantid}`, which the claim `tid` fills."""
    discovery_url: Url | None = None
    authorization_endpoint: Url | None = None
    token_endpoint: Url | None = None
    revocation_endpoint: Url | None = None
    userinfo_endpoint: Url | None = None
    jwks_uri: Url | None = None
    token_endpoint_auth_method: Literal["client_secret_post", "client_secret_basic", "none", "private_key_jwt"] = (
        "client_secret_basic"  # noqa: S105 - a method's name (RFC 7591 section 2)
    )
    scope: tuple[str, ...] = ()
    scope_separator: Literal[" ", ","] = " "
    scope_texts: Mapping[str, str] = Field(default_factory=dict)
    """What a scope means, in a user's words, for the connect page."""
    authorization_params: Mapping[str, str] = Field(default_factory=dict)
    token_params: Mapping[str, str] = Field(default_factory=dict)
    pkce: Literal["S256", "none"] = "S256"
    accounts: Literal["one", "many"] = "one"
    slug: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)] = ""
    account: AccountRule = AccountRule(id=("sub",), label=("email",))
    facts: tuple[str, ...] = ()
    """Fields of the token response that are kept in `data` for the product's front end."""
    api_base_url: Url | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Sent with every API call there."""
    login_origins: tuple[Url, ...] = ()
    """Where the authorization endpoint sends the browser on before consent: Chromium holds the CSP's form-action to that too."""
    installed_apps_url: Url | None = None
    """Where the provider shows its users what they have connected, and lets them remove it."""
    revocation_ends: Literal["grant", "account"] = "grant"
    """What a revocation ends there: this grant, or everything between the account and our registration."""
    id_token_signing_alg_values: tuple[Literal["RS256", "PS256", "ES256", "EdDSA"], ...] = (
        "RS256",
        "PS256",
        "ES256",
        "EdDSA",
    )
    refresh_params: Mapping[str, str] = Field(default_factory=dict)
    """Further parameters of the refresh request; `{name}` is filled with a fact of the connection."""
    replay_seconds: int = Field(default=0, ge=0)
    """How long the provider answers a used refresh token with the same new one. 0: it does not, or nobody knows."""
    refresh_token_seconds: int | None = Field(default=None, gt=0)
    """How long an unused refresh token lives, where the provider documents it and does not say it in its answers."""
    quirks: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The first segment of its public path: neutral, since HighLevel refuses redirect URLs that mention it."""
        return TYPES[self.type]

    @property
    def openid(self) -> bool:
        """Whether an id_token is asked for, and so has to come and be judged (OpenID Connect Core section 3.1.2.1)."""
        return "openid" in self.scope

    @property
    def needs_secret(self) -> bool:
        """Whether our registration there is a confidential client's (RFC 6749 section 2.1)."""
        return self.token_endpoint_auth_method != "none"  # noqa: S105 - a method's name

    @property
    def uninstalling(self) -> Quirk | None:
        """The quirk that says how our app is removed there, where that can be asked for."""
        return next((QUIRKS[name] for name in self.quirks if QUIRKS[name].uninstall), None)

    def missing_endpoints(self) -> tuple[str, ...]:
        """What discovery has to fill before this provider can be used."""
        needed = ["authorization_endpoint", "token_endpoint"] + (["jwks_uri"] if self.openid else [])
        return tuple(name for name in needed if getattr(self, name) is None)

    @field_validator("scope", mode="before")
    @classmethod
    def _scope_may_be_text(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("scope")
    @classmethod
    def _scope_tokens(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for scope in value:
            if not scope or any(not "!" <= letter <= "~" or letter in '"\\' for letter in scope):
                raise ValueError("a scope is printable ASCII without spaces and quotes (RFC 6749 section 3.3)")
        return value

    @field_validator("authorization_params", "token_params", "refresh_params")
    @classmethod
    def _ours_alone(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if taken := _OURS_ALONE & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set here: the gateway alone makes them")
        return value

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, content in value.items():
            if not name.replace("-", "").isalnum() or not content.isprintable() or name.lower() in _FORBIDDEN_HEADERS:
                raise ValueError(f"{name} is not a header that can be set here")
        return value

    @field_validator("quirks")
    @classmethod
    def _known_quirks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in value if name not in QUIRKS]:
            raise ValueError(f"unknown quirk {', '.join(unknown)}: there are {', '.join(sorted(QUIRKS))}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.missing_endpoints() and not (self.issuer or self.discovery_url):
            raise ValueError(
                f"{', '.join(self.missing_endpoints())} is missing, and there is no issuer to discover it from"
            )
        return self


_OURS_ALONE = frozenset({
    "state", "nonce", "scope", "uri", "response_type", "client_id", "redirect_uri", "code_challenge", "code_challenge_method",
    "grant_type", "code", "code_verifier", "refresh_token", "client_secret", "client_assertion", "client_assertion_type", "body",
})  # fmt: skip
_FORBIDDEN_HEADERS = frozenset({"authorization", "cookie", "host", "content-length", "transfer-encoding", "connection"})


class Catalog:
    """The providers by id and by redirect slug."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self.providers: Mapping[str, Provider] = {provider.id: provider for provider in providers}
        self._by_slug = {(provider.path, provider.slug): provider for provider in self.providers.values()}

    def get(self, provider_id: str) -> Provider | None:
        """The provider of that id, or None."""
        return self.providers.get(provider_id)

    def by_slug(self, path: str, slug: str) -> Provider | None:
        """The provider whose redirect URI is `/<path>/<slug>/callback`, or None."""
        return self._by_slug.get((path, slug))


def load_catalog(folder: Path | None = None, *, allow_private_hosts: bool = False) -> Catalog:
    """
    Our own entries, overridden and extended by the TOML files in `folder`.

    Raises SettingsRefused with every problem, each naming the file and the key.
    """
    problems: list[str] = []
    tables: dict[str, dict[str, Any]] = {}
    origin: dict[str, str] = {}
    for file in [*sorted(Path(__file__).parent.glob("*.toml")), *(sorted(folder.glob("*.toml")) if folder else ())]:
        try:
            entries = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            problems.append(f"{file.name} cannot be read as TOML: {error}")
            continue
        for provider_id, entry in entries.items():
            if not isinstance(entry, dict):
                problems.append(
                    f"{file.name}: {provider_id} stands outside a table: put it below [name_of_the_provider]."
                )
                continue
            tables.setdefault(provider_id, {}).update(entry)
            origin[provider_id] = file.name
    providers = []
    for provider_id, table in tables.items():
        entry = {**tables.get(table.get("like", ""), {}), **table}
        if entry.pop("like", provider_id) not in tables:
            problems.append(f"{origin[provider_id]}: [{provider_id}] like names a provider that does not exist.")
        found, wrong = _judge(provider_id, entry, allow_private_hosts=allow_private_hosts)
        problems += [f"{origin[provider_id]}: [{provider_id}] {text}" for text in wrong]
        providers += [found] if found else []
    problems += _collisions(providers, origin)
    if problems:
        raise SettingsRefused(problems)
    return Catalog(providers)


def _judge(
    provider_id: str, entry: Mapping[str, Any], *, allow_private_hosts: bool
) -> tuple[Provider | None, list[str]]:
    if "id" in entry:
        return None, ["id is the name of the table: leave it out."]
    try:
        provider = Provider.model_validate({"slug": provider_id, **entry, "id": provider_id})
    except ValidationError as refused:
        return None, [_sentence(error) for error in refused.errors(include_url=False, include_input=False)]
    urls = [(name, getattr(provider, name)) for name in ("issuer", "discovery_url", *ENDPOINTS, "api_base_url")]
    wrong = [
        f"{name} {fault}"
        for name, url in urls
        if url and (fault := _unfit(url, allow_private_hosts=allow_private_hosts))
    ]
    return provider, wrong


def _unfit(url: str, *, allow_private_hosts: bool) -> str | None:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return None
    if allow_private_hosts and is_loopback(parts.hostname or ""):
        return None
    return "is plain http: only https is spoken, except to loopback with GATEWAY_ALLOW_PRIVATE_HOSTS=1"


def _sentence(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part != "function-after") or "the table"
    if error["type"] == "extra_forbidden":
        return f"{where} is not a key that is known here: look it up in docs/providers.md."
    if error["type"] == "missing":
        return f"{where} is missing."
    return f"{where}: {error['msg'].removeprefix('Value error, ')}."


def _collisions(providers: Iterable[Provider], origin: Mapping[str, str]) -> list[str]:
    """One redirect URI a provider (RFC 9700 section 4.4.2): two that share one could be mixed up."""
    seen: dict[tuple[str, str], str] = {}
    problems = []
    for provider in providers:
        first = seen.setdefault((provider.path, provider.slug), provider.id)
        if first != provider.id:
            problems.append(f"{origin[provider.id]}: [{provider.id}] slug {provider.slug} is taken by {first}.")
    return problems
