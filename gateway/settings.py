"""
Settings: read from the environment, judged once, frozen.

Every secret may also come from a file (`NAME_FILE`). A wrong or missing setting stops the process with all problems listed
at once, each with its mend. Knows nothing of providers beyond the shape of our registrations, `<PROVIDER>_CLIENT_ID`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping, MutableMapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from gateway.errors import SettingsRefused
from gateway.models import Client

SECRETS = ("GATEWAY_KEYS", "DATABASE_URL", "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "GATEWAY_METRICS_TOKEN")
_REGISTRATION = re.compile(r"([A-Z][A-Z0-9_]*)_(CLIENT_ID|CLIENT_SECRET|SCOPE)(_FILE)?")
_MINIMUM_JWT_SECRET = 32
"""RFC 7518 section 3.2: an HS256 key is at least as long as its hash."""

_PUBLISHED_KEYS = frozenset(map(base64.urlsafe_b64decode, {
    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
    "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    "ZmDfcTF7_60GrrY167zsiPd67pEvs0aGOv2oasOM1Pg=",
}))  # fmt: skip
"""Keys that stand in documents and benchmarks: everybody has them."""


class Settings(BaseModel):
    """What the operator decided. Field names are the settings' names in lower case, without `GATEWAY_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    public_url: str = "http://localhost:8000"
    keys: tuple[SecretStr, ...]
    database_url: SecretStr | None = None
    supabase_url: str | None = None
    supabase_secret_key: SecretStr | None = None
    supabase_jwt_secret: SecretStr | None = None
    data: Path = Path("var")
    app_origins: tuple[str, ...] = ()
    app_login_url: str | None = None
    catalog: Path | None = None
    enable: tuple[str, ...] = ()
    owner_tokens: bool = True
    journal: bool = True
    trusted_proxies: int = 0
    allow_private_hosts: bool = False
    ca_bundle: Path | None = None
    metrics_token: SecretStr | None = None
    events_days: int = 365
    clients: Mapping[str, Client] = Field(default_factory=dict, repr=False)
    scopes: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    @property
    def secure(self) -> bool:
        """Whether browsers reach us by https, so that cookies may carry the `__Host-` prefix."""
        return self.public_url.startswith("https://")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """
    The settings in `environ`.

    Raises SettingsRefused with every problem at once.
    """
    reader = _Reader(environ)
    values: dict[str, Any] = {
        "public_url": reader.origin("GATEWAY_PUBLIC_URL", "http://localhost:8000"),
        "keys": reader.keys(),
        "database_url": reader.database_url(),
        "supabase_url": (reader.url("SUPABASE_URL") or "").rstrip("/") or None,
        "supabase_secret_key": reader.secret("SUPABASE_SECRET_KEY"),
        "supabase_jwt_secret": reader.jwt_secret(),
        "data": Path(reader.text("GATEWAY_DATA") or "var"),
        "app_origins": reader.origins("GATEWAY_APP_ORIGINS"),
        "app_login_url": reader.url("GATEWAY_APP_LOGIN_URL"),
        "catalog": reader.folder("GATEWAY_CATALOG"),
        "enable": reader.words("GATEWAY_ENABLE"),
        "owner_tokens": reader.switch("GATEWAY_OWNER_TOKENS", default=True),
        "journal": reader.switch("GATEWAY_JOURNAL", default=True),
        "trusted_proxies": reader.number("GATEWAY_TRUSTED_PROXIES", 0, 0, 16),
        "allow_private_hosts": reader.switch("GATEWAY_ALLOW_PRIVATE_HOSTS", default=False),
        "ca_bundle": reader.file("GATEWAY_CA_BUNDLE"),
        "metrics_token": reader.secret("GATEWAY_METRICS_TOKEN"),
        "events_days": reader.number("GATEWAY_EVENTS_DAYS", 365, 1, 36_500),
    }
    values["clients"], values["scopes"] = reader.registrations()
    reader.judge_together(values)
    if reader.problems:
        raise SettingsRefused(reader.problems)
    return Settings(**values)


