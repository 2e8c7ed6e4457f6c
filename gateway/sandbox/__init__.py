"""
Simulates every provider of the catalogue, with faults on demand, a sign-in service, and a small product.

It imports nothing of the gateway: a mistake made on both sides would pass every test. The real URL https://HOST/PATH of the provider `id`
is simulated at <origin>/<id>/PATH.
"""

from __future__ import annotations

from .clients import CLIENTS
from .fault_plan import Fault
from .server import SandboxServer, make_server
from .state import Account, State
from .supabase import USERS

__all__ = ["CLIENTS", "USERS", "Account", "Fault", "SandboxServer", "State", "make_server"]
