"""How far sources agree on an entry of the catalogue, and what a provider does to tokens."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from gateway.catalog.loader import AnyEntry
from gateway.catalog.provider import Provider

_ROTATION = {
    "rotates": "A refresh token can be used once; each refresh brings the next one.",
    "rotates-old-valid": "Each refresh brings a new refresh token, and the old one stays valid.",
    "stable": "The refresh token stays the same.",
    "none": "There is no refresh token.",
}
_AUTH = {"client_secret_post": "in the body", "client_secret_basic": "with Basic", "none": "without a secret"}

_NEEDED = {"token_endpoint_auth_method", "scope_separator", "placement", "account_call"}
Status = Literal["verified", "documented", "unsure"]

WITNESSES: Mapping[str, Mapping[str, Any]] = tomllib.loads(
    Path(__file__).with_name("witnesses.toml").read_text(encoding="utf-8")
)
"""What independent sources say about each provider."""


def status(provider: AnyEntry) -> Status:
    """
    How well an entry is witnessed; no entry was tried with the real service.

    `verified`: two or more sources that are independent of each other name both endpoints, and none contradicts the client authentication
    or the separator; of a provider with keys, where the key is sent and the call that verifies it. `documented`: the provider's own documents name them. `unsure`: neither, or the operator changed an endpoint.
    """
    witness = WITNESSES.get(provider.id)
    if witness is None:
        return "unsure"
    names = ("authorization_endpoint", "token_endpoint") if isinstance(provider, Provider) else ("userinfo_endpoint",)
    if any((url := getattr(provider, name)) and "{" not in url and url != witness[name] for name in names):
        return "unsure"
    if min(witness["sources"]) > 1 and _NEEDED.isdisjoint((*witness.get("unsure", ()), *witness.get("disagree", ()))):
        return "verified"
    return "documented" if witness["vendor"] else "unsure"


def tokens(provider: Provider) -> Iterator[str]:
    """What the provider does to tokens, as sentences."""
    witness = WITNESSES.get(provider.id, {})
    if seconds := provider.access_token_seconds or witness.get("access_seconds"):
        yield f"An access token is valid for {_span(seconds)}."
    elif witness.get("access_seconds") == 0:
        yield "An access token does not expire."
    if sentence := _ROTATION.get(witness.get("rotation", "")):
        yield sentence
    if provider.refresh_token_seconds:
        yield f"A grant ends after {_span(provider.refresh_token_seconds)} without a refresh."
    yield (
        "A disconnect revokes the grant there."
        if provider.revocation_endpoint
        else "There is no revocation: a disconnect erases the tokens here."
    )
    yield f"The client authenticates {_AUTH.get(provider.token_endpoint_auth_method, 'with a signed assertion')}."


def _span(seconds: int) -> str:
    for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size - 60:
            return f"{round(seconds / size)} {word}"
    return f"{seconds} seconds"
