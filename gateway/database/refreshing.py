"""
The store's method for what the worker reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refreshing:
    """A part of Store."""

    def _call(self, function: str, **arguments: object) -> Any:
        raise NotImplementedError

    def lag(self) -> Mapping[str, Any]:
        """How far behind the work is: counts, and the age of the oldest due refresh in seconds."""
        found: Mapping[str, Any] = self._call("lag")
        return found
