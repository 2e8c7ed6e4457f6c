"""
Settings: read from the environment and `.env`, checked once, frozen.

Every secret may also come from a file (`NAME_FILE`). An invalid or missing setting stops the process with all problems listed at
once, each with its fix. Knows nothing of providers beyond the names of our registrations, `<PROVIDER>_CLIENT_ID`.
"""

import base64
import hmac
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from difflib import get_close_matches
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    DirectoryPath,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import ErrorDetails

from gateway.brand import Logo, read_logo
from gateway.database_url import PORT, read_dsn
from gateway.errors import SettingsRefused, plain_reason
from gateway.models import Client
from gateway.texts import Texts, read_texts

_REGISTRATION = re.compile(r"([A-Z][A-Z0-9_]*)_(CLIENT_ID|SCOPE|WEBHOOK_PUBLIC_KEY)")
_KUBERNETES = re.compile(r"GATEWAY_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_(TCP|UDP)\w*)?)")
"""Variables that Kubernetes and Docker add for a service called `gateway`."""
_WORDS = tomllib.loads(Path(__file__).with_name("settings.toml").read_text(encoding="utf-8"))
MEANINGS: Mapping[str, str] = _WORDS["meaning"]
_PUBLISHED_KEYS = frozenset(map(base64.urlsafe_b64decode, _WORDS["published"]["keys"]))
_WEB_URL = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?([/?][^ \\\"<>#]*)?", re.IGNORECASE)
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".home.arpa", ".lan")
LOOPBACK_ONLY = "GATEWAY_LOOPBACK_ONLY"
"""Set in the application's config by a server that only this machine can reach."""


def is_loopback(host: str) -> bool:
    """Whether `host` (name or address) is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_private(host: str) -> bool:
    """Whether `host` is this machine, a private address, or a name that only a local network or a container knows."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return bool(host) and ("." not in host or host.endswith(_LOCAL_NAMES))
    return found.is_private and not found.is_unspecified


def read_public_key(text: str | bytes) -> bytes:
    """The 32 bytes of an Ed25519 public key: PEM, or the key alone in base64 or hex. Raises ValueError."""
    if isinstance(text, bytes):
        return text
    body = re.sub(r"-----[A-Z ]+-----|\\n|\s", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        is_hex = re.fullmatch("[0-9A-Fa-f]{64}|[0-9A-Fa-f]{88}", body)
        found = bytes.fromhex(body) if is_hex else base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
        return Ed25519PublicKey.from_public_bytes(found.removeprefix(_SPKI)).public_bytes_raw()
    except ValueError:
        raise ValueError("is no Ed25519 public key: paste the PEM, or the 32 bytes in base64 or hex.") from None


_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What a PEM has in front of the 32 bytes (RFC 8410 section 4)."""


# -- the forms of a value; each error message says what to write instead ---------------------------------------------


def _web_url(value: str) -> str:
    """An absolute http(s) URL without user or fragment; plain http on this machine only."""
    parts = _split_url(value)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("has to be https, except on localhost.")
    return value


def _split_url(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        if _WEB_URL.fullmatch(value) and value.isascii() and value.isprintable() and parts.port != 0:
            return parts
    except ValueError:
        pass
    raise ValueError("is not a web address: write it like https://app.example.com.")


def _project_url(value: str) -> str:
    """The address of a Supabase project; plain http for a local one."""
    parts = _split_url(value)
    path = parts.path.rstrip("/")
    if parts.query or path.endswith(("/auth/v1", "/rest/v1")) or parts.hostname in ("supabase.com", "app.supabase.com"):
        raise ValueError(
            "is not the project's own address: write it like https://<project>.supabase.co, without a path."
        )
    if parts.scheme == "http" and not is_private(parts.hostname or ""):
        raise ValueError(
            "has to be https, except for a local project (localhost, a private address, a name like kong)."
        )
    return value.rstrip("/")


def _origin(value: str) -> str:
    """`scheme://host[:port]` as a browser sends it (RFC 6454 section 6.2)."""
    parts = _split_url(_web_url(value))
    if parts.path not in ("", "/") or parts.query:
        raise ValueError("is not an origin: write scheme, host and port only, like https://app.example.com.")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _support_url(value: str) -> str:
    mail = re.fullmatch(r"(?:mailto:)?([A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+)", value)
    return f"mailto:{mail[1]}" if mail else _web_url(value)


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("is not a name: write printable characters.")
    return value


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _form(pattern: str, problem: str) -> BeforeValidator:
    """Refuses values that do not match `pattern`, with the sentence `problem`."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value, re.DOTALL):
            raise ValueError(problem)
        return value

    return BeforeValidator(check)


def _postgres(value: str) -> str:
    if "://" not in value:
        raise ValueError("is not a Postgres address: write it like postgresql://user:password@host:5432/name.")
    read_dsn(value)
    return value


def _of_a_project(value: SecretStr, info: ValidationInfo) -> SecretStr:
    if info.data.get("supabase_url", "") is None:
        raise ValueError("needs SUPABASE_URL too: it names the project.")
    return value


def _not_the_public_key(value: str) -> str:
    try:
        claims = json.loads(base64.urlsafe_b64decode(value.split(".")[1] + "=="))
    except (ValueError, IndexError, RecursionError):
        claims = {}
    if value.startswith("sb_publishable_") or (
        isinstance(claims, dict) and claims.get("role") in ("anon", "authenticated")
    ):
        raise ValueError("is the project's public (anon) key: copy the secret key (service_role).")
    return value


def _not_published(value: SecretStr, info: ValidationInfo) -> SecretStr:
    """Published secrets are for a project on the developer's machine: with them anyone can sign in as any user."""
    text = value.get_secret_value()
    is_published = any(
        text == secret or f":{secret}@" in text or _is_signed_with(secret, text)
        for secret in _WORDS["published"]["secrets"]
    )
    if is_published and str(info.data.get("public_url", "")).startswith("https://"):
        raise ValueError(
            "holds a secret that is published in Supabase's documents: make a new one in the project, and use it here."
        )
    return value


def _is_signed_with(secret: str, token: str) -> bool:
    """Whether HS256 with `secret` made the signature of a JWT (RFC 7515 section 5.2)."""
    signed, _, signature = token.rpartition(".")
    made = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed.encode(), "sha256")).rstrip(b"=")
    return hmac.compare_digest(made, signature.encode())


