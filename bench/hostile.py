"""
What a hostile provider can do to a gateway: `python -m bench.hostile` (minutes), `--short` (twenty seconds), `--only NAME`.

Wherever a provider is called, it gives each response of `bench.rogue`. Reported are the error's slug and whether anything was stored, how
long the caller waited, and how far the process's memory went up. Ends with 1 where a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import psutil

from bench import rogue
from bench.places import PLACES, REGISTRATIONS, Caller, Hostile, Place
from bench.readers import gateway
from bench.stage import staged

BOUNDS = {"seconds": 10.0, "mb": 20.0}
SHORT_BOUNDS = BOUNDS | {"seconds": 15.0}
"""The short form may share its cores with anything. Without a bound, the slow responses take a minute."""
SHORT = {
    "token, connect": ("300 MB chunked", "gzip of 60 MB in 60 KB", "32,000 nested lists", "silence"),
    "token, refresh": ("60 KB of one-letter lists", "a token of 4 MB", "a drip in the headers"),
    "account, connect": ("1xx for ever",),
    "account, check": ("300 MB until close", "silence half-way"),
    "keys": ("100 keys", "silence"),
    "id_token": ("a header of 60 KB",),
    "metadata": ("endless header lines", "another issuer"),
    "revocation": ("64,000 one-byte chunks", "reset"),
}  # fmt: skip
SHORT_REGISTRATIONS = {"k": 100, "d": 100}
"""A gateway reads them all when it starts."""
TIMES = 3
_AT_ONCE, _PAUSE_SECONDS = 12, 2.1
"""What an issuer publishes is kept, or not asked for again at once: so many issuers, and a new gateway after so many answers."""
_UNUSED = 60
"""Of them, kept for the calls that are judged."""


@dataclass
class Row:
    """The result of one response at one place: the slug, the longest, the median and the most of TIMES."""

    place: str
    answer: str
    slug: str = "?"
    seconds: float = 0.0
    mb: float = 0.0
    worst_mb: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        figures = f"{self.seconds:7.2f} s{self.mb:7.1f} MB{self.worst_mb:7.1f} MB"
        return f"{self.place:18}{self.answer:32}{self.slug or '-':22}{figures}  {'; '.join(dict.fromkeys(self.broken))}"


class Run:
    """One gateway process."""

    def __init__(self, stage: Hostile, port: int) -> None:
        self.stage, self.port = stage, port
        main = next(each for each in psutil.Process().children() if str(port) in each.cmdline())
        self._proc = Path(f"/proc/{max([main, *main.children()], key=lambda each: each.memory_info().rss).pid}")
        named = {kind: [f"{kind}{number:03}" for number in range(most)] for kind, most in REGISTRATIONS.items()}
        self._unused = {kind: names[:_UNUSED] for kind, names in named.items()}
        self._used = {kind: deque((name, 0.0) for name in names[_UNUSED:]) for kind, names in named.items()}

    async def registration(self, kind: str, *, unused: bool = False) -> str:
        """One that nobody was asked for yet, or the one that was asked for longest ago."""
        if kind == "p":
            return "p000"
        if unused:
            return self._unused[kind].pop()
        who, at = self._used[kind].popleft()
        await asyncio.sleep(max(0.0, at + _PAUSE_SECONDS - time.monotonic()))
        self._used[kind].append((who, time.monotonic()))
        return who

    async def caller(self, place: Place, who: str = "p000", count: int = 1) -> Caller:
        """A new one."""
        return await Caller(self.stage, place).open(self.port, who, count)

    async def warm(self) -> None:
        """Every thread has had an answer in hand, and every place was asked; by small ones, whose memory hides nothing."""
        callers = [await self.caller(PLACES["token, connect"]) for _ in range(40)]
        for _ in range(4):
            await asyncio.gather(*(each.ask("p000") for each in callers))
        for place in PLACES.values():
            await (await self.caller(place)).ask(await self.registration(place.kind))
        for each in callers:
            await each.close()

    async def once(self, row: Row, caller: Caller, who: str) -> None:
        """One answer, judged by what is said and by what stands then."""
        place, before, connection = PLACES[row.place], caller.stands(), caller.rows[-1]
        began = time.monotonic()
        row.slug = await asyncio.wait_for(caller.ask(who), 60)
        row.seconds = max(row.seconds, time.monotonic() - began)
        after = caller.stands()
        if row.slug != place.slug(row.answer):
            row.broken.append(f"ended with {row.slug or 'success'}, not {place.slug(row.answer) or 'success'}")
        if place.verb == "DELETE ":
            queued = self.stage.sql("select 1 from gateway.revocation where connection_id = %s", connection)
            if any(connection in each for each in after) or len(queued) != (row.slug == "queued"):
                row.broken.append("what stands does not fit the receipt")
        elif row.slug not in (rogue.STANDS, "needs_reauthorization") and before != after:
            row.broken.append("something was stored")

    def mb(self, name: str) -> float:
        """A line of the server's /proc/<pid>/status. Before VmRSS is read, VmHWM is made to start from it (proc(5))."""
        if name == "VmRSS":
            (self._proc / "clear_refs").write_text("5")
        return int((self._proc / "status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


# -- measured --------------------------------------------------------------------------------------------------------


async def quick(run: Run, rows: Sequence[Row]) -> None:
    """Answers that are over at once, each alone, TIMES."""
    for row in rows:
        place, used = PLACES[row.place], []
        run.stage.plan("*", row.place, row.answer)
        given = run.stage.control("stats")["given"]
        caller = await run.caller(place, count=TIMES)
        for _ in range(TIMES):
            who, before = await run.registration(place.kind, unused=True), run.mb("VmRSS")
            await run.once(row, caller, who)
            used.append(run.mb("VmHWM") - before)
        if run.stage.control("stats")["given"] < given + TIMES:
            row.broken.append("the answer was not fetched each time")
        row.mb, row.worst_mb = median(used), max(used)
        await caller.close()
        run.stage.control("forget")
        print(row, file=sys.stderr, flush=True)


async def slow(run: Run, rows: Sequence[Row]) -> None:
    """Answers that take their time: all of them at once, so that what one of them costs is less than what is told."""
    calls = []
    for number, row in enumerate(rows, 2):
        place = PLACES[row.place]
        who = f"p{number:03}" if place.kind == "p" else await run.registration(place.kind)
        run.stage.plan(who, row.place, row.answer)
        calls.append((row, await run.caller(place, who), who))
    before = run.mb("VmRSS")
    await asyncio.gather(*(run.once(*call) for call in calls))
    used = run.mb("VmHWM") - before
    for row, caller, _ in calls:
        row.mb, row.worst_mb = max(row.mb, used), max(row.worst_mb, used)
        await caller.close()
    run.stage.control("forget")


Step = Callable[[Run, Sequence[Row]], Awaitable[None]]


def before_a_gateway(stage: Hostile, *steps: tuple[Step, Sequence[Row]]) -> None:
    """The steps, with a new warm process."""

    async def worked() -> None:
        await run.warm()
        for step, rows in steps:
            await step(run, rows)

    with gateway(stage, 1) as port:
        run = Run(stage, port)
        asyncio.run(worked())


def measure(rows: Sequence[Row], *, short: bool) -> None:
    """Everything; `short`: with one gateway, once."""
    if short:
        REGISTRATIONS.update(SHORT_REGISTRATIONS)
    slowly = [row for row in rows if row.answer in rogue.SLOW]
    at_once = [row for row in rows if row.answer not in rogue.SLOW]
    with staged(Hostile, "bench.rogue") as stage:
        if short:
            before_a_gateway(stage, (slow, slowly), (quick, at_once))
        else:
            before_a_gateway(stage, *[(slow, slowly)] * (TIMES if slowly else 0))
            for batch in _batches(at_once):
                before_a_gateway(stage, (quick, batch))
        if stage.control("stats")["elsewhere"]:
            rows[0].broken.append("a redirect was followed")
    for row in rows:
        judged = [(name, getattr(row, name), most) for name, most in (SHORT_BOUNDS if short else BOUNDS).items()]
        row.broken += [f"{found:.2f} {name}" for name, found, most in judged if found > most]


def _batches(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """By the need for a new gateway."""
    plain = [row for row in rows if PLACES[row.place].kind == "p"]
    # What is believed is kept, and comes last.
    issued = [sorted((row for row in rows if PLACES[row.place].kind == kind), key=_is_kept) for kind in "kd"]
    yield from filter(
        None, [plain, *(some[at : at + _AT_ONCE] for some in issued for at in range(0, len(some), _AT_ONCE))]
    )


def _is_kept(row: Row) -> bool:
    """Whether the gateway would not ask the issuer again."""
    return row.answer in rogue.IN_KEYS or PLACES[row.place].answers[row.answer][1] == rogue.STANDS


def table(rows: Sequence[Row]) -> None:
    """Print everything, then the worst of each kind, then the failures."""
    print(*rows, sep="\n")
    for name in BOUNDS:
        print(f"\nThe worst by {name}:", *sorted(rows, key=lambda row, name=name: -getattr(row, name))[:15], sep="\n")
    broken = [row for row in rows if row.broken]
    print(f"\n{len(broken)} of {len(rows)} break a bound", *broken, sep="\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostile", description=__doc__.splitlines()[1])
    parser.add_argument("--short", action="store_true", help="two dozen responses")
    parser.add_argument("--only", metavar="NAME", default="", help="answers or places with that in their name")
    parser.add_argument("--json", action="store_true", help="the rows for a program")
    given = parser.parse_args()
    rows = [
        Row(name, answer)
        for name, place in PLACES.items()
        for answer in place.answers
        if given.only in f"{name}: {answer}"
    ]
    rows = [row for row in rows if row.answer in SHORT[row.place] or not given.short]
    measure(rows, short=given.short)
    print(json.dumps([asdict(row) for row in rows], indent=1)) if given.json else table(rows)
    sys.exit(any(row.broken for row in rows))


if __name__ == "__main__":
    main()
