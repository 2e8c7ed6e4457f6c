"""
Tokens for the accounts below a connection: the locations of an agency.

A token is derived when it is asked for, by one thread of one process, and kept encrypted until it expires. Its own refresh token, if it has
one, is not kept: a new token is derived instead.
"""

from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID, uuid4, uuid5

from gateway.account import names_another_account
from gateway.catalog import Provider
from gateway.catalog.deviations import ApiRequest
from gateway.database.queries.tokens import DerivedToken, ReadScope, derived_token, save_derived
from gateway.errors import (
    GatewayError,
    LacksScope,
    NeedsReauthorization,
    NotFound,
    ProviderGarbled,
    ProviderUnavailable,
    RateLimited,
    RefreshInProgress,
    SecretUnreadable,
    Suspended,
)
from gateway.http import Deadline
from gateway.models import Caller, Grant
from gateway.protocol.oauth import parse_token_response
from gateway.services import Runtime
from gateway.tokens.provider_api import call_api
from gateway.tokens.read import FreshToken, fresh_grant
from gateway.tokens.single_flight import WAIT_SECONDS, SingleFlight, looks

_REQUEST_SECONDS = 8.0
"""A request can be repeated: a token whose response was lost is derived again."""
_LEASE_SECONDS = _REQUEST_SECONDS + 4.0
_DEFAULT_SECONDS = 86_400.0
"""The lifetime of a token whose response does not say."""
_SUSPENDED_SECONDS, _FAILED_SECONDS = 60.0, 2.0
"""No new request before this."""
_NOT_INSTALLED = frozenset({400, 403, 404})

_derivations = SingleFlight()


def location_grant(
    rt: Runtime,
    connection_id: UUID,
    *,
    location: str | None,
    caller: Caller,
    min_seconds: int = 60,
    force: bool = False,
    refused: FreshToken | None = None,
    scope: ReadScope = "tokens:read",
) -> FreshToken:
    """
    As `fresh_grant`; with a `location` below the connection, the token for that.

    Raises NotFound where the provider says that our app is not installed there, LacksScope, Suspended, and RateLimited with a pause.
    """
    refused_seal = refused.seal_id if refused else None
    own = fresh_grant(
        rt,
        connection_id,
        caller=caller,
        min_seconds=60 if location else min_seconds,
        force=force,
        refused=None if refused_seal else refused,
        location=location,
        scope=scope,
    )
    if location is None:
        return own
    provider = rt.catalog.providers.get(own.provider)
    if provider is None or not provider.deviation.has_accounts_below(own.facts):
        return own
    if provider.deviation.derive_scope not in own.scope:
        raise LacksScope("the connection cannot derive tokens")
    return _Derivation(rt, provider, own, location, min_seconds, refused_seal).token()


@dataclass(frozen=True, slots=True)
class _Derivation:
    rt: Runtime
    provider: Provider
    own: FreshToken
    location: str
    min_seconds: int
    refused: UUID | None

    def token(self) -> FreshToken:
        found = self._look(self.min_seconds)
        if found.token is None:
            key = uuid5(self.own.connection_id, self.location)
            _derivations.run(key, self.provider.id, self._claim_and_derive, WAIT_SECONDS)
            found = self._look(min_seconds=0)
        try:
            return self._decrypted(found)
        except SecretUnreadable:  # of a key that is gone: a new token replaces it
            if found.seal_id == self.refused:
                raise
            return replace(self, refused=found.seal_id).token()

    def _look(self, min_seconds: int, lease_seconds: float | None = None) -> DerivedToken:
        """The stored token; with `lease_seconds` the right to derive one, where there is none; or neither."""
        found = derived_token(
            self.rt.database,
            self.own.connection_id,
            self.location,
            min_seconds=min_seconds,
            refused=self.refused,
            lease_seconds=lease_seconds,
        )
        if found is None:
            raise NeedsReauthorization("the connection has ended")
        return found

    def _decrypted(self, found: DerivedToken) -> FreshToken:
        if found.token is None or found.seal_id is None:
            raise RefreshInProgress("the account below the connection changed meanwhile")
        user_id, seal_id = self.own.user_id, found.seal_id
        token = self.rt.vault.decrypt(
            found.token, column="token", user_id=user_id, provider=self.provider.id, seal_id=seal_id
        )
        return replace(self.own, access_token=token, scope=found.scope, expires_at=found.expires_at, seal_id=seal_id)

    def _claim_and_derive(self) -> None:
        """While another process holds the lease, wait for it to end."""
        for _ in looks(first_pause_seconds=0.05):
            found = self._look(self.min_seconds, _LEASE_SECONDS)
            if found.lease_id is not None:
                self._derive(found.lease_id)
            if found.token is not None or found.lease_id is not None:
                return
            if found.is_paused:
                raise RateLimited("the last request failed a moment ago", retry_after=found.retry_after)

    def _derive(self, lease_id: UUID) -> None:
        """Derive the token, and end the lease whatever happens."""
        end = partial(save_derived, self.rt.database, self.own.connection_id, self.location, lease_id)
        try:
            with self.rt.bulkhead.slot(self.provider.id):
                grant = self._request()
        except GatewayError as error:
            seconds = _SUSPENDED_SECONDS if isinstance(error, Suspended) else _FAILED_SECONDS
            end(wait_seconds=None if isinstance(error, NotFound) else seconds)
            raise
        user_id, seal_id = self.own.user_id, uuid4()
        token = self.rt.vault.encrypt(
            grant.access_token, column="token", user_id=user_id, provider=self.provider.id, seal_id=seal_id
        )
        seconds = (grant.expires_at - self.rt.now()).total_seconds() if grant.expires_at else _DEFAULT_SECONDS
        if not end(token=token, seal_id=seal_id, scope=grant.scope, expires_seconds=seconds):
            raise RefreshInProgress("the connection, or the account below it, ended meanwhile")

    def _request(self) -> Grant:
        base, headers = self.provider.api(self.own.facts)

        def build(fresh: FreshToken) -> ApiRequest:
            return self.provider.deviation.derive_request(base or "", headers, fresh.facts, self.location)

        deadline = Deadline.after(_REQUEST_SECONDS)
        fresh, found = call_api(self.rt, self.provider, self.own.connection_id, build, deadline)
        try:
            answer = parse_token_response(
                self.provider,
                found.status,
                found.body,
                now=self.rt.now(),
                scope=fresh.scope,
                refused=NeedsReauthorization,
            )
        except GatewayError as error:
            if found.status in _NOT_INSTALLED and not isinstance(error, Suspended | ProviderUnavailable):
                raise NotFound("the provider says that our app is not installed there") from error
            raise
        if names_another_account(self.provider, answer, self.location):
            raise ProviderGarbled("the derived token is of another account")
        return answer
