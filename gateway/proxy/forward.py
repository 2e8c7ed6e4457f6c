"""
One call through the proxy: read the token, take a share, send, and stream the response.

The response holds its slot of the provider and of the partner until its end, so a slow provider, a slow client or a greedy partner
takes no more than its share of the threads.
"""

import math
import random
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from itertools import chain, count
from uuid import UUID

from gateway.catalog import AnyEntry, Provider
from gateway.database.queries.connections import end_check
from gateway.errors import (
    GatewayError,
    NeedsReauthorization,
    NotFound,
    ProviderBusy,
    ProviderGarbled,
    ProviderUnavailable,
    Quota,
    RateLimited,
)
from gateway.http import Deadline, Response, Shares, StreamedResponse, decoded, parse_retry_after, retry_seconds
from gateway.models import Caller
from gateway.protocol.message import api_error
from gateway.proxy.mask import Mask
from gateway.proxy.request import ERROR, MARK, ProxiedRequest, check_target, returned_headers, sent_headers
from gateway.services import Runtime
from gateway.tokens.derived import location_grant
from gateway.tokens.provider_api import note_limit
from gateway.tokens.read import FreshToken

PARTNER_SLOTS = 32
"""Slots of a process for each partner's calls, and for each provider's: in each, one that hangs takes half of those that are free."""
LONGEST_SECONDS = 3600.0
IDLE_SECONDS = 120.0
"""The longest wait for the provider's next byte. Silent event streams have a comment every 15 to 60 seconds."""
OUTAGES = frozenset({502, 503, 504})
"""Other statuses are answers to what the caller sent."""
RETRY_SECONDS = 15.0
"""No retry begins later than this."""
_WORTH_A_RETRY = OUTAGES | {429}
_PAUSE_SECONDS = 2.0
"""The longest pause before a retry. Longer ones are the caller's business."""
_LARGEST_REFUSAL = 64 * 1024


_of_partners, _at_providers = Shares(PARTNER_SLOTS), Shares(PARTNER_SLOTS)


def forward(
    rt: Runtime, caller: Caller, connection_id: UUID, call: ProxiedRequest, held: ExitStack
) -> StreamedResponse:
    """
    Send `call` to the provider of a connection with its token, and return the response as it begins. `held.close()` ends the call.

    Raises what reading a token raises, ProviderLimit while the account's calls are used up, RateLimited when the partner has no slot left,
    ProviderBusy when the provider has none, and ProviderUnavailable or ProviderGarbled when no response came.
    """
    target, retries = call.target(), call.retries
    location = call.headers.get("Gateway-Location")
    fresh = location_grant(rt, connection_id, caller=caller, location=location, scope="proxy")
    provider = rt.entry(fresh.provider)
    check_target(provider, target)
    _take_share(held, fresh)
    response, error = _send(rt, provider, fresh, target, call, held, retries)
    if error == "token_refused" and isinstance(provider, Provider):
        newer = _newer_token(rt, fresh, caller, location)
        if newer is not None and call.is_repeatable:
            held.close()
            _take_share(held, newer)
            fresh = newer
            response, error = _send(rt, provider, fresh, target, call, held, retries=0)
    if error == "suspended" and not (fresh.seal_id or provider.deviation.has_accounts_below(fresh.facts)):
        end_check(rt.database, caller, connection_id, generation=fresh.generation, outcome=error)
    headers = {ERROR: error} if error else {}
    limit = note_limit(rt, provider, connection_id, response.status, response.headers, location)
    if limit and response.status == 429:  # noqa: PLR2004 - RFC 6585 section 4
        seconds = response.headers.get("Retry-After", math.ceil(limit[1].seconds))
        headers = {ERROR: f"{limit[0]}_limit", "Retry-After": str(seconds)}
    return _returned(response, headers, Mask(fresh.access_token, provider.token_placement))


def _take_share(held: ExitStack, fresh: FreshToken) -> None:
    """Of the partner's places, which its providers share, and of the provider's, which its partners share."""
    partner, provider = fresh.reader_id, fresh.provider
    if not _of_partners.take(provider, partner):
        most = PARTNER_SLOTS // 2
        raise RateLimited("the caller has too many proxied calls under way", Quota(most, most, retry_seconds()))
    held.callback(_of_partners.release, provider, partner)
    if not _at_providers.take(partner, provider):
        raise ProviderBusy("too many proxied calls wait for the provider", retry_after=retry_seconds())
    held.callback(_at_providers.release, partner, provider)


