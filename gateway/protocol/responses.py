"""
Answers judged: what came back through the browser, from a token endpoint, from a revocation endpoint.

Each `read_…` returns what may be believed or raises who must act.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from gateway.catalog import Provider
from gateway.catalog.deviations import QUIRKS
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    IssuerMismatch,
    NeedsReauthorization,
    ProviderGarbled,
    ProviderUnavailable,
    StateInvalid,
)
from gateway.models import Grant

_LONGEST_EXPIRY = 10 * 365 * 86_400
"""Seconds; whatever claims to live longer is a defect, and would not fit a calendar for much longer."""
_LONGEST_CODE = 4096
_MARKS, _MOST_PARTS = (b"{", b"[", b","), 4096
"""What makes JSON slow to read is how many values it has, and not its length: thousands of empty lists cost as much as many requests."""
_MOST_SCOPE = 500
"""Words. Whoever grants more has granted these."""
_LONGEST_FACT = 200

_DENIED = frozenset(
    {"access_denied", "consent_required", "interaction_required", "login_required", "account_selection_required"}
)
_OURS_TO_MEND = frozenset({
    "invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_response_type",
    "unsupported_grant_type", "invalid_request_object", "redirect_uri_mismatch", "invalid_redirect_uri",
})  # fmt: skip
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
_GRANT_REFUSED = frozenset({"invalid_grant", "bad_verification_code", "invalid_code", "expired_token"})


# -- authorization (RFC 6749 section 4.1.2) --------------------------------------------------------------------------


def single(parameters: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The value of a parameter that may come once at the most (RFC 6749 section 3.1); StateInvalid when repeated."""
    values = parameters.get(name, ())
    if len(values) > 1:
        raise StateInvalid(f"{name} is repeated")
    return values[0] if values else None


def read_authorization_response(provider: Provider, parameters: Mapping[str, Sequence[str]]) -> str:
    """
    The code in the callback's query (RFC 6749 section 4.1.2), or the error in it (section 4.1.2.1).

    The issuer is judged first (RFC 9207 section 2.4), so that nothing of an answer from elsewhere is believed, not even its
    error. Call it only after the state was taken.
    """
    _judge_issuer(provider, parameters.get("iss", ()))
    error, code = single(parameters, "error"), single(parameters, "code")
    if error is not None:
        raise _error_of(error, refused=AccessDenied)
    if not code or len(code) > _LONGEST_CODE or not _is_vschar(code):
        raise ProviderGarbled("the authorization response holds no usable code")
    return code


def _judge_issuer(provider: Provider, given: Sequence[str]) -> None:
    if len(given) > 1:
        raise IssuerMismatch("iss is repeated")
    if not given:
        if provider.authorization_response_iss_parameter_supported:
            raise IssuerMismatch("iss is missing, and the metadata promises it")
        return
    if provider.issuer is None or provider.issuer_pattern is not None:
        # No single issuer to compare with: then at least the host has to be one that we would have talked to.
        ours = {urlsplit(url or "").netloc for url in (provider.authorization_endpoint, provider.token_endpoint)}
        try:
            theirs = urlsplit(given[0]).netloc
        except ValueError:
            theirs = ""
        if not theirs or theirs not in ours:
            raise IssuerMismatch("iss names a host that is not the provider's")
    elif given[0] != provider.issuer:
        raise IssuerMismatch("iss differs from the provider's issuer")


# -- token (RFC 6749 section 5) --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """A judged token answer: the grant, and the rest of the JSON without its secrets."""

    grant: Grant
    rest: Mapping[str, Any]


def read_token_response(
    provider: Provider,
    status: int,
    body: bytes,
    *,
    now: datetime,
    scope: tuple[str, ...],
    refused: type[GatewayError] = AccessDenied,
) -> TokenAnswer:
    """
    The grant in a token response (RFC 6749 section 5.1), or the error in it (section 5.2).

    `scope` is what was asked for: an answer that leaves it out granted just that (section 3.3). `refused` is what a refused
    grant means to the caller. Some providers answer 200 with an error inside, so the error is looked for before the status.
    """
    answer = _token_json(provider, status, body)
    error = answer.get("error")
    if error is not None or status >= 400:  # noqa: PLR2004 - RFC 9110 section 15.5
        raise _error_of(error if isinstance(error, str) else _error_of_status(status), refused=refused)
    access_token = _secret(answer, "access_token")
    if access_token is None:
        raise ProviderGarbled("the token response holds no access_token")
    token_type = answer.get("token_type", "Bearer")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":
        raise ProviderGarbled("the token response is of another type than Bearer")
    grant = Grant(
        access_token=access_token,
        refresh_token=_secret(answer, "refresh_token"),
        token_type="Bearer",  # noqa: S106 - RFC 6750
        scope=_granted(provider, answer.get("scope"), scope),
        expires_at=_later(now, answer, "expires_in"),
        refresh_expires_at=_refresh_expiry(provider, now, answer),
        id_token=_secret(answer, "id_token"),
        facts={name: fact for name in provider.facts if (fact := _fact(answer.get(name))) is not None},
    )
    secrets = {"access_token", "refresh_token", "id_token"}
    return TokenAnswer(grant, {name: value for name, value in answer.items() if name not in secrets})


