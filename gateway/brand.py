"""
Whose product the pages speak for: a logo that is safe to serve, and an accent colour that can be read in light and dark.
"""

from __future__ import annotations

import re
from colorsys import hls_to_rgb, rgb_to_hls
from dataclasses import dataclass
from pathlib import Path
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

_LIGHT, _DARK = (0xFF, 0xFF, 0xFF), (0x17, 0x1E, 0x1C)
"""The cards of the two schemes, as gateway.css has them."""
_PAPER = {_LIGHT: (0xF4, 0xF5, 0xF2), _DARK: (0x1E, 0x26, 0x24)}
"""The other ground on which the colour is text."""
_BLACK, _WHITE = (0, 0, 0), (0xFF, 0xFF, 0xFF)
_WASH, _PRESS, _STEP = 0.12, 0.2, 0.02
_READABLE = 4.6
"""Contrast ratio, a little more than WCAG 2.2 section 1.4.3 asks for."""

Rgb = tuple[int, int, int]


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


def stylesheet(color: str) -> str:
    """The accent colours of both schemes, made darker or lighter until they can be read there."""
    light, dark = (_scheme(color, card) for card in (_LIGHT, _DARK))
    return f":root {{ {light} }}\n@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _scheme(color: str, card: Rgb) -> str:
    accent = _readable(_rgb(color), card)
    towards, on_accent = (_BLACK, _WHITE) if card == _LIGHT else (_WHITE, (0x0B, 0x12, 0x10))
    values = {
        "accent": accent,
        "accent-press": _mix(accent, towards, _PRESS),
        "on-accent": on_accent,
        "accent-wash": _mix(card, accent, _WASH),
    }
    return " ".join(f"--{name}: {_hex(value)};" for name, value in values.items())


def _readable(color: Rgb, card: Rgb) -> Rgb:
    """The colour of the same hue, as dark or as light as its grounds need it."""
    hue, lightness, saturation = rgb_to_hls(*(part / 255 for part in color))
    end = 0.0 if card == _LIGHT else 1.0
    while True:
        red, green, blue = (round(part * 255) for part in hls_to_rgb(hue, lightness, saturation))
        found = (red, green, blue)
        grounds = (card, _PAPER[card], _mix(card, found, _WASH))
        if all(contrast(found, ground) >= _READABLE for ground in grounds) or lightness == end:
            return found
        lightness = max(end, lightness - _STEP) if card == _LIGHT else min(end, lightness + _STEP)


def contrast(one: Rgb, other: Rgb) -> float:
    """The contrast ratio of WCAG 2.2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Rgb) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color)]  # noqa: PLR2004
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mix(one: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _rgb(color: str) -> Rgb:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _hex(color: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
