"""The loop of a worker: each job gets its turn, however the others end."""

from __future__ import annotations

import threading

from gateway.errors import ProviderUnavailable
from gateway.worker.jobs import EVENT_JOBS, HOUSEKEEPING, UNIT_JOBS, Job
from gateway.worker.loop import Worker


def failing(error):
    def run(_):
        raise error

    return run


def test_a_job_that_fails_does_not_stop_the_others(monkeypatch):
    """Each time, before and after it; the log has the kind of a defect and not its words."""
    logged, done = [], []
    for level in ("warning", "error"):
        monkeypatch.setattr(f"gateway.worker.loop.log.{level}", lambda event, **said: logged.append((event, said)))
    jobs = [
        Job("first", done.append),
        Job("defect", failing(ValueError("secret words"))),
        Job("failure", failing(ProviderUnavailable("no answer"))),
        Job("last", lambda rt: done.append(rt) or True),
    ]
    worker = Worker("runtime", jobs)

    assert worker.once()
    assert worker.once()
    assert done == ["runtime"] * 4
    assert {event for event, _ in logged} == {"job.failed"}
    assert [said["job"] for _, said in logged] == ["defect", "failure"] * 2
    assert "secret words" not in str(logged)


def test_a_job_runs_no_more_often_than_it_says():
    now, done = [0.0], []
    worker = Worker(None, [Job("housekeeping", lambda _: done.append(now[0]), 60.0)], clock=lambda: now[0])
    for seconds in (0, 1, 59, 60, 61, 120):
        now[0] = float(seconds)
        worker.once()

    assert done == [0, 60, 120]


def test_a_job_that_failed_waits_for_its_next_turn():
    now, asked = [0.0], []

    def run(_):
        asked.append(now[0])
        raise ProviderUnavailable("no answer")

    worker = Worker(None, [Job("housekeeping", run, 60.0)], clock=lambda: now[0])
    for seconds in (0, 5, 60):
        now[0] = float(seconds)
        worker.once()

    assert asked == [0, 60]


def test_a_worker_stops_between_two_units():
    stopped, done = threading.Event(), []
    worker = Worker(None, [Job("unit", lambda _: done.append(1) or stopped.set() or True)])
    worker.run(stopped)

    assert done == [1]


def test_housekeeping_is_no_part_of_a_claim():
    """It runs once a minute, in another thread, so that it delays neither units nor positions."""
    assert HOUSEKEEPING.every_seconds == 60.0
    assert HOUSEKEEPING.name not in {job.name for job in (*UNIT_JOBS, *EVENT_JOBS)}
