"""
What the protocol's messages share: the form of a request, client authentication, JSON, and what an error means.

Providers write `invalid_grant` as `BAD_REFRESH_TOKEN`, `{"error": {"code": …}}`, `errors: […]` or a sentence. A name is compared without its
case and punctuation. A name that is not known ends no grant.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc7523 import PrivateKeyJWT

from gateway.catalog import AnyEntry, Provider
from gateway.errors import (
    AccessDenied,
    ClientRejected,
    GatewayError,
    NeedsReauthorization,
    ProviderGarbled,
    ProviderUnavailable,
    Suspended,
)
from gateway.http import Response
from gateway.models import Client

_JSON_MARKS, _FREE_VALUES, _SMALLEST_VALUE = (b"{", b"[", b","), 4096, 16
"""The number of values makes JSON slow to parse, not its length: after the free ones, each has to have that many bytes on average."""
_LONGEST_INTEGER = 19
CONFLICT = object()
"""In place of the value of a name that occurs with different values: neither text nor number, so that it is not used."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to send; a form, unless there is no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: str | None = field(default=None, repr=False)


def authenticated_post(
    provider: Provider, client: Client, url: str, body: str, *, method: str | None = None
) -> HttpRequest:
    """A form, or JSON where the provider wants that, with the client's authentication (RFC 6749 section 2.3, RFC 7523 section 2.2); `method`: another than the token endpoint's."""
    check_address(url)
    method = method or provider.token_endpoint_auth_method
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    if method == "private_key_jwt":
        # The audience is only the issuer, where it is known, so that no other server can replay the assertion.
        signer = PrivateKeyJWT(token_endpoint=provider.issuer or url, headers={"typ": "client-authentication+jwt"})
        auth = ClientAuth(client.client_id, client.client_secret, signer)
    elif method == "client_secret_basic":
        # RFC 6749 section 2.3.1 form-encodes both before they are joined; Authlib does not.
        auth = ClientAuth(quote_plus(client.client_id), quote_plus(client.client_secret), method)
    else:
        auth = ClientAuth(client.client_id, client.client_secret, method)
    url, headers, body = auth.prepare("POST", url, headers, body)  # type: ignore[no-untyped-call]
    if provider.json_token_requests:
        headers, body = headers | {"Content-Type": "application/json"}, json.dumps(dict(parse_qsl(body)))
    return HttpRequest("POST", url, headers, body)


