"""Whose product the pages speak for: a logo that is safe to serve, and an accent colour that can be read in light and dark."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

_LARGEST_LOGO = 256 * 1024
_MAGIC = {
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"\xff\xd8\xff": "image/jpeg",
    rb"GIF8": "image/gif",
    rb"RIFF.{4}WEBP": "image/webp",
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<svg[\s>]": "image/svg+xml",
}
LOGO_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""Content-Security-Policy of the logo: an SVG opened by itself runs no script and loads nothing, as in an <img>."""

Rgb = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Logo:
    """Either an address elsewhere, or the bytes that we serve with their type."""

    url: str = ""
    data: bytes = b""
    type: str = ""


def read_logo(value: str) -> Logo:
    """The logo at an https address or in a file. Raises ValueError."""
    if "://" in value:
        return Logo(url=_logo_url(value))
    try:
        with Path(value).open("rb") as file:
            data = file.read(_LARGEST_LOGO + 1)
    except OSError:
        raise ValueError("cannot be read: name an https address or a file that this process may read.") from None
    if len(data) > _LARGEST_LOGO:
        raise ValueError("is larger than 256 KB: use a smaller file.")
    kind = next((kind for magic, kind in _MAGIC.items() if re.match(magic, data, re.DOTALL)), None)
    if kind is None:
        raise ValueError("is neither PNG, JPEG, GIF, WebP nor SVG: use one of these.")
    return Logo(data=data, type=kind)


def _logo_url(value: str) -> str:
    # It is in the Content-Security-Policy, whose source expressions have no query, and end at a semicolon or comma.
    parts = urlsplit(value)
    plain = re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~%/@+=!$&()*-]+", value)
    if not plain or parts.path.endswith("/"):
        raise ValueError("has to be https://host/path of an image, without a query, or a file.")
    return value


# -- the colour ------------------------------------------------------------------------------------------------------


def read_color(value: str) -> str:
    """`#rrggbb`. Raises ValueError."""
    if not re.fullmatch(r"#([0-9A-Fa-f]{3}|[0-9A-Fa-f]{6})", value):
        raise ValueError("is not a colour: write it like #0b6158.")
    return value.lower() if len(value) == 7 else "#" + "".join(digit * 2 for digit in value[1:].lower())  # noqa: PLR2004


class _Scheme(NamedTuple):
    """A colour scheme of gateway.css. An accent of `luminance` has a contrast of 4.5 with all grounds and texts (WCAG 2.2 section 1.4.3)."""

    card: Rgb
    towards: Rgb
    on_accent: Rgb
    luminance: tuple[float, float]


_LIGHT = _Scheme((255, 255, 255), (0, 0, 0), (255, 255, 255), (0.0, 0.135))
_DARK = _Scheme((0x17, 0x1E, 0x1C), (255, 255, 255), (0x0B, 0x12, 0x10), (0.32, 1.0))
_WASH, _PRESS = 0.12, 0.2


def stylesheet(color: str) -> str:
    """The accent colours of both schemes, made darker or lighter until they can be read there."""
    light, dark = (_accents(tuple(bytes.fromhex(color[1:])), scheme) for scheme in (_LIGHT, _DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _accents(color: Rgb, scheme: _Scheme) -> str:
    lowest, highest = scheme.luminance
    mixed = (_mix(color, scheme.towards, percent / 100) for percent in range(101))
    accent = next(found for found in mixed if lowest <= _luminance(found) <= highest)
    values = {
        "accent": accent,
        "accent-press": _mix(accent, scheme.towards, _PRESS),
        "on-accent": scheme.on_accent,
        "accent-wash": _mix(scheme.card, accent, _WASH),
    }
    return " ".join(f"--{name}: #{bytes(value).hex()};" for name, value in values.items())


def _luminance(color: Rgb) -> float:
    """The relative luminance of WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]  # noqa: PLR2004
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
