"""Shares of providers, and the circuit breaker: a provider that hangs delays only its own callers."""

from __future__ import annotations

import contextlib

import pytest

from gateway.errors import ProviderGarbled, ProviderUnavailable
from gateway.http.bulkhead import FAILURES_TO_OPEN, OPEN_SECONDS, Bulkhead


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
    return Bulkhead(budget=5, share=3, clock=clock)


def fails(bulkhead, provider, times=1):
    for _ in range(times):
        with contextlib.suppress(ProviderUnavailable), bulkhead.slot(provider):
            raise ProviderUnavailable("no response")


def refused(bulkhead, provider):
    with pytest.raises(ProviderUnavailable, match="not called"), bulkhead.slot(provider):
        pass


def test_a_provider_has_its_share_and_the_process_its_budget(bulkhead):
    """
    What is beyond either is refused at once, and says when to come back.
    """
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(bulkhead.slot("acme"))
        with pytest.raises(ProviderUnavailable, match="waiting for it") as refused, bulkhead.slot("acme"):
            pass
        assert refused.value.retry_after == 1
        for _ in range(2):
            held.enter_context(bulkhead.slot("zoom"))
        with pytest.raises(ProviderUnavailable, match="waiting for providers"), bulkhead.slot("zoom"):
            pass
    with bulkhead.slot("acme"), bulkhead.slot("zoom"):
        pass


def test_a_provider_that_fails_again_and_again_is_left_alone_and_others_are_not(bulkhead, clock):
    """
    Consecutive failures open the circuit; one response between them closes it.
    """
    fails(bulkhead, "acme", FAILURES_TO_OPEN - 1)
    with bulkhead.slot("acme"):
        pass
    fails(bulkhead, "acme", FAILURES_TO_OPEN)

    with pytest.raises(ProviderUnavailable, match="not called") as refused, bulkhead.slot("acme"):
        pass
    assert refused.value.retry_after == OPEN_SECONDS
    assert bulkhead.open_circuits() == ["acme"]
    with bulkhead.slot("zoom"):
        pass


def test_one_probe_at_a_time_finds_out_whether_it_is_back(bulkhead, clock):
    """
    A failed probe leaves it open for another while; a response, even a malformed one, closes it.
    """
    fails(bulkhead, "acme", FAILURES_TO_OPEN)
    clock.now += OPEN_SECONDS
    with contextlib.suppress(ProviderUnavailable), bulkhead.slot("acme"):
        refused(bulkhead, "acme")
        raise ProviderUnavailable("silent")
    refused(bulkhead, "acme")

    clock.now += OPEN_SECONDS
    with pytest.raises(ProviderGarbled), bulkhead.slot("acme"):
        raise ProviderGarbled("odd")
    assert bulkhead.open_circuits() == []
    with bulkhead.slot("acme"), bulkhead.slot("acme"):
        pass


def test_a_refusal_is_no_failure_of_the_provider(bulkhead):
    """
    Else a burst would open the circuit of a healthy one.
    """
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(bulkhead.slot("acme"))
        for _ in range(FAILURES_TO_OPEN):
            with pytest.raises(ProviderUnavailable), bulkhead.slot("acme"):
                pass
    assert bulkhead.open_circuits() == []
    with bulkhead.slot("acme"):
        pass
