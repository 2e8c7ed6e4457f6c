"""
The state of the sandbox: codes, tokens, faults, and recorded requests.

In memory, under one lock. The modules of the providers decide what happens. The clock can be injected and moved forward.
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

from .fault_plan import Fault, planned
from .signing import Keys

SEEN_AT_MOST = 2_000
EVENTS_AT_MOST = 200
SWITCHES: dict[str, bool] = {
    "google_iss": True,
    "google_canonical_scope": True,
    "microsoft_iss": False,
    "ringcentral_iss": False,
    "zoom_iss": False,
    "location_active": True,
    "location_refresh_token": True,
    "highlevel_webhooks": False,
}
"""Switches that can be changed while the sandbox runs, with their defaults."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account at a provider. `id` is stable there; `facts` are the provider's own fields."""

    id: str
    label: str
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Code:
    """An authorization code (RFC 6749 section 4.1.2) and its request."""

    value: str
    provider: str
    client_id: str
    redirect_uri: str
    scope: str
    account: Account
    until: float
    query: Mapping[str, str]
    used: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen beside the account."""

    @property
    def code_challenge(self) -> str | None:
        """RFC 7636 section 4.3."""
        return self.query.get("code_challenge")

    @property
    def code_challenge_method(self) -> str | None:
        """RFC 7636 section 4.3; `plain` when it was left out."""
        return self.query.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        """For Authlib's grant."""
        return self.redirect_uri

    def get_scope(self) -> str:
        """For Authlib's grant."""
        return self.scope


@dataclass(slots=True)
class Session:
    """One consent; all its tokens refer to it."""

    provider: str
    client_id: str
    account: Account
    scope: str
    query: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    revoked: bool = False


@dataclass(slots=True)
class Pair:
    """One token response: an access token, perhaps a refresh token, and their state. Times are clock seconds."""

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
        """For Authlib's refresh grant: whether it was issued to this client."""
        return bool(client.client_id == self.session.client_id)

    def get_scope(self) -> str:
        """For Authlib's refresh grant."""
        return self.session.scope


class State:
    """The state. Hold `lock` to read and then write; a thread may take it twice."""

    def __init__(self, gateway: str, origins: Iterable[str] = (), clock: Callable[[], float] = time.time) -> None:
        """`gateway`: its origin, where redirect URIs may point to, as they may to each of `origins`."""
        self.gateway = gateway.rstrip("/")
        self.origin = ""
        self.origins = {self.gateway, *(origin.rstrip("/") for origin in origins)}
        self.keys = Keys()
        self.partner_keys: dict[str, str] = {}
        self.database = ""
        """The DSN of the gateway's database, to show the stored row; empty where the sandbox does not know it."""
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget everything except keys, origins and clients."""
        with self.lock:
            self._ahead = 0.0
            self.switches = dict(SWITCHES)
            self.codes: dict[str, Code] = {}
            self.sessions: list[Session] = []
            self.by_access: dict[str, Pair] = {}
            self.by_refresh: dict[str, Pair] = {}
            self.consented: set[tuple[str, str, str]] = set()
            self.keys_of: defaultdict[str, list[Any]] = defaultdict(list)
            self.faults: list[Fault] = []
            self.seen: deque[dict[str, Any]] = deque(maxlen=SEEN_AT_MOST)
            self.redeemed: Counter[str] = Counter()
            self.revocations: list[dict[str, Any]] = []
            self.calls: defaultdict[str, deque[float]] = defaultdict(deque)
            self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_AT_MOST)
            self.events_after = "0"
            self.more_locations = 0
            """Of HighLevel's agency, beside the two that can be chosen."""
            self.new_locations: dict[str, str] = {}
            self.future_locations = False
            """Whether the agency lets the app be installed in its new locations."""
            self.uninstalled: set[str] = set()
            self.suspended: set[str] = set()
            """Locations by id."""
            self.happened: defaultdict[str, list[dict[str, str]]] = defaultdict(list)

    # -- time and addresses ------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since 1970, as far ahead as the clock was moved."""
        return self._clock() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        with self.lock:
            self._ahead += seconds

    def allows(self, redirect_uri: str) -> bool:
        """RFC 6749 section 3.1.2: absolute, no fragment, and on an origin that the sandbox was started for."""
        parts = urlsplit(redirect_uri)
        return not parts.fragment and f"{parts.scheme}://{parts.netloc}" in self.origins

    # -- codes and tokens --------------------------------------------------------------------------------------------

    def redeemable(self, provider: str, value: str) -> Code | None:
        """The code, if it is neither used nor expired."""
        code = self.codes.get(value)
        usable = code is not None and code.provider == provider and not code.used and self.now() < code.until
        return code if usable else None

    def issue(
        self, session: Session, access: str, access_seconds: float, refresh: str | None, refresh_seconds: float
    ) -> Pair:
        """Store a token response. `refresh` may be an existing token; it then belongs to this pair."""
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
        """The pair of a valid access token (RFC 6750); records the use."""
        with self.lock:
            pair = self.by_access.get(token)
            if pair is None or pair.session.provider != provider or pair.session.revoked or pair.ended:
                return None
            if self.now() >= pair.access_until:
                return None
            pair.read_at = self.now() if pair.read_at is None else pair.read_at
            return pair

    def revoke(self, provider: str, token: str) -> bool:
        """RFC 7009: end the consent of the token. Also counts unknown tokens."""
        with self.lock:
            pair = self.by_access.get(token) or self.by_refresh.get(token)
            known = pair is not None and pair.session.provider == provider and not pair.session.revoked
            self.revocations.append({"provider": provider, "token": token, "known": known})
            if pair is not None and known:
                self.end(pair.session)
            return known

    def end(self, session: Session) -> None:
        """As if the account's owner had withdrawn the consent: its tokens end, and the next consent is a first one."""
        session.revoked = True
        self.consented.discard((session.provider, session.client_id, session.account.id))

    def withdraw(self, provider: str, account_id: str | None = None) -> int:
        """End every consent of an account (or of all); how many."""
        with self.lock:
            live = [s for s in self.sessions if s.provider == provider and not s.revoked]
            mine = [s for s in live if account_id in (None, s.account.id)]
            for session in mine:
                self.end(session)
            return len(mine)

    def expire(self, provider: str) -> None:
        """End every access token of a provider now; refresh tokens stay valid."""
        with self.lock:
            for pair in self.by_access.values():
                if pair.session.provider == provider:
                    pair.access_until = min(pair.access_until, self.now())

    # -- faults and what was seen ------------------------------------------------------------------------------------

    def add_fault(self, fault: str, provider: str = "*", endpoint: str = "*", times: int = 1, **options: Any) -> Fault:
        """Plan a fault (see `planned`). Raises ValueError for an unknown one."""
        made = planned(fault, provider, endpoint, times, **options)
        with self.lock:
            self.faults.append(made)
        return made

    def take_faults(self, names: Iterable[str], provider: str, endpoint: str, fields: Mapping[str, str]) -> list[Fault]:
        """The planned faults of these names that apply to this request; each counts down."""
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
        """Recorded requests, oldest first; of one provider, of one endpoint, or all."""
        with self.lock:
            seen = list(self.seen)
        return [r for r in seen if provider in (None, r["provider"]) and endpoint in (None, r["endpoint"])]


def fresh(prefix: str = "", size: int = 30) -> str:
    """An unguessable value of about `size` * 4/3 characters behind a prefix."""
    return prefix + secrets.token_urlsafe(size)
