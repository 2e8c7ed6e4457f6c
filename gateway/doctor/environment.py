"""The environment: settings, the journal, who may sign in, and this machine's clock."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.doctor.report import Finding, finding
from gateway.errors import GatewayError
from gateway.services import Runtime
from gateway.settings import Settings, ignored_parameters, near_misses

CLOCK_SECONDS = 30
"""Tokens are checked with a minute of tolerance; half of it may be used up before it is reported."""


def examine(rt: Runtime, environ: Mapping[str, str]) -> Iterator[Finding]:
    settings = rt.settings
    yield finding("settings.valid")
    count = len(settings.keys)
    yield finding("keys.many", count=count) if count > 1 else finding("keys.one")
    if not settings.app_origins and settings.app_login_url is None:
        yield finding("settings.no_front_end")
    if not settings.brand_name:
        yield finding("settings.no_brand")
    if settings.allow_private_hosts:
        yield finding("settings.private_hosts")
    for name in map(str.upper, rt.catalog.providers):
        given = any(environ.get(f"{name}_CLIENT_SECRET{form}") for form in ("", "_FILE"))
        if given and not environ.get(f"{name}_CLIENT_ID"):
            yield finding("settings.secret_alone", name=name)
    for name, near in near_misses(environ, rt.catalog.providers):
        yield finding("settings.near_miss", name=name, near=near)
    if ignored := ignored_parameters(settings):
        yield finding("settings.ignored_parameters", names=", ".join(ignored))
    if settings.https_proxy is not None:
        yield finding("proxy.used")
    elif seen := [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if environ.get(name)]:
        yield finding("proxy.unused", name=seen[0])
    yield finding("journal.sound" if settings.journal else "journal.off")


def examine_token(rt: Runtime, token: str) -> Finding:
    try:
        rt.identity.read_access_token(token, now=rt.now())
    except GatewayError as error:
        return finding("access token.refused", error=error)
    return finding("access token.accepted")


def examine_sign_in(rt: Runtime) -> Iterator[Finding]:
    settings = rt.settings
    if settings.supabase_url is None:
        yield finding("sign-in.no_project")
        return
    url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
    try:
        response = rt.identity.issuers.http.request("GET", url, headers={"Accept": "application/json"})
        yield from compare_clock(response.headers.get("date"), rt.now())
        keys = len(rt.identity.issuers.keys(url).keys)
    except GatewayError as error:
        yield finding("sign-in.only_secret_now" if settings.supabase_jwt_secret else "sign-in.keys_unread", error=error)
        return
    yield judge_keys(settings, keys)
    yield from _issuer(rt)


def _issuer(rt: Runtime) -> Iterator[Finding]:
    """Whether the project calls itself as SUPABASE_URL does: 127.0.0.1 and localhost are two names to a token."""
    expected = f"{rt.settings.supabase_url}/auth/v1"
    try:
        response = rt.identity.issuers.http.request("GET", f"{expected}/.well-known/openid-configuration")
        found = json.loads(response.body).get("issuer")
    except (GatewayError, ValueError, AttributeError):
        return  # older projects do not publish it
    if isinstance(found, str) and found != expected:
        yield finding("sign-in.other_issuer", found=found[:200], expected=expected)


def judge_keys(settings: Settings, keys: int) -> Finding:
    """By how many published keys, and whether by the shared secret, tokens are verified."""
    if settings.supabase_jwt_secret is None:
        return finding("sign-in.keys" if keys else "sign-in.no_keys", keys=keys)
    return finding("sign-in.keys_and_secret" if keys else "sign-in.secret", keys=keys)


def compare_clock(date: str | None, now: datetime) -> Iterator[Finding]:
    """Compare with the Date header (RFC 9110 section 6.6.1) of the sign-in service, because its tokens contain times."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead = (now - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds()
    if abs(ahead) <= CLOCK_SECONDS:
        yield finding("clock.sound", seconds=CLOCK_SECONDS)
    else:
        yield finding("clock.off", seconds=abs(ahead), side="ahead of" if ahead > 0 else "behind")
