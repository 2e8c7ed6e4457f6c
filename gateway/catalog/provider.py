"""
The model of a catalogue entry, with the names of RFC 6749, 7591 and 8414 where those have one.

Most providers need only data; other differences have a name in `quirks` and a class in `deviations`.
"""

import base64
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from gateway.catalog.deviations import DEVIATIONS, Deviation
from gateway.errors import ProviderGarbled
from gateway.settings import read_public_key

TYPES: Mapping[int, str] = {1: "crm", 2: "email", 3: "phone", 4: "apps"}
"""The provider types and the first path segment of each: the owner's three (1 is the provider of the owner's schema alone), and 4 for other CRMs and business tools."""

Url = Annotated[
    str,
    StringConstraints(
        pattern=r"^(https?://[A-Za-z0-9._:*\[\]{}-]+|\{[a-z_]+\})([/?][!$-;=?A-\[\]^-~]*)?$", max_length=2000
    ),
]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
ScopeName = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]
Scope = Annotated[
    tuple[ScopeName, ...], BeforeValidator(lambda given: given.split() if isinstance(given, str) else given)
]
"""RFC 6749 section 3.3; may be written as one text."""
DottedPath = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Paths = Annotated[tuple[DottedPath, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""One path may be written without brackets."""
AuthMethod = Literal["client_secret_post", "client_secret_basic", "none", "private_key_jwt"]

ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "revocation_endpoint",
    "userinfo_endpoint",
    "jwks_uri",
)


class _Table(BaseModel):
    """A TOML table. A key that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64")


class AccountRule(_Table):
    """
    Where to find the account's id and label: dotted paths into the account response, the id_token or the token response.

    Several paths of `id` make up the id together; of several paths of `label` the first that exists is shown.
    """

    id: Annotated[Paths, Field(min_length=1)]
    label: Paths = ()


class TokenPlacement(_Table):
    """Where an API call has its access token. By default RFC 6750 section 2.1: `Authorization: Bearer …`."""

    header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=60)] = "Authorization"
    prefix: Annotated[str, StringConstraints(pattern=r"^[!-~ ]*$", max_length=30)] = "Bearer "
    basic: bool = False
    """The token is `user:password`, encoded as RFC 7617 says; `prefix` does not count."""
    query: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", max_length=60)] | None = None
    """The query parameter, instead of a header."""

    @property
    def scheme(self) -> str:
        """The name of the scheme: `Bearer`, `Basic`, another word before the token, or else the name of the header or parameter."""
        if self.basic or self.query:
            return self.query or "Basic"
        return ((self.header == "Authorization" and self.prefix.split(maxsplit=1)[:1]) or [self.header])[0]

    def headers(self, token: str) -> Mapping[str, str]:
        if self.query:
            return {}
        return {self.header: f"Basic {encoded(token)}" if self.basic else self.prefix + token}

    def url(self, url: str, token: str) -> str:
        if not self.query:
            return url
        return f"{url}{'&' if '?' in url else '?'}{self.query}={quote(token, safe='')}"


def encoded(token: str) -> str:
    """The credentials of RFC 7617 section 2."""
    return base64.b64encode(token.encode()).decode()


_PLACE = re.compile(r"\{([A-Za-z][A-Za-z0-9_]*)\}")


def places(template: str) -> set[str]:
    """The names in braces in `template`."""
    return set(_PLACE.findall(template))


def fill(template: str, values: Mapping[str, Any]) -> str | None:
    """`template` with each name in braces replaced by its value; None where one is missing."""
    if any(not isinstance(values.get(name), str) for name in places(template)):
        return None
    return fill_known(template, values)


def fill_known(template: str, values: Mapping[str, str]) -> str:
    """As `fill`, but names without a value stay."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), template)


class FormField(_Table):
    """What a user has to enter on the connect page. What is no secret is a fact of the connection, for URLs and other templates."""

    label: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    pattern: re.Pattern[str] = re.compile("")
    """Of the whole value. By default what a URL may hold unencoded; for a secret, printable ASCII."""
    secret: bool = False
    example: Annotated[str, StringConstraints(max_length=80)] = ""
    options: Mapping[str, str] = Field(default_factory=dict)
    """The values to choose from, each with its label."""
    test_pattern: re.Pattern[str] = re.compile(r"(?i)(.*[_-])?(test|sandbox)[_-].*")
    """The form of a key of the provider's test mode, which is refused."""

    @model_validator(mode="before")
    @classmethod
    def _default_pattern(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        if values.get("options"):
            return {**values, "pattern": "|".join(map(re.escape, values["options"]))}
        return {"pattern": r"[!-~]{4,2000}" if values.get("secret") else r"[A-Za-z0-9._~@+-]{1,200}", **values}

    def matches(self, value: object) -> bool:
        return isinstance(value, str) and self.pattern.fullmatch(value) is not None


class LearnedValue(_Table):
    """
    A part of the addresses that the provider names for each account: `{name}` in a URL, as are the named groups of `pattern`.

    The whole value has to match, since tokens and the client secret are sent there.
    """

    source: Literal["callback", "response"] = "response"
    """The callback's query; or the token response, the id_token and the account endpoint."""
    field: str = ""
    """Its name there, if it is another."""
    pattern: re.Pattern[str]
    default: str | None = None


class WebhookRule(_Table):
    """How the provider signs its webhooks: Ed25519 over the raw body, in base64; `legacy`: RSA, PKCS #1 v1.5 with SHA-256, where that is on."""

    signature_header: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9-]+$", max_length=60)]
    public_key: Annotated[bytes, BeforeValidator(read_public_key)]
    legacy_header: str = ""
    legacy_public_key: str = ""


