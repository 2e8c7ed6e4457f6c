"""
Providers that hang, with two hundred callers at each: what the other requests notice. A short form of `python -m bench.neighbours`.
"""

from __future__ import annotations

import pytest

from bench.neighbours import MOST_TIMES, neighbours

SLACK_MS = 500
"""For a machine that runs other tests beside this one, and for two hundred callers that arrive at once."""


@pytest.fixture(scope="module")
def told():
    return neighbours(5, 200)


@pytest.mark.parametrize("silent", ["1 silent", "2 silent"])
@pytest.mark.parametrize("what", ["healthz", "token read", "sign-in", "refresh"])
def test_requests_keep_their_speed_while_providers_hang(told, silent, what):
    """
    At most three times the quiet p99, with one silent provider and with two; none is refused.
    """
    quiet, during = told["figures"]["0 silent"][what], told["figures"][silent][what]

    assert 0 == during["refused"]
    assert during["p99_ms"] <= MOST_TIMES * quiet["p99_ms"] + SLACK_MS


def test_callers_of_a_provider_that_hangs_get_an_answer_within_their_ten_seconds(told):
    """
    Most of them at once: 503 with Retry-After.
    """
    for crowd in (*told["callers"]["1 silent"], *told["callers"]["2 silent"]):
        assert 0 < crowd["statuses"][503]
        assert {200, 303, 429, 503, 504} >= set(crowd["statuses"])
        assert crowd["slowest_seconds"] < 12
