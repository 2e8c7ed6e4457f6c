"""
Faults that change a correct response: wrong, missing or hostile values.

They work on the finished response, a JSON object or a redirect. A fault is used up only by a response that it can change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flask import Response

from .fault_plan import Fault
from .signing import claims_of
from .state import State
from .wire import fields

ATTACKER = "https://attacker.example"
VERBATIM = "\u2063verbatim\u2063"
Body = dict[str, Any]
Query = list[tuple[str, str]]


PLANTED = "planted-secret-of-"
"""With the provider's id: in the JSON of every token and account response, in places that no catalogue entry names."""
_WITH_ACCOUNT = ("token", "location_token", "userinfo", "oidc_userinfo", "company", "user", "mailbox")
"""Endpoints whose responses say something about the account."""


def plant_secret(provider: str, endpoint: str, answer: Response) -> Response:
    """A response to a good token or key, with a secret of the account that the gateway must not keep."""
    if endpoint in _WITH_ACCOUNT and answer.status_code in (200, 201) and answer.is_json:
        body, secret = answer.get_json(), f"{PLANTED}{provider}"
        planted = {"api_key": secret, "auth_token": secret, "ApiTokens": [secret], "keys": [{"secret": secret}]}
        (body[0] if isinstance(body, list) else body).update(planted)
        answer.set_data(json.dumps(body))
    return answer


def apply_faults(state: State, provider: str, endpoint: str, answer: Response) -> Response:
    """The response, changed by the planned faults."""
    if endpoint == "authorize" and "Location" in answer.headers:
        return _twist_location(state, provider, answer)
    if endpoint in ("token", "discovery") and answer.status_code in (200, 201) and answer.is_json:
        body = answer.get_json(silent=True) or {}
        for fault in state.take_faults(IN_BODY, provider, endpoint, fields()):
            raw = IN_BODY[fault.name](state, fault, body)
            text = json.dumps(body)
            answer.set_data(text.replace(json.dumps(VERBATIM), raw) if raw is not None else text)
    return answer


# -- token responses and metadata ------------------------------------------------------------------------------------


def _without(*names: str) -> Callable[[State, Fault, Body], str | None]:
    def bent(_state: State, _fault: Fault, body: Body) -> None:
        for name in names:
            body.pop(name, None)

    return bent


def _expires_in(_state: State, fault: Fault, body: Body) -> str:
    body["expiresIn" if "expiresIn" in body else "expires_in"] = VERBATIM
    return str(fault.options["raw"]) if "raw" in fault.options else json.dumps(fault.options.get("value"))


def _token_bytes(_state: State, fault: Fault, body: Body) -> None:
    kinds = {"nul": "sandbox\x00token", "crlf": "sandbox\r\nX-Injected: 1", "huge": "A" * 4 * 1024 * 1024}
    body[fault.options.get("field", "access_token")] = kinds[fault.options.get("kind", "nul")]


def _scope_less(_state: State, fault: Fault, body: Body) -> None:
    names = str(body.get("scope", "")).split()
    dropped = fault.options.get("drop", names[-1] if names else "")
    body["scope"] = " ".join(name for name in names if name != dropped)


def _scope_more(_state: State, fault: Fault, body: Body) -> None:
    body["scope"] = f"{body.get('scope', '')} {fault.options.get('add', 'extra.write')}".strip()


def _issuer_differs(_state: State, fault: Fault, body: Body) -> None:
    body["issuer"] = fault.options.get("value", ATTACKER)


def _id_token(state: State, fault: Fault, body: Body) -> None:
    kind = fault.options.get("kind", "signature")
    if "id_token" not in body or kind == "missing":
        body.pop("id_token", None)
        return
    claims = claims_of(body["id_token"])
    changes: dict[str, Body] = {
        "aud": {"aud": "another-client"},
        "azp": {"azp": "another-client"},
        "nonce": {"nonce": "not-the-nonce"},
        "sub": {"sub": "someone-else", "oid": "someone-else"},
        "iss": {"iss": ATTACKER},
        "expired": {"exp": int(state.now()) - 3600, "iat": int(state.now()) - 7200},
        "future": {"iat": int(state.now()) + 86400, "exp": int(state.now()) + 90000},
    }
    claims.update(changes.get(kind, {}))
    signers = {"unsigned": state.keys.unsigned, "hs256": state.keys.confused}
    signed = signers.get(kind, state.keys.rs256)(claims)
    body["id_token"] = _broken(signed) if kind == "signature" else signed


def _broken(token: str) -> str:
    head, claims, signature = token.split(".")
    return f"{head}.{claims}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


IN_BODY: dict[str, Callable[[State, Fault, Body], str | None]] = {
    "no_access_token": _without("access_token", "accessToken"),
    "no_refresh_token": _without("refresh_token", "refreshToken"),
    "expires_in": _expires_in,
    "token_bytes": _token_bytes,
    "scope_less": _scope_less,
    "scope_more": _scope_more,
    "issuer_differs": _issuer_differs,
    "id_token": _id_token,
}


# -- authorization responses -----------------------------------------------------------------------------------------


def _twist_location(state: State, provider: str, answer: Response) -> Response:
    parts = urlsplit(answer.headers["Location"])
    query = parse_qsl(parts.query, keep_blank_values=True)
    for fault in state.take_faults(IN_QUERY, provider, "authorize", {}):
        query = IN_QUERY[fault.name](state, fault, query)
    answer.headers["Location"] = urlunsplit(parts._replace(query=urlencode(query)))
    return answer


def _minus(query: Query, name: str) -> Query:
    return [(key, value) for key, value in query if key != name]


def _wrong_iss(_state: State, fault: Fault, query: Query) -> Query:
    return [*_minus(query, "iss"), ("iss", fault.options.get("value", ATTACKER))]


def _repeated_iss(_state: State, fault: Fault, query: Query) -> Query:
    return [*query, ("iss", dict(query).get("iss", ATTACKER)), ("iss", fault.options.get("value", ATTACKER))]


def _no_iss(_state: State, _fault: Fault, query: Query) -> Query:
    return _minus(query, "iss")


def _no_state(_state: State, _fault: Fault, query: Query) -> Query:
    return _minus(query, "state")


def _code_of_another(state: State, _fault: Fault, query: Query) -> Query:
    if (code := state.codes.get(dict(query).get("code", ""))) is not None:
        code.client_id = "another-client"
    return query


IN_QUERY: dict[str, Callable[[State, Fault, Query], Query]] = {
    "wrong_iss": _wrong_iss,
    "repeated_iss": _repeated_iss,
    "no_iss": _no_iss,
    "no_state": _no_state,
    "other_client": _code_of_another,
}
