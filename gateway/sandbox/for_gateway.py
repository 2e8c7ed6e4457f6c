"""
What a gateway needs to talk to the sandbox in place of the real providers: settings, and a catalogue override.

`GET /_sandbox/gateway` has both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .clients import CLIENTS
from .derived import is_oauth, read_entries
from .generic import TABLES as GENERIC

_URLS = (
    "issuer", "issuer_pattern", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "userinfo_endpoint", "jwks_uri",
    "api_base_url", "installed_apps_url",
)  # fmt: skip
SETTINGS = {
    "GATEWAY_BRAND_NAME": "Northwind",
    "GATEWAY_BRAND_LOGO": str(Path(__file__).resolve().parent / "static" / "mark.svg"),
    "GATEWAY_BRAND_COLOR": "#1d4f4a",
    "GATEWAY_BRAND_SUPPORT_URL": "mailto:help@northwind.example",
    "GATEWAY_ENABLE": "twilio,sendgrid",
    "GHL_WEBHOOK_PUBLIC_KEY": "ebVWLo/mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ=",
    # Agencies can be chosen here, and an agency's name needs a scope that a sub-account app would not have.
    "GHL_SCOPE": "locations.readonly contacts.readonly companies.readonly oauth.readonly oauth.write",
}


def settings(origin: str) -> dict[str, str]:
    """The product, the clients of every simulated provider of the catalogue, and what differs from a real registration."""
    found = {
        **SETTINGS,
        "SUPABASE_URL": origin,
        "GATEWAY_APP_ORIGINS": origin,
        "GATEWAY_APP_LOGIN_URL": f"{origin}/login",
        "GATEWAY_BRAND_HOME_URL": f"{origin}/",
    }
    for name, entry in read_entries().items():
        if is_oauth(entry) and (name in GENERIC or name in CLIENTS):
            found[f"{name.upper()}_CLIENT_ID"] = CLIENTS[name][0]
            if entry.get("token_endpoint_auth_method") != "none":
                found[f"{name.upper()}_CLIENT_SECRET"] = CLIENTS[name][1]
    return found


def override(origin: str) -> str:
    """The TOML that moves every provider of the catalogue to the sandbox."""
    return "".join(moved(name, entry, origin) for name, entry in read_entries().items())


def moved(name: str, entry: Mapping[str, Any], origin: str) -> str:
    """A table that changes every URL of an entry to `<origin>/<id>/…`; a host that depends on the account becomes part of the path."""
    lines, base = [f"[{name}]"], f"{origin}/{name}"
    for key in _URLS:
        url = entry.get(key, "{")
        if not url.startswith("{"):
            parts = urlsplit(url)
            host, query = f"/{parts.netloc}" * ("{" in parts.netloc), f"?{parts.query}" * bool(parts.query)
            lines.append(f'{key} = "{base}{host}{parts.path}{query}"')
    lines += ["login_origins = []"] if is_oauth(entry) else []
    for each, value in entry.get("values", {}).items():
        there = {**value, "pattern": value["pattern"].replace("https://", f"{re.escape(base)}/")}
        there |= {"default": value["default"].replace("https://", f"{base}/")} if "default" in value else {}
        lines += [f"[{name}.values.{each}]", *(f"{key} = {json.dumps(text)}" for key, text in there.items())]
    return "\n".join([*lines, "", ""])
