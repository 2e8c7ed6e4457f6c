"""
Token and account responses that break the standards and do no harm, as bug reports of OAuth clients have them, and hostile ones.

Each is a body; `said` starts from a plain token response.
"""

from __future__ import annotations

import json
from typing import Any

PLAIN = {"access_token": "at-1", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "rt-1"}
NEVER, HOUR = None, 3600.0


def said(*left_out: str, **changes: Any) -> bytes:
    """The plain response with changes."""
    return json.dumps({name: value for name, value in (PLAIN | changes).items() if name not in left_out}).encode()


def raw(text: str) -> bytes:
    """The plain response with more members, as JSON text."""
    return said()[:-1] + b", " + text.encode("utf-8", "surrogatepass") + b"}"


def lasting(text: str) -> bytes:
    """With a lifetime as JSON text."""
    return b'{"access_token": "at-1", "refresh_token": "rt-1", "expires_in": %s}' % text.encode()


HARMLESS: dict[str, tuple[bytes, float | None]] = {
    # the lifetime, or none that is known
    "expires_in as text": (said(expires_in="3600"), HOUR),  # Azure AD v1, NetDocuments, BCDA
    "expires_in as decimal text": (said(expires_in="3600.0"), HOUR),
    "expires_in as text with spaces": (said(expires_in=" 3600\n"), HOUR),
    "expires_in as a float": (said(expires_in=3600.9), HOUR),
    "expires_in with an exponent": (lasting("3.6e3"), HOUR),
    "expires_in 0": (said(expires_in=0), NEVER),  # Mailchimp
    "expires_in 0 as text": (said(expires_in="0"), NEVER),
    "expires_in -1": (said(expires_in=-1), NEVER),
    "expires_in null": (said(expires_in=None), NEVER),
    "expires_in empty": (said(expires_in=""), NEVER),
    "expires_in never": (said(expires_in="never"), NEVER),
    "expires_in a sentence": (said(expires_in="1 hour"), NEVER),
    "expires_in true": (said(expires_in=True), NEVER),
    "expires_in a list": (said(expires_in=[3600]), NEVER),
    "expires_in an object": (said(expires_in={"seconds": 3600}), NEVER),
    "expires_in of centuries": (said(expires_in=99_999_999_999), NEVER),
    "expires_in of 400 digits": (lasting("1" + "0" * 400), NEVER),
    "expires_in of 5,000 digits": (lasting("9" * 5000), NEVER),
    "expires_in 1e309": (lasting("1e309"), NEVER),
    "expires_in NaN": (lasting("NaN"), NEVER),
    "expires_in Infinity": (lasting("-Infinity"), NEVER),
    "expires_in missing": (said("expires_in"), NEVER),  # Salesforce, Slack, GitHub
    "expires_in twice, differently": (raw('"expires_in": 60'), NEVER),
    "expires_in a time": (said(expires_in="2026-01-02T04:04:05Z"), HOUR),
    "expires_in a Unix time": (said(expires_in=1767326645), HOUR),
    "expires_in a time that is past": (said(expires_in="2026-01-01T00:00:00Z"), NEVER),
    "expires_at": (said("expires_in", expires_at="2026-01-02T05:04:05+01:00"), HOUR),
    "expires_at in milliseconds": (said("expires_in", expiresAt=1767326645000), HOUR),
    "expires_on": (said("expires_in", expires_on="1767326645"), HOUR),  # Azure AD v1
    "expires": (said("expires_in", expires=3600), HOUR),  # Facebook
    "expires_at beside expires_in": (said(expires_at="2026-01-02T09:00:00Z"), HOUR),  # Strava
    # the refresh token's lifetime
    "refresh lifetime as text": (said(refresh_token_expires_in="7775999"), HOUR),
    "refresh lifetime 0": (said(refresh_token_expires_in=0), HOUR),
    "refresh lifetime null": (said(refresh_token_expires_in=None), HOUR),
    "refresh lifetime unlimited": (said(refresh_expires_in="unlimited"), HOUR),
    "refresh lifetime by another name": (said(x_refresh_token_expires_in=8726400), HOUR),
    # the type
    "token_type missing": (said("token_type"), HOUR),  # LinkedIn, Shopify, Foursquare
    "token_type null": (said(token_type=None), HOUR),
    "token_type empty": (said(token_type=""), HOUR),
    "token_type bearer": (said(token_type="bearer"), HOUR),
    "token_type BearerToken": (said(token_type="BearerToken"), HOUR),  # Apigee
    "token_type bot": (said(token_type="bot"), HOUR),  # Slack
    "token_type with a space": (said(token_type="Bearer "), HOUR),
    "token_type a number": (said(token_type=1), HOUR),
    "token_type a list": (said(token_type=["Bearer"]), HOUR),
    # the scope
    "scope null": (said(scope=None), HOUR),
    "scope empty": (said(scope=""), HOUR),
    "scope an empty list": (said(scope=[]), HOUR),
    "scope a list": (said(scope=["mail.read", "mail.send"]), HOUR),
    "scope a list with odd items": (said(scope=["mail.read", None, 7]), HOUR),
    "scope with commas": (said(scope="mail.read,mail.send"), HOUR),  # GitHub, Slack
    "scope an object": (said(scope={"mail": "read"}), HOUR),
    "scope a number": (said(scope=7), HOUR),
    "scope with a NUL": (said(scope="mail.read a\0b"), HOUR),
    "scope with semicolons": (said(scope="mail.read;mail.send"), HOUR),
    "scope with bars": (said(scope="mail.read|mail.send"), HOUR),
    "scope as a list in a text": (said(scope='["mail.read", "mail.send"]'), HOUR),
    "scope in capitals": (said(scope="MAIL.READ"), HOUR),
    "scope of 3,000 words": (said(scope=" ".join(f"s{number}" for number in range(3000))), HOUR),
    # errors that are none
    "error empty": (said(error=""), HOUR),
    "error null": (said(error=None), HOUR),
    "error false": (said(error=False), HOUR),
    "error 0": (said(error=0), HOUR),
    "error an empty object": (said(error={}), HOUR),
    "error an empty list": (said(error=[], errors=[]), HOUR),
    "error ok": (said(error={"code": "ok", "message": "", "log_id": "2022"}), HOUR),  # TikTok
    "error none in words": (said(error="N/A"), HOUR),
    "error 200": (said(error={"code": 200, "message": "OK"}), HOUR),
    "errcode 0": (said(errcode=0, errmsg="ok"), HOUR),  # WeChat
    # the tokens
    "spaces around tokens": (said(access_token=" at-1 ", refresh_token="\trt-1\n"), HOUR),
    "refresh_token empty": (said(refresh_token=""), HOUR),
    "refresh_token null": (said(refresh_token=None), HOUR),
    "refresh_token false": (said(refresh_token=False), HOUR),
    "refresh_token 0": (said(refresh_token=0), HOUR),
    "refresh_token null as text": (said(refresh_token="null"), HOUR),
    "refresh_token undefined": (said(refresh_token="undefined"), HOUR),
    "id_token null": (said(id_token=None), HOUR),
    "id_token empty": (said(id_token=""), HOUR),
    "id_token a number": (said(id_token=7), HOUR),
    "a repeated access_token": (raw('"access_token": "at-1"'), HOUR),
    "a token of 20,000 characters": (said(state="x", access_token="at-1" + "A" * 20_000), HOUR),
    # the form of the document
    "a byte order mark": (b"\xef\xbb\xbf" + said(), HOUR),
    "UTF-16": (said().decode().encode("utf-16"), HOUR),
    "Latin-1 in a name": (said(name="Caf_").replace(b"Caf_", b"Caf\xe9"), HOUR),
    "half a surrogate in a name": (raw(r'"name": "\ud800"'), HOUR),
    "a line break in a name": (raw('"name": "a\nb"'), HOUR),
    "NaN beside": (raw('"score": NaN, "rate": -Infinity'), HOUR),
    "an endless number beside": (raw('"serial": ' + "9" * 5000), HOUR),
    "a repeated name beside": (raw('"request": 1, "request": 2'), HOUR),
    "white space around": (b"\r\n\t " + said() + b"\n\n", HOUR),
    "more than 4,096 values": (said(seats=[f"seat number {number}" for number in range(3000)]), HOUR),
    "camel case": (
        b'{"accessToken": "at-1", "tokenType": "Bearer", "expiresIn": 3600, "refreshToken": "rt-1"}',
        HOUR,
    ),
    "capitals": (b'{"Access_Token": "at-1", "EXPIRES_IN": 3600, "Refresh_Token": "rt-1"}', HOUR),
    "hyphens": (b'{"access-token": "at-1", "expires-in": 3600, "refresh-token": "rt-1"}', HOUR),
    "two spellings, one of them null": (raw('"accessToken": null, "refreshToken": null'), HOUR),
    "within token": (json.dumps({"status": "ok", "token": PLAIN}).encode(), HOUR),
    "within data and attributes": (json.dumps({"data": {"type": "tokens", "attributes": PLAIN}}).encode(), HOUR),
    "within authed_user": (
        json.dumps({"ok": True, "team": {"id": "T1"}, "authed_user": PLAIN}).encode(),
        HOUR,
    ),  # Slack
    "within data": (json.dumps({"message": "success", "data": PLAIN}).encode(), HOUR),
    "within result": (json.dumps({"ok": True, "result": PLAIN}).encode(), HOUR),
    "a form": (b"access_token=at-1&expires_in=3600&token_type=bearer&refresh_token=rt-1", HOUR),  # GitHub, Facebook
    "a form with an ampersand at its end": (b"access_token=at-1&expires_in=3600&", HOUR),
    "a form in camel case": (b"?accessToken=at-1&expiresIn=3600&refreshToken=rt-1", HOUR),
    "a form with a line break": (b"access_token=at-1&scope=repo%2Cgist&expires_in=3600\n", HOUR),
}

HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[" + said() + b"]",
    "text": b'"at-1"',
    "a page": b"<html>access_token=at-1</html>",
    "no token": b"{}",
    "no token but a refresh token": said("access_token"),
    "access_token null": said(access_token=None),
    "access_token empty": said(access_token=" "),
    "access_token null as text": said(access_token="null"),
    "access_token a number": said(access_token=7),
    "access_token true": said(access_token=True),
    "access_token a list": said(access_token=["at-1"]),
    "access_token an object": said(access_token={"value": "at-1"}),
    "access_token with a line break": said(access_token="a\r\nX-Injected: 1"),
    "access_token with a NUL": said(access_token="a\0b"),
    "access_token that is not ASCII": said(access_token="caf\u00e9"),
    "access_token with half a surrogate": said(access_token="\ud800"),
    "two access tokens": raw('"access_token": "at-2"'),
    "two access tokens in two spellings": raw('"accessToken": "at-2"'),
    "two access tokens below two names": json.dumps({"bot": PLAIN, "user": PLAIN | {"access_token": "at-2"}}).encode(),
    "two access tokens in a form": b"access_token=at-1&access_token=at-2",
    "two refresh tokens": raw('"refresh_token": "rt-2"'),
    "refresh_token a list": said(refresh_token=["rt-1"]),
    "refresh_token with a line break": said(refresh_token="r\nt"),
    "token_type mac": said(token_type="mac"),
    "token_type DPoP": said(token_type="DPoP"),
    "token_type PoP": said(token_type="pop"),
    "token_type N_A": said(token_type="N_A"),
    "an error beside tokens": said(error="invalid_grant"),
    "an error object beside tokens": said(error={"code": "invalid_grant"}),
    "half a response": said()[:-1],
    "two responses": said() + said(),
    "100,000 brackets": b"[" * 100_000,
    "100,000 nested objects": b'{"a":' * 100_000,
    "20,000 empty lists": raw('"x": [' + "[]," * 20_000 + "[]]"),
}
