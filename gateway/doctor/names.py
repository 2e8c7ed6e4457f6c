"""
Names in the environment that nobody reads: a setting with a slip in it changes nothing, and says nothing.

Only warnings: orchestrators put names of their own beside ours (`GATEWAY_SERVICE_HOST`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from gateway.doctor.finding import Finding
from gateway.settings import SECRETS, Settings

_BESIDE = ("clients", "scopes")
"""Fields that are read from many settings, by provider."""
_ELSEWHERE = ("database_url", "supabase_url", "supabase_secret_key", "supabase_jwt_secret")
_SECRET = re.compile(r"([A-Z][A-Z0-9_]*)_CLIENT_SECRET(_FILE)?")


def settings() -> set[str]:
    """Every setting of ours that begins with GATEWAY_, also as a file where it may be one."""
    named = {f"GATEWAY_{field.upper()}" for field in Settings.model_fields if field not in (*_BESIDE, *_ELSEWHERE)}
    return named | {f"{name}_FILE" for name in named & set(SECRETS)} | {"GATEWAY_TEST_MARKS"}


def examine(environ: Mapping[str, str], providers: Collection[str]) -> Iterator[Finding]:
    """What stands in the environment and is read by nobody. `providers`: the catalogue's ids."""
    known = settings()
    for name in sorted(name for name in environ if name.startswith("GATEWAY_") and name not in known):
        [*near] = get_close_matches(name, known, n=1, cutoff=0.85)
        if near:
            yield Finding("settings", "warn", f"{name} is no setting, and nobody reads it.", f"Did you mean {near[0]}?")
    for match in filter(None, map(_SECRET.fullmatch, sorted(environ))):
        if match[1].lower() in providers and not environ.get(f"{match[1]}_CLIENT_ID"):
            yield Finding(
                "settings",
                "warn",
                f"{match[0]} is set without {match[1]}_CLIENT_ID: the provider is not enabled.",
                f"Set {match[1]}_CLIENT_ID, or take the secret out.",
            )