class LimitHeaders(_Table):
    """The headers in which responses of the API say how many calls are left for an account: in an interval, and in a day."""

    most: str
    remaining: str
    interval_ms: str
    daily_most: str
    daily_remaining: str
    daily_reset_ms: str


_MISSING_SCOPE = ("insufficient_scope", "missing_scope", "scope_mismatch", "for_this_scope", "have the required scope")


class Entry(_Table):
    """The keys of every catalogue entry, whatever its credentials."""

    id: Name
    name: Annotated[str, StringConstraints(min_length=1, max_length=60)]
    type: Literal[1, 2, 3, 4]
    docs_url: Url | None = None
    registration_url: Url | None = None
    """Where an operator registers."""
    notes: str = ""
    """What an operator should know; a sentence a line."""
    differs: Mapping[str, str] = Field(default_factory=dict)
    """Why a key is not what the sources in witnesses.toml say."""
    accounts: Literal["one", "many"] = "one"
    slug: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)] = ""
    white_label: bool = False
    """No page and no address shows whose provider it is: users see `name`, and the slug in place of the id."""
    row_names: tuple[str, ...] = ()
    """What rows of its type from before the gateway have as its name, without case and punctuation; `""`: none."""
    account: AccountRule = AccountRule(id=("sub",), label=("email",))
    userinfo_endpoint: Url | None = None
    userinfo_body: str | None = None
    """JSON: the account is asked for by POST."""
    userinfo_token_placement: TokenPlacement | None = None
    """Where the account endpoint wants the token elsewhere than the API."""
    refused_statuses: tuple[int, ...] = (401,)
    """Of the account endpoint, for a credential that does not work. Other statuses but 200 say nothing about it."""
    valid_path: DottedPath | None = None
    """Where a response with status 200 shows that the credential works. `false` there ends it; without a value, `refused_words` decide."""
    refused_words: tuple[str, ...] = ()
    """Words of the account endpoint's response, for a credential that does not work."""
    api_base_url: Url | None = None
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Sent with every API call there."""
    fields: Mapping[Name, FormField] = Field(default_factory=dict)
    """What the connect page asks its user for. URLs and headers may use the values as `{name}`."""
    token_placement: TokenPlacement = TokenPlacement()
    """How an API call sends the access token."""
    token_paths: tuple[str, ...] = ()
    """Paths of the API whose responses hold tokens: the proxy does not call them, whatever the extension. `*` is a part without a slash."""
    api_errors: Mapping[Name, tuple[str, ...]] = Field(default_factory=lambda: {"missing_scope": _MISSING_SCOPE})
    """Words of a refusal of the API that say that not the token is at fault, so that no new one is fetched; by what is."""
    limit_headers: LimitHeaders | None = None
    suspended: tuple[str, ...] = ()
    """Words of an error that say that the account is switched off for now."""
    quirks: Literal["", "highlevel"] = ""

    @property
    def path(self) -> str:
        """The first segment of its public path: neutral, since a provider may refuse redirect URLs that mention it."""
        return TYPES[self.type]

    @property
    def public_id(self) -> str:
        """The id in addresses that users see."""
        return self.slug if self.white_label else self.id

    @property
    def deviation(self) -> Deviation:
        return DEVIATIONS[self.quirks]

    def known(self, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        """What may be put into addresses."""
        return facts

    def api(self, facts: Mapping[str, Any]) -> tuple[str | None, Mapping[str, str]]:
        """The base URL and the further headers of API calls for a connection."""
        base = self.api_base_url and fill(self.api_base_url, self.known(facts))
        headers = {name: filled for name, value in self.headers.items() if (filled := fill(value, facts)) is not None}
        return base, headers

    @field_validator("fields")
    @classmethod
    def _names_of_their_own(cls, value: Mapping[str, FormField]) -> Mapping[str, FormField]:
        if taken := value.keys() & {"csrf", "display", "return_to", "another", "key_hash"}:
            raise ValueError(f"{min(taken)} has another meaning on the connect page")
        return value

    @field_validator("headers")
    @classmethod
    def _plain_headers(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for name, content in value.items():
            if not name.replace("-", "").isalnum() or not content.isprintable() or name.lower() in _FORBIDDEN_HEADERS:
                raise ValueError(f"{name} is not a header that can be set here")
        return value


class Provider(Entry):
    """A provider that speaks OAuth 2.0."""

    auth: Literal["oauth2"] = "oauth2"
    values: Mapping[Name, LearnedValue] = Field(default_factory=dict)
    issuer: Url | None = None
    authorization_response_iss_parameter_supported: bool = False
    issuer_pattern: str | None = None
    """The issuer with `{tenantid}` for the claim `tid`, where id_tokens name a tenant in `iss`."""
    authorization_endpoint: Url | None = None
    token_endpoint: Url | None = None
    revocation_endpoint: Url | None = None
    jwks_uri: Url | None = None
    token_endpoint_auth_method: AuthMethod = "client_secret_basic"  # noqa: S105 - a method's name (RFC 7591 section 2)
    refresh_auth_method: AuthMethod | None = None
    """For a refresh, where it differs from the one for a code."""
    revocation_endpoint_auth_method: AuthMethod | Literal["bearer"] | None = None
    """The same for a revocation; `bearer`: the token itself in place of the client's authentication and of the form."""
    revocation_tokens: tuple[Literal["refresh_token", "access_token"], ...] = ("refresh_token", "access_token")
    """The tokens that a revocation has to send, in this order."""
    revocation_parameter: Literal["token", "access_token"] = "token"
    json_token_requests: bool = False
    response_type: Literal["code", "auth_code"] = "code"
    scope: Scope = ()
    required_scope: Scope | None = None
    """What a connection needs, as the provider names it when granted; None: every scope that is asked for, but for those about identity."""
    scope_separator: Literal[" ", ","] = " "
    scope_texts: Mapping[str, str] = Field(default_factory=dict)
    """What a scope means, in a user's words, for the connect page."""
    authorization_params: Mapping[str, str] = Field(default_factory=dict)
    token_params: Mapping[str, str] = Field(default_factory=dict)
    pkce: Literal["S256", "none"] = "S256"
    facts: tuple[str, ...] = ()
    """Fields of the token response that are kept in `data` for the product's front end."""
    login_origins: tuple[Url, ...] = ()
    """Where the authorization endpoint redirects before consent: Chromium applies the CSP's form-action to that too."""
    refused_in_redirect_uri: tuple[str, ...] = ()
    """Words that the provider does not allow in a redirect URI."""
    choice_hint: Annotated[str, StringConstraints(max_length=200)] = ""
    """What a user should choose at the provider, in one sentence before consent."""
    webhooks: WebhookRule | None = None
    """The webhooks that it sends to `/<type>/webhooks`."""
    starts_installs: bool = False
    """Whether users can also start an installation there: the callback then has a code and no state."""
    installed_apps_url: Url | None = None
    """Where the provider's users see and remove what they have connected."""
    revocation_ends: Literal["grant", "account"] = "grant"
    """What a revocation ends there: this grant, or everything between the account and our registration."""
    refresh_params: Mapping[str, str] = Field(default_factory=dict)
    """Further parameters of the refresh request; `{name}` is filled with a fact of the connection."""
    dead_grant: tuple[str, ...] = ()
    """Further names or sentences with which the provider refuses a grant for good."""
    response_bytes: int = Field(default=65_536, ge=65_536, le=1_048_576)
    """The largest token response."""
    replay_seconds: int = Field(default=0, ge=0)
    """How long the provider answers a used refresh token with the same new one; 0: not known to do so."""
    access_token_seconds: int | None = Field(default=None, gt=0)
    """How long an access token is valid, where responses do not say."""
    refresh_ends_access_token: bool = False
    """A refresh ends the access tokens that were handed out before: it is done when the token ends, not earlier."""
    discovery: bool = True
    """False: the documents below the well-known addresses of `issuer` are another service's."""
    refresh_token_seconds: int | None = Field(default=None, gt=0)
    """How long an unused refresh token is valid, where the provider documents it and its responses do not say."""

    def redirect_uri(self, public_url: str) -> str:
        """Its one redirect URI (RFC 9700 section 4.4.2), made from the gateway's own address, never from a request."""
        return f"{public_url}/{self.path}/{self.slug}/callback"

    @property
    def required(self) -> tuple[str, ...]:
        """The scopes that a connection should have."""
        asked = tuple(name for name in self.scope if name not in _IDENTITY_SCOPES)
        return asked if self.required_scope is None else self.required_scope

    def missing_scope(self, granted: Collection[str]) -> tuple[str, ...]:
        return tuple(name for name in self.required if name not in granted)

    @property
    def _parts(self) -> Mapping[str, FormField | LearnedValue]:
        return {**self.fields, **self.values}

    def known(self, facts: Mapping[str, Any]) -> Mapping[str, str]:
        """The fields and learned values that match their patterns, and the named groups of these."""
        found: dict[str, str] = {}
        for name, part in self._parts.items():
            default = getattr(part, "default", None)
            text = facts.get(name, default and fill_known(default, found))
            if isinstance(text, str) and (match := part.pattern.fullmatch(text)):
                found |= {name: text, **match.groupdict("")}
        return found

    def learn(self, source: Literal["callback", "response"], given: Mapping[str, Any]) -> Mapping[str, str]:
        """The learned values in a response. Raises ProviderGarbled for one that does not match: it could be any address."""
        named = {name: given.get(each.field or name) for name, each in self.values.items() if each.source == source}
        found = {name: str(value) for name, value in named.items() if value is not None}
        wrong = [name for name, value in found.items() if not self.values[name].pattern.fullmatch(value)]
        if needed := [name for name in wrong if source == "callback" or self.values[name].default is None]:
            raise ProviderGarbled(f"{needed[0]} is not an address of the provider")
        return {name: value for name, value in found.items() if name not in wrong}

    def filled(self, facts: Mapping[str, Any]) -> Self:
        """With what is known of a connection in its endpoints, scopes and parameters, for a provider whose addresses differ."""
        if not self.fields and not self.values:
            return self
        known, names = self.known(facts), ("issuer", *ENDPOINTS)
        update: dict[str, Any] = {name: fill_known(url, known) for name in names if (url := getattr(self, name))}
        update["scope"] = tuple(fill_known(scope, known) for scope in self.scope)
        update["authorization_params"] = {
            key: fill_known(text, known) for key, text in self.authorization_params.items()
        }
        return self.model_copy(update=update)

    @property
    def openid(self) -> bool:
        """Whether an id_token is requested, and therefore required (OpenID Connect Core section 3.1.2.1)."""
        return "openid" in self.scope

    @property
    def needs_secret(self) -> bool:
        """Whether our registration is a confidential client (RFC 6749 section 2.1)."""
        return self.token_endpoint_auth_method != "none"  # noqa: S105 - a method's name

    def missing_endpoints(self) -> tuple[str, ...]:
        """What discovery must supply before this provider can be used."""
        needed = ["authorization_endpoint", "token_endpoint"] + (["jwks_uri"] if self.openid else [])
        return tuple(name for name in needed if getattr(self, name) is None)

    @field_validator("authorization_params", "token_params", "refresh_params")
    @classmethod
    def _no_protocol_parameters(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        if taken := _PROTOCOL_PARAMETERS & set(value):
            raise ValueError(f"{', '.join(sorted(taken))} cannot be set here: only the gateway sets them")
        return value

    @model_validator(mode="after")
    def _has_endpoints(self) -> Self:
        if self.missing_endpoints() and not self.issuer:
            raise ValueError(
                f"{', '.join(self.missing_endpoints())} is missing, and there is no issuer to discover it from"
            )
        known = {
            *self._parts,
            *(group for part in self._parts.values() for group in part.pattern.groupindex),
        }
        urls = filter(None, (self.api_base_url, *(getattr(self, name) for name in ENDPOINTS)))
        if unknown := {name for text in (*urls, *self.scope) for name in places(text)} - known:
            raise ValueError(f"{', '.join(sorted(unknown))} is in braces, and neither in fields nor in values")
        if taken := _OURS & known:
            raise ValueError(f"{', '.join(sorted(taken))} is the name of something else in provider_data")
        return self


_OURS = frozenset({"account", "scope", "status", "reason"})
_IDENTITY_SCOPES = frozenset({"openid", "profile", "email", "offline_access"})
"""OpenID Connect Core sections 5.4 and 11: providers leave them out of what they grant, or rename them."""
_PROTOCOL_PARAMETERS = frozenset({
    "state", "nonce", "scope", "uri", "response_type", "client_id", "redirect_uri", "code_challenge", "code_challenge_method",
    "grant_type", "code", "code_verifier", "refresh_token", "client_secret", "client_assertion", "client_assertion_type", "body",
})  # fmt: skip
_FORBIDDEN_HEADERS = frozenset({"authorization", "cookie", "host", "content-length", "transfer-encoding", "connection"})