def grant_in(provider: Provider, body: bytes) -> Grant | None:
    """The tokens of an answer that is not believed: granted they are all the same, and have to be given back."""
    try:
        answer: Mapping[str, Any] = read_json(body)
        for name in provider.quirks:
            reshape = QUIRKS[name].reshape
            answer = reshape(answer) if reshape else answer
    except ProviderGarbled:
        return None
    held = [token if isinstance(token := answer.get(name), str) and _is_vschar(token) else None for name in _TOKENS]
    access_token, refresh_token = held
    if not access_token and not refresh_token:
        return None
    return Grant(access_token or "", refresh_token or None, "Bearer", (), None)


_TOKENS = ("access_token", "refresh_token")


def _token_json(provider: Provider, status: int, body: bytes) -> Mapping[str, Any]:
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110 section 15.4: following would hand the secrets to another host
        raise ProviderGarbled(f"the token endpoint answers with redirect {status}")
    if status in (408, 425, 429) or status >= 500:  # noqa: PLR2004
        raise ProviderUnavailable(f"the token endpoint answers {status}")
    try:
        answer = read_json(body)
    except ProviderGarbled:
        if status == 401:  # noqa: PLR2004 - RFC 6749 section 5.2: client authentication failed
            raise ClientRejected("the token endpoint answers 401") from None
        raise
    for name in provider.quirks:
        reshape = QUIRKS[name].reshape
        answer = reshape(answer) if reshape else answer
    return answer


def read_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body` (RFC 8259); ProviderGarbled for anything else, repeated names, NaN and too many parts included."""
    if sum(map(body.count, _MARKS)) > _MOST_PARTS:
        raise ProviderGarbled("the answer has more parts than any that we ask for")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_once_each)
    except (ValueError, RecursionError):
        raise ProviderGarbled("the answer is not JSON") from None
    if not isinstance(found, dict):
        raise ProviderGarbled("the answer is not a JSON object")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is repeated")
    return found


def _error_of(error: str, *, refused: type[GatewayError]) -> GatewayError:
    """Who must act, by the error code alone; the code reaches the log only when it is one that we know."""
    for codes, kind in ((_PASSING, ProviderUnavailable), (_OURS_TO_MEND, ClientRejected)):
        if error in codes:
            return kind(f"the provider answers {error}")
    if error in _DENIED and not issubclass(refused, NeedsReauthorization):
        return AccessDenied(f"the provider answers {error}")
    if error in _GRANT_REFUSED | _DENIED:
        # A refresh that wants its user to say or do something (Microsoft's `interaction_required`) has none to ask.
        return refused(f"the provider answers {error}")
    return ProviderGarbled("the provider answers with an error that no standard names")


def _error_of_status(status: int) -> str:
    return "invalid_client" if status in (401, 403) else "unknown"


def _secret(answer: Mapping[str, Any], name: str) -> str | None:
    """A token is visible ASCII (RFC 6749 appendix A.12 and A.17); anything else could break a header or a row."""
    value = answer.get(name)
    if value is None or (value == "" and name != "access_token"):
        return None
    if not isinstance(value, str) or not value or not _is_vschar(value):
        raise ProviderGarbled(f"{name} is not a token")
    return value


def _fact(value: Any) -> str | None:
    """A fact as text that a row and a page can hold; JSON's `true` stays `true`."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value) if isinstance(value, str | int) else ""
    return text if 0 < len(text) <= _LONGEST_FACT and text.isprintable() else None


def _is_vschar(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _granted(provider: Provider, given: Any, asked: tuple[str, ...]) -> tuple[str, ...]:
    if given is None or given == "":
        return asked
    if isinstance(given, list) and all(isinstance(item, str) for item in given):
        given = " ".join(given)
    if not isinstance(given, str) or not given.isprintable():
        raise ProviderGarbled("scope is not a list of words")
    words = given.replace(provider.scope_separator, " ").split(None, 4 * _MOST_SCOPE)
    return tuple(dict.fromkeys(words[: 4 * _MOST_SCOPE]))[:_MOST_SCOPE]


def _later(now: datetime, answer: Mapping[str, Any], name: str) -> datetime | None:
    """Seconds from now (RFC 6749 section 4.2.2: a number). Left out, the lifetime is unknown."""
    if name not in answer:
        return None
    seconds = answer[name]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ProviderGarbled(f"{name} is not a number")
    if not 0 < seconds <= _LONGEST_EXPIRY:  # false for NaN and infinity too
        raise ProviderGarbled(f"{name} is out of bounds")
    return (now + timedelta(seconds=int(seconds))).astimezone(UTC)


def _refresh_expiry(provider: Provider, now: datetime, answer: Mapping[str, Any]) -> datetime | None:
    if not answer.get("refresh_token"):
        return None
    if answer.get("refresh_token_expires_in") is not None:
        return _later(now, answer, "refresh_token_expires_in")
    seconds = provider.refresh_token_seconds
    return now + timedelta(seconds=seconds) if seconds else None


# -- revocation (RFC 7009 section 2.2) --------------------------------------------------------------------------------


def read_revocation_response(status: int, body: bytes) -> None:
    """
    Returns when the token is no longer valid there; raises ProviderUnavailable or ClientRejected when it may still be.

    A token that the server does not know any more is revoked: that is what was wanted.
    """
    if status < 300:  # noqa: PLR2004
        return
    if status == 400 and _error_in(body) in ("invalid_token", "invalid_grant"):  # noqa: PLR2004
        return
    if status in (400, 401, 403):
        raise ClientRejected(f"the revocation endpoint answers {status}")
    raise ProviderUnavailable(f"the revocation endpoint answers {status}")


def _error_in(body: bytes) -> str | None:
    try:
        error = read_json(body).get("error")
    except ProviderGarbled:
        return None
    return error if isinstance(error, str) else None
