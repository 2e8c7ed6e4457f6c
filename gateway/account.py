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
from gateway.models import Account, Client, Grant
from gateway.protocol.issuers import unverified_claims
from gateway.protocol.message import api_error, check_address, is_page, is_temporary, parse_json_value, says
from gateway.services import Runtime

log = structlog.get_logger(__name__)

_MAX_LENGTH = 200
_LARGEST_LIST = 1_048_576
"""Bytes of a response that verifies a key: some providers have only lists to ask for."""
NAME_SECONDS = 3.0
"""For a name alone: without it the id is shown."""


NotConfirmedReason = Literal[
    "token_refused",  # RFC 6750 section 3.1; a new access token may work
    "out_of_scope",  # the token is valid, and its scope does not cover the endpoint (RFC 6750 section 3.1)
    "another_account",
    "not_named",
    "cannot_ask",  # the endpoint cannot be asked with an access token alone
    "test_mode",  # a key of the provider's test mode
    "not_confirmed",
]


class NotConfirmed(NeedsReauthorization):
    """The account endpoint does not confirm that an access token is for the expected account."""

    def __init__(self, reason: NotConfirmedReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def read_account(rt: Runtime, provider: Provider, grant: Grant, *, nonce: str | None, deadline: Deadline) -> Account:
    """
    The account of a new grant. `nonce`: None for the response to a refresh, which may come without an id_token.

    Where the response names the account, its endpoint is asked for the name alone, and may fail. Raises ProviderGarbled when the provider
    contradicts itself (OpenID Connect Core section 5.3.2) or names no account, and what the provider's endpoints raise.
    """
    claims = _claims(rt, provider, grant, nonce, deadline)
    known = {**grant.rest, **claims}
    learned = dict(provider.learn("response", known))
    known |= learned
    provider = provider.filled(known)
    lookup = _lookup(provider, known, grant.scope, rt.clients[provider.id])
    account_id = _account_id(known, lookup.id)
    if lookup.url:
        grant = replace(grant, rest=known)
        info = _account_info(rt, provider, lookup.url, grant, deadline, is_optional=account_id is not None)
        _check_info(lookup, info, claims, account_id)
        learned |= provider.learn("response", info)
        known |= {**info, **claims}
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
    The account of an access token or key, as the provider's account endpoint names it.

    `account_id`: it has to be that one. `facts` only say where to ask. Raises NotConfirmed, also for an address that is no account's, and
    what the endpoint raises.
    """
    if isinstance(entry, ApiKeyProvider):
        key_hash = rt.vault.keyed_hash(token, purpose=f"account {entry.id}")[:16]
        facts = {**facts, "key_hash": key_hash}
        lookup = AccountLookup(fill(entry.userinfo_endpoint or "", facts), entry.account.id, entry.account.label)
        asked = None if KEY_HASH in lookup.id else account_id
    else:
        entry = rt.issuers.complete(entry.filled(facts), deadline)
        lookup = _lookup(entry, facts, scope, rt.clients[entry.id])
        if account_id is not None and len(lookup.id) == 1:
            facts = {**facts, lookup.id[0]: account_id}
            lookup = _lookup(entry, facts, scope, rt.clients[entry.id])
        asked = _account_id(facts, lookup.id) if lookup.answered else account_id
    if not lookup.url or (lookup.answered and asked is None):
        raise NotConfirmed("cannot_ask", "the provider cannot be asked with what is known of the connection")
    found = _fetch(rt, entry, lookup.url, token, facts, deadline)
    _check_accepted(entry, found)
    filled = {path: fill(path, facts) for path in (*lookup.id, *lookup.label) if places(path)}
    is_known = len(filled) == len({*lookup.id, *lookup.label})
    info = filled if is_known else {**_parse(found.body), **filled}
    named = _account_id(info, lookup.answered or lookup.id)
    if named is None:
        only_id_token = "openid" in entry.scope and lookup.id != ("sub",)
        raise NotConfirmed("cannot_ask" if only_id_token else "not_named", "the account endpoint names no account")
    return _confirmed(Account(named, _label(info, lookup) or named), asked, info, lookup.id)


def names_another_account(provider: Provider, grant: Grant, account_id: str) -> bool:
    """
    Whether a refresh response names another account than the connection's, or none that can be read (OpenID Connect Core section 12.2).

    A response may name none: then there is nothing to compare (RFC 6749 section 6).
    """
    known: dict[str, Any] = {**grant.rest, **_refresh_claims(provider, grant)}
    paths = _lookup(provider, grant.rest, grant.scope).id
    named = _account_id(known, paths)
    if named is None:
        return any(_at(known, path) is not None and _account_id(known, (path,)) is None for path in paths)
    return named != account_id


def refreshed_addresses(provider: Provider, grant: Grant) -> Mapping[str, str]:
    """The addresses that a refresh response names. One that is not the provider's changes nothing: it must not cost the refresh token."""
    try:
        return provider.learn("response", {**grant.rest, **_refresh_claims(provider, grant)})
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


def _refresh_claims(provider: Provider, grant: Grant) -> Mapping[str, Any]:
    """
    The claims of a refresh response's id_token, {} without one. It comes from the token endpoint itself, so its signature need not be checked
    (OpenID Connect Core section 3.1.3.7, number 6); expired or signed by a new key, it must not cost the refresh token.
    """
    id_token = grant.id_token if provider.openid else None
    return {} if id_token is None else unverified_claims(id_token)


def _claims(rt: Runtime, provider: Provider, grant: Grant, nonce: str | None, deadline: Deadline) -> Mapping[str, Any]:
    if nonce is None or not provider.openid:
        return _refresh_claims(provider, grant)
    if grant.id_token is None:
        raise ProviderGarbled("openid was requested, and the response has no id_token")
    id_token, now = grant.id_token, rt.now().timestamp()
    return rt.issuers.read_id_token(
        provider, rt.clients[provider.id], id_token, nonce=nonce, now=now, deadline=deadline
    )


def _lookup(
    provider: Provider, facts: Mapping[str, Any], scope: Sequence[str], client: Client | None = None
) -> AccountLookup:
    known = {**facts, "scope": " ".join(scope), "client_id": client.client_id if client else ""}
    found = provider.deviation.account_lookup(provider.api_base_url or "", known) if provider.quirks else None
    return found or AccountLookup(provider.userinfo_endpoint, provider.account.id, provider.account.label)


def _account_info(
    rt: Runtime, provider: Provider, url: str, grant: Grant, deadline: Deadline, *, is_optional: bool
) -> Mapping[str, Any]:
    """What the account endpoint says. `is_optional`: the id is known, so only the name is missing, and {} will do."""
    deadline = deadline.within(NAME_SECONDS) if is_optional else deadline
    try:
        found = _fetch(rt, provider, url, grant.access_token, grant.rest, deadline)
        if not found.is_success:
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
    if found.is_success:
        valid = _at(_parse(found.body), provider.valid_path) if provider.valid_path else True
    is_refused = found.status in provider.refused_statuses or (not valid and says(found.body, provider.refused_words))
    if is_refused or valid is False:
        return replace(found, status=401)
    if found.is_success and not valid:  # an error, which says nothing of the token
        raise ProviderUnavailable("the account endpoint answers 200 without an account", provider_status=200)
    return found


def _check_accepted(provider: AnyEntry, found: Response) -> None:
    """Raises NotConfirmed for a refusal of the account endpoint."""
    is_refused = found.status in (401, 403)
    if is_refused and isinstance(provider, ApiKeyProvider) and says(found.body, provider.test_mode_words):
        raise NotConfirmed("test_mode", "the provider refuses a key of its test mode")
    if api_error(provider, found) == "token_refused":
        raise NotConfirmed("token_refused", "the provider refuses the credential")
    if is_refused:
        raise NotConfirmed("out_of_scope", "the credential does not allow to ask for the account")
    if not found.is_success:
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
    texts = (_text(_at(known, path))[: 4 * _MAX_LENGTH] for path in lookup.label)
    labels = ("".join(filter(str.isprintable, text)).strip() for text in texts)
    return next(filter(None, labels), "")[:_MAX_LENGTH] or None


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
    text = _text(value)
    return text if text and text.isprintable() and text == text.strip() else None


def _text(value: Any) -> str:
    """A text or a number, "" for anything else."""
    return "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value)
