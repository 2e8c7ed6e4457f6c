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
from gateway.catalog.deviations import AccountLookup
from gateway.errors import NeedsReauthorization, ProviderGarbled, ProviderUnavailable
from gateway.http import Deadline, Response
from gateway.models import Account
from gateway.protocol import TokenResponse, parse_json
from gateway.protocol.id_token import unverified_claims
from gateway.services import Runtime

_LONGEST = 200


class NotConfirmed(NeedsReauthorization):
    """The provider answered, and what it says is not that the token belongs to this account."""


class NotReached(NotConfirmed):
    """RFC 6750 section 3.1: it takes the token, which does not reach so far as to be told whose account it is."""


class NobodyNamed(NeedsReauthorization):
    """It answered, and named no account."""


class TokenRefused(NeedsReauthorization):
    """RFC 6750 section 3.1: the provider does not take the access token. A new one may do."""


class AnotherAccount(NotConfirmed):
    """It says that the token belongs to another."""


def read_account(
    rt: Runtime, provider: Provider, answer: TokenResponse, *, nonce: str | None, deadline: Deadline
) -> Account:
    """
    The account behind `answer`. `nonce`: None for the answer to a refresh, which may come without an id_token.

    Raises ProviderGarbled when the provider contradicts itself (OpenID Connect Core section 5.3.2) or names no account, and
    what the provider's endpoints raise.
    """
    bare = nonce is None and answer.grant.id_token is None
    claims = {} if bare else _id_token_claims(rt, provider, answer, nonce, deadline)
    lookup = _lookup(provider, answer)
    known: dict[str, Any] = {**answer.rest, **claims}
    if lookup.url:
        known = {**known, **_ask(rt, provider, lookup, answer, claims, deadline, known), **claims}
    account_id = _account_id(known, lookup.id)
    if account_id is None:
        raise ProviderGarbled("the provider does not say whose account it is")
    return Account(account_id, _label(known, lookup) or account_id)


def confirm_account(
    rt: Runtime, provider: Provider, answer: TokenResponse, account_id: str | None, deadline: Deadline
) -> Account:
    """
    The account that an access token from elsewhere is for, in the provider's words alone; `account_id`: it has to be that one.

    `answer.rest` says where to ask and is not believed. Raises NeedsReauthorization when the token alone does not tell,
    TokenRefused, NobodyNamed, NotConfirmed (NotReached, AnotherAccount) and what the provider's endpoints raise.
    """
    lookup = _lookup(provider, answer)
    if account_id is not None and len(lookup.id) == 1:
        answer = TokenResponse(answer.grant, {**answer.rest, lookup.id[0]: account_id})
        lookup = _lookup(provider, answer)
    asked = _account_id(answer.rest, lookup.id) if lookup.answered else account_id
    if not lookup.url or (lookup.answered and asked is None):
        raise NeedsReauthorization("the provider cannot be asked with the access token alone")
    found = _fetch(rt, provider, lookup.url, answer, deadline)
    if found.status == 401:  # noqa: PLR2004 - RFC 6750 section 3.1
        raise TokenRefused("the provider refuses the access token")
    if found.status == 403:  # noqa: PLR2004
        raise NotReached("the access token does not reach the account")
    if found.status != 200:  # noqa: PLR2004
        raise NotConfirmed(f"the provider does not say that the token belongs to this account ({found.status})")
    info = parse_json(found.body)
    named = _account_id(info, lookup.answered or lookup.id)
    if named is None:
        if provider.openid and lookup.id != ("sub",):
            # Named in the id_token alone, as Microsoft's tenant and object: the endpoint need not know of it.
            raise NeedsReauthorization("the provider names the account beside the access token only")
        raise NobodyNamed("the provider does not say whose account it is")
    if named != (asked or named):
        raise AnotherAccount("the token belongs to another account")
    return Account(named, _label(info, lookup) or named)


def judge_same_account(provider: Provider, answer: TokenResponse, account_id: str) -> None:
    """
    Raises ProviderGarbled when a refresh response names another account than the connection's (OpenID Connect Core section 12.2).

    A response may name none: then there is nothing to compare (RFC 6749 section 6). An id_token comes from the token endpoint itself, so its
    signature need not be checked (section 3.1.3.7, number 6); expired or signed by a new key, it must not cost the refresh token.
    """
    known: dict[str, Any] = dict(answer.rest)
    if provider.openid and answer.grant.id_token is not None:
        known |= unverified_claims(answer.grant.id_token)
    paths = _lookup(provider, answer).id
    named = _account_id(known, paths)
    if named is None and any(_at(known, path) is not None and not _whole_id(_at(known, path)) for path in paths):
        raise ProviderGarbled("the refresh answer names an account that cannot be one")
    if named is not None and named != account_id:
        raise ProviderGarbled("the refresh answer is of another account")


def _account_id(known: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """The id, from one place as it is, from several with each part encoded; None where a part is missing or too long."""
    parts = [_id(_at(known, path)) for path in paths]
    if None in parts or not parts:
        return None
    found = parts[0] if len(parts) == 1 else "/".join(quote(part or "", safe="") for part in parts)
    return found if found and len(found) <= _LONGEST else None


def _id_token_claims(
    rt: Runtime, provider: Provider, answer: TokenResponse, nonce: str | None, deadline: Deadline
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


def _lookup(provider: Provider, answer: TokenResponse) -> AccountLookup:
    for deviation in provider.deviations:
        lookup = deviation.account_lookup(provider.api_base_url or "", answer.rest)
        if lookup is not None:
            return lookup
    return AccountLookup(provider.userinfo_endpoint, provider.account.id, provider.account.label)


def _ask(
    rt: Runtime,
    provider: Provider,
    lookup: AccountLookup,
    answer: TokenResponse,
    claims: Mapping[str, Any],
    deadline: Deadline,
    known: Mapping[str, Any],
) -> Mapping[str, Any]:
    found = _fetch(rt, provider, lookup.url or "", answer, deadline)
    if found.status in (401, 403) and all(_id(_at(known, path)) for path in lookup.id):
        # The grant does not reach so far, but the account is known from the token answer: its id will do as a label.
        return {}
    if found.status != 200:  # noqa: PLR2004
        raise ProviderGarbled(f"the account endpoint answers {found.status}")
    info = parse_json(found.body)
    # OpenID Connect Core section 5.3.2: it has to be there, and the same. Where the id is another field, it is no such endpoint.
    if claims and ("sub" in info or lookup.id == ("sub",)) and info.get("sub") != claims["sub"]:
        raise ProviderGarbled("the account endpoint speaks of another sub than the id_token")
    return info


def _fetch(rt: Runtime, provider: Provider, url: str, answer: TokenResponse, deadline: Deadline) -> Response:
    headers = {
        "Accept": "application/json",
        **provider.headers,
        "Authorization": f"Bearer {answer.grant.access_token}",
    }
    found = rt.http.request("GET", url, headers=headers, deadline=deadline, provider=provider.id)
    if found.status in (408, 425, 429) or found.status >= 500:  # noqa: PLR2004
        raise ProviderUnavailable(f"the account endpoint answers {found.status}")
    return found


def _label(known: Mapping[str, Any], lookup: AccountLookup) -> str | None:
    label = next(filter(None, (_text(_at(known, path)) for path in lookup.label)), None)
    return label and label[:_LONGEST]


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


def _whole_id(value: Any) -> bool:
    return 0 < len(_id(value) or "") <= _LONGEST


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = "".join(letter for letter in str(value)[: 4 * _LONGEST] if letter.isprintable()).strip()
    return text or None