def _keys(words: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
    try:
        texts = [word.get_secret_value().encode("ascii") for word in words]
        keys = [base64.b64decode(text, altchars=b"-_", validate=True) for text in texts]
    except ValueError:
        keys = []
    if {len(key) for key in keys} != {32}:  # the Fernet specification: 128 bits to sign, 128 to encrypt
        problem = "holds something that is not a Fernet key (32 random bytes in URL-safe base64)"
    elif any(map(_is_made_up, keys)):
        problem = "holds a key that is an example or not random"
    elif len(set(keys)) < len(keys):
        problem = "holds one key twice"
    else:
        return words
    raise ValueError(f"{problem}: make one with `python -m gateway keys new`.")


def _is_made_up(key: bytes) -> bool:
    """Published, few different bytes, only printable ones, or a sequence: 32 random bytes are none of these."""
    counted = len({(later - byte) % 256 for byte, later in pairwise(key)}) == 1
    return (
        key in _PUBLISHED_KEYS
        or len(set(key)) < len(key) // 4
        or counted
        or (key.isascii() and key.decode().isprintable())
    )


Switch = Annotated[bool, _form("[01]", "is a switch: set it to 1 or 0.")]
_JWT_SECRET = _form(".{32,}", "is shorter than 32 bytes: copy it whole from the project.")
"""RFC 7518 section 3.2: an HS256 key is at least as long as its hash."""
_COLOR = _form("#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})", "is not a colour: write it like #0b6158.")
_PROXY = _form(
    rf"http://([^/@]+@)?(\[[0-9A-Fa-f:.]+\]|[^\s/?#@:]+):{PORT}/?",
    "is not the address of an HTTP proxy: write it like http://proxy.example.com:3128, or http://user:password@….",
)
_PROJECT_SECRET = (AfterValidator(_not_published), AfterValidator(_of_a_project))
WebUrl = Annotated[str, AfterValidator(_web_url)]
Origin = Annotated[str, AfterValidator(_origin)]


def setting_name(field: str) -> str:
    """The setting behind a field of Settings."""
    return field.upper() if field.startswith(("database_", "supabase_")) else f"GATEWAY_{field.upper()}"


class Settings(BaseModel):
    """What the operator decided; settings.toml says what each setting means."""

    model_config = ConfigDict(
        frozen=True,
        alias_generator=setting_name,
        validate_by_name=True,
        hide_input_in_errors=True,
    )

    public_url: Origin = "http://localhost:8000"
    keys: Annotated[tuple[SecretStr, ...], BeforeValidator(_words), AfterValidator(_keys)]
    database_url: Annotated[SecretStr, BeforeValidator(_postgres), AfterValidator(_not_published)] | None = None
    supabase_url: Annotated[str, AfterValidator(_project_url)] | None = None
    supabase_secret_key: Annotated[SecretStr, BeforeValidator(_not_the_public_key), *_PROJECT_SECRET] | None = None
    supabase_jwt_secret: Annotated[SecretStr, _JWT_SECRET, *_PROJECT_SECRET] | None = None
    data: Path = Path("var")
    journal: Switch = True
    app_origins: Annotated[tuple[Origin, ...], BeforeValidator(_words)] = ()
    app_login_url: WebUrl | None = None
    brand_name: Annotated[str, Field(max_length=60), AfterValidator(_printable)] = ""
    brand_logo: Annotated[Logo, BeforeValidator(read_logo)] | None = None
    brand_color: Annotated[str, _COLOR] = ""
    brand_support_url: Annotated[str, AfterValidator(_support_url)] | None = None
    brand_home_url: WebUrl | None = None
    texts: Annotated[Texts, BeforeValidator(lambda folder: read_texts(Path(folder)))] = Field(
        default_factory=cache(read_texts), repr=False
    )
    catalog: DirectoryPath | None = None
    enable: Annotated[tuple[str, ...], BeforeValidator(lambda value: _words(value.lower()))] = ()
    owner_tokens: Switch = True
    anonymous_users: Switch = False
    unclaimed_installs: Switch = False
    legacy_webhooks: Switch = False
    trusted_proxies: Annotated[int, Field(ge=0, le=16)] = 0
    allow_private_hosts: Switch = False
    https_proxy: Annotated[SecretStr, _PROXY] | None = None
    ca_bundle: FilePath | None = None
    metrics_token: SecretStr | None = None
    events_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    clients: Mapping[str, Client] = Field(default_factory=dict, repr=False)
    scopes: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    webhook_keys: Mapping[str, Annotated[bytes, BeforeValidator(read_public_key)]] = Field(default_factory=dict)

    @property
    def home_url(self) -> str | None:
        """The product's own page: where users get back to when the flow does not say where they came from."""
        return self.brand_home_url or next(iter(self.app_origins), None)

    @property
    def secure(self) -> bool:
        """Whether the public URL is https, so that cookies can have the `__Host-` prefix."""
        return self.public_url.startswith("https://")


def ignored_parameters(settings: Settings) -> tuple[str, ...]:
    """The parameters of DATABASE_URL that only other programs know."""
    return read_dsn(settings.database_url.get_secret_value())[1] if settings.database_url else ()


# -- reading -----------------------------------------------------------------------------------------------------------


SECRETS = tuple(
    setting_name(name) for name, field in Settings.model_fields.items() if "SecretStr" in repr(field.annotation)
)
"""The settings that may come from a file, and are taken out of the environment."""
OF_PROVIDERS = ("clients", "scopes", "webhook_keys")
"""Settings that have one name for each provider."""
_NAMES = [setting_name(field) for field in Settings.model_fields if field not in OF_PROVIDERS]
_KNOWN = [*_NAMES, *(f"{name}_FILE" for name in SECRETS)]


def process_environment() -> dict[str, str]:
    """The process environment, completed by the `.env` file of the working directory. Raises SettingsRefused if it cannot be read."""
    try:
        values = dotenv_values(".env", encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise SettingsRefused(
            ".env cannot be read: it has to be a UTF-8 text file that this account may read."
        ) from None
    file = {name: text for name, text in values.items() if text is not None}
    for name in os.environ:  # a secret that the environment sets in one form hides the other form in the file
        file.pop(name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE", None)
    return file | os.environ


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings in `environ`, by default those of the process. Raises SettingsRefused with every problem at once."""
    settings, problems = judge_settings(environ)
    if problems:
        raise SettingsRefused(*problems)
    return settings


def judge_settings(environ: Mapping[str, str] | None = None) -> tuple[Settings, list[str]]:
    """
    The settings in `environ`, and every problem, which begins with the setting's name; no problem repeats a value.

    What is wrong is missing in the settings, and so is what depends on it: the rest can be judged further.
    """
    environ = process_environment() if environ is None else environ
    problems = list(_unknown_names(environ))

    def read(name: str) -> str | None:
        """The trimmed value, for a secret also from the file that `NAME_FILE` names; None when it cannot be read."""
        file = environ.get(f"{name}_FILE") if _is_secret(name) else None
        try:
            text = (Path(file).read_text(encoding="utf-8-sig") if file else environ.get(name, "")).strip()
            text.encode()  # bytes of another encoding in the environment
        except (OSError, ValueError):
            fix = f"{name}_FILE cannot be read: name a text file that this process may read."
            problems.append(fix if file else f"{name} holds bytes that are not UTF-8: write it in UTF-8.")
            return None
        return text

    values: dict[str, Any] = {name: text for name in _NAMES if (text := read(name))}
    providers = {match[1] for match in map(_REGISTRATION.fullmatch, environ) if match}
    values["clients"] = {
        name.lower(): Client(client_id, secret)
        for name in providers
        if (client_id := read(f"{name}_CLIENT_ID")) and (secret := read(f"{name}_CLIENT_SECRET")) is not None
    }
    values["scopes"] = {
        name.lower(): tuple(scope.replace(",", " ").split()) for name in providers if (scope := read(f"{name}_SCOPE"))
    }
    values["webhook_keys"] = {name.lower(): key for name in providers if (key := read(f"{name}_WEBHOOK_PUBLIC_KEY"))}
    settings, wrong = _right_settings(values)
    return settings, problems + wrong


def _right_settings(values: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    """The settings without those that are wrong, and what is wrong. A wrong folder of providers leaves nothing to say of any."""
    try:
        return Settings(**values), []
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False, include_input=False)
    wrong = {str(error["loc"][0]) for error in errors}
    if wrong & {"GATEWAY_CATALOG", "GATEWAY_ALLOW_PRIVATE_HOSTS"}:
        wrong |= {"GATEWAY_CATALOG", "GATEWAY_ENABLE", *OF_PROVIDERS}
    right = {name: value for name, value in values.items() if name not in wrong}
    settings, _ = _right_settings({"GATEWAY_KEYS": Fernet.generate_key().decode("ascii"), **right})
    return settings, [_problem(error) for error in errors]


def _unknown_names(environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environ):
        if name.upper().startswith("GATEWAY_") and name not in _KNOWN and not _KUBERNETES.fullmatch(name):
            near = get_close_matches(name.upper(), _KNOWN, n=1, cutoff=0.8)
            yield f"{name} is not a setting: {f'did you mean {near[0]}?' if near else 'remove it.'}"


def near_misses(environ: Mapping[str, str], providers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that look like a setting and are none, each with the setting. Wrong `GATEWAY_` names stop the process already."""
    parts = ("_CLIENT_ID", "_CLIENT_SECRET", "_CLIENT_SECRET_FILE", "_SCOPE", "_WEBHOOK_PUBLIC_KEY")
    former = _WORDS["names"]
    known = [*_KNOWN, *(provider.upper() + part for provider in providers for part in parts)]
    for name in sorted(environ):
        if name in known or name.upper().startswith("GATEWAY_") or name.endswith(parts):
            continue
        near = [former[name]] if name in former else get_close_matches(name.upper(), known, n=1, cutoff=0.88)
        if near and near[0] not in environ:
            yield name, near[0]


def _problem(error: ErrorDetails) -> str:
    name = error["loc"][0]
    if name == "webhook_keys":
        name = f"{str(error['loc'][1]).upper()}_WEBHOOK_PUBLIC_KEY"
    if error["type"] == "missing":
        return f"{name} is missing: run `python -m gateway init`, or make a key with `python -m gateway keys new`, and keep it safe."
    if error["type"] == "value_error":
        return f"{name} {error['ctx']['error']}"
    return f"{name} is wrong: {plain_reason(error)}."


def _is_secret(name: str) -> bool:
    return name in SECRETS or name.endswith("_CLIENT_SECRET")


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """
    Take every secret, and every name that could pose as a request header, out of `environ`.

    Some WSGI servers copy the process environment into each request's WSGI environ, which error reporters print; there
    `HTTP_X_FORWARDED_FOR` would become a header.
    """
    for name in list(environ):
        if _is_secret(name.removesuffix("_FILE")) or name.startswith("HTTP_"):
            del environ[name]
