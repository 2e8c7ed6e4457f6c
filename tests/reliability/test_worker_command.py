"""
`python -m gateway worker`: background work in separate processes, ended after the current unit.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import psycopg
import pytest

from gateway import server
from gateway.worker.loop import run_workers
from tests.support.forked import Command
from tests.support.gateway_process import free_port, whole_gateway
from tests.support.patience import held as no_response
from tests.support.patience import wait_for


@pytest.fixture(scope="module")
def alone(cluster, template):
    """A gateway whose server does no work beside its requests."""
    with whole_gateway(cluster, template, options=("--no-worker",)) as made:
        yield made.start()


@contextmanager
def worker(gateway, *arguments, **changes):
    """One worker process over the same database, or what `arguments` say; what it logs is in `log`."""
    inherited = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PG_BINDIR")}
    environ = inherited | gateway.environ | changes
    log = gateway.folder / f"worker-{time.monotonic_ns()}.log"
    log.touch()
    process = Command(*(arguments or ["worker"]), environ=environ, log=log)
    process.log = log
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition, process):
    def is_reached():
        assert process.poll() is None, process.log.read_text()
        return condition()

    wait_for(is_reached)


def asked(gateway, query, *values):
    with psycopg.connect(gateway.dsn) as connection:
        return connection.execute(query, values).fetchone()


def changed(gateway, query, *values):
    with psycopg.connect(gateway.dsn) as connection:
        connection.execute(query, values)


def makes_due(gateway, *connections):
    changed(
        gateway,
        "update gateway.connection set refresh_at = clock_timestamp() - interval '1 second', expires_at = clock_timestamp()"
        " where id = any (%s)",
        list(connections),
    )


def generation(gateway, connection):
    return asked(gateway, "select generation from gateway.connection where id = %s", connection)[0]


def refreshes(gateway, provider):
    seen = gateway.sandbox.state.requests(provider, "token")
    return sum(one["form"].get("grant_type") == "refresh_token" for one in seen)


def started(process):
    return lambda: "worker.started" in process.log.read_text()


def test_two_workers_refresh_what_is_due_once_each(alone):
    """
    However the two share it out, each connection gets one token request.
    """
    people = [alone.person(f"Owner{number} Hill") for number in range(6)]
    held = [person.connects("microsoft")["connection"] for person in people]
    makes_due(alone, *held)

    with worker(alone) as one, worker(alone) as two:
        until(lambda: all(generation(alone, connection) == 2 for connection in held), one)
        wait_for(lambda: started(one)() and started(two)())
        for process in (one, two):
            process.terminate()
        assert [0, 0] == [process.wait(60) for process in (one, two)]
    assert len(held) == refreshes(alone, "microsoft")


@pytest.mark.parametrize(("work", "does"), [(True, ["works"]), (False, ["reports"])])
def test_a_server_works_only_where_it_shall(monkeypatch, work, does):
    """
    `serve --no-worker` answers requests and says which keys it has; without the switch a worker runs beside that. It begins after
    `server.ready`, so that the first lines of the log are about the server alone.
    """
    done = []
    app = SimpleNamespace(extensions={"gateway": None}, config={})
    listener = SimpleNamespace(getsockname=lambda: ("127.0.0.1", 8000))
    waitress = SimpleNamespace(pull_trigger=None, active_channels={})
    monkeypatch.setattr(server, "create_server", lambda *_, **__: waitress)
    monkeypatch.setattr(server, "wasyncore", SimpleNamespace(dispatcher=SimpleNamespace(close=lambda _: None)))
    monkeypatch.setattr(server, "start_worker", lambda *_, work: done.append("works" if work else "reports") or [])
    monkeypatch.setattr(server, "log", SimpleNamespace(info=done.append))
    monkeypatch.setattr(server, "_signals", lambda _: [signal.SIGTERM])

    server.serve(app, listener, work=work)

    assert ["server.ready", *does] == done


def test_a_worker_revokes_what_is_queued(alone):
    """
    Revocations are retried until the provider has taken them.
    """
    alice = alone.person("Alice Winter")
    held = alice.connects("zoom")["connection"]
    alone.sandbox.state.add_fault("status", "zoom", "revoke", status=503)
    alice.disconnects(held)
    changed(alone, "update gateway.revocation set due_at = clock_timestamp() where connection_id = %s", held)

    with worker(alone) as process:
        until(
            lambda: asked(alone, "select count(*) from gateway.revocation where connection_id = %s", held) == (0,),
            process,
        )


@pytest.mark.parametrize(
    ("sign", "command"), [(signal.SIGTERM, "worker"), (signal.SIGINT, "worker"), (signal.SIGTERM, "serve")]
)
def test_a_worker_ends_after_the_unit_under_way(alone, sign, command):
    """
    Also one beside a server. It waits for the provider's response and saves it: nothing is left to repair.
    """
    alice = alone.person("Alice Winter")
    held = alice.connects("ringcentral")["connection"]
    with worker(alone, *((command, "--port", str(free_port())) if command == "serve" else (command,))) as process:
        with no_response(alone.sandbox, "ringcentral", "token") as is_asked:
            makes_due(alone, held)
            until(is_asked, process)
            process.send_signal(sign)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)

        assert 0 == process.wait(60)
        logged = [json.loads(line)["event"] for line in process.log.read_text().splitlines() if line.startswith("{")]
    expected = ["worker.started", "worker.stopping", "worker.stopped"] if command == "worker" else []
    assert expected == [one for one in logged if one.startswith("worker.")]
    assert (2, None, None) == asked(
        alone, "select generation, lease_id, intent_at from gateway.connection where id = %s", held
    )


def test_an_idle_worker_ends_at_once(alone):
    """
    It waits for work in a way that a signal interrupts.
    """
    with worker(alone) as process:
        until(started(process), process)
        process.terminate()

        assert 0 == process.wait(60)


def test_the_thread_that_takes_signals_never_waits_for_the_event_that_they_set(alone):
    """
    While it takes the event's lock, a signal would wait for that lock without end.
    """
    waiting, signalled = set(), threading.current_thread()

    class Stopped(threading.Event):
        def wait(self, timeout=None):
            waiting.add(threading.current_thread())
            return super().wait(timeout)

    stopped = Stopped()
    threading.Timer(1, stopped.set).start()
    run_workers(dict(alone.environ), stopped)

    assert signalled not in waiting


def test_a_worker_says_which_keys_it_has(alone):
    """
    Like every process, so that a host without a key is found.
    """
    changed(alone, "delete from gateway.host")
    with worker(alone) as process:
        until(lambda: asked(alone, "select count(*) from gateway.host") == (1,), process)


def test_a_worker_without_sound_settings_does_not_start(alone):
    """
    All problems at once, and exit code 2.
    """
    with worker(alone, GATEWAY_KEYS="") as process:
        assert 2 == process.wait(60)
        assert "GATEWAY_KEYS is missing" in process.log.read_text()
