"""
What the sandbox remembers: codes, tokens, faults, and every request it saw.

All of it is in memory, belongs to one start of the process and is changed under one lock. The rooms that play providers
decide what a provider does; this one only keeps the books. The clock can be injected and moved forward.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .planning import Fault, planned
from .signing import Keys

SEEN_AT_MOST = 2_000
SWITCHES: dict[str, bool] = {
    "google_iss": True,
    "google_canonical_scope": True,
    "microsoft_iss": False,
    "ringcentral_iss": False,
    "zoom_iss": False,
    "location_active": True,
}
"""Habits that can be changed while the sandbox runs, with what they are after a reset."""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who has an account at a provider. `id` is stable there; `facts` are the provider's own fields."""

    id: str
    label: str
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Code:
    """An authorization code (RFC 6749 section 4.1.2), with what it is bound to."""

    value: str
    provider: str
    client_id: str
    redirect_uri: str
    scope: str
    account: Account
    until: float
    query: Mapping[str, str]
    used: bool = False

    @property
    def code_challenge(self) -> str | None:
        """RFC 7636 section 4.3."""
        return self.query.get("code_challenge")

    @property
    def code_challenge_method(self) -> str | None:
        """RFC 7636 section 4.3; `plain` when it was left out."""
        return self.query.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        """As Authlib's grant asks for it."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """As Authlib's grant asks for it."""
        return self.scope


@dataclass(slots=True)
class Session:
    """One consent, and everything that was issued under it."""

    provider: str
    client_id: str
    account: Account
    scope: str
    query: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    revoked: bool = False


@dataclass(slots=True)
class Pair:
    """One token response: an access token, perhaps a refresh token, and what became of them. Times are clock seconds."""

    session: Session
    access_token: str
    refresh_token: str | None
    access_until: float
    refresh_until: float
    ended: bool = False
    used_at: float | None = None
    successor: Pair | None = None
    read_at: float | None = None

    def check_client(self, client: Any) -> bool:
        """As Authlib's refresh grant asks: was it issued to this client?"""
        return bool(client.client_id == self.session.client_id)

    def get_scope(self) -> str:
        """As Authlib's refresh grant asks for it."""
        return self.session.scope


