"""The catalogue of providers: data in TOML, and named deviations where data is not enough."""

from __future__ import annotations

from gateway.catalog.loader import Catalog, load_catalog
from gateway.catalog.provider import ENDPOINTS, TYPES, AnyEntry, ApiKeyProvider, BasicProvider, Provider

__all__ = [
    "ENDPOINTS",
    "TYPES",
    "AnyEntry",
    "ApiKeyProvider",
    "BasicProvider",
    "Catalog",
    "Provider",
    "load_catalog",
]
