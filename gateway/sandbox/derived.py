"""
Tables for providers that have none in `providers/`, made of their catalogue entries: an ordinary provider needs no other.

Only the TOML of the entry is read. A mistake in it is then on both sides, and shows nowhere. A provider with habits of its own has a table
that is written apart.
"""

from __future__ import annotations

import json
import random
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .sample import sample

CATALOG = Path(__file__).parents[1] / "catalog" / "entries"
_AUTH = {"client_secret_post": "post", "client_secret_basic": "basic", "none": "none"}
_PATHS = {
    "authorize": "authorization_endpoint", "token": "token_endpoint", "revoke": "revocation_endpoint", "account": "userinfo_endpoint", "jwks": "jwks_uri",
}  # fmt: skip
Table = dict[str, Any]


def read_entries(folder: Path = CATALOG) -> dict[str, Table]:
    """The entries of a folder by id."""
    found: dict[str, Table] = {}
    for file in sorted(folder.rglob("*.toml")):
        found |= tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: {**found.get(entry.get("like", ""), {}), **entry} for name, entry in found.items()}


def is_oauth(entry: Mapping[str, Any]) -> bool:
    """Whether users are redirected; else they enter a key."""
    return bool(entry.get("auth", "oauth2") == "oauth2")


def oauth_table(name: str, entry: Mapping[str, Any]) -> Table:
    """As `generic.py` reads it. Refresh tokens rotate, which is the strictest."""
    parts = _parts(name, entry)
    table: Table = {"name": entry["name"], "pkce": "refused" if entry.get("pkce") == "none" else "required"}
    table |= {key: _path(entry[url], parts) for key, url in _PATHS.items() if url in entry}
    if "authorization_endpoint" not in entry:
        base = urlsplit(entry["issuer"]).path.rstrip("/")
        table |= {key: f"{base}/{key}" for key in ("authorize", "token", "jwks")}
        table["metadata"] = f"{base}/.well-known/openid-configuration"
    table["code_auth"] = _AUTH[entry.get("token_endpoint_auth_method", "client_secret_basic")]
    table |= {"refresh_auth": _AUTH[entry["refresh_auth_method"]]} if "refresh_auth_method" in entry else {}
    table |= {"body": "json"} if entry.get("json_token_requests") else {}
    table |= {"app_scope": "all"} if not entry.get("scope") else {}
    table["separator"] = entry.get("scope_separator", " ")
    table["response_type"] = entry.get("response_type", "code")
    table["needs"] = entry.get("authorization_params", {})
    table |= {"refresh": "rotates", "access_seconds": 3600}
    table |= {"issuer": urlsplit(entry["issuer"]).path.rstrip("/")} if "issuer" in entry else {}
    table["fields"] = {each: parts[each] for each in entry.get("fields", {})}
    for each, rule in entry.get("values", {}).items():
        where = "callback" if rule.get("source") == "callback" else "answer"
        said = parts[each].replace("https://", f"{{origin}}/{name}/")
        table.setdefault(where, {})[rule.get("field") or each] = said
    account = _account(entry.get("account", {"id": "sub", "label": "email"}))
    if "account" not in table:
        table.setdefault("answer", {}).update(account)
    placement = entry.get("userinfo_token_placement", entry.get("token_placement", {}))
    table |= {"account_query": placement["query"]} if "query" in placement else {}
    table["account_scheme"] = placement.get("prefix", "Bearer ").strip()
    table |= {"account_body": entry["userinfo_body"]} if "userinfo_body" in entry else {}
    table["account_answer"] = json.dumps(account)
    return table


def key_table(entry: Mapping[str, Any]) -> Table:
    """As `keys.py` reads it."""
    secrets = [name for name, field in entry["fields"].items() if field.get("secret")]
    placement, credential = entry.get("token_placement", {}), entry.get("credential") or f"{{{secrets[0]}}}"
    table: Table = {
        "key": f"{placement.get('header', 'Authorization')}: {placement.get('prefix', 'Bearer ')}{credential}"
    }
    if "query" in placement:
        table["key"] = f"query {placement['query']}={credential}"
    elif entry["auth"] == "basic" or placement.get("basic"):
        table["key"] = f"Basic {credential}"
    table["verify"] = _path(entry["userinfo_endpoint"], {})
    table |= {"body": entry["userinfo_body"]} if "userinfo_body" in entry else {}
    table["needs"] = entry.get("headers", {})
    forms = {name: _form(field) for name, field in entry["fields"].items()}
    table["secret"] = {name: form for name, form in forms.items() if name in secrets}
    table["public"] = {name: form for name, form in forms.items() if name not in secrets}
    account = _account(entry["account"])
    if valid := entry.get("valid_path"):
        account |= _nested({valid: True})
        table |= {"refused": 200, "refused_answer": json.dumps(_nested({valid: False}))}
    table["answer"] = json.dumps(account)
    return table


def _form(field: Mapping[str, Any]) -> str:
    if field.get("options"):
        return str(next(iter(field["options"])))
    return "re:" + str(field.get("pattern") or ("[A-Za-z0-9]{40}" if field.get("secret") else "[a-z][a-z0-9]{7}"))


def _parts(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """What stands for the braces in addresses: fields, learned values, and named groups of both."""
    parts: dict[str, str] = {}
    for each, rule in {**entry.get("fields", {}), **entry.get("values", {})}.items():
        form = _form(rule)
        pattern = form.removeprefix("re:")
        parts[each] = sample(pattern, random.Random(f"{name} {each}")) if pattern != form else form  # noqa: S311
        found = re.fullmatch(pattern, parts[each])
        parts |= found.groupdict("") if found else {}
    return parts


def _path(url: str, parts: Mapping[str, str]) -> str:
    """The path below `/<id>`. A host that depends on the account is its first part."""
    whole = re.sub(r"\{(\w+)\}", lambda place: parts.get(place[1], place[0]), url)
    address = urlsplit(whole)
    return (f"/{address.netloc}" if "{" in urlsplit(url).netloc or url.startswith("{") else "") + address.path


def _account(rule: Mapping[str, Any]) -> Table:
    """The document in which the account is found."""
    ids = [rule["id"]] if isinstance(rule["id"], str) else rule["id"]
    labels = [rule.get("label", ())] if isinstance(rule.get("label"), str) else rule.get("label", ())
    values = dict.fromkeys(labels, "{label}") | dict.fromkeys(ids, "{tenant}") | {ids[-1]: "{id}"}
    return _nested({path: text for path, text in values.items() if "{" not in path})


def _nested(values: Mapping[str, object]) -> Table:
    root: Table = {}
    for path, value in values.items():
        node, steps = root, path.split(".")
        for step in steps[:-1]:
            node = node.setdefault(step, {})
        node[steps[-1]] = value
    return {name: _with_lists(value) for name, value in root.items()}


def _with_lists(value: Any) -> Any:
    """Names that are numbers are places of a list."""
    if not isinstance(value, dict):
        return value
    items = {name: _with_lists(each) for name, each in value.items()}
    return [items[name] for name in sorted(items, key=int)] if all(name.isdigit() for name in items) else items
