"""The environment: settings, the journal, who may sign in, and this machine's clock."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.doctor.report import Finding, Level
from gateway.errors import GatewayError, SettingsRefused
from gateway.services import Runtime
from gateway.settings import Settings, ignored_parameters, near_misses

CLOCK_SECONDS = 30
"""Tokens are checked with a minute of tolerance; half of it may be used up before it is reported."""


def examine(rt: Runtime, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Valid settings that may not be what the operator meant."""
    settings = rt.settings
    yield Finding("settings", "ok", "All settings are valid.")
    more = " (the first encrypts, the others only decrypt)" if len(settings.keys) > 1 else ""
    yield Finding("keys", "ok", f"{len(settings.keys)} in GATEWAY_KEYS{more}.")
    if not settings.app_origins and settings.app_login_url is None:
        message = "No front end can hand over a signed-in user, and a browser without a session is not sent to sign in."
        fix = "Set GATEWAY_APP_ORIGINS to your product's own origins, and GATEWAY_APP_LOGIN_URL to its sign-in page."
        yield Finding("settings", "warn", message, fix)
    if settings.allow_private_hosts:
        message = "Provider addresses may be private, and plain http on loopback."
        yield Finding("settings", "warn", message, "Remove GATEWAY_ALLOW_PRIVATE_HOSTS, unless this is a test.")
    for provider in rt.catalog.providers:
        name = provider.upper()
        given = any(environ.get(f"{name}_CLIENT_SECRET{form}") for form in ("", "_FILE"))
        if given and not environ.get(f"{name}_CLIENT_ID"):
            message = f"{name}_CLIENT_SECRET is set without {name}_CLIENT_ID: the provider is not enabled."
            yield Finding("settings", "warn", message, f"Set {name}_CLIENT_ID, or remove the secret.")
    yield from _names(settings, environ, rt.catalog.providers)
    yield from _proxy(settings, environ)
    yield _journal(rt)


def _names(settings: Settings, environ: Mapping[str, str], providers: Iterable[str]) -> Iterator[Finding]:
    """Names and parameters that nothing reads."""
    for name, near in near_misses(environ, providers):
        fix = f"Rename {name} to {near}, or remove it if it is for another program."
        yield Finding("settings", "warn", f"{name} is set, and is not a setting: did you mean {near}?", fix)
    if ignored := ignored_parameters(settings):
        message = f"DATABASE_URL has parameters for other programs, which are ignored: {', '.join(ignored)}."
        yield Finding("settings", "warn", message, "Nothing has to be done; you may remove them.")


def _proxy(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    if settings.https_proxy is not None:
        yield Finding(
            "proxy", "ok", "GATEWAY_HTTPS_PROXY is used for https, and decides which addresses may be reached."
        )
    elif seen := [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if environ.get(name)]:
        message = f"{seen[0]} is set, and the gateway does not use it: calls to providers go out directly."
        fix = "Set GATEWAY_HTTPS_PROXY to the same address if they have to use the proxy."
        yield Finding("proxy", "warn", message, fix)


def _journal(rt: Runtime) -> Finding:
    if not rt.settings.journal:
        message = "It is switched off: a crash between a response and its commit loses a rotated refresh token."
        fix = "Remove GATEWAY_JOURNAL=0, and keep GATEWAY_DATA on a persistent disk."
        return Finding("journal", "warn", message, fix)
    try:
        rt.journal.check()
    except SettingsRefused as refused:
        return Finding("journal", "fail", f"It cannot be written: {refused}", "Free space, or move GATEWAY_DATA.")
    return Finding("journal", "ok", "It can be written.")


def examine_token(rt: Runtime, token: str) -> Finding:
    """Whether a user's access token is accepted, and which claim is wrong."""
    try:
        rt.identity.read_access_token(token, now=rt.now())
    except GatewayError as error:
        fix = "Compare the claim with SUPABASE_URL and the project."
        return Finding("access token", "fail", f"It is refused: {error}.", fix)
    return Finding("access token", "ok", "It is accepted.")


def examine_sign_in(rt: Runtime) -> Iterator[Finding]:
    """Whether users' access tokens can be verified."""
    settings = rt.settings
    if settings.supabase_url is None:
        fix = "Set SUPABASE_URL to https://<project>.supabase.co."
        yield Finding("sign-in", "fail", "SUPABASE_URL is missing: no user can sign in.", fix)
        return
    url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
    try:
        response = rt.identity.issuers.http.request("GET", url, headers={"Accept": "application/json"})
        yield from compare_clock(response.headers.get("date"), rt.now())
        keys = len(rt.identity.issuers.keys(url))
    except GatewayError as error:
        level: Level = "warn" if settings.supabase_jwt_secret else "fail"
        yield Finding("sign-in", level, f"The project's signing keys cannot be read: {error}.", "Check SUPABASE_URL.")
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
        message = (
            f"The project's tokens have the issuer {found[:200]}, and {expected} is expected: none of them is accepted."
        )
        fix = "Set SUPABASE_URL to that address without /auth/v1, or jwt_issuer (GOTRUE_JWT_ISSUER) of the project to the expected one."
        yield Finding("sign-in", "fail", message, fix)


def judge_keys(settings: Settings, keys: int) -> Finding:
    """By how many published keys, and whether by the shared secret, tokens are verified."""
    secret = settings.supabase_jwt_secret is not None
    if not keys and not secret:
        message = "The project publishes no signing keys, so no access token can be verified."
        fix = "Migrate it to signing keys (Supabase: Project settings, JWT keys), or set SUPABASE_JWT_SECRET."
        return Finding("sign-in", "fail", message, fix)
    if keys and secret:
        message = (
            f"The project publishes {keys} signing keys, and tokens signed with the shared secret are accepted too."
        )
        fix = "Remove SUPABASE_JWT_SECRET when no token is signed with it any more."
        return Finding("sign-in", "warn", message, fix)
    return Finding("sign-in", "ok", f"{keys} signing keys." if keys else "By the shared secret (HS256).")


def compare_clock(date: str | None, now: datetime) -> Iterator[Finding]:
    """Compare with the Date header (RFC 9110 section 6.6.1) of the sign-in service, because its tokens contain times."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return
    ahead = (now - theirs.replace(tzinfo=theirs.tzinfo or UTC)).total_seconds()
    if abs(ahead) <= CLOCK_SECONDS:
        yield Finding("clock", "ok", f"Within {CLOCK_SECONDS} s of the sign-in service's clock.")
        return
    side = "ahead of" if ahead > 0 else "behind"
    message = f"This machine is {abs(ahead):.0f} s {side} the sign-in service's clock."
    yield Finding("clock", "warn", message, "Set it by NTP: tokens are refused, or accepted for too long.")
