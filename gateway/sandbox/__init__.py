"""
Every provider of the catalogue, played on this machine, with faults on demand; a sign-in service, and a small product.

Stands apart: it imports nothing of the gateway, because a habit misunderstood on both sides would pass every test. Each real
address https://HOST/PATH of provider `id` is played at <origin>/<id>/PATH.
"""

from __future__ import annotations

from .clients import CLIENTS
from .planning import Fault
from .server import SandboxServer, make_server
from .state import Account, State
from .supabase import USERS

__all__ = ["CLIENTS", "USERS", "Account", "Fault", "SandboxServer", "State", "make_server"]
