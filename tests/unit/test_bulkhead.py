"""Shares of providers, and the circuit breaker: a provider that hangs delays only its own callers."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.errors import DatabaseUnavailable, ProviderBusy, ProviderGarbled, ProviderUnavailable
from gateway.http.bulkhead import FAILURES_TO_OPEN, FORGET_SECONDS, OPEN_SECONDS, Bulkhead, Shares


class Clock:
    """A monotonic clock that is set by hand."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def bulkhead(clock):
    return Bulkhead(budget=8, clock=clock)


def fails(bulkhead, provider, times=1, caller=""):
    for _ in range(times):
        with contextlib.suppress(ProviderUnavailable), bulkhead.exchange(provider, caller):
            raise ProviderUnavailable("no response")


def responds(bulkhead, provider, status=200):
    with bulkhead.exchange(provider) as exchange:
        exchange.status = status


def refused(bulkhead, provider, caller=""):
    with pytest.raises(ProviderBusy, match="not called"), bulkhead.slot(provider, caller):
        pass
    return True


def slots(bulkhead, provider, most=100):
    """All slots that the provider gets, each held by a call in a thread of its own."""
    held = [bulkhead.slot(provider) for _ in range(most)]
    before = bulkhead._slots.taken()
    for slot in held:
        with ThreadPoolExecutor(1) as thread, contextlib.suppress(ProviderBusy):
            thread.submit(slot.__enter__).result()
    return bulkhead._slots.taken() - before, held


def test_providers_that_hang_leave_a_slot_for_any_other():
    """
    The first gets half, the second half of the rest, and each further one at least one, however many hang.
    """
    bulkhead = Bulkhead(budget=8)
    assert [4, 2, 1, 1, 1, 1] == [found for found, _ in [slots(bulkhead, name, 9) for name in "abcdef"]]


def test_a_partner_whose_calls_hang_leaves_places_for_its_other_providers_and_for_other_partners():
    """
    Half of what is free in each group, and always one; what ends is free again.
    """
    shares = Shares(16)

    def takes(provider, partner):
        return sum(shares.take(provider, partner) for _ in range(17))

    assert [8, 4, 2, 1, 1, 1] == [takes(provider, "Acme") for provider in "abcdef"]
    assert 17 == shares.taken("Acme")
    assert 8 == takes("a", "Blue")
    for _ in range(8):
        shares.release("a", "Acme")
    assert 4 == takes("a", "Acme")


def test_a_caller_whose_calls_fail_closes_the_provider_to_no_other(bulkhead, clock):
    """
    Neither to another caller, nor to the gateway's own calls. Failures long ago do not add up.
    """
    fails(bulkhead, "acme", FAILURES_TO_OPEN, caller="Blue")
    refused(bulkhead, "acme", "Blue")
    assert bulkhead.is_available("acme")
    for caller in ("Corn", ""):
        with bulkhead.exchange("acme", caller) as exchange:
            exchange.status = 200
    refused(bulkhead, "acme", "Blue")
    assert ["acme"] == bulkhead.open_circuits()

    fails(bulkhead, "zoom", FAILURES_TO_OPEN - 1, caller="Blue")
    clock.now += OPEN_SECONDS + FORGET_SECONDS
    fails(bulkhead, "zoom", caller="Blue")
    assert [] == bulkhead.open_circuits()


def test_what_exceeds_the_share_is_refused_at_once_and_the_calls_of_one_operation_use_one_slot(bulkhead):
    with bulkhead.slot("acme"):
        for _ in range(20):
            with bulkhead.slot("acme"), bulkhead.exchange("acme"):
                assert 1 == bulkhead._slots.taken()
        assert bulkhead.is_available("acme")
        for _ in range(3):
            bulkhead._slots.take("acme")  # of other threads
        assert not bulkhead.is_available("acme")
        with ThreadPoolExecutor(1) as other, pytest.raises(ProviderBusy, match="waiting for it") as raised:
            other.submit(bulkhead.slot("acme").__enter__).result()
        assert 2 <= raised.value.retry_after <= 6
        with ThreadPoolExecutor(1) as other:  # work that was claimed already
            other.submit(bulkhead.slot("acme", always=True).__enter__).result()


def test_a_provider_that_fails_again_and_again_is_left_alone_and_others_are_not(bulkhead, clock):
    """
    Consecutive failures of any kind open the circuit; one response between them closes it.
    """
    fails(bulkhead, "acme", FAILURES_TO_OPEN - 1)
    responds(bulkhead, "acme", 400)
    fails(bulkhead, "acme", FAILURES_TO_OPEN - 2)
    responds(bulkhead, "acme", 503)
    assert [] == bulkhead.open_circuits()
    responds(bulkhead, "acme", 429)

    with pytest.raises(ProviderBusy, match="not called") as raised, bulkhead.slot("acme"):
        pass
    assert OPEN_SECONDS <= raised.value.retry_after <= 6
    assert bulkhead.open_circuits() == ["acme"]
    assert not bulkhead.is_available("acme")
    assert bulkhead.is_available("zoom")
    responds(bulkhead, "zoom")


def test_one_probe_at_a_time_finds_out_whether_it_is_back(bulkhead, clock):
    """
    A failed probe leaves it open for another while; a response, even a malformed one, closes it.
    """
    fails(bulkhead, "acme", FAILURES_TO_OPEN)
    clock.now += OPEN_SECONDS
    assert bulkhead.is_available("acme")
    with contextlib.suppress(ProviderUnavailable), bulkhead.exchange("acme"):
        with ThreadPoolExecutor(1) as other:
            assert other.submit(refused, bulkhead, "acme").result()
        raise ProviderUnavailable("silent")
    refused(bulkhead, "acme")

    clock.now += OPEN_SECONDS
    with pytest.raises(ProviderGarbled), bulkhead.exchange("acme"):
        raise ProviderGarbled("odd")
    assert bulkhead.open_circuits() == []
    responds(bulkhead, "acme")


def test_a_refusal_and_an_error_of_ours_are_no_failures_of_the_provider(bulkhead):
    """
    Otherwise a burst, or our database, would open the circuit of a healthy one.
    """
    for _ in range(FAILURES_TO_OPEN):
        for error in (ProviderBusy("full"), ProviderUnavailable("the last try failed"), DatabaseUnavailable("away")):
            with pytest.raises(type(error)), bulkhead.slot("acme"):
                raise error
    assert bulkhead.open_circuits() == []
    responds(bulkhead, "acme")
