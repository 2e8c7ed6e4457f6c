"""
The account that a grant is for.

Its id and label come from the id_token and from the account endpoint that the catalogue, or a deviation, names. The id decides whether a
returning user brings the same account; the label is for people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote

import structlog

from gateway.catalog import AnyEntry, ApiKeyProvider, Provider, fill
from gateway.catalog.api_key import KEY_HASH
from gateway.catalog.deviations import AccountLookup
from gateway.catalog.provider import places
from gateway.errors import NeedsReauthorization, ProviderFailed, ProviderGarbled, ProviderUnavailable, Suspended
from gateway.http import Deadline, Response
from gateway.models import Account, Client
from gateway.protocol.issuers import unverified_claims
from gateway.protocol.message import api_error, check_address, is_page, is_temporary, parse_json_value, says
from gateway.protocol.oauth import TokenResponse
from gateway.services import Runtime

log = structlog.get_logger(__name__)

_MAX_LENGTH = 200
_LARGEST_LIST = 1_048_576
"""Bytes of a response that verifies a key: some providers have only lists to ask for."""
NAME_SECONDS = 3.0
"""For a name alone: without it the id is shown."""


class NotConfirmed(NeedsReauthorization):
    """The account endpoint does not confirm that an access token is for the expected account."""

    def __init__(self, reason: "NotConfirmedReason", message: str) -> None:
        super().__init__(message)
        self.reason = reason


NotConfirmedReason = Literal[
    "token_refused",  # RFC 6750 section 3.1; a new access token may work
    "out_of_scope",  # the token is valid, and its scope does not cover the endpoint (RFC 6750 section 3.1)
    "another_account",
    "not_named",
    "cannot_ask",  # the endpoint cannot be asked with an access token alone
    "test_mode",  # a key of the provider's test mode
    "not_confirmed",
]


def read_account(
    rt: Runtime, provider: Provider, response: TokenResponse, *, nonce: str | None, deadline: Deadline
) -> Account:
    """
    The account of a token response. `nonce`: None for the response to a refresh, which may come without an id_token.

    Where the response names the account, its endpoint is asked for the name alone, and may fail. Raises ProviderGarbled when the provider
    contradicts itself (OpenID Connect Core section 5.3.2) or names no account, and what the provider's endpoints raise.
    """
    claims = (
        _refresh_claims(provider, response)
        if nonce is None
        else _id_token_claims(rt, provider, response, nonce, deadline)
    )
    learned = dict(provider.learn("response", known := {**response.rest, **claims}))
    response = TokenResponse(response.grant, {**response.rest, **learned})
    provider = provider.filled({**known, **learned})
    lookup = _lookup(provider, response.rest, response.grant.scope, rt.clients[provider.id])
    known = {**known, **learned}
    named = _account_id(known, lookup.id)
    if lookup.url:
        info = _account_info(rt, provider, lookup.url, response, deadline, is_optional=named is not None)
        _check_info(lookup, info, claims, named)
        learned |= provider.learn("response", info)
        known = {**known, **info, **claims}
    account_id = _account_id(known, lookup.id)
    if account_id is None:
        raise ProviderGarbled("the provider names no account")
    return Account(account_id, _label(known, lookup) or account_id, learned)


def confirm_account(
    rt: Runtime,
    entry: AnyEntry,
    token: str,
    scope: tuple[str, ...],
    facts: Mapping[str, Any],
    account_id: str | None,
    deadline: Deadline,
) -> Account:
    """
    The account of a stored access token or key, as the provider's account endpoint names it.

    `account_id`: it has to be that one. `facts` only say where to ask. Raises NotConfirmed and what the endpoint raises.
    """
    if isinstance(entry, ApiKeyProvider):
        return read_key_account(rt, entry, token, facts, deadline, account_id)
    provider, client = rt.issuers.complete(entry.filled(facts), deadline), rt.clients[entry.id]
    lookup = _lookup(provider, facts, scope, client)
    if account_id is not None and len(lookup.id) == 1:
        facts = {**facts, lookup.id[0]: account_id}
        lookup = _lookup(provider, facts, scope, client)
    asked = _account_id(facts, lookup.id) if lookup.answered else account_id
    if not lookup.url or (lookup.answered and asked is None):
        raise NotConfirmed("cannot_ask", "the provider cannot be asked with the access token alone")
    found = _fetch(rt, provider, lookup.url, token, facts, deadline)
    _check_accepted(provider, found)
    info = _parse(found.body)
    named = _account_id(info, lookup.answered or lookup.id)
    if named is None:
        only_id_token = provider.openid and lookup.id != ("sub",)
        raise NotConfirmed("cannot_ask" if only_id_token else "not_named", "the account endpoint names no account")
    return _confirmed(Account(named, _label(info, lookup) or named), asked, info, lookup.id)


def read_key_account(
    rt: Runtime,
    provider: ApiKeyProvider,
    credential: str,
    facts: Mapping[str, Any],
    deadline: Deadline,
    account_id: str | None = None,
) -> Account:
    """
    The account of a key, as the provider names it when it accepts the key; only the paths that the catalogue names are read.
    `account_id`: it has to be that one.

    Raises NotConfirmed for a key that does not work, and for an address that is no account's; ProviderUnavailable, which says nothing
    about the key.
    """
    url = fill(provider.userinfo_endpoint or "", facts)
    if url is None:
        raise NotConfirmed("cannot_ask", "the connection lacks a field of the provider's address")
    found = _fetch(rt, provider, url, credential, facts, deadline)
    if found.status in (401, 403) and says(found.body, provider.test_mode_words):
        raise NotConfirmed("test_mode", "the provider refuses a key of its test mode")
    _check_accepted(provider, found)
    account = _key_account(rt, provider, credential, facts, found.body)
    if KEY_HASH in provider.account.id or account_id in (None, account.id):
        return account
    return _confirmed(account, account_id, parse_json_value(found.body), provider.account.id)


def _key_account(
    rt: Runtime, provider: ApiKeyProvider, credential: str, facts: Mapping[str, Any], body: bytes
) -> Account:
    named = rt.vault.keyed_hash(credential, purpose=f"account {provider.id}")[:16]
    rule, known = provider.account, {**facts, "key_hash": named}
    wanted = [*rule.id, *rule.label]
    document: Any = None if all(map(places, wanted)) else parse_json_value(body)
    values = {path: fill(path, known) if places(path) else _at(document, path) for path in wanted}
    account_id = _account_id(values, rule.id)
    if account_id is None:
        raise NotConfirmed("not_named", "the provider names no account")
    return Account(account_id, _label(values, AccountLookup(None, rule.id, rule.label)) or account_id)


def names_another_account(provider: Provider, response: TokenResponse, account_id: str) -> bool:
    """
    Whether a refresh response names another account than the connection's, or none that can be read (OpenID Connect Core section 12.2).

    A response may name none: then there is nothing to compare (RFC 6749 section 6).
    """
    known: dict[str, Any] = {**response.rest, **_refresh_claims(provider, response)}
    paths = _lookup(provider, response.rest, response.grant.scope).id
    named = _account_id(known, paths)
    if named is None:
        return any(_at(known, path) is not None and _account_id(known, (path,)) is None for path in paths)
    return named != account_id


def refreshed_addresses(provider: Provider, response: TokenResponse) -> Mapping[str, str]:
    """The addresses that a refresh response names. One that is not the provider's changes nothing: it must not cost the refresh token."""
    try:
        return provider.learn("response", {**response.rest, **_refresh_claims(provider, response)})
    except ProviderGarbled as error:
        log.warning("refresh.address_refused", provider=provider.id, reason=str(error))
        return {}


