"""The HTTP client for providers and for Supabase's REST API, and the addresses it may call."""

from gateway.http.addresses import check_url
from gateway.http.bulkhead import Bulkhead, Shares, retry_seconds
from gateway.http.client import HttpClient, Response, StreamedResponse, decoded, parse_retry_after
from gateway.http.connection import CallerGone, Deadline

__all__ = [
    "Bulkhead",
    "CallerGone",
    "Deadline",
    "HttpClient",
    "Response",
    "Shares",
    "StreamedResponse",
    "check_url",
    "decoded",
    "parse_retry_after",
    "retry_seconds",
]
