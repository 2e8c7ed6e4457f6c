"""Responses without the token: a provider that repeats a request must not give it to a caller who may only use it."""

import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from gateway.catalog.provider import TokenPlacement, encoded


def _forms(secret: str) -> set[str]:
    """As it is, in a URL, in HTML, and in the JSON of Python and PHP, of Go, Gson and .NET."""
    escaped, in_url = json.dumps(secret)[1:-1], {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    lower = {re.sub("%..", lambda found: found[0].lower(), each) for each in in_url}
    forms = {secret, escaped, escaped.replace("/", "\\/"), *in_url, *lower}
    for chars, form in (("<>&", "\\u{:04x}"), ("<>&'=", "\\u{:04x}"), ("<>&'+`", "\\u{:04X}")):
        forms.add(escaped.translate({ord(each): form.format(ord(each)) for each in chars}))
    for chars, form in (("", ""), ("+", "&#{};"), ("/=`", "&#x{:X};"), ("=`", "&#x{:X};")):  # Go, Mustache, Handlebars
        forms.add(html.escape(secret).translate({ord(each): form.format(ord(each)) for each in chars}))
    return forms


class Mask:
    """Replaces a token, in the forms in which a response may repeat it, by asterisks: lengths stay the same."""

    def __init__(self, token: str, placement: TokenPlacement) -> None:
        user, _, password = token.partition(":")  # the password may be missing, or an `x` that says nothing
        key = password if len(password) > len("xxx") else user
        secrets = {token, encoded(token), key} if placement.basic else {token}
        self._forms = sorted(
            {form.encode() for each in secrets for form in _forms(each) if form}, key=len, reverse=True
        )

    def text(self, value: str) -> str:
        """A header's value."""
        return self._masked(value.encode("latin-1")).decode("latin-1")

    def pieces(self, body: Iterator[bytes]) -> Iterator[bytes]:
        """The body as it arrives. Only what may be the beginning of the token waits for the next piece."""
        kept = b""
        for piece in body:
            masked = self._masked(kept + piece)
            end = len(masked) - self._begun(masked)
            kept = masked[end:]
            if end:
                yield masked[:end]
        if kept:
            yield kept

    def _masked(self, data: bytes) -> bytes:
        for form in self._forms:  # a search for each is ten times faster than one expression for all
            data = data.replace(form, b"*" * len(form))
        return data

    def _begun(self, data: bytes) -> int:
        """How many bytes at the end may belong to a token that continues in the next piece."""
        longest = 0
        for form in self._forms:
            at = data.find(form[:1], max(0, len(data) - len(form) + 1))
            while at >= 0 and not form.startswith(data[at:]):
                at = data.find(form[:1], at + 1)
            longest = max(longest, len(data) - at if at >= 0 else 0)
        return longest
