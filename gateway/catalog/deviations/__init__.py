"""Deviations by the name that a catalogue entry lists in `quirks`. The flow asks these, and never for a provider."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.catalog.deviations.deviation import AccountLookup, Deviation, Uninstall
from gateway.catalog.deviations.highlevel import HighLevelAccount, HighLevelUninstall

__all__ = ["DEVIATIONS", "AccountLookup", "Deviation", "Uninstall"]

DEVIATIONS: Mapping[str, Deviation] = {
    "highlevel_account": HighLevelAccount(),
    "highlevel_uninstall": HighLevelUninstall(),
}
