"""
Partners in the tests of links: their keys, the links that they make, and how they complete them.

A partner's server has no browser; a `Person` opens its links, signed in here or not.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import requests

from tests.support.gateway_process import Gateway, Person, fields_in
from tests.support.partners import partner_of


@dataclass(frozen=True)
class Partner:
    """A partner's server: its key, and the calls that it makes."""

    gateway: Gateway
    id: uuid.UUID
    name: str
    key: str

    def calls(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.key}"} | options.pop("headers", {})
        return requests.request(method, self.gateway.url + path, headers=headers, timeout=30, **options)

    def makes(self, whose: Person, provider: str = "google", **more: Any) -> dict[str, Any]:
        """A link for that person: `id`, `url`, `expires_at`."""
        asked = {"user_id": whose.id, "provider": provider, "return_to": f"{self.gateway.sandbox.origin}/back"} | more
        answer = self.calls("POST", "/v1/connect-sessions", json={k: v for k, v in asked.items() if v is not None})
        assert 201 == answer.status_code, answer.text
        return answer.json()

    def completes(self, session: str, whose: Person, confirmation: str | None, **more: Any) -> requests.Response:
        said = {"user_id": whose.id, "confirmation": confirmation} | more
        said = {name: value for name, value in said.items() if value is not None}
        return self.calls("POST", f"/v1/connect-sessions/{session}/complete", json=said)

    def token(self, connection_id: str) -> requests.Response:
        return self.calls("GET", f"/v1/connections/{connection_id}/token")


def new_partner(gateway: Gateway, name: str = "Acme Analytics", **more: Any) -> Partner:
    """A partner with a new name and reach `own`."""
    made = partner_of(gateway.dsn, f"{name} {uuid.uuid4().hex[:6]}", **({"reach": "own"} | more))
    return Partner(gateway, made.id, made.name, made.key)


def presses(person: Person, url: str) -> requests.Response:
    """Opens a link and presses "Continue"."""
    page = person.get(url)
    assert 200 == page.status_code, page.text
    return person.post(url, fields_in(page.text.split('id="link"')[1]))


def consents(person: Person, url: str, account: str | None = None, **form: Any) -> str:
    """And says yes at the provider; the callback's address, not opened yet."""
    away = presses(person, url)
    assert 303 == away.status_code, away.text
    return person.gateway.sandbox.consents(away.headers["Location"], account, **form)
