"""
Keys of partners, and what the operator decides about them: shown once, kept as hashes, two at a time, ended at once.
"""

from __future__ import annotations

import json
import re
import string
import uuid
from datetime import datetime

import pytest

from gateway.database.queries import partners as queries
from gateway.database.queries.connections import (
    check_caller,
    erase_own_connection,
    find_uninstall_target,
    reached_connection,
)
from gateway.database.queries.tokens import read_token
from gateway.errors import Forbidden, Frozen, Unauthenticated
from gateway.models import Caller
from gateway.partners.admin import PartnerRefused, add_key, add_partner
from gateway.partners.keys import hash_key, make_key, read_key
from tests.support.database import rows
from tests.support.partners import events, partner

ELSEWHERE = "203.0.113.9"


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_has_a_prefix_256_random_bits_and_a_checksum():
    """
    In hexadecimal digits, always as long; no two alike, every digit used.
    """
    keys = {make_key() for _ in range(200)}

    assert 200 == len(keys)
    assert all(re.fullmatch(r"gw_live_[0-9a-f]{64}[0-9a-f]{8}", key) for key in keys)
    assert set(string.hexdigits.lower()) == {digit for key in keys for digit in key[8:72]}


def test_a_mistyped_key_is_known_by_itself():
    """
    Each single changed, lost or doubled letter, and two that were swapped; the whole key reads as its hash.
    """
    key = make_key()

    assert hash_key(key) == read_key(key)
    wrong = {key[:at] + other + key[at + 1 :] for at in range(len(key)) for other in "a0Z"} - {key}
    wrong |= {key[:at] + key[at + 1 :] for at in range(len(key))} | {
        key[:at] + key[at] + key[at:] for at in range(len(key))
    }
    wrong |= {key[:at] + key[at + 1] + key[at] + key[at + 2 :] for at in range(len(key) - 1)} - {key}
    for text in wrong | {"", "gw_live_", key + "\n", " " + key, key.upper(), "ｇ" + key[1:], key[:-1] + "\0"}:
        with pytest.raises(Unauthenticated):
            read_key(text)


def test_the_database_holds_no_key(database, store):
    """
    A hash of it, and its last four characters, by which people tell keys apart.
    """
    made = partner(store)

    tables = ("api_key", "partner", "event")
    dump = json.dumps([rows(database, f"select to_jsonb(x) from gateway.{name} x") for name in tables])  # noqa: S608
    assert hash_key(made.key) in dump
    assert made.key not in dump
    assert made.key[8:-4] not in dump
    assert made.key[-4:] == queries.list_partners(store)["partners"][0]["keys"][0]["hint"]


# -- what the operator decides ---------------------------------------------------------------------------------------


def test_a_partner_is_what_the_operator_said(store):
    """
    Scopes, providers, reach, limits; once under a name.
    """
    said = {"scope": ("tokens:read", "connections:read", "tokens:read"), "providers": ("google", "ghl"), "reach": "own"}
    made = add_partner(
        store, "Acme", **said, addresses=("10.1.2.3/8", "2001:db8::1"), reads_per_hour=7, freeze_on_alert=True
    )

    (listed,) = queries.list_partners(store, "Acme")["partners"]
    assert str(made.partner_id) == listed["id"]
    assert (["connections:read", "tokens:read"], ["ghl", "google"], "own") == (
        listed["scope"],
        listed["providers"],
        listed["reach"],
    )
    assert (7, 1000, True) == (listed["reads_per_hour"], listed["connections_per_hour"], listed["freeze_on_alert"])
    assert ["10.0.0.0/8", "2001:db8::1"] == listed["keys"][0]["addresses"]
    with pytest.raises(PartnerRefused, match="already"):
        add_partner(store, "Acme", **said)


def test_what_cannot_be_is_refused_with_a_sentence(store):
    """
    And nothing is kept of it.
    """
    for said, why in (
        ({"name": " Acme"}, "name"),
        ({"name": "Acme\u202e"}, "name"),
        ({"name": "A" * 81}, "name"),
        ({"name": ""}, "name"),
        ({"scope": ()}, "scope"),
        ({"scope": ("tokens:write",)}, "scope"),
        ({"reach": "most"}, "reach"),
        ({"reads_per_hour": 0}, "limit"),
        ({"connections_per_hour": 10**10}, "limit"),
        ({"addresses": ("10.0.0.0/40",)}, "network"),
        ({"expires_days": 0}, "days"),
    ):
        whole = {"name": "Acme", "scope": ("tokens:read",), "reach": "all"} | said
        with pytest.raises(PartnerRefused, match=why):
            add_partner(store, whole.pop("name"), **whole)
    assert [] == queries.list_partners(store)["partners"]


def test_two_keys_live_at_most_so_that_one_can_take_the_place_of_the_other(store):
    """
    Both work; a third is refused until one is revoked, which ends that one alone.
    """
    made = partner(store)
    second = add_key(store, made.name)

    assert made.id == second.partner_id
    for key in (made.key, second.text):
        check_caller(store, Caller(key_hash=hash_key(key)))
    with pytest.raises(PartnerRefused, match="two live keys"):
        add_key(store, made.name)
    first = uuid.UUID(queries.list_partners(store, made.name)["partners"][0]["keys"][0]["id"])
    assert [True, False, None] == [queries.revoke(store, made.name, key_id) for key_id in (first, first, uuid.uuid4())]
    assert queries.revoke(store, partner(store).name, second.key_id) is None
    with pytest.raises(Unauthenticated):
        check_caller(store, made.caller())
    check_caller(store, Caller(key_hash=hash_key(second.text)))
    add_key(store, made.name)


