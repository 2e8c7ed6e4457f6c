"""The language of a page, and its texts."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Flask, g, request
from markupsafe import Markup, escape

from gateway.catalog import AnyEntry
from gateway.texts import CATALOG, DEFAULT
from gateway.web.request_context import runtime


def register(app: Flask) -> None:
    """What every template may use: `t`, `translated`, `moment`, `lang` and the filter `bdi`."""
    app.jinja_env.globals.update(t=text, translated=translated, moment=moment, lang=language)
    app.jinja_env.filters["bdi"] = lambda value: Markup("<bdi>{}</bdi>").format(value)


def language() -> str:
    """The tag of the reader's preferred language among those that have texts (RFC 9110 section 12.5.4)."""
    found: str | None = g.get("language")
    if found is None:
        known = runtime().settings.texts
        tags = (tag.lower() for tag, quality in request.accept_languages if quality > 0)
        g.language = found = next(
            (each for tag in tags for each in (tag, tag.partition("-")[0]) if each in known), DEFAULT
        )
    return found


def _texts() -> Mapping[str, str]:
    return runtime().settings.texts[language()]


def text(key: str, **values: object) -> Markup:
    """A text with its placeholders filled in. Everything is escaped, except values that are markup."""
    return escape(_texts()[key]).format(**values)


def translated(words: str) -> str:
    """What the catalogue says in English, in the reader's language where there is a translation."""
    return _texts().get(f"{CATALOG}{words}", words)


def reason_text(reason: str | None, provider: str) -> Markup:
    """Why a connection is not active, for its owner; empty where there is nothing to say."""
    key = f"reason.{reason}"
    return text(key, provider=provider) if key in _texts() else Markup()


def described_scopes(provider: AnyEntry | None, scope: Iterable[str]) -> list[dict[str, str]]:
    """Each scope with what it allows in words, OpenID Connect's own last; empty where neither it nor the catalogue says."""
    known, common = provider.scope_texts if provider else {}, _texts()
    return [
        {"name": name, "text": translated(known[name]) if name in known else common.get(f"scope.{name}", "")}
        for name in sorted(scope, key=lambda name: f"scope.{name}" in common)
    ]


def moment(at: datetime, *, clock: bool = False) -> Markup:
    """A `<time>` element, in UTC."""
    utc = at.astimezone(UTC)
    values: dict[str, Any] = {"day": utc.day, "month": text("page.months").split()[utc.month - 1], "year": utc.year}
    shown = text("page.date", **values)
    if clock:
        shown = text("page.date_and_time", date=shown, time=f"{utc:%H:%M}")
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), shown)
