"""Housekeeping: one call a minute removes what has expired."""

from __future__ import annotations

from gateway.database import SqlFunction

run = SqlFunction[bool]("housekeeping")
"""Remove what has expired, announce grants that will expire soon, drop old events; False while another process does it."""
