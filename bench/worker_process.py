"""
A gateway process for tests: `python -m bench.worker_process` reads a task in JSON from each line of its input, and may be killed during
it. A fork runs each task, so that a thousand kills do not need a thousand starts. It prints `PID n` when it begins, `POINT name` at each
crash point if the task has a `stop_at`, `SAID …` when it is done, `GONE` when it has ended. The environment is the gateway's own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.crash_points import with_crash_points
from gateway.connect.attempt import Connected, Failed, by_user, finish_connect, start_connect
from gateway.connections.disconnect import disconnect
from gateway.crypto.vault import fingerprint
from gateway.database.queries.connect import open_session
from gateway.errors import GatewayError
from gateway.services import Runtime, build_runtime, utc_now
from gateway.settings import read_settings
from gateway.tokens.read import fresh_grant
from gateway.worker.jobs import UNIT_JOBS
from gateway.worker.loop import UnitWorker

BROWSER = "bench-browser"


def runtime(task: dict[str, Any]) -> Runtime:
    """The Runtime, over the task's own folder; `skew`: seconds by which this process's clock is wrong."""
    environ = {**os.environ, **task.get("settings", {})}
    skew = timedelta(seconds=task.get("skew", 0))
    rt = build_runtime(read_settings(environ), now=lambda: utc_now() + skew)
    return with_crash_points(rt, task["stop_at"]) if task.get("stop_at") else rt


def _sign_in(rt: Runtime, task: dict[str, Any]) -> str:
    session = uuid.uuid4().hex
    open_session(
        rt.database,
        session_hash=fingerprint(session),
        user_id=uuid.UUID(task["user_id"]),
        label="Alice",
        expires_at=utc_now() + timedelta(hours=1),
    )
    return session


def do_connect(rt: Runtime, task: dict[str, Any]) -> Any:
    """A whole connect, for the account `code`."""
    session = _sign_in(rt, task)
    begin = by_user(rt, session=session, browser=BROWSER, return_to=None, display="page", add_account=False)
    there = start_connect(rt, rt.provider(task["provider"]), {}, begin)
    state = parse_qs(urlsplit(there).query)["state"]
    answer = {"state": state, "code": [task["code"]]}
    ended = finish_connect(rt, "phone", task["provider"], answer, session=session, browser=BROWSER)
    connection_id = str(ended.connection_id) if isinstance(ended, Connected) else None
    return {"connection_id": connection_id, "error": ended.error.slug if isinstance(ended, Failed) else None}


def do_disconnect(rt: Runtime, task: dict[str, Any]) -> Any:
    """By its owner."""
    session = _sign_in(rt, task)
    return {"revocation": disconnect(rt, uuid.UUID(task["id"]), session=session).revocation}


def do_read(rt: Runtime, task: dict[str, Any]) -> Any:
    """A valid token of each of `ids`, all at once; or the slug of the error."""

    def read(connection_id: str) -> dict[str, str]:
        try:
            return {"token": fresh_grant(rt, uuid.UUID(connection_id)).access_token}
        except GatewayError as error:
            return {"error": error.slug}

    with ThreadPoolExecutor(len(task["ids"])) as threads:
        return list(threads.map(read, task["ids"]))


def do_work(rt: Runtime, task: dict[str, Any]) -> Any:
    """As a worker, until there is nothing to do `idle` times in a row."""
    worker, idle, busy = UnitWorker(rt, UNIT_JOBS), 0, 0
    while idle < task.get("idle", 1):
        if worker.once():
            busy, idle = busy + 1, 0
        elif worker.finish(0):  # no unit is under way
            idle += 1
            time.sleep(task.get("pause", 0.0))
        else:
            worker.wait_for_end(1.0)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {"units": busy, "cpu_seconds": spent.ru_utime + spent.ru_stime}


def do_read_and_work(rt: Runtime, task: dict[str, Any]) -> Any:
    """Read, with a worker beside it, for that many seconds."""
    stopped = threading.Event()
    beside = threading.Thread(target=UnitWorker(rt, UNIT_JOBS).run, args=(stopped,))
    beside.start()
    said = do_read(rt, task)
    stopped.wait(task["seconds"])
    stopped.set()
    beside.join()
    return said


def do_insist(rt: Runtime, task: dict[str, Any]) -> Any:
    """Read the tokens of `ids` one after another until all succeed or the time is over; the last result of each."""
    end = time.monotonic() + task["seconds"]
    said: dict[str, dict[str, str]] = {}
    while time.monotonic() < end and any("token" not in said.get(row, {}) for row in task["ids"]):
        for row in task["ids"]:
            if "token" not in said.get(row, {}) and time.monotonic() < end:
                [said[row]] = do_read(rt, {"ids": [row]})
    return list(said.values())


TASKS = {
    "connect": do_connect,
    "disconnect": do_disconnect,
    "read": do_read,
    "work": do_work,
    "read_and_work": do_read_and_work,
    "insist": do_insist,
}


def _say(word: str, what: object = "") -> None:
    sys.stdout.write(f"{word} {what}\n")
    sys.stdout.flush()


def main() -> None:
    """One task after another, each in its own process."""
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            try:
                _say("PID", os.getpid())
                _say("SAID", json.dumps(TASKS[task["do"]](runtime(task), task)))
            except BaseException as error:  # noqa: BLE001 - told to whoever gave the task
                _say("SAID", json.dumps({"failed": f"{type(error).__name__}: {error}"}))
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        _say("GONE")


if __name__ == "__main__":
    main()
