"""
The ledger: every event in one chain, so that one who changes, removes or reorders rows in the database is found out.

Requests append rows; one sealer at a time gives committed ones their place and an HMAC-SHA-256 over the row and the hash before it.
The chain's key is sealed by the vault, so that the database alone cannot make a hash; and each host keeps the last head that it knows
outside of the database, so that nobody puts an older one back. Knows how rows are chained and checked; what is in them is others'
business.
"""

from __future__ import annotations

from gateway.events.chain import LedgerBroken, Problem
from gateway.events.heads import accept_head, judged, standing
from gateway.events.seal import drop_once, seal_all, seal_once
from gateway.events.verify import Progress, verify

__all__ = [
    "LedgerBroken",
    "Problem",
    "Progress",
    "accept_head",
    "drop_once",
    "judged",
    "seal_all",
    "seal_once",
    "standing",
    "verify",
]
