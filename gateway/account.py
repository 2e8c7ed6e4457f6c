"""
Whose account a new grant is for.

Asks where the catalogue (or a quirk of it) says, judges the id_token where one was asked for, and takes id and label from
both. The id decides whether a returning user is the same account; the label is for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from gateway.catalog import Provider
from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.models import Account
from gateway.oauth import TokenAnswer, read_json
from gateway.outbound import Deadline
from gateway.quirks import QUIRKS, AccountLookup
from gateway.runtime import Runtime

_LONGEST = 200


def read_account(rt: Runtime, provider: Provider, answer: TokenAnswer, *, nonce: str, deadline: Deadline) -> Account:
    """
    The account behind `answer`.

    Raises ProviderGarbled when the provider contradicts itself (OpenID Connect Core section 5.3.2) or names no account, and
    what the provider's endpoints raise.
    """
    claims = _id_token_claims(rt, provider, answer, nonce, deadline)
    lookup = _lookup(provider, answer)
    known: dict[str, Any] = {**answer.rest, **claims}
    if lookup.url:
        known = {**known, **_ask(rt, provider, lookup, answer, claims, deadline, known), **claims}
    parts = [_id(_at(known, path)) for path in lookup.id]
    account_id = parts[0] if len(parts) == 1 else "/".join(quote(part or "", safe="") for part in parts)
    if not account_id or None in parts or len(account_id) > _LONGEST:
        raise ProviderGarbled("the provider does not say whose account it is")
    label = next(filter(None, (_text(_at(known, path)) for path in lookup.label)), account_id)
    return Account(account_id, label[:_LONGEST])


def _id_token_claims(
    rt: Runtime, provider: Provider, answer: TokenAnswer, nonce: str, deadline: Deadline
) -> Mapping[str, Any]:
    if not provider.openid:
        return {}
    if answer.grant.id_token is None:
        raise ProviderGarbled("openid was asked for, and no id_token came")
    return rt.issuers.read_id_token(
        provider,
        rt.clients[provider.id],
        answer.grant.id_token,
        nonce=nonce,
        now=rt.now().timestamp(),
        deadline=deadline,
    )


def _lookup(provider: Provider, answer: TokenAnswer) -> AccountLookup:
    for name in provider.quirks:
        find = QUIRKS[name].account
        if find is not None:
            return find(provider.api_base_url or "", answer.rest)
    return AccountLookup(provider.userinfo_endpoint, provider.account.id, provider.account.label)


def _ask(
    rt: Runtime,
    provider: Provider,
    lookup: AccountLookup,
    answer: TokenAnswer,
    claims: Mapping[str, Any],
    deadline: Deadline,
    known: Mapping[str, Any],
) -> Mapping[str, Any]:
    headers = {
        "Accept": "application/json",
        **provider.headers,
        "Authorization": f"Bearer {answer.grant.access_token}",
    }
    found = rt.outbound.request("GET", lookup.url or "", headers=headers, deadline=deadline)
    if found.status in (401, 403) and all(_id(_at(known, path)) for path in lookup.id):
        # The grant does not reach so far, but the account is known from the token answer: its id will do as a label.
        return {}
    if found.status in (408, 425, 429) or found.status >= 500:  # noqa: PLR2004
        raise ProviderUnavailable(f"the account endpoint answers {found.status}")
    if found.status != 200:  # noqa: PLR2004
        raise ProviderGarbled(f"the account endpoint answers {found.status}")
    info = read_json(found.body)
    if claims and "sub" in info and info["sub"] != claims["sub"]:
        raise ProviderGarbled("the account endpoint speaks of another sub than the id_token")
    return info


def _at(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; numbers index lists. A name that itself holds dots is tried whole first."""
    if path in document:
        return document[path]
    here: Any = document
    for step in path.split("."):
        if isinstance(here, Mapping):
            here = here.get(step)
        elif isinstance(here, list) and step.isdigit() and int(step) < len(here):
            here = here[int(step)]
        else:
            return None
    return here


def _id(value: Any) -> str | None:
    """An id as it is, or none: shortened or tidied, two accounts could become one."""
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value)
    return text if text and text.isprintable() and text == text.strip() else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = "".join(letter for letter in str(value) if letter.isprintable()).strip()
    return text or None
