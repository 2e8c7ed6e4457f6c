"""Calls of a provider's API with a connection's token, which the caller never sees."""

from __future__ import annotations

from gateway.proxy.forward import ProxiedResponse, forward
from gateway.proxy.request import MARK, OWN_HEADERS, ProxiedRequest

__all__ = ["MARK", "OWN_HEADERS", "ProxiedRequest", "ProxiedResponse", "forward"]
