"""Client secrets in the environment that enable no provider."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.doctor.finding import Finding
from gateway.services import Runtime


def examine(rt: Runtime, environ: Mapping[str, str]) -> Iterator[Finding]:
    """A client secret without its client id does not enable the provider."""
    for provider in rt.catalog.providers:
        name = provider.upper()
        secrets = (f"{name}_CLIENT_SECRET", f"{name}_CLIENT_SECRET_FILE")
        if any(environ.get(secret) for secret in secrets) and not environ.get(f"{name}_CLIENT_ID"):
            says = f"{name}_CLIENT_SECRET is set without {name}_CLIENT_ID: the provider is not enabled."
            yield Finding("settings", "warn", says, f"Set {name}_CLIENT_ID, or remove the secret.")