def forget_secrets(environ: MutableMapping[str, str]) -> None:
    """
    Take every secret, and every name that could pose as a request header, out of `environ`.

    Granian copies the whole process environment into each request's WSGI environ, so that what stays here would reach every
    error reporter, and `HTTP_X_FORWARDED_FOR` in the environment would become a header.
    """
    for name in list(environ):
        bare = name.removesuffix("_FILE")
        if bare in SECRETS or bare.endswith("_CLIENT_SECRET") or name.startswith("HTTP_"):
            del environ[name]


class _Reader:
    """Reads one environment and collects what is wrong with it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        """The trimmed value, or that of the file which `NAME_FILE` names; None when empty."""
        if name + "_FILE" in self.environ and self._may_be_file(name):
            try:
                return Path(self.environ[name + "_FILE"]).read_text(encoding="utf-8").strip() or None
            except (OSError, UnicodeDecodeError):
                self.problems.append(f"{name}_FILE cannot be read: name a text file that this process may read.")
                return None
        return self.environ.get(name, "").strip() or None

    def _may_be_file(self, name: str) -> bool:
        return name in SECRETS or name.endswith("_CLIENT_SECRET")

    def secret(self, name: str) -> SecretStr | None:
        value = self.text(name)
        return SecretStr(value) if value else None

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in (self.text(name) or "").split(",") if word.strip())

    def switch(self, name: str, *, default: bool) -> bool:
        value = self.text(name)
        if value not in (None, "0", "1"):
            self.problems.append(f"{name} is a switch: set it to 1 or 0.")
        return default if value is None else value == "1"

    def number(self, name: str, default: int, lowest: int, highest: int) -> int:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,9}", value) or not lowest <= int(value) <= highest:
            self.problems.append(f"{name} is a whole number from {lowest} to {highest}.")
            return default
        return int(value)

    def url(self, name: str) -> str | None:
        """An absolute http(s) URL without user or fragment."""
        value = self.text(name)
        if value is None:
            return None
        if not _is_web_url(value):
            self.problems.append(f"{name} is not a web address: write it like https://app.example.com.")
            return None
        return value

    def origin(self, name: str, default: str) -> str:
        value = self.text(name) or default
        if _origin(value) is None:
            self.problems.append(f"{name} is one origin: scheme, host and port, nothing behind them.")
        return _origin(value) or default

    def origins(self, name: str) -> tuple[str, ...]:
        found = []
        for word in self.words(name):
            origin = _origin(word)
            if origin is None:
                self.problems.append(
                    f"{name} holds something that is no origin: write https://app.example.com, commas between."
                )
            else:
                found.append(origin)
        return tuple(found)

    def folder(self, name: str) -> Path | None:
        value = self.text(name)
        if value is not None and not Path(value).is_dir():
            self.problems.append(f"{name} is not a folder that exists.")
            return None
        return Path(value) if value else None

    def file(self, name: str) -> Path | None:
        value = self.text(name)
        if value is not None and not Path(value).is_file():
            self.problems.append(f"{name} is not a file that exists.")
            return None
        return Path(value) if value else None

    def database_url(self) -> SecretStr | None:
        value = self.text("DATABASE_URL")
        if value and not value.startswith(("postgres://", "postgresql://")):
            self.problems.append(
                "DATABASE_URL is not a Postgres address: write it like postgresql://user:password@host:5432/name."
            )
        return SecretStr(value) if value else None

    def jwt_secret(self) -> SecretStr | None:
        value = self.text("SUPABASE_JWT_SECRET")
        if value and len(value.encode()) < _MINIMUM_JWT_SECRET:
            self.problems.append(
                f"SUPABASE_JWT_SECRET is shorter than {_MINIMUM_JWT_SECRET} bytes: copy it whole from the project."
            )
        return SecretStr(value) if value else None

    def keys(self) -> tuple[SecretStr, ...]:
        """Fernet keys, newest first; a missing, short, well-known or repeated one stops the start."""
        words = [word.strip() for word in (self.text("GATEWAY_KEYS") or "").split(",") if word.strip()]
        if not words:
            self.problems.append(
                "GATEWAY_KEYS is missing: make one with `python -m gateway keys new` and keep it safe."
            )
        raw = [_raw_key(word) for word in words]
        for position, key in enumerate(raw, start=1):
            if key is None:
                self.problems.append(
                    f"GATEWAY_KEYS, key {position}, is no Fernet key: 32 random bytes in URL-safe base64."
                )
            elif key in _PUBLISHED_KEYS or _looks_made_up(key):
                self.problems.append(f"GATEWAY_KEYS, key {position}, is an example or far from random: make a new one.")
        known = [key for key in raw if key is not None]
        if len(set(known)) < len(known):
            self.problems.append("GATEWAY_KEYS holds one key twice: every key may stand there once.")
        return tuple(SecretStr(word) for word in words)

    def registrations(self) -> tuple[dict[str, Client], dict[str, tuple[str, ...]]]:
        """Our client at each provider, and the scopes that replace the catalogue's, by lower-case provider id."""
        clients: dict[str, Client] = {}
        scopes: dict[str, tuple[str, ...]] = {}
        for match in filter(None, map(_REGISTRATION.fullmatch, self.environ)):
            provider, what = match[1], match[2]
            if what == "CLIENT_ID" and (client_id := self.text(f"{provider}_CLIENT_ID")):
                clients[provider.lower()] = Client(client_id, self.text(f"{provider}_CLIENT_SECRET") or "")
            elif what == "SCOPE" and (scope := self.text(f"{provider}_SCOPE")):
                scopes[provider.lower()] = tuple(scope.replace(",", " ").split())
                if not re.fullmatch(r"[!#-\[\]-~ ]+", scope):
                    self.problems.append(
                        f"{provider}_SCOPE holds what no scope may: quotes, backslashes or other than ASCII."
                    )
        return clients, scopes

    def judge_together(self, values: Mapping[str, Any]) -> None:
        """What no single setting shows."""
        if values["supabase_jwt_secret"] and not values["supabase_url"]:
            self.problems.append(
                "SUPABASE_JWT_SECRET needs SUPABASE_URL too: it names the issuer whose tokens are believed."
            )
        if values["supabase_secret_key"] and not values["supabase_url"]:
            self.problems.append("SUPABASE_SECRET_KEY needs SUPABASE_URL too: it names the project.")
        public = urlsplit(values["public_url"])
        if public.scheme == "http" and not is_loopback(public.hostname or ""):
            self.problems.append("GATEWAY_PUBLIC_URL has to be https, except on localhost.")
        for name in ("app_origins", "app_login_url", "supabase_url"):
            for url in [values[name]] if isinstance(values[name], str) else values[name] or ():
                parts = urlsplit(url)
                if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                    self.problems.append(f"{_setting(name)}: {parts.netloc} has to be https, except on localhost.")


