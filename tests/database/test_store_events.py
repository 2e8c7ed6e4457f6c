"""
Which events a caller sees, in pages that neither miss nor repeat any.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace

import psycopg
import pytest

from gateway.database.queries import partners as queries
from gateway.database.queries.connections import erase_own_connection
from gateway.database.queries.events import EventPage, read_chain, read_events
from gateway.database.queries.operator import erase
from gateway.errors import Forbidden, Frozen, Unauthenticated
from gateway.events.chain import assign_positions
from gateway.models import Caller
from tests.support.database import Person, rows
from tests.support.partners import partner


@dataclass
class World:
    """Alice and Bob with a connection each, and partners of every kind."""

    store: object
    database: str

    def __post_init__(self):
        self.alice, self.bob = Person("alice"), Person("bob")
        self.held = {}
        for person, provider in ((self.alice, "ghl"), (self.bob, "google")):
            person.signs_in(self.store)
            self.held[person] = person.connects(self.store, provider=provider, facts={}).id

    def happens(self, type_, person=None, *, by=None, provider=None, **more):
        """An event, as a request appends it."""
        given = {"type": type_, "partner_id": by and by.id, "provider": provider} | more
        if person is not None:
            own = {"connection_id": self.held[person], "user_id": person.id}
            given |= own | {"provider": "ghl" if person is self.alice else "google"}
        names, places = ", ".join(given), ", ".join(["%s"] * len(given))
        rows(self.database, f"insert into gateway.event ({names}) values ({places})", *given.values())  # noqa: S608

    def numbers(self):
        assign_positions(SimpleNamespace(database=self.store))

    def read(self, who, after=0, limit=100):
        return read_events(self.store, who, after=after, limit=limit)

    def consents(self, person, to):
        """From now on."""
        rows(
            self.database,
            "insert into gateway.consent (partner_id, connection_id, made) values (%s, %s, false)", to.id, self.held[person],
        )  # fmt: skip

    def ends(self, person, to):
        """And not any more."""
        rows(
            self.database,
            "update gateway.consent set ended_at = clock_timestamp() where (partner_id, connection_id) = (%s, %s) and ended_at is null",
            to.id, self.held[person],
        )  # fmt: skip

    def told(self, caller, after=0, limit=100):
        """The event types that a partner or a user may see."""
        who = Caller(user_id=caller.id) if isinstance(caller, Person) else caller.caller()
        return [event.type for event in self.read(who, after, limit).items]


@pytest.fixture
def world(store, database):
    return World(store, database)


def test_who_may_read_events_is_judged_in_the_same_call(world, store, database):
    """
    Key, scope, freeze, and a user who is banned: no events go to any of them.
    """
    without = partner(store, scope=["tokens:read"])
    frozen, gone = partner(store), partner(store)
    queries.freeze(store, partner=frozen.name)
    queries.revoke(store, gone.name)
    rows(database, "update auth.users set banned_until = 'infinity' where id = %s", world.bob.id)

    for caller, error in (
        (without.caller(), Forbidden),
        (frozen.caller(), Frozen),
        (gone.caller(), Unauthenticated),
        (Caller(key_hash="unknown"), Unauthenticated),
        (Caller(user_id=world.bob.id), Unauthenticated),
        (Caller(), Unauthenticated),
    ):
        with pytest.raises(error):
            read_events(store, caller, after=0, limit=10)


def test_a_user_sees_events_of_the_own_connections_and_who_read_them(world, store):
    """
    Partners' acts on them included; nothing of another's, and nothing that is between a partner and the operator.
    """
    acme = partner(store)
    world.happens("token.read", world.alice, by=acme)
    world.happens("partner.alerted", world.alice, by=acme)
    world.happens("token.read", world.bob)
    world.numbers()

    assert ["connection.created", "token.read"] == world.told(world.alice)
    assert ["connection.created", "token.read"] == world.told(world.bob)
    (_, read) = read_events(store, Caller(user_id=world.alice.id), after=0, limit=10).items
    assert (acme.id, world.held[world.alice], world.alice.id, "ghl") == (
        read.partner, read.connection_id, read.user_id, read.provider,
    )  # fmt: skip


def test_an_all_partner_sees_events_of_its_providers_and_its_own_actions(world, store):
    """
    Whoever caused them; not the operator's actions on other partners.
    """
    everything, google, other = partner(store), partner(store, providers=["google"]), partner(store)
    world.happens("token.read", world.alice, by=other)
    world.happens("token.read", world.bob, by=other)
    world.happens("key.added", by=other)
    world.happens("key.added", by=google)
    world.happens("provider.frozen", provider="google")
    world.happens("reads.frozen")
    world.numbers()

    assert ["connection.created"] * 2 + [
        "partner.added",
        "key.added",
        "token.read",
        "token.read",
        "provider.frozen",
    ] == (world.told(everything))
    assert ["connection.created", "partner.added", "key.added", "token.read", "key.added", "provider.frozen"] == (
        world.told(google)
    )


def test_an_own_partner_sees_events_of_its_connections_and_never_of_other_partners(world, store):
    """
    Shared connections included: what another partner did there is left out.
    """
    acme, other = (partner(store, reach="own") for _ in range(2))
    for each in (acme, other):
        world.consents(world.alice, each)
    world.happens("token.read", world.alice, by=acme)
    world.happens("token.read", world.alice, by=other)
    world.happens("grant.refreshed", world.alice)
    world.happens("grant.refreshed", world.bob)
    world.happens("provider.frozen", provider="ghl")
    world.numbers()

    assert ["partner.added", "key.added", "token.read", "grant.refreshed"] == world.told(acme)


def test_an_own_partner_sees_no_events_before_its_consent_or_between_two(world, store, database):
    """
    A new yes brings back no past: what comes to be seen later would stand below positions that a cursor has passed.
    """
    acme = partner(store, reach="own")
    world.happens("a.before", world.alice)
    world.numbers()
    seen = read_events(store, acme.caller(), after=0, limit=10).items[-1].position
    world.consents(world.alice, acme)
    world.happens("a.while", world.alice)
    world.ends(world.alice, acme)
    world.happens("a.between", world.alice)
    world.numbers()
    world.consents(world.alice, acme)
    world.happens("a.after", world.alice)
    world.numbers()

    assert ["partner.added", "key.added", "a.while", "a.after"] == world.told(acme)
    assert ["a.while", "a.after"] == world.told(acme, after=seen)
    assert [False, True] == rows(database, "select ended_at is null from gateway.consent order by created_at")


def test_an_own_partner_sees_that_a_connection_ended_and_not_who_ended_it(world, store):
    """
    Whether another partner, the operator, or its user ended it.
    """
    acme, product = partner(store, reach="own"), partner(store)
    for person in (world.alice, world.bob):
        world.consents(person, acme)
    erase_own_connection(store, connection_id=world.held[world.alice], caller=product.caller())
    erase(store, connection_id=world.held[world.bob])
    world.numbers()
    gone = [
        e for e in read_events(store, acme.caller(), after=0, limit=50).items if e.type == "connection.disconnected"
    ]

    assert [world.held[world.alice], world.held[world.bob]] == [event.connection_id for event in gone]
    assert [(None, None)] * 2 == [(event.partner, event.data.get("by")) for event in gone]
    told = [
        e for e in read_events(store, product.caller(), after=0, limit=50).items if e.type == "connection.disconnected"
    ]
    assert [(product.id, None), (None, "operator")] == [(event.partner, event.data.get("by")) for event in told]


def test_an_own_partner_may_still_read_the_events_of_its_time_when_its_reach_has_ended(world, store):
    """
    Up to its end and not beyond; its own actions in any case, also for an erased connection.
    """
    acme = partner(store, reach="own")
    for person in (world.alice, world.bob):
        world.consents(person, acme)
    world.happens("grant.refreshed", world.alice)
    world.ends(world.alice, acme)
    world.happens("grant.refresh_failed", world.alice)
    world.happens("consent.ended", world.alice, by=acme)
    erase_own_connection(store, connection_id=world.held[world.bob], session_hash=world.bob.session)
    world.numbers()

    assert ["partner.added", "key.added", "grant.refreshed", "consent.ended", "connection.disconnected"] == world.told(
        acme
    )


def test_a_partners_own_providers_narrow_what_it_was_given(world, store):
    """
    As they narrow what it reaches.
    """
    acme = partner(store, reach="own", providers=["google"])
    world.consents(world.alice, acme)
    world.happens("grant.refreshed", world.alice)
    world.numbers()

    assert ["partner.added", "key.added"] == world.told(acme)


@pytest.mark.parametrize("reach", ["all", "own", "of a provider", "user"])
def test_pages_neither_miss_nor_repeat_an_event(world, store, reach):
    """
    Along whichever index, near the end and far from it; the last page says so.
    """
    acme = partner(
        store, reach="own" if reach == "own" else "all", providers=["ghl"] if reach == "of a provider" else ()
    )
    world.consents(world.alice, acme)
    world.numbers()
    rows(
        world.database,
        "insert into gateway.event (type, connection_id, user_id, provider, partner_id) select 'grant.refreshed', %s, %s, 'ghl',"
        " case n %% 7 when 0 then %s::uuid end from generate_series(1, 1400) n", world.held[world.alice], world.alice.id, acme.id,
    )  # fmt: skip
    rows(world.database, "insert into gateway.event (type, provider) select 'a', 'zoom' from generate_series(1, 2500)")
    for _ in range(30):
        world.happens("grant.refreshed", world.bob)
    world.numbers()
    who = Caller(user_id=world.alice.id) if reach == "user" else acme.caller()
    seen, after = [], 0
    while after is not None:
        page = read_events(store, who, after=after, limit=450)
        seen += [event.position for event in page.items]
        assert page.next is None or page.next > after
        after = page.next

    assert sorted(set(seen)) == seen
    assert {"all": 3934, "own": 1402, "of a provider": 1403, "user": 1401}[reach] == len(seen)
    assert read_events(store, who, after=read_chain(store).position, limit=450) == EventPage((), None)


def test_a_cursor_that_runs_beside_late_commits_misses_nothing_and_repeats_nothing(world, store, database):
    """
    Four writers whose transactions overlap, a sealer, and a reader that keeps its position.
    """
    acme, over = partner(store), threading.Event()

    def write(number):
        with psycopg.connect(database) as one, psycopg.connect(database) as slow:
            for count in range(25):
                add = "insert into gateway.event (type, provider, data) values ('written', 'ghl', jsonb_build_object('n', %s::text))"
                slow.execute(add, [f"{number}-slow-{count}"])
                one.execute(add, [f"{number}-{count}"])
                one.commit()
                if count % 4 == 0:
                    slow.commit()
            slow.commit()

    def seal():
        while not over.wait(0.005):
            world.numbers()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    sealer = threading.Thread(target=seal)
    for thread in (*writers, sealer):
        thread.start()
    seen, after = [], 0
    while (
        any(thread.is_alive() for thread in writers)
        or read_chain(store).unassigned
        or after < read_chain(store).position
    ):
        page = read_events(store, acme.caller(), after=after, limit=20)
        seen += [event for event in page.items if event.type == "written"]
        after = page.items[-1].position if page.items else after
    over.set()
    sealer.join()

    assert 200 == len(seen) == len({event.data["n"] for event in seen})
    assert [event.position for event in seen] == sorted(event.position for event in seen)


SCAN = 20_000
"""The most positions that one call looks at."""
READ = "select sum(seq_tup_read + idx_tup_fetch)::int from pg_stat_xact_user_tables where relname = 'event'"


@pytest.mark.parametrize("consents", [1, 3000])
def test_a_page_looks_at_a_limited_number_of_events(database, store, consents):
    """A partner that may see almost none of them reads them in bounded steps that come to the end."""
    acme, other = partner(store, reach="own"), partner(store)
    rows(
        database,
        "insert into gateway.consent (partner_id, connection_id, made, created_at) select %s, gen_random_uuid(), false, '2020-01-01'"
        " from generate_series(1, %s)", acme.id, consents,
    )  # fmt: skip
    rows(
        database,
        "insert into gateway.event (type, connection_id, provider, partner_id, position) select 'tokens.read', c.id, 'ghl', %s,"
        " 10 + n from generate_series(1, 45000) n join (select connection_id as id, row_number() over () as place"
        " from gateway.consent) c on c.place = 1 + n %% %s", other.id, consents,
    )  # fmt: skip
    rows(database, "update gateway.event_chain set position = 45010")
    rows(database, "update gateway.event set partner_id = null where position = 40000")
    rows(database, "analyze gateway.event, gateway.consent")
    seen, after, pages, before = [], 0, 0, 0
    with psycopg.connect(database, autocommit=True) as connection:
        while after is not None:
            asked = "select public.gateway_events_v1(jsonb_build_object('key_hash', %s::text, 'address', '198.51.100.7'), %s, 100)"
            (page,) = connection.execute(asked, [acme.caller().key_hash, after]).fetchone()
            (now,) = connection.execute(READ).fetchone()
            assert now - before < SCAN + 100, (after, now - before)
            seen += [event["position"] for event in page["items"]]
            after, pages, before = page["next"], pages + 1, now

    assert seen == [40000]
    assert pages == 3


def test_a_users_events_are_read_along_an_index(database, store):
    """However many others there are: a page costs what it shows."""
    world = World(store, database)
    rows(
        database,
        "insert into gateway.event (type, connection_id, user_id, provider, position) select 'a', gen_random_uuid(),"
        " gen_random_uuid(), 'google', n from generate_series(10, 30000) n",
    )
    world.happens("a.last", world.alice, position=30001)
    rows(database, "update gateway.event_chain set position = 30001")
    rows(database, "analyze gateway.event")

    with psycopg.connect(database) as connection:
        connection.execute(
            "select public.gateway_events_v1(jsonb_build_object('user_id', %s::text), 0, 10)", [world.alice.id]
        )
        (read,) = connection.execute(READ).fetchone()
    assert read < 200
