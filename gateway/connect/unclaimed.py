"""
Installations that were started at the provider: its marketplace, or a developer's test link. They come back with a code and no state.

The grant is kept encrypted for the browser that brought it. Its user sees which account it is, and confirms. What is not claimed within a day
is erased, and our app uninstalled where possible.
"""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import structlog
from pydantic import TypeAdapter

from gateway.account import read_account
from gateway.catalog import Provider
from gateway.connect.attempt import EXCHANGE_SECONDS, save_grant, send_code
from gateway.connections.revoke import revoke_now
from gateway.connections.uninstall import uninstall_unclaimed
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import AuthorizationRequest, UnclaimedInstall, read_session, unclaimed_install
from gateway.errors import GatewayError, InstallNotStarted, StateInvalid, Unauthenticated
from gateway.http import Deadline
from gateway.models import Account, Connection, Grant, Unit
from gateway.protocol.oauth import find_grant, parse_authorization_response, parse_token_response
from gateway.services import Runtime

log = structlog.get_logger(__name__)

KEPT_SECONDS = 86_400
_COLUMN = "unclaimed_install"


@dataclass(frozen=True, slots=True)
class Claim:
    id: uuid.UUID
    provider: Provider
    account: Account
    grant: Grant


def keep_install(
    rt: Runtime, path: str, slug: str, parameters: Mapping[str, Sequence[str]], *, browser: str
) -> Provider:
    """
    Redeem the code of a callback without a state, and keep the grant for this browser.

    Raises StateInvalid where the provider starts no installations; InstallNotStarted, before any request, where the operator has not
    switched this on; and what a callback raises.
    """
    provider = rt.catalog.by_slug.get((path, slug))
    if provider is None or provider.id not in rt.clients or not provider.starts_installs:
        raise StateInvalid("no state")
    if not rt.settings.unclaimed_installs:
        raise InstallNotStarted("GATEWAY_UNCLAIMED_INSTALLS is off", provider=provider.id)
    code = parse_authorization_response(provider, parameters)
    waiting = unclaimed_install(rt.database, fingerprint(browser))
    if waiting is not None and _kept(rt, waiting).get("code") == fingerprint(code):
        # The page was opened again. A code that is sent twice may end its grant (RFC 6749 section 4.1.2).
        return provider
    with rt.bulkhead.slot(provider.id):
        deadline = Deadline.after(EXCHANGE_SECONDS)
        answer = send_code(rt, provider, code, "", deadline)
        try:
            grant = parse_token_response(provider, answer.status, answer.body, now=rt.now(), scope=provider.scope)
            account = read_account(rt, provider, grant, nonce=None, deadline=deadline)
        except Exception:
            if found := find_grant(answer.body):
                revoke_now(rt, provider, found, beside=True)  # for all that is known: the account is not
            raise
    install_id = uuid.uuid4()
    kept = {"account": asdict(account), "grant": asdict(replace(grant, rest={})), "code": fingerprint(code)}
    put = {
        "id": install_id,
        "provider": provider.id,
        "account_id": account.id,
        "encrypted": rt.vault.encrypt(json.dumps(kept, default=str), column=_COLUMN, seal_id=install_id),
    }
    unclaimed_install(rt.database, fingerprint(browser), put=put)
    log.info("install.kept", provider=provider.id)
    return provider


def load_claim(rt: Runtime, *, session: str, browser: str) -> Claim:
    """What waits for the signed-in user of this browser. Raises Unauthenticated, and StateInvalid where nothing waits."""
    if read_session(rt.database, fingerprint(session)) is None:
        raise Unauthenticated("no session")
    return _claim(rt, unclaimed_install(rt.database, fingerprint(browser)))


def claim_install(rt: Runtime, *, session: str, browser: str, install_id: str) -> tuple[Provider, Connection | None]:
    """The user's yes: the connection, or None where the user still has to decide between two accounts."""
    signed_in = read_session(rt.database, fingerprint(session))
    if signed_in is None:
        raise Unauthenticated("no session")
    if str(load_claim(rt, session=session, browser=browser).id) != install_id:
        raise StateInvalid("the answer belongs to another installation")
    row = unclaimed_install(rt.database, fingerprint(browser), take=True)
    claim = _claim(rt, row)
    request = AuthorizationRequest(
        provider=claim.provider.id,
        user_id=signed_in.user.id,
        browser_hash=fingerprint(browser),
        encrypted="",
        scope=claim.provider.scope,
        return_to=None,
        display="page",
        add_account=claim.provider.accounts == "many",
        is_signed_in=True,
        has_connection=True,
        clock=row.clock,  # type: ignore[union-attr] # _claim has checked it
    )
    try:
        return claim.provider, save_grant(rt, claim.provider, request, claim.grant, claim.account, state_hash="")
    except GatewayError:  # nothing was saved: it waits on
        names = ("id", "provider", "account_id", "encrypted")
        unclaimed_install(rt.database, fingerprint(browser), put={name: getattr(row, name) for name in names})
        raise


def _claim(rt: Runtime, row: UnclaimedInstall | None) -> Claim:
    if row is None:
        raise StateInvalid("no installation waits for this browser")
    kept = _kept(rt, row)
    return Claim(row.id, rt.provider(row.provider), Account(**kept["account"]), _GRANT.validate_python(kept["grant"]))


def _kept(rt: Runtime, row: UnclaimedInstall) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", json.loads(rt.vault.decrypt(row.encrypted, column=_COLUMN, seal_id=row.id)))


_GRANT = TypeAdapter(Grant)


def claim_next(rt: Runtime, busy: Collection[str]) -> list[Unit]:  # noqa: ARG001 - erased whatever the state of the provider
    """The worker's job: erase one installation that was not claimed, and uninstall our app unless the account is connected."""
    row = unclaimed_install(rt.database, None, take=True)
    return [] if row is None else [Unit(row.provider, partial(_uninstall, rt, row))]


def _uninstall(rt: Runtime, row: UnclaimedInstall) -> None:
    outcome = "unsupported"
    try:
        claim = _claim(rt, row)
        if not row.shared:
            outcome = uninstall_unclaimed(rt, claim.provider, claim.grant, row.account_id)
    except GatewayError as error:
        log.warning("install.uninstall_failed", provider=row.provider, error=error.slug)
    log.info("install.expired", provider=row.provider, outcome=outcome)
