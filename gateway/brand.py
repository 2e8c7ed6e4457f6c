"""Whose product the pages speak for: a logo that is safe to serve."""

import re
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Logo:
    """Either an address elsewhere, or the bytes that we serve with their type."""

    url: str = ""
    data: bytes = b""
    type: str = ""


def read_logo(value: str) -> Logo:
    """The logo at an https address or in a file. Raises ValueError."""
    if "://" in value:
        # It is in the Content-Security-Policy, whose source expressions have no query, and end at a semicolon or comma.
        if not re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9._~%/@+=!$&()*-]+(?<!/)", value):
            raise ValueError("has to be https://host/path of an image, without a query, or a file.")
        return Logo(url=value)
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