def _account_id(known: Mapping[str, Any], paths: tuple[str, ...]) -> str | None:
    """The id: one value as it is, several with each part encoded. None where a part is missing or too long."""
    parts = [_id(_at(known, path)) for path in paths]
    if None in parts or not parts:
        return None
    found = parts[0] if len(parts) == 1 else "/".join(quote(part or "", safe="") for part in parts)
    return found if found and len(found) <= _MAX_LENGTH else None


def _confirmed(found: Account, asked: str | None, document: Any, paths: tuple[str, ...]) -> Account:
    """The account that was asked for. It may be anywhere in the list whose first account names a connection (`accounts.0.id`)."""
    if asked in (None, found.id):
        return found
    before, is_first, after = f".{paths[0]}".partition(".0.")
    listed = _at(document, before[1:]) if before else document
    items = listed.values() if isinstance(listed, Mapping) else listed if isinstance(listed, list) else ()
    if is_first and asked in [_id(_at(each, after)) for each in items if isinstance(each, Mapping)]:
        return Account(asked, asked)
    raise NotConfirmed("another_account", "the credential belongs to another account")


def _refresh_claims(provider: Provider, response: TokenResponse) -> Mapping[str, Any]:
    """
    The claims of a refresh response's id_token, {} without one. It comes from the token endpoint itself, so its signature need not be checked
    (OpenID Connect Core section 3.1.3.7, number 6); expired or signed by a new key, it must not cost the refresh token.
    """
    id_token = response.grant.id_token if provider.openid else None
    return {} if id_token is None else unverified_claims(id_token)


def _id_token_claims(
    rt: Runtime, provider: Provider, response: TokenResponse, nonce: str, deadline: Deadline
) -> Mapping[str, Any]:
    if not provider.openid:
        return {}
    if response.grant.id_token is None:
        raise ProviderGarbled("openid was requested, and the response has no id_token")
    return rt.issuers.read_id_token(
        provider,
        rt.clients[provider.id],
        response.grant.id_token,
        nonce=nonce,
        now=rt.now().timestamp(),
        deadline=deadline,
    )


