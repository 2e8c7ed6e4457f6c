"""
SIGKILL at every step of connect, refresh and disconnect: `python -m bench.crashes --times 50`.

A gateway process is killed where it stands at a crash point (bench/crash_points.py), or while the provider holds its request. Then it comes
back on the same folder (or another host takes over), windows are shortened by the database's clock, and the outcome is judged:
`kept`, `told` (needs_reauthorization, with its event) or a word that must not occur. Interrupt it at any time: what was done is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
import time
import uuid
from collections import Counter
from contextlib import closing, suppress
from typing import Any

from bench.stage import Actor, Stage, staged

ASKED = "refresh: at the provider"
ANSWERED = "refresh: before journal.put"
JOURNALLED = "refresh: after journal.put"
SAVED = "refresh: after database.finish_refresh"
REFRESH = (
    "refresh: after database.claim_refresh",
    "refresh: before http.request",
    ASKED,
    "refresh: after http.request",
    ANSWERED,
    JOURNALLED,
    SAVED,
    "refresh: after journal.mark_committed",
)
CONNECT = (
    "connect: after database.start_authorization",
    "connect: after database.take_authorization",
    "connect: after http.request",
    "connect: before database.save_connection",
    "connect: after database.save_connection",
)
DISCONNECT = ("disconnect: after database.disconnect", "disconnect: after database.settle_revocation")
MAY_BE_TOLD = (ASKED, "refresh: after http.request", ANSWERED)
"""At a provider that accepts no token twice, a killed process takes the only response with it."""


def kill_at(stage: Stage, actor: Actor, mark: str, do: str, **task: Any) -> None:
    """Start `actor`, and kill it at the crash point."""
    seen = stage.control("stats")["seen"]
    if mark == ASKED:
        stage.control("delay", seconds=5)
    pid = actor.begin(do, stop_at=None if mark == ASKED else mark.partition(": ")[2], **task)
    if mark == ASKED:
        while stage.control("stats")["seen"] == seen:
            time.sleep(0.002)
    else:
        while actor.until("POINT") != mark.partition(": ")[2]:
            pass
    os.kill(pid, signal.SIGKILL)
    stage.control("delay", seconds=0)


def age(stage: Stage, host: str) -> None:
    """Age leases, blocks, queues and the journal by two minutes, but not the provider."""
    stage.sql(
        "update gateway.connection set lease_until = lease_until - interval '2 minutes', intent_at = intent_at - interval '2 minutes',"
        " not_before = null where intent_at is not null or not_before is not null"
    )
    stage.sql("update gateway.revocation set due_at = clock_timestamp() - interval '1 second'")
    journal = stage.folder / f"host-{host}" / "journal" / "responses.sqlite3"
    if journal.exists():
        with closing(sqlite3.connect(journal, isolation_level=None)) as responses:
            responses.execute("update response set due_at = due_at - 120")


def refresh_trial(stage: Stage, victim: Actor, rescuer: Actor, mark: str, kind: str) -> str:
    """One kill during a refresh; the result for the connection."""
    [(row, account)] = stage.connections(kind, 1).items()
    stage.expire([row])
    kill_at(stage, victim, mark, "read", ids=[row])
    victim.gone()
    age(stage, "a")
    rescuer.does("work")
    [said] = rescuer.does("read", ids=[row])
    [(_, status, intent)] = stage.states([row])
    if "token" in said and status == "active" and not intent:
        return "kept" if stage.works(said["token"], kind) else "silently dead"
    told = stage.sql(
        "select 1 from gateway.event where connection_id = %s and type = 'connection.needs_reauthorization'", row
    )
    if status == said.get("error") and (status == "held" or (status == "needs_reauthorization" and told)):
        return "told" if account in stage.control("stats")["revoked"] else "told, and the provider knows nothing of it"
    return f"limbo: {status}, {said.get('error')}, intent {intent}"


def connect_trial(stage: Stage, victim: Actor, rescuer: Actor, mark: str) -> str:
    """One kill during a first connect: nothing is half-stored, and connecting again ends in one working row."""
    user, account = str(uuid.uuid4()), f"account-{uuid.uuid4().hex[:8]}"
    task = {"provider": "strict", "code": account, "user_id": user}
    kill_at(stage, victim, mark, "connect", **task)
    victim.gone()
    stands = _standing(stage, user)
    if stands not in ([], [(True, True, True)]):
        return f"half-stored: {stands}"
    if mark == CONNECT[-1] and not stands:
        return "saved and not there"
    again = rescuer.does("connect", **task)
    if _standing(stage, user) != [(True, True, True)]:
        return f"not connected again: {again}, {_standing(stage, user)}"
    [said] = rescuer.does("read", ids=[again["connection_id"]])
    return "kept" if stage.works(said.get("token", "")) else "silently dead"


def _standing(stage: Stage, user: str) -> list[tuple[Any, ...]]:
    return stage.sql(
        "select c.id is not null, d.token is not null, d.id::text = any (p.providers) from public.provider_data d"
        " left join gateway.connection c on c.id = d.id left join public.user_profile p on p.id = d.provider_id_ref"
        " where d.auth_provider_id = %s", user
    )  # fmt: skip


def disconnect_trial(stage: Stage, victim: Actor, rescuer: Actor, mark: str) -> str:
    """One kill during a disconnect: erased, and revoked by the next process."""
    user, account = str(uuid.uuid4()), f"account-{uuid.uuid4().hex[:8]}"
    row = rescuer.does("connect", provider="strict", code=account, user_id=user)["connection_id"]
    kill_at(stage, victim, mark, "disconnect", id=row, user_id=user)
    victim.gone()
    age(stage, "a")
    rescuer.does("work")
    if stage.states([row]) or stage.sql("select 1 from gateway.revocation where connection_id = %s", row):
        return "not erased, or still in the queue"
    return "kept" if account in stage.control("stats")["revoked"] else "never given back"


def run(stage: Stage, times: int, marks: tuple[str, ...], *, say: Any = None) -> list[dict[str, Any]]:
    """Every mark `times` times; one row for each mark, kind of provider and rescuer."""
    rows: list[dict[str, Any]] = []
    with (
        suppress(KeyboardInterrupt),
        stage.actor() as victim,
        stage.actor("a") as same,
        stage.actor("b") as other,
    ):
        for mark in marks:
            cases = [("strict", "a"), ("forgiving", "a"), ("forgiving", "b")] if mark in REFRESH else [("strict", "a")]
            for kind, host in cases:
                ended: Counter[str] = Counter()
                rows.append({"mark": mark, "provider": kind, "rescued_by": host, "ended": ended})
                if host == "b":
                    stage.looks_long_up()
                for _ in range(times):
                    if mark in REFRESH:
                        ended[refresh_trial(stage, victim, same if host == "a" else other, mark, kind)] += 1
                    elif mark in CONNECT:
                        ended[connect_trial(stage, victim, same, mark)] += 1
                    else:
                        ended[disconnect_trial(stage, victim, same, mark)] += 1
                if say:
                    say(f"{mark:46}{kind:11}{'same host' if host == 'a' else 'another host':14}{dict(ended)}")
    return rows


def failures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that break the promise."""
    return [row for row in rows if set(row["ended"]) - allowed(row)]


def allowed(row: dict[str, Any]) -> set[str]:
    """The allowed results of a trial."""
    return {"kept", "told"} if row["provider"] == "strict" and row["mark"] in MAY_BE_TOLD else {"kept"}


def main() -> None:
    """Kill, and print the results; ends with 1 if anything was lost without a report."""
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=__doc__.splitlines()[1])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--mark", action="append", choices=[*CONNECT, *REFRESH, *DISCONNECT])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with staged() as stage:
        marks = tuple(given.mark or (*CONNECT, *REFRESH, *DISCONNECT))
        rows = run(
            stage,
            given.times,
            marks,
            say=lambda line: print(line, file=sys.stderr if given.json else sys.stdout, flush=True),
        )
    if given.json:
        print(json.dumps(rows, indent=1))
    sys.exit(1 if failures(rows) else 0)


if __name__ == "__main__":
    main()
