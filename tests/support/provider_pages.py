"""
docs/providers/: how to register at each OAuth provider, its scopes, and what it does to tokens; where users find a key of theirs.

`python -m tests.support.provider_pages` writes the pages; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gateway.catalog import TYPES, AnyEntry, ApiKeyProvider, Catalog, Provider, load_catalog
from gateway.catalog.api_key import KEY_HASH
from gateway.catalog.witnesses import WITNESSES, status, tokens

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "providers"
_TITLES = {"crm": "HighLevel", "email": "E-mail", "phone": "Phone", "apps": "CRMs and business tools"}
_KEYS = {
    "account": "The account's id", "authorization_params": "The parameters of the request", "fields": "What users enter", "headers": "The headers", "account_call": "The account endpoint", "account_id": "The account's id", "account_label": "The account's name",
    "access_seconds": "How long an access token is valid", "api_base_url": "The base of the API", "pkce": "Whether PKCE is accepted",
    "placement": "Where the key is sent", "refresh_seconds": "How long an unused refresh token is valid", "refresh_token": "Whether the refresh token changes",
    "revocation_endpoint": "The revocation endpoint", "scope": "The scope", "scope_default": "The scope", "scope_separator": "The separator of scopes",
    "token_endpoint_auth_method": "How the client authenticates", "userinfo_endpoint": "The account endpoint",
}  # fmt: skip
"""In words, the keys of `differs` and `unsure`."""


def pages(known: Catalog) -> Mapping[Path, str]:
    """The text of each page, by its file."""
    return {FOLDER / f"{path}.md": _page(path, known) for path in TYPES.values()}


def _page(path: str, known: Catalog) -> str:
    providers = [each for each in known.providers.values() if each.path == path]
    keys = [each for each in known.entries.values() if isinstance(each, ApiKeyProvider) and each.path == path]
    return "\n".join([
        f"# {_TITLES[path]}",
        "",
        "Generated from the catalogue by `python -m tests.support.provider_pages`; do not edit. Register an app at the provider with the redirect URL below,",
        "and set its client id and secret. Nothing here was tried with the real service, so test each provider with an account of your own first.",
        "By sources alone an entry is *verified* where independent ones agree, *documented* where the provider's own documents say so, else *unsure*; what",
        "no second source says is listed with each. Links to documentation, registration and keys were written from memory and have no source: check",
        "that they lead to the provider before you enter anything there.",
        *(line for provider in sorted(providers, key=lambda each: each.id) for line in section(provider)),
        *(line for entry in sorted(keys, key=lambda each: each.id) for line in key_section(entry)),
        "",
    ])  # fmt: skip


def section(provider: Provider) -> Iterator[str]:
    """One provider, as lines of Markdown."""
    name = provider.id.upper()
    secret = f" and `{name}_CLIENT_SECRET`" if provider.needs_secret else ""
    yield from (
        "",
        f"## {provider.name}",
        "",
        f"`{provider.id}`; sources: {status(provider)}. [Documentation]({provider.docs_url}).",
        "",
    )
    where = f" at <{provider.registration_url}>" if provider.registration_url else ""
    redirect = f"<GATEWAY_PUBLIC_URL>/{provider.path}/{provider.slug}/callback"
    yield f"- Register{where}, with the redirect URL `{redirect}`; set `{name}_CLIENT_ID`{secret}."
    if provider.fields:
        yield f"- Users enter: {'; '.join(field.label for field in provider.fields.values())}."
    texts = {name: f" ({text})" for name, text in provider.scope_texts.items()}
    scope = ", ".join(f"`{name}`{texts.get(name, '')}" for name in provider.scope)
    yield (
        f"- Scopes: {scope}; `{name}_SCOPE` replaces them."
        if scope
        else f"- No scope is sent, unless `{name}_SCOPE` names one."
    )
    yield f"- {' '.join(tokens(provider))}"
    yield from _remarks(provider)


def _remarks(entry: AnyEntry) -> Iterator[str]:
    """Notes, what is not as the sources say, and what is uncertain."""
    yield from (f"- {line}" for line in entry.notes.splitlines() if line)
    yield from (f"- {_KEYS[key]} is not what sources say: {why}." for key, why in entry.differs.items())
    witness = WITNESSES.get(entry.id, {})
    yield from (f"- Sources disagree: {_named(key)} ({why})." for key, why in witness.get("disagree", {}).items())
    if unsure := [_named(key) for key in witness.get("unsure", ())]:
        yield f"- No second source says: {', '.join(unsure)}."


def _named(key: str) -> str:
    return _KEYS[key][0].lower() + _KEYS[key][1:]


def key_section(entry: ApiKeyProvider) -> Iterator[str]:
    """One provider whose users enter a key."""
    yield from (
        "",
        f"## {entry.name}",
        "",
        f"`{entry.id}`; sources: {status(entry)}. [Documentation]({entry.docs_url}).",
        "",
    )
    yield f"- `GATEWAY_ENABLE={entry.id}` offers it; there is nothing to register."
    where = f", which they find under {entry.key_help}" if entry.key_help else ""
    yield f"- Users enter: {', '.join(field.label for field in entry.fields.values())}{where}."
    named = "a hash of the key" if KEY_HASH in entry.account.id else ", ".join(f"`{path}`" for path in entry.account.id)
    yield f"- A key is verified at `{entry.userinfo_endpoint}`; the account is {named}."
    yield from _remarks(entry)


if __name__ == "__main__":
    for file, text in pages(load_catalog()).items():
        file.write_text(text, encoding="utf-8")