def test_a_new_key_is_no_wider_than_the_one_before(store):
    """
    Its addresses and its lifetime are those of the newest, unless something else is said.
    """
    made = add_partner(store, "Acme", scope=("tokens:read",), reach="all", addresses=("10.0.0.0/8",), expires_days=30)
    add_key(store, "Acme")
    queries.revoke(store, "Acme", made.key_id)
    add_key(store, "Acme", addresses=("192.0.2.0/24",), expires_days=5)

    keys = queries.list_partners(store, "Acme")["partners"][0]["keys"]
    assert [["10.0.0.0/8"], ["10.0.0.0/8"], ["192.0.2.0/24"]] == [key["addresses"] for key in keys]
    days = [(_time(key["expires_at"]) - _time(key["created_at"])).days for key in keys]
    assert [30, 30] == [round(each) for each in days[:2]]
    assert days[2] in (4, 5)


def _time(text):
    return datetime.fromisoformat(text)


def test_unknown_revoked_expired_and_misplaced_keys_get_the_same_error(database, store):
    """
    One error, whatever the reason; an unknown address counts as wrong for a key with addresses.
    """
    expired, revoked, gone = partner(store), partner(store), partner(store)
    bound = partner(store, addresses=("10.0.0.0/8", "2001:db8::/32"))
    rows(database, "update gateway.api_key set expires_at = now() where partner_id = %s", expired.id)
    rows(database, "update gateway.api_key set revoked_at = now() where partner_id = %s", revoked.id)
    assert [True, False, None] == [queries.revoke(store, name) for name in (gone.name, gone.name, "nobody")]

    refused = [
        expired.caller(),
        revoked.caller(),
        gone.caller(),
        bound.caller(),
        bound.caller(None),
        bound.caller("2001:db9::1"),
    ]
    said = set()
    for caller in [*refused, Caller(key_hash=hash_key(make_key()))]:
        with pytest.raises(Unauthenticated) as error:
            check_caller(store, caller)
        said.add(str(error.value))
    assert 1 == len(said)
    for address in ("10.9.8.7", "2001:db8:1::1"):
        check_caller(store, bound.caller(address))


def test_an_ipv4_network_in_ipv6s_clothes_is_that_network(store):
    """
    Callers are compared as IPv4, so a key that is bound to `::ffff:203.0.113.0/120` would open nothing.
    """
    bound = partner(store, addresses=("::ffff:203.0.113.0/120", "::ffff:192.0.2.7", "2001:db8::/32"))

    (listed,) = queries.list_partners(store, bound.name)["partners"]
    assert {"192.0.2.7", "203.0.113.0/24", "2001:db8::/32"} == set(listed["keys"][0]["addresses"])
    for address in ("203.0.113.9", "192.0.2.7"):
        check_caller(store, bound.caller(address))
    with pytest.raises(Unauthenticated):
        check_caller(store, bound.caller("192.0.2.8"))


def test_a_scope_that_is_missing_and_a_freeze_are_told_apart(store, alice):
    """
    Forbidden for the one, Frozen for the other; thawed, all is as before.
    """
    reader = partner(store, scope=("connections:read",))
    here = alice.connects(store)

    for ask in (
        lambda: read_token(store, reader.caller(), here.id, min_seconds=0),
        lambda: erase_own_connection(store, connection_id=here.id, caller=reader.caller()),
        lambda: find_uninstall_target(store, connection_id=here.id, session_hash=None, caller=reader.caller()),
    ):
        with pytest.raises(Forbidden):
            ask()
    assert [True, False] == [queries.freeze(store, partner=reader.name), queries.freeze(store, partner=reader.name)]
    with pytest.raises(Frozen):
        reached_connection(store, reader.caller(), here.id)
    assert queries.freeze(store, partner=reader.name, off=True)
    assert here.id == reached_connection(store, reader.caller(), here.id).id
    assert queries.freeze(store, partner="nobody") is None


def test_every_decision_is_told_once(database, store):
    """
    By an event that carries no key.
    """
    made = partner(store)
    key = add_key(store, made.name)
    for _ in range(2):
        queries.revoke(store, made.name, key.key_id)
        queries.freeze(store, partner=made.name)
    for _ in range(2):
        queries.freeze(store, partner=made.name, off=True)
        queries.revoke(store, made.name)
        queries.freeze(store, provider="ghl")
        queries.freeze(store, reads=True)

    told = rows(database, "select type, provider from gateway.event order by at")
    assert [
        ("partner.added", None), ("key.added", None), ("key.added", None), ("key.revoked", None), ("partner.frozen", None),
        ("partner.thawed", None), ("partner.revoked", None), ("provider.frozen", "ghl"), ("reads.frozen", None),
    ] == told  # fmt: skip
    assert 7 == len(rows(database, "select 1 from gateway.event where partner_id = %s", made.id))


def test_a_key_says_when_and_from_where_it_was_used_and_a_new_network_is_told(database, store):
    """
    The first network is where a partner lives; another one is an event, once.
    """
    made = partner(store)
    for address in ("198.51.100.7", "198.51.100.8", ELSEWHERE, ELSEWHERE, "2001:db8::1"):
        check_caller(store, made.caller(address))

    key = queries.list_partners(store, made.name)["partners"][0]["keys"][0]
    assert "2001:db8::1" == key["last_used_from"]
    assert key["last_used_at"]
    assert [{"network": "203.0.113.0/24"}, {"network": "2001:db8::/48"}] == events(
        database, "partner.new_network", partner_id=made.id
    )
