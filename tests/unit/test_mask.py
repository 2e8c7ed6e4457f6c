"""A token in a response, in whatever form software that repeats requests writes it."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest

from gateway.catalog.provider import TokenPlacement
from gateway.proxy.mask import Mask

TOKEN = "1//0g+Ab/9=='<x>&~`|-_."

FORMS = {
    "as it is": TOKEN,
    "in a path": quote(TOKEN),
    "in a query": quote(TOKEN, safe=""),
    "in a form": quote_plus(TOKEN),
    "lower case": quote(TOKEN, safe="").replace("%2F", "%2f").replace("%2B", "%2b").replace("%3D", "%3d").replace("%3C", "%3c")
    .replace("%3E", "%3e").replace("%7C", "%7c"),
    "JSON": json.dumps(TOKEN),
    "JSON of PHP": json.dumps(TOKEN).replace("/", "\\/"),
    "JSON of Go and Rails": json.dumps(TOKEN).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    "JSON of Gson": json.dumps(TOKEN).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    .replace("=", "\\u003d").replace("'", "\\u0027"),
    "JSON of .NET": json.dumps(TOKEN).replace("&", "\\u0026").replace("<", "\\u003C").replace(">", "\\u003E").replace("+", "\\u002B")
    .replace("'", "\\u0027").replace("`", "\\u0060"),
    "HTML": html.escape(TOKEN),
    "HTML of Go": html.escape(TOKEN).replace("+", "&#43;"),
    "HTML of Mustache": html.escape(TOKEN).replace("/", "&#x2F;").replace("=", "&#x3D;").replace("`", "&#x60;"),
    "HTML of Handlebars": html.escape(TOKEN).replace("=", "&#x3D;").replace("`", "&#x60;"),
    "lower case in a path": quote(TOKEN).replace("%2B", "%2b").replace("%3D", "%3d").replace("%3C", "%3c").replace("%3E", "%3e").replace("%7C", "%7c"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_a_token_is_masked_in_the_forms_in_which_software_repeats_it(form):
    """
    Of the same length, alone and between other text, whole and byte for byte.
    """
    body = f"a {FORMS[form]} b{FORMS[form]}".encode()
    for pieces in ([body], [body[at : at + 1] for at in range(len(body))]):
        masked = b"".join(Mask(TOKEN, TokenPlacement()).pieces(iter(pieces)))
        assert not set(masked.decode()) - set('a b*"'), masked
        assert len(body) == len(masked)


@pytest.mark.parametrize("credential", ["key-1234567890:x", "key-1234567890:", ":key-1234567890", "api:key-1234567890"])
def test_of_basic_credentials_the_key_is_masked_and_its_placeholder_is_not(credential):
    """
    Several providers take the key as the name of the user, and any password.
    """
    mask = Mask(credential, TokenPlacement(basic=True))

    assert mask.text("an example of an api: key-1234567890") == "an example of an api: **************"
    assert set(mask.text(base64.b64encode(credential.encode()).decode())) == {"*"}