class State:
    """The books. Whoever reads and then writes holds `lock`, which may be taken twice by one thread."""

    def __init__(self, gateway: str, origins: Iterable[str] = (), clock: Callable[[], float] = time.time) -> None:
        """`gateway`: its origin, where redirect URIs may point to, as they may to each of `origins`."""
        self.gateway = gateway.rstrip("/")
        self.origin = ""
        self.origins = {self.gateway, *(origin.rstrip("/") for origin in origins)}
        self.keys = Keys()
        self.partner_keys: dict[str, str] = {}
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forgets everything but the keys, its own and its partners', the addresses and the clients."""
        with self.lock:
            self._ahead = 0.0
            self.switches = dict(SWITCHES)
            self.codes: dict[str, Code] = {}
            self.sessions: list[Session] = []
            self.by_access: dict[str, Pair] = {}
            self.by_refresh: dict[str, Pair] = {}
            self.consented: set[tuple[str, str, str]] = set()
            self.faults: list[Fault] = []
            self.seen: deque[dict[str, Any]] = deque(maxlen=SEEN_AT_MOST)
            self.redeemed: Counter[str] = Counter()
            self.revocations: list[dict[str, Any]] = []
            self.calls: defaultdict[str, deque[float]] = defaultdict(deque)
            self.happened: defaultdict[str, list[dict[str, str]]] = defaultdict(list)

    # -- time and addresses ------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since 1970, as far ahead as the clock was moved."""
        return self._clock() + self._ahead

    def advance(self, seconds: float) -> None:
        """Moves the clock forward, for what takes a day in life."""
        with self.lock:
            self._ahead += seconds

    def allows(self, redirect_uri: str) -> bool:
        """RFC 6749 section 3.1.2: absolute, no fragment, and on an origin that the sandbox was started for."""
        parts = urlsplit(redirect_uri)
        return not parts.fragment and f"{parts.scheme}://{parts.netloc}" in self.origins

    # -- codes and tokens --------------------------------------------------------------------------------------------

    def redeemable(self, provider: str, value: str) -> Code | None:
        """The code, while it is neither used nor too old."""
        code = self.codes.get(value)
        usable = code is not None and code.provider == provider and not code.used and self.now() < code.until
        return code if usable else None

    def issue(
        self, session: Session, access: str, access_seconds: float, refresh: str | None, refresh_seconds: float
    ) -> Pair:
        """Remembers a token response. `refresh` may be a token that stands already; it then belongs to this pair."""
        now = self.now()
        pair = Pair(session, access, refresh, now + access_seconds, now + refresh_seconds)
        with self.lock:
            if session not in self.sessions:
                self.sessions.append(session)
            self.by_access[access] = pair
            if refresh is not None:
                self.by_refresh[refresh] = pair
        return pair

    def bearer(self, provider: str, token: str) -> Pair | None:
        """The pair of a valid access token, and a note that it was used (RFC 6750)."""
        with self.lock:
            pair = self.by_access.get(token)
            if pair is None or pair.session.provider != provider or pair.session.revoked or pair.ended:
                return None
            if self.now() >= pair.access_until:
                return None
            pair.read_at = self.now() if pair.read_at is None else pair.read_at
            return pair

    def revoke(self, provider: str, token: str) -> bool:
        """RFC 7009: ends the whole consent that the token stands for. Counted, whether it was known or not."""
        with self.lock:
            pair = self.by_access.get(token) or self.by_refresh.get(token)
            known = pair is not None and pair.session.provider == provider and not pair.session.revoked
            self.revocations.append({"provider": provider, "token": token, "known": known})
            if pair is not None and known:
                self.end(pair.session)
            return known

    def end(self, session: Session) -> None:
        """As if the account's owner had withdrawn the consent: tokens are dead, and the next consent is a first one."""
        session.revoked = True
        self.consented.discard((session.provider, session.client_id, session.account.id))

    def withdraw(self, provider: str, account_id: str | None = None) -> int:
        """Ends every consent of an account at its provider (or of all accounts); how many those were."""
        with self.lock:
            live = [s for s in self.sessions if s.provider == provider and not s.revoked]
            mine = [s for s in live if account_id in (None, s.account.id)]
            for session in mine:
                self.end(session)
            return len(mine)

    # -- faults and what was seen ------------------------------------------------------------------------------------

    def add_fault(self, fault: str, provider: str = "*", endpoint: str = "*", times: int = 1, **options: Any) -> Fault:
        """Plans a fault, as `planned` describes it; raises ValueError where there is no such fault."""
        made = planned(fault, provider, endpoint, times, **options)
        with self.lock:
            self.faults.append(made)
        return made

    def take_faults(self, names: Iterable[str], provider: str, endpoint: str, fields: Mapping[str, str]) -> list[Fault]:
        """The planned faults of these names that this request meets, each one time less to come."""
        wanted = frozenset(names)
        with self.lock:
            taken = [f for f in self.faults if f.name in wanted and f.meets(provider, endpoint, fields)]
            for fault in taken:
                fault.times -= 1
                if fault.times == 0:
                    self.faults.remove(fault)
                fault.times = max(fault.times, 0)
            return taken

    def requests(self, provider: str | None = None, endpoint: str | None = None) -> list[dict[str, Any]]:
        """What was seen, oldest first; of one provider, of one endpoint, or all."""
        with self.lock:
            seen = list(self.seen)
        return [r for r in seen if provider in (None, r["provider"]) and endpoint in (None, r["endpoint"])]


def fresh(prefix: str = "", size: int = 30) -> str:
    """An unguessable value of about `size` * 4/3 characters behind a prefix."""
    return prefix + secrets.token_urlsafe(size)