def _lookup(
    provider: Provider, facts: Mapping[str, Any], scope: Sequence[str], client: Client | None = None
) -> AccountLookup:
    known = {**facts, "scope": " ".join(scope), "client_id": client.client_id if client else ""}
    for deviation in provider.deviations:
        lookup = deviation.account_lookup(provider.api_base_url or "", known)
        if lookup is not None:
            return lookup
    return AccountLookup(provider.userinfo_endpoint, provider.account.id, provider.account.label)


def _account_info(
    rt: Runtime, provider: Provider, url: str, response: TokenResponse, deadline: Deadline, *, is_optional: bool
) -> Mapping[str, Any]:
    """What the account endpoint says. `is_optional`: the id is known, so only the name is missing, and {} will do."""
    deadline = deadline.within(NAME_SECONDS) if is_optional else deadline
    try:
        found = _fetch(rt, provider, url, response.grant.access_token, response.rest, deadline)
        if found.status != 200:  # noqa: PLR2004
            raise ProviderGarbled(f"the account endpoint answers {found.status}", provider_status=found.status)
        return _parse(found.body)
    except (ProviderFailed, Suspended) as error:
        if not is_optional:
            raise
        log.info("account.unnamed", provider=provider.id, reason=str(error))
        return {}


def _check_info(lookup: AccountLookup, info: Mapping[str, Any], claims: Mapping[str, Any], named: str | None) -> None:
    """Raises ProviderGarbled when the account endpoint speaks of another account than the token response or its id_token."""
    # OpenID Connect Core section 5.3.2: a userinfo response has the sub of the id_token. With another id field it is no userinfo endpoint.
    if info and claims and ("sub" in info or lookup.id == ("sub",)) and info.get("sub") != claims.get("sub"):
        raise ProviderGarbled("the account endpoint names another sub than the id_token")
    if lookup.answered and _account_id(info, lookup.answered) not in (None, named):
        raise ProviderGarbled("the account endpoint names another account than the token response")


def _fetch(
    rt: Runtime, provider: AnyEntry, url: str, token: str, facts: Mapping[str, Any], deadline: Deadline
) -> Response:
    """The account endpoint's response, with status 401 for a token that is not valid."""
    check_address(url)
    placement = provider.userinfo_token_placement or provider.token_placement
    headers = {"Accept": "application/json", **provider.api(facts)[1], **placement.headers(token)}
    url = placement.url(url, token)
    method, body = ("POST", provider.userinfo_body) if provider.userinfo_body else ("GET", None)
    headers |= {"Content-Type": "application/json"} if body else {}
    found = rt.http.request(
        method, url, headers=headers, body=body, deadline=deadline, provider=provider.id, limit=_LARGEST_LIST
    )
    if is_temporary(found.status) or is_page(found.status, found.body):
        raise ProviderUnavailable(f"the account endpoint answers {found.status}", provider_status=found.status)
    if api_error(provider, found) == "suspended":
        raise Suspended("the provider says that the account is not active")
    valid: Any = None
    if found.status == 200:  # noqa: PLR2004
        valid = _at(_parse(found.body), provider.valid_path) if provider.valid_path else True
    is_refused = found.status in provider.refused_statuses or (not valid and says(found.body, provider.refused_words))
    if is_refused or valid is False:
        return replace(found, status=401)
    if found.status == 200 and not valid:  # noqa: PLR2004 - an error, which says nothing of the token
        raise ProviderUnavailable("the account endpoint answers 200 without an account", provider_status=200)
    return found


def _check_accepted(provider: AnyEntry, found: Response) -> None:
    """Raises NotConfirmed for a refusal of the account endpoint."""
    if api_error(provider, found) == "token_refused":
        raise NotConfirmed("token_refused", "the provider refuses the credential")
    if found.status in (401, 403):
        raise NotConfirmed("out_of_scope", "the credential does not allow to ask for the account")
    if not 200 <= found.status < 300:  # noqa: PLR2004
        raise NotConfirmed("not_confirmed", f"the provider does not confirm the account ({found.status})")


def _parse(body: bytes) -> Mapping[str, Any]:
    """The response of an account endpoint; of a list, the items by their numbers."""
    found = parse_json_value(body)
    if isinstance(found, list):
        found = {str(number): item for number, item in enumerate(found)}
    if not isinstance(found, dict):
        raise ProviderGarbled("the response is not a JSON object")
    return found


def _label(known: Mapping[str, Any], lookup: AccountLookup) -> str | None:
    label = next(filter(None, (_text(_at(known, path)) for path in lookup.label)), None)
    return label and label[:_MAX_LENGTH]


def _at(document: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; numbers index lists. A name with dots in it is tried first."""
    if path in document:
        return document[path]
    value: Any = document
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _id(value: Any) -> str | None:
    """An id as it is, or None: if ids were cut or trimmed, two accounts could become one."""
    text = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value)
    return text if text and text.isprintable() and text == text.strip() else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = "".join(letter for letter in str(value)[: 4 * _MAX_LENGTH] if letter.isprintable()).strip()
    return text or None
