"""
Connect with a key: the provider is asked with it, and only then is anything stored.

The attempt begins and ends in one request. It is kept and taken as that of a redirect, so that the same rules hold for user, browser, link
and freeze; the key goes from the form to the provider and, encrypted, to the database.
"""

from collections.abc import Mapping
from datetime import timedelta

from gateway.account import NotConfirmed, confirm_account
from gateway.catalog import ApiKeyProvider
from gateway.connect.attempt import (
    EXCHANGE_SECONDS,
    AwaitsPartner,
    Begin,
    Connected,
    Pending,
    new_attempt,
    save_grant,
    succeeded,
)
from gateway.connect.form import Fault, FieldsRefused, read_form
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import AuthorizationRequest, take_authorization
from gateway.errors import StateInvalid
from gateway.http import Deadline
from gateway.models import Grant
from gateway.services import Runtime


def connect_key(
    rt: Runtime,
    provider: ApiKeyProvider,
    entered: Mapping[str, str],
    begin: Begin,
    *,
    session: str,
    browser: str,
) -> Connected | Pending | AwaitsPartner:
    """
    Verify what was entered and save it. `begin` keeps the attempt, once the provider has accepted the key.

    Raises FieldsRefused for what the form or the provider refuses, what the provider's failures raise, and what `begin` raises.
    """
    values = read_form(provider, entered)
    credential, facts = provider.credential_of(values), provider.public_values(values)
    try:
        account = confirm_account(rt, provider, credential, (), facts, None, Deadline.after(EXCHANGE_SECONDS))
    except NotConfirmed as refusal:
        raise FieldsRefused(_faults(provider, refusal)) from None
    attempt = new_attempt(rt)
    begin(provider, attempt)
    request = take_authorization(
        rt.database,
        state_hash=attempt.state_hash,
        provider=provider.id,
        browser_hash=fingerprint(browser),
        session_hash=fingerprint(session),
    )
    if not isinstance(request, AuthorizationRequest):
        raise StateInvalid("the session ended meanwhile")
    confirmation = None if request.is_signed_in else attempt.secrets.confirmation
    due = rt.now() + timedelta(days=provider.rotation_days) if provider.rotation_days else None
    grant = Grant(credential, facts=facts, refresh_expires_at=due)
    connection = save_grant(
        rt, provider, request, grant, account, state_hash=attempt.state_hash, confirmation=confirmation
    )
    return succeeded(rt, request, attempt.secrets, connection)


def _faults(provider: ApiKeyProvider, refusal: NotConfirmed) -> Mapping[str, Fault]:
    """A refusal of the provider as faults of the form. It says nothing of the field that is wrong."""
    if refusal.reason == "test_mode":
        return {provider.secrets[-1]: "test_mode"}
    public = [name for name in provider.fields if name not in provider.secrets]
    if refusal.reason in ("token_refused", "out_of_scope") or not public:
        return {provider.secrets[-1]: "refused_pair" if provider.is_pair else "refused"}
    return {public[0]: "unknown_account"}
