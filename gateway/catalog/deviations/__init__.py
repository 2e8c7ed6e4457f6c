"""Deviations by the name that a catalogue entry has in `quirks`. The flow asks these, and never for a provider."""

from collections.abc import Mapping

from gateway.catalog.deviations.deviation import AccountLookup, ApiRequest, Deviation, IncomingEvent, Page, SubAccount
from gateway.catalog.deviations.highlevel import HighLevel

__all__ = ["DEVIATIONS", "AccountLookup", "ApiRequest", "Deviation", "IncomingEvent", "Page", "SubAccount"]

DEVIATIONS: Mapping[str, Deviation] = {"": Deviation(), "highlevel": HighLevel()}
