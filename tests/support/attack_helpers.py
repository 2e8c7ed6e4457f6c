"""
What the tests of attacks look at afterwards: the query of an address, the page shown, the rows, and what the provider saw.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import parse_qs, urlsplit

from tests.support.database import rows


def asked(url):
    """The query of an address, one value each."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def problem(answer):
    """The slug of the page that was shown, None where there was none."""
    found = re.search(r'data-problem="([a-z_]+)"', answer.text)
    return found[1] if found else None


def owned(gateway, *people):
    """How many rows these have, in both of our places."""
    ids = [person.id for person in people]
    (kept,) = rows(
        gateway.dsn, "select count(*) from public.provider_data where auth_provider_id = any(%s::uuid[])", ids
    )
    (believed,) = rows(gateway.dsn, "select count(*) from gateway.connection where user_id = any(%s::uuid[])", ids)
    return kept + believed


def redeemed(gateway, callback):
    """How often the provider was asked to redeem the code in `callback`."""
    return gateway.sandbox.state.redeemed[asked(callback)["code"]]


def refusals(gateway, person):
    """The slugs of the recorded events about attempts of theirs that were refused."""
    return rows(
        gateway.dsn,
        "select data->>'error' from gateway.event where user_id = %s and type = 'connect.refused' order by at",
        person.id,
    )


def state_row(gateway, callback):
    """How many attempts wait for this state."""
    digest = hashlib.sha256(asked(callback)["state"].encode()).hexdigest()
    return rows(
        gateway.dsn,
        "select count(*) from gateway.authorization_request where state_hash = %s and used_at is null",
        digest,
    )[0]
