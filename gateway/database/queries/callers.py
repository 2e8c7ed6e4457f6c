"""
What callers of /v1 reach: a partner with a key, or a user.

Each function checks the key in the same call, and raises Unauthenticated, Forbidden, Frozen or RateLimited for a refusal.
"""

from __future__ import annotations

from typing import Literal

from gateway.database import SqlFunction
from gateway.models import Connection

CheckOutcome = Literal["confirmed", "refused", "another_account", "suspended", "unknown"]

check_caller = SqlFunction[tuple[str, ...] | None]("caller", "caller", "needs")
"""The providers that the caller may know of, None for all. `needs`: the scope that a key must have."""

reached_connection = SqlFunction[Connection | None]("reached_connection", "caller", "connection_id")
"""A connection that the caller reaches; None for any other. `check`: the right to check it, which a caller has once a minute."""

reached_connections = SqlFunction[tuple[Connection, ...]]("reached_connections", "caller")
"""
At most `most` of the connections that the caller reaches, or the operator, in the order of ids, after the id `after`.

`wanted`: any of type, status, account_id and tag (a pair); `clients`: our registrations, and only connections of another one; `scopes`: the
required ones of each provider, and only connections that lack one.
"""

end_check = SqlFunction[Connection | None]("end_check", "caller", "connection_id")
"""
The connection after a check, None where it is gone. An outcome changes it only if it still has that generation.

`label`: the account's name, which is kept where the connection has none.
"""
