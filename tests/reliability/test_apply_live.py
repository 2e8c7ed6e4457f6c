"""`db apply` beside a gateway that serves: the short form of `python -m bench.apply`."""

from __future__ import annotations

from bench.apply import measure


def test_db_apply_under_load_fails_no_request():
    """
    Twice, at 100 token reads and 10 connects a second: no failed request and no deadlock.
    """
    told = measure(2, quiet=True)

    assert ({}, 0) == (told["failed"], told["deadlocks"])
    assert told["requests"]["read"] > 50
    assert told["requests"]["callback"] > 5
