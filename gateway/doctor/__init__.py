"""
The doctor: looks at everything that an installation needs, and says what to mend.

Asks and reads, never changes. A finding is a plain sentence of ours, with a mend where there is one: no setting's value, no
database address, no provider's words, so that it can be pasted anywhere. What a Supabase project's REST API cannot show is
said to be unseen rather than passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.database import SCHEMA_VERSION
from gateway.doctor import chain, database, freezes, hosts, names, registrations
from gateway.doctor.finding import Finding, Level, clock_finding
from gateway.doctor.registrations import examine as examine_providers
from gateway.doctor.registrations import examine_one as examine_provider
from gateway.errors import DatabaseUnavailable, GatewayError, SettingsRefused
from gateway.services import Runtime, build_runtime
from gateway.settings import Settings, read_settings

__all__ = ["Finding", "Level", "examine", "examine_provider", "examine_providers", "is_sound", "line", "what_to_fix"]


def examine(environ: Mapping[str, str], *, embedded: bool = False) -> Iterator[Finding]:
    """Every finding, as it is made; the parts that need sound settings are left out where there are none."""
    try:
        settings = read_settings(environ)
        rt = build_runtime(settings)
    except SettingsRefused as refused:
        yield from (Finding("settings", "fail", problem) for problem in refused.problems)
        yield Finding("settings", "unseen", "Nothing else was looked at: it all depends on the settings.")
        return
    try:
        yield from _settings(rt)
        yield from names.examine(rt, environ)
        yield from _database(rt, embedded=embedded)
        yield from _sign_in(rt)
        yield from registrations.examine(rt)
    finally:
        rt.close()


def is_sound(findings: list[Finding]) -> bool:
    """Whether the gateway may run like this: warnings are for somebody to read, failures for somebody to mend."""
    return all(finding.level != "fail" for finding in findings)


def line(finding: Finding) -> str:
    """One finding, as it is read on a screen."""
    mark = {"ok": "ok", "warn": "warn", "fail": "FAIL", "unseen": "-"}[finding.level]
    return f"{mark:<5} {finding.about:<18} {finding.says}"


def what_to_fix(findings: list[Finding]) -> str:
    """The end of the report: what to do, what is urgent first."""
    urgent = sorted((f for f in findings if f.level in ("fail", "warn")), key=lambda finding: finding.level)
    mends = dict.fromkeys(f"{finding.about}: {finding.mend or finding.says}" for finding in urgent)
    if not mends:
        return "\nNothing to mend."
    return "\n".join(["\nWhat to mend:", *(f"  {number}. {mend}" for number, mend in enumerate(mends, start=1))])


# -- settings and keys -----------------------------------------------------------------------------------------------


def _settings(rt: Runtime) -> Iterator[Finding]:
    settings = rt.settings
    yield Finding("settings", "ok", "They add up.")
    count = len(settings.keys)
    older = " (the first seals, the others only open)" if count > 1 else ""
    yield Finding("keys", "ok", f"{count} in GATEWAY_KEYS{older}.")
    if not settings.app_origins and settings.app_login_url is None:
        yield Finding(
            "settings",
            "warn",
            "No front end can hand over a signed-in user, and nobody without a session is sent to sign in.",
            "Set GATEWAY_APP_ORIGINS to your product's own origins, and GATEWAY_APP_LOGIN_URL to its sign-in page.",
        )
    if settings.journal:
        yield Finding("journal", "ok", "It can be written.")
    else:
        says = "It is switched off: a crash between a provider's answer and its commit loses a rotated refresh token."
        yield Finding(
            "journal", "warn", says, "Take GATEWAY_JOURNAL=0 out, and keep GATEWAY_DATA on a persistent disk."
        )
    if settings.allow_private_hosts:
        yield Finding(
            "settings",
            "warn",
            "Provider addresses may be private, and plain http on loopback.",
            "Take GATEWAY_ALLOW_PRIVATE_HOSTS out, unless this is a test.",
        )


# -- database --------------------------------------------------------------------------------------------------------


def _database(rt: Runtime, *, embedded: bool = False) -> Iterator[Finding]:
    try:
        version = rt.store.schema()["version"]
    except DatabaseUnavailable:
        yield Finding(
            "database",
            "fail",
            "It does not answer.",
            "Check DATABASE_URL (or SUPABASE_URL and SUPABASE_SECRET_KEY), whether it runs, and whether the project is paused.",
        )
        return
    except GatewayError as error:
        yield Finding("database", "fail", f"It refuses: {error}.", "Check which role and which key the gateway uses.")
        return
    yield Finding("database", "ok", "It answers.")
    if version < SCHEMA_VERSION:
        stands = f"Version {version} stands" if version else "There is no schema"
        level, fix = ("warn", "`serve` sets it up.") if embedded else ("fail", "Run `python -m gateway db apply`.")
        yield Finding("schema", level, f"{stands}; this gateway needs {SCHEMA_VERSION}.", fix)  # type: ignore[arg-type]
        return
    yield Finding("schema", "ok", f"Version {version}.")
    yield from hosts.examine(rt)
    yield from chain.examine(rt)
    yield from freezes.examine(rt)
    if rt.settings.database_url is None:
        yield Finding(
            "policies",
            "unseen",
            "Over the REST API policies and grants cannot be seen.",
            "Run doctor once with DATABASE_URL set to the project's connection string.",
        )
        return
    yield from database.examine(rt.settings.database_url.get_secret_value(), rt.vault)


# -- who may sign in, and what time it is ----------------------------------------------------------------------------


def _sign_in(rt: Runtime) -> Iterator[Finding]:
    settings = rt.settings
    if settings.supabase_url is None:
        yield Finding(
            "sign-in",
            "fail",
            "No access token is believed: nobody can sign in.",
            "Set SUPABASE_URL to https://<project>.supabase.co.",
        )
        return
    url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
    try:
        answer = rt.http.request("GET", url, headers={"Accept": "application/json"})
        yield from _clock(answer.headers.get("date"), rt.now())
        keys = len(rt.issuers.keys(url))
    except GatewayError as error:
        level: Level = "warn" if settings.supabase_jwt_secret else "fail"
        yield Finding("sign-in", level, f"The project's signing keys cannot be had: {error}.", "Check SUPABASE_URL.")
        return
    yield _keys_finding(settings, keys)


def _keys_finding(settings: Settings, keys: int) -> Finding:
    secret = settings.supabase_jwt_secret is not None
    if not keys and not secret:
        return Finding(
            "sign-in",
            "fail",
            "The project publishes no signing keys, so no access token can be verified.",
            "Migrate it to signing keys (Supabase: Project settings, JWT keys), or set SUPABASE_JWT_SECRET.",
        )
    if keys and secret:
        return Finding(
            "sign-in",
            "warn",
            f"The project publishes {keys} signing keys, and the shared secret is believed beside them.",
            "Take SUPABASE_JWT_SECRET out once no token is signed with it any more.",
        )
    return Finding("sign-in", "ok", f"{keys} signing keys." if keys else "By the shared secret (HS256).")


def _clock(date: str | None, now: datetime) -> Iterator[Finding]:
    """By the Date header (RFC 9110 section 6.6.1) of the sign-in service, whose tokens say when they end."""
    try:
        there = parsedate_to_datetime(date or "")
    except ValueError:
        return
    there = there if there.tzinfo else there.replace(tzinfo=UTC)
    yield clock_finding("the sign-in service's", (now - there).total_seconds())
