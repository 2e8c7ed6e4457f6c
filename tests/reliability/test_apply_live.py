"""`db apply` beside a gateway that serves: the short form of `python -m bench.apply`."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from bench.apply import measure
from gateway.database.migrate import apply_schema
from gateway.errors import DatabaseUnavailable
from tests.support.database import rows

TABLES = ("public.user_profile", "public.provider_data", "gateway.connection", "gateway.partner")


def test_db_apply_under_load_fails_no_request():
    """
    At 100 token reads and 10 connects a second: no failed request and no deadlock.
    """
    told = measure(1, quiet=True)

    assert ({}, 0) == (told["failed"], told["deadlocks"])
    assert told["requests"]["read"] > 50
    assert told["requests"]["callback"] > 5


@pytest.mark.parametrize(("first", "then"), list(itertools.permutations(TABLES, 2)))
def test_no_order_of_a_requests_locks_meets_those_of_db_apply(database, first, then):
    """
    A transaction that holds a lock on one table gets one on any other within half a second, and the run succeeds afterwards.
    """
    with ThreadPoolExecutor(1) as thread, psycopg.connect(database) as request:
        request.execute(f"lock table {first} in row exclusive mode")
        run = thread.submit(apply_schema, database)
        time.sleep(0.5)
        request.execute("set lock_timeout = '30s'")
        request.execute(f"lock table {then} in row exclusive mode")
        request.commit()
        run.result(60)
    assert [0] == rows(database, "select deadlocks::integer from pg_stat_database where datname = current_database()")


def test_tables_that_stay_in_use_end_db_apply_with_a_sentence(database, monkeypatch):
    """
    After a few tries, and without a change.
    """
    monkeypatch.setattr("gateway.database.migrate._TRIES", 1)
    with psycopg.connect(database) as backup:
        backup.execute("lock table public.provider_data in access share mode")
        with pytest.raises(DatabaseUnavailable, match="other transactions hold the tables"):
            apply_schema(database)
