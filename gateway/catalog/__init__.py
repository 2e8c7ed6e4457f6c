"""The catalogue of providers: data in TOML, and named deviations where data is not enough."""

from gateway.catalog.api_key import ApiKeyProvider
from gateway.catalog.loader import AnyEntry, Catalog, load_catalog, read_catalog
from gateway.catalog.provider import ENDPOINTS, TYPES, Provider, fill

__all__ = [
    "ENDPOINTS",
    "TYPES",
    "AnyEntry",
    "ApiKeyProvider",
    "Catalog",
    "Provider",
    "fill",
    "load_catalog",
    "read_catalog",
]