def _send(
    rt: Runtime,
    provider: AnyEntry,
    fresh: FreshToken,
    target: str,
    call: ProxiedRequest,
    held: ExitStack,
    retries: int,
) -> tuple[StreamedResponse, str | None]:
    """The response, and what it refuses; it stays open until `held` is closed."""
    base, defaults = provider.api(fresh.facts)
    if base is None:
        raise NotFound("the catalogue has no api_base_url for the provider")
    url = provider.token_placement.url(base.rstrip("/") + target, fresh.access_token)
    headers = sent_headers(provider, call, defaults) | dict(provider.token_placement.headers(fresh.access_token))
    until = Deadline.after(RETRY_SECONDS)
    for attempt in count():
        last, opened = attempt >= retries or not until.remaining(), ExitStack()
        try:
            response = opened.enter_context(
                rt.http.stream(
                    call.method,
                    url,
                    headers=headers,
                    body=call.body,
                    body_length=call.body_length,
                    deadline=Deadline.after(LONGEST_SECONDS),
                    idle_seconds=IDLE_SECONDS,
                    provider=provider.id,
                    caller=str(fresh.reader_id),
                    failures=OUTAGES,
                    is_abandoned=call.is_abandoned,
                )
            )
        except ProviderUnavailable as error:
            if last or isinstance(error, ProviderBusy):
                raise
            pause = _pause(attempt)
        else:
            pause = None if last else _pause(attempt, response)
            if pause is None:
                held.enter_context(opened)
                return _with_error(provider, response)
            opened.close()
        time.sleep(pause or 0.0)
    raise AssertionError  # pragma: no cover - the last attempt returns or raises


def _pause(attempt: int, response: StreamedResponse | None = None) -> float | None:
    """Before the next attempt; None: the caller gets this response."""
    asked = parse_retry_after(response.headers.get("Retry-After", "0")) if response else 0.0
    if asked is None or asked > _PAUSE_SECONDS or (response and response.status not in _WORTH_A_RETRY):
        return None
    return max(asked, float(random.uniform(0.1, 0.3) * 2**attempt))  # noqa: S311 - jitter, not a secret


def _with_error(provider: AnyEntry, response: StreamedResponse) -> tuple[StreamedResponse, str | None]:
    """The response, and what it refuses: the first pieces of a refusal's body are enough to read that."""
    if response.status not in (400, 401, 403):
        return response, None
    pieces: list[bytes] = []
    for piece in response.body:
        pieces.append(piece)
        if sum(map(len, pieces)) > _LARGEST_REFUSAL:
            break
    said = b""
    with suppress(ProviderGarbled):  # a coding whose end has not come
        said = next(decoded(iter([b"".join(pieces)]), response.headers), b"")
    error = api_error(provider, Response(response.status, response.headers, said))
    return replace(response, body=chain(pieces, response.body)), error


def _newer_token(rt: Runtime, fresh: FreshToken, caller: Caller, location: str | None) -> FreshToken | None:
    """A newer token than the refused one; None where there is none now. Raises NeedsReauthorization when the grant has ended."""
    try:
        return location_grant(
            rt, fresh.connection_id, caller=caller, location=location, min_seconds=0, refused=fresh, scope="proxy"
        )
    except NeedsReauthorization:
        raise
    except GatewayError:
        return None


def _returned(response: StreamedResponse, more: dict[str, str], mask: Mask) -> StreamedResponse:
    body = decoded(response.body, response.headers)
    pieces, left_out = mask.pieces(body), {name.lower() for name in more}
    if "Transfer-Encoding" in response.headers:
        left_out.add("content-length")  # RFC 9112 section 6.3
    is_stream = body is response.body and ("content-length" in left_out or "Content-Length" not in response.headers)
    first = b"" if is_stream else next(pieces, b"")  # an error before it still gets a response of its own
    if first and body is not response.body:
        left_out |= {"content-encoding", "content-length", "etag"}
    kept = {name: value for name, value in returned_headers(response.headers).items() if name.lower() not in left_out}
    headers = {name: mask.text(value) for name, value in (kept | more).items()}
    return StreamedResponse(response.status, headers | {MARK: str(response.status)}, chain([first], pieces))
