"""
Simulates every provider whose users enter a key: one table each in `providers/keys.toml`.

It is strict: a key anywhere else than the table says, the wrong half of Basic, or a missing header is refused. Any other path below the
provider's answers what it was asked. A provider without a table is simulated from its catalogue entry (derived.py). The keys of a table:

- `key`: a header with the fields in it, `Basic user:password`, or `query name={field}`; `needs`: further headers
- `verify`: the path that tells whether a key works; a host that belongs to an account is its first part; `body`: it is a POST with these words;
  `agent`: the form of its User-Agent
- `public`, `secret`: the fields, and the form of each: `{hex:32}`, `{word:22}`, `{upper:20}`, `{digits:7}`, `{uuid}`, or `re:` and a
  regular expression
- `answer`: to a good key; `refused`, `refused_answer`: status (401) and body for another one; `test_answer`: 403 to one of
  the test mode

In texts, the fields and `{id}`, `{label}` and `{tenant}` of the account are filled.
"""

from __future__ import annotations

import base64
import json
import random
import re
import secrets
import string
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, request

from .derived import is_oauth, key_table, read_entries
from .generic import ACCOUNTS
from .sample import sample
from .state import Account, State
from .wire import answer

Table = Mapping[str, Any]
TABLES: dict[str, Table] = tomllib.loads(
    (Path(__file__).parent / "providers" / "keys.toml").read_text(encoding="utf-8")
)
TABLES |= {
    name: key_table(entry) for name, entry in read_entries().items() if not is_oauth(entry) and name not in TABLES
}
_ALPHABETS = {
    "hex": "0123456789abcdef",
    "word": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase + string.digits,
    "digits": "123456789",
}


@dataclass(slots=True)
class Key:
    """A key of an account. `fields`: what its user enters."""

    account: Account
    fields: Mapping[str, str]
    is_test: bool = False
    """Of the provider's test mode."""
    is_revoked: bool = False


def made_up_key(provider: str, account: Account = ACCOUNTS[0]) -> dict[str, str]:
    """Fields of the right form. What is public is the same each time for an account; nobody issued the secret."""
    table = TABLES[provider]
    public = {
        name: _random(_filled(form, account, {}), random.Random(f"{provider} {account.id} {name}"))  # noqa: S311
        for name, form in table.get("public", {}).items()
    }
    return public | {name: _random(form, secrets.SystemRandom()) for name, form in table["secret"].items()}


def new_key(state: State, provider: str, account: Account = ACCOUNTS[0], *, is_test: bool = False) -> dict[str, str]:
    """A key that works, as its user would enter it."""
    fields = made_up_key(provider, account)
    with state.lock:
        state.keys_of[provider].append(Key(account, fields, is_test))
    return fields


def revoke_keys(state: State, provider: str) -> None:
    """Delete every key at the provider."""
    with state.lock:
        for key in state.keys_of[provider]:
            key.is_revoked = True


def make_blueprint(state: State, provider: str) -> Blueprint:
    """A provider's addresses below /<id>."""
    rooms = Blueprint(provider, __name__, url_prefix=f"/{provider}")
    verify = re.sub(r"\{(\w+)\}", r"<\1>", TABLES[provider]["verify"])
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    verb = "POST" if "body" in TABLES[provider] else "GET"
    rooms.add_url_rule(verify, "userinfo", lambda **parts: _verify(state, provider, parts), methods=[verb])
    rooms.add_url_rule("/<path:path>", "api", lambda path: _api(state, provider, path), methods=methods)
    return rooms


def _verify(state: State, provider: str, parts: Mapping[str, str]) -> Response:
    key, table = _key(state, provider), TABLES[provider]
    if key is None or table.get("body", "") not in request.get_data(as_text=True):
        return _refused(table)
    if not re.fullmatch(table.get("agent", ".*"), request.headers.get("User-Agent", "")):
        return answer({"error": "User-Agent names no application"}, 400)
    if key.is_test:
        return answer(json.loads(table["test_answer"]), 403)
    if any(key.fields.get(name, value) != value for name, value in parts.items()):
        return answer({"error": "not found"}, 404)
    text = _filled(table["answer"], key.account, key.fields)
    if not text.startswith(("{", "[")):
        return Response(text, content_type="application/xml")
    return answer(json.loads(text))


def _api(state: State, provider: str, path: str) -> Response:
    key = _key(state, provider)
    if key is None:
        return _refused(TABLES[provider])
    sent = [value for _, value in request.headers] + list(request.args.values())
    return answer({"path": path, "account": key.account.id, "sent": sent})


def _refused(table: Table) -> Response:
    return answer(json.loads(table.get("refused_answer", '{"error":"unauthorized"}')), table.get("refused", 401))


def _key(state: State, provider: str) -> Key | None:
    """The key that the request has, in its place and in no other."""
    with state.lock:
        known = [key for key in state.keys_of[provider] if not key.is_revoked]
    return next((key for key in known if _is_sent(TABLES[provider], key)), None)


def _is_sent(table: Table, key: Key) -> bool:
    form = table["key"]
    if form.startswith("query "):
        name, _, value = form.removeprefix("query ").partition("=")
        right = request.args.get(name) == _filled(value, key.account, key.fields)
    elif form.startswith("Basic "):
        pair = _filled(form.removeprefix("Basic "), key.account, key.fields).encode()
        right = request.headers.get("Authorization") == f"Basic {base64.b64encode(pair).decode()}"
    else:
        name, _, value = form.partition(": ")
        right = request.headers.get(name) == _filled(value, key.account, key.fields)
    needs = table.get("needs", {}).items()
    return right and all(request.headers.get(name) == _filled(value, key.account, key.fields) for name, value in needs)


def _filled(text: str, account: Account, fields: Mapping[str, str]) -> str:
    known = {"id": account.id, "label": account.label, "tenant": account.facts["tenant"], **fields}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), text)


def _random(form: str, source: random.Random) -> str:
    if form.startswith("re:"):
        return sample(form.removeprefix("re:"), source)
    text = form.replace("{uuid}", str(uuid.UUID(int=source.getrandbits(128), version=4)))
    return re.sub(
        r"\{(\w+):(\d+)\}", lambda found: "".join(source.choices(_ALPHABETS[found[1]], k=int(found[2]))), text
    )
