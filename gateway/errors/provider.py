"""
A provider that did not do what its protocol says, and a stored connection that cannot be used just now.
"""

from __future__ import annotations

from gateway.errors.root import GatewayError


class ProviderFailed(GatewayError):
    """The provider did not do its part."""

    returned = True


class ProviderUnavailable(ProviderFailed):
    """No answer in time, no connection, a 5xx or a 429."""

    slug = "provider_unavailable"
    status = 504
    title = "The provider is not answering"
    meaning = "The provider did not answer in time or is having trouble."
    way_on = "Wait a minute and try again; what is connected stays connected."
    remedy = "wait"


class ProviderGarbled(ProviderFailed):
    """An answer that the protocol does not allow."""

    slug = "provider_garbled"
    status = 502
    title = "The provider's answer made no sense"
    meaning = "The provider answered something that its protocol does not allow, so it was not believed."
    way_on = "Tell whoever runs this service; trying again will probably not help."
    remedy = "report"


class ClientRejected(ProviderFailed):
    """RFC 6749 section 5.2: invalid_client and its kin. Our registration there is at fault, not the user."""

    slug = "client_rejected"
    status = 502
    title = "The provider refused this service"
    meaning = "The provider does not accept this service's registration there. It is not your fault."
    way_on = "Whoever runs this service has to check the client id, the secret and the redirect URI at the provider."
    remedy = "operator"


class GrantUnusable(GatewayError):
    """A stored connection that cannot be used just now."""


class NeedsReauthorization(GrantUnusable):
    """The provider refuses the stored grant for good."""

    slug = "needs_reauthorization"
    status = 409
    title = "The connection has to be made again"
    meaning = "The provider no longer accepts what was granted: it was withdrawn there, or it died of age."
    way_on = "The owner of the connection has to connect again. Its id stays the same."
    remedy = "reconnect"


class PendingConfirmation(GrantUnusable):
    """Connected, but not confirmed yet."""

    slug = "pending_confirmation"
    status = 409
    title = "The connection is waiting to be confirmed"
    meaning = "The connection was made in a browser that is not known here and has not been confirmed yet."
    way_on = "Confirm it within ten minutes; after that it is given back to the provider."
    remedy = "wait"


class RefreshInProgress(GrantUnusable):
    """Another process is getting a new token; `Retry-After` says when to ask again."""

    slug = "refresh_in_progress"
    status = 503
    title = "A new token is being fetched"
    meaning = "The stored token ran out and a new one is on its way."
    way_on = "Ask again after the seconds that Retry-After names."
    remedy = "wait"


class SecretUnreadable(GrantUnusable):
    """A sealed value does not open: a key is missing, or the value was moved or changed."""

    slug = "secret_unreadable"
    title = "A stored secret could not be opened"
    meaning = "The secret was sealed with a key that this service does not have, or it was changed. It was not used."
    way_on = "Whoever runs this service has to look at GATEWAY_KEYS; connecting again makes a new secret."
    remedy = "operator"