def check_address(url: str) -> None:
    """Raises ProviderGarbled where a part of an address is not known: neither callback nor response has named it."""
    if "{" in url:
        raise ProviderGarbled("the provider has not named the host of the account")


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body`. Raises ProviderGarbled where there is none."""
    found = parse_json_value(body)
    if not isinstance(found, dict):
        raise ProviderGarbled("the response is not a JSON object")
    return found


def parse_json_value(body: bytes) -> Any:
    """
    The JSON in `body` (RFC 8259). Raises ProviderGarbled where there is none.

    Lenient with what does not change the meaning: a byte order mark, UTF-16, Latin-1, NaN, endless numbers, control characters in text, a
    name that is repeated. Of a name with different values, no value is used.
    """
    if sum(map(body.count, _JSON_MARKS)) > _FREE_VALUES + len(body) // _SMALLEST_VALUE:
        raise ProviderGarbled("the response has too many values")
    try:
        return json.loads(
            decode_text(body),
            strict=False,
            parse_constant=lambda _: None,
            parse_int=lambda digits: int(digits) if len(digits) <= _LONGEST_INTEGER else digits,
            object_pairs_hook=unambiguous,
        )
    except (ValueError, RecursionError):
        raise ProviderGarbled("the response is not JSON") from None


def decode_text(body: bytes) -> str:
    """Text in the encoding that a byte order mark or the first bytes show; Latin-1 where it is not even UTF-8."""
    try:
        return body.decode(json.detect_encoding(body))
    except UnicodeDecodeError:
        return body.decode("latin-1")


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as an object. A name with different values has CONFLICT."""
    found = dict(pairs)
    if len(found) != len(pairs):
        found |= {name: CONFLICT for name, value in pairs if value != found[name]}
    return found


def is_temporary(status: int) -> bool:
    """Whether the same request may succeed later (RFC 9110 sections 15.5.9 and 15.6, RFC 8470, RFC 6585 section 4)."""
    return status in (408, 425, 429) or status >= 500  # noqa: PLR2004


def is_visible_ascii(value: str) -> bool:
    """Whether a code or token consists of VSCHAR and spaces (RFC 6749 appendix A); anything else could break a header or a row."""
    return value.isascii() and value.isprintable()


# -- errors: who must act (RFC 6749 sections 4.1.2.1 and 5.2) ---------------------------------------------------------


_KEYS = (
    "error", "errors", "errorcode", "code", "errortype", "type", "tag", "errorsubcode", "errorreason", "status", "reason", "title", "message",
    "msg", "errmsg", "errormsg", "errormessage", "errorsummary", "errordescription", "detail", "description", "hint", "fault", "faultstring",
)  # fmt: skip
"""Where errors stand, most precise first; names without case and punctuation."""
_ERROR_KEYS = ("error", "errors", "message", "msg", "errormessage", "errorsummary", "errordescription")
_NO_ERROR = frozenset({"", "0", "200", "false", "na", "no", "none", "null", "ok", "success", "noerror"})
_LONGEST_NAME = 60

_BAD = "(?:invalid(?:ated)?|bad|expired|revoked|reused|used|unknown|inactive|malformed|consumed|incorrect|wrong|blacklisted|deleted|missingor)"
_THING = "(?:(?:oauth2?|user)?(?:refresh|access)?token|(?:oauth2?|auth|authorization|verification)?(?:grant|code)|session|authorization|consent)"
_LINK = "(?:is|was|has|been|already|or|nolongervalid|notvalid|notfound|doesnotexist)"
_DEAD = re.compile(
    f"(?:the|this|your|provided)*(?:{_BAD}+{_THING}|{_THING}(?:{_LINK}|{_BAD})+)(?:error|exception)?"
    f"|.*refreshtoken(?:is|was|has|been)+{_BAD}.*|.*activerefreshtoken|.*(?:hasrevokedaccess|revokedbytheuser).*"
    "|accountinactive|app(?:lication)?(?:uninstalled|removed)|(?:user|account|team)(?:removed|deleted)|accessrevoked|reauth[a-z]*required"
)
_DEAD_TOKEN = re.compile(
    f"thetoken(?:is|was|has|been)+{_BAD}|(?:invalid|expired|revoked|unknown|nosuch|stale|find)(?:an?|the|that|this|any|your|access)*refreshtoken"
    "|(?<!to)(?<!cannot)refreshtoken(?:thistoken|you|provided|is|was|has|been|already|could|can|no|not|be|or)*"
    "(?:invalid|expired|revoked|(?:already|been|was)(?:used|redeemed)|(?:not|nt|be)found|does(?:not|nt)exist|(?:not|nt|longer)valid|mismatch|stale)"
)
"""In a sentence. It has to be the token that is bad: not an application, a host or an address that has to do with refreshing it."""
_PATH = re.compile(r"(?:^|\s)/\w")
_OTHER_FAULT = re.compile("client|redirect|grant|scope|secret|request|missing|empty|param|isrequired|mustbe|shouldnot")
"""In a sentence about a refresh token: something else is at fault."""
_TEMPORARY = re.compile(
    "temporar|servererror|internalerror|backend|unavailable|slowdown|ratelimit|toomany|quota|throttl|timeout|maintenance|overload|busy|tryagain"
)
_REGISTRATION = re.compile(
    "client|redirect|scope|granttype|responsetype|requestobject|secret|codeverifier|codechallenge"
)
_OUR_REQUEST = re.compile(
    "unauthorizedclient|(?:invalid|bad|malformed)request(?:error)?|(?:invalid|missing)(?:required)?parameters?|validation|unprocessable"
)
"""Vague: a more precise name beside it counts more."""
_DENIED = re.compile("accessdenied|consentrequired|interactionrequired|loginrequired|accountselectionrequired")
_UNAUTHORIZED = ("unauthorized", "authorization required", "authentication", "api key", "credentials", "invalid token")
_CANCELLED = re.compile("cancel|denied|deny|declin|refused|abort|dismiss")


def error_names(response: Mapping[str, Any]) -> Iterator[str]:
    """Every name and sentence in the places where errors stand, most precise first."""
    known = {plain(name): value for name, value in response.items()}
    if isinstance(known.get("field"), str) and isinstance(known.get("code"), str):
        yield f"{known['code']} {known['field']}"
    if isinstance(reasons := known.get("refreshtoken"), list):
        yield from (f"refresh_token {reason}"[:500] for reason in reasons[:5])
    for key in _KEYS:
        value = known.get(key)
        for item in value[:5] if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield from error_names(item)
            elif isinstance(item, str | int) and plain(str(item)) not in _NO_ERROR:
                yield str(item)[:500]


def error_for(
    provider: Provider, status: int | None, names: Iterable[str], *, refused: type[GatewayError]
) -> GatewayError:
    """
    Our error for the provider's; only names that cannot be a secret are kept for the operator.

    `refused`: what a refused grant means to the caller. `status`: None for an authorization response.
    """
    listed = list(names)
    for name in listed:
        if error := _meaning(provider, name, refused):
            return with_facts(error, status, [name, *listed])
    if any(_OUR_REQUEST.match(_head(name)) for name in listed):
        error = ClientRejected("the provider refuses the request")
    elif status in (401, 403, 405, 415, 422):  # RFC 6749 section 5.2, RFC 9110 section 15.5
        error = ClientRejected(f"the provider answers {status}")
    else:
        error = ProviderGarbled("the provider answers with an error that is not known")
    return with_facts(error, status, listed)


def error_for_cancel(provider: Provider, names: Iterable[str]) -> GatewayError:
    """The same for an authorization response, in which every way to say that the user cancelled is a denial."""
    listed = list(names)
    if any(_CANCELLED.search(plain(name)) for name in listed):
        return with_facts(AccessDenied("the user refused, or cancelled"), None, listed)
    return error_for(provider, None, listed, refused=AccessDenied)


def plain(name: str) -> str:
    """A name without case and punctuation."""
    return re.sub("[^a-z0-9]", "", name.lower())


def is_dead_grant(provider: Provider, name: str) -> bool:
    """Whether a name says that a token or code is no longer valid."""
    phrases, words = {plain(each) for each in provider.dead_grant}, plain(name)
    is_dead_token = _DEAD_TOKEN.search(words) and not _OTHER_FAULT.search(words) and not _TEMPORARY.search(words)
    is_known = (_DEAD.fullmatch(_head(name)) or is_dead_token) and not _PATH.search(name)
    return not phrases.isdisjoint((words, _head(name))) or bool(is_known)


def api_error(provider: AnyEntry, found: Response) -> str | None:
    """
    What a refusal of an API is about: `suspended`, one of the catalogue's `api_errors`, `token_refused` for any other 401, or None.

    Only `token_refused` may mean that the token has expired or was revoked (RFC 6750 section 3.1), and that a new one may help: some
    providers also answer 401 for a token without the scope.
    """
    if not 400 <= found.status < 500:  # noqa: PLR2004 - RFC 9110 section 15.5
        return None
    challenge = found.headers.get("WWW-Authenticate", "")
    if _says_suspended(provider, found.body):
        return "suspended"
    if found.status in (401, 403) and "insufficient_scope" in challenge:
        return "missing_scope"
    if found.status in (401, 403) and "invalid_token" not in challenge:  # beside that, `scope` only says what is needed
        for meaning, words in provider.api_errors.items():
            if says(found.body, words):
                return meaning
    return "token_refused" if found.status == 401 else None  # noqa: PLR2004


def _says_suspended(provider: AnyEntry, body: bytes) -> bool:
    """In the place of its error: other fields, and longer sentences, may repeat what the caller sent."""
    try:
        said = {name: value for name, value in parse_json(body).items() if plain(name) in _ERROR_KEYS}
    except ProviderGarbled:
        return False
    return any(_is_suspended(provider, name) for name in error_names(said))


def says(body: bytes, phrases: Iterable[str]) -> bool:
    """Whether a response has one of the phrases, however it spells it."""
    said = plain(body.decode("utf-8", "replace"))
    return any(plain(each) in said for each in phrases)


def is_page(status: int, body: bytes) -> bool:
    """Whether a refusal is a firewall's page, which says nothing about a token. XML is a provider's own answer, as is a page that says 401."""
    is_401 = status == 401 and says(body, _UNAUTHORIZED)  # noqa: PLR2004
    return status in (401, 403) and re.match(rb"\s*<(?!\?xml)", body) is not None and not is_401


def error_for_unreadable(status: int, body: bytes) -> GatewayError:
    """The error for a response that holds neither JSON nor a form: a firewall's page says nothing about the grant."""
    if status == 403 or is_page(status, body):  # noqa: PLR2004
        return ProviderUnavailable(f"the token endpoint answers {status} with a page", provider_status=status)
    if status == 401:  # noqa: PLR2004 - RFC 6749 section 5.2: client authentication failed
        return ClientRejected("the token endpoint answers 401", provider_status=status)
    return ProviderGarbled(f"the token endpoint answers {status}, and not with JSON", provider_status=status)


def with_facts(error: GatewayError, status: int | None, names: Iterable[str]) -> GatewayError:
    """`error`, with the HTTP status and the first name that cannot be a secret."""
    error.provider_status = status
    error.provider_error = next(filter(_is_safe, names), None)
    return error


def _meaning(provider: Provider, name: str, refused: type[GatewayError]) -> GatewayError | None:
    head, is_code = _head(name), " " not in name.strip()
    at_refresh = issubclass(refused, NeedsReauthorization)
    if any(
        plain(words) in plain(name) for words in provider.suspended
    ):  # of a token request nothing of a caller is repeated
        return (Suspended if at_refresh else ProviderUnavailable)("the account is not active")
    if is_dead_grant(provider, name):
        return refused("the provider refuses the grant")
    if _TEMPORARY.search(head):
        return ProviderUnavailable("the provider has a problem")
    # "Access Denied" may mean too many requests. A refresh that requires interaction cannot ask the user.
    if is_code and _DENIED.fullmatch(head):
        return (refused if at_refresh else AccessDenied)("the provider denies access")
    if len(head) <= _LONGEST_NAME and _REGISTRATION.search(head) and not _OUR_REQUEST.match(head):
        return ClientRejected("the provider refuses our client")
    return None


def _is_suspended(provider: AnyEntry, name: str) -> bool:
    return not {plain(name), _head(name)}.isdisjoint(map(plain, provider.suspended))


def _head(name: str) -> str:
    """The part before a colon: `invalid_grant: Token has been revoked`."""
    return plain(name.partition(":")[0])


def _is_safe(name: str) -> bool:
    """Whether a name can be shown: words with separators. A long run of letters and digits could be a token."""
    runs = re.findall("[A-Za-z0-9]+", name)
    return bool(re.fullmatch("[A-Za-z0-9_.-]{1,64}", name)) and all(
        len(run) <= 14 or (run.isalpha() and len(run) <= 32)  # noqa: PLR2004
        for run in runs
    )