def _setting(field: str) -> str:
    return field.upper() if field.startswith("supabase") else "GATEWAY_" + field.upper()


def is_loopback(host: str) -> bool:
    """Whether `host` (name or address) is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_web_url(value: str) -> bool:
    try:
        parts = urlsplit(value)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = value.isascii() and value.isprintable() and not any(mark in value for mark in ' \\"<>')
    return (
        plain
        and port_is_sound
        and parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and not parts.fragment
        and "@" not in parts.netloc
    )


def _origin(value: str) -> str | None:
    """`scheme://host[:port]` in the form in which a browser sends it (RFC 6454 section 6.2), or None."""
    if not _is_web_url(value):
        return None
    parts = urlsplit(value)
    if parts.path not in ("", "/") or parts.query:
        return None
    host = parts.hostname or ""
    if ":" not in host and not re.fullmatch(r"[a-z0-9._-]+", host):
        return None
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    port = "" if parts.port in (None, default) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def _looks_made_up(key: bytes) -> bool:
    """Few different bytes, all of them typed, or each one the next: 32 random bytes are none of that."""
    counted = len({(later - byte) % 256 for byte, later in pairwise(key)}) == 1
    return len(set(key)) < len(key) // 4 or counted or (key.isascii() and key.decode("ascii").isprintable())


def _raw_key(word: str) -> bytes | None:
    try:
        key = base64.b64decode(word.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    return key if len(key) == 32 else None  # noqa: PLR2004 - the Fernet specification: 128 bits to sign, 128 to encrypt
