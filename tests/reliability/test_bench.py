"""
The promises that the bench measures, in a short form: only ratios, because machines differ. One quick run serves all
tests; a run in which a ratio misses its bound is repeated, because other processes add to the CPU of both sides unevenly. Counts are
exact in each run. Published figures come from `python -m bench.connect`, see bench/README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are pinned on Linux only"),
    pytest.mark.timeout(700),
]


RUNS = 3
"""So often a ratio is measured before it fails. A regression misses its bound in each."""


def measured(module: str, *options: str) -> dict:
    """What a run of a few short rounds says, as JSON. A response that is not the expected one ends the run."""
    command = [sys.executable, "-m", module, "--flows", "16", *options, "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@dataclass
class Bench:
    """The runs of one bench: one, or more where a ratio missed its bound."""

    run: Callable[[], dict]
    runs: list[dict] = field(default_factory=list)

    @property
    def counted(self) -> dict:
        """Any run, for what does not depend on the speed of the machine."""
        if not self.runs:
            self.runs.append(self.run())
        return self.runs[0]

    def best(self, ratio: Callable[[dict], float], *, above: float) -> float:
        """The best ratio of up to three runs; the first one above the bound ends them."""
        while (best := max(map(ratio, self.runs), default=0)) <= above and len(self.runs) < RUNS:
            self.runs.append(self.run())
        return best


def by_hand(name: str, step: str) -> Callable[[dict], float]:
    """What a step costs by hand, in multiples of the gateway's. Both by their cheapest round: other processes only add to a round."""

    def ratio(figures: dict) -> float:
        return row(figures, name, step)["least_us"] / row(figures, "gateway", step)["least_us"]

    return ratio


def row(figures: dict, who: str, step: str) -> dict:
    (found,) = [each for each in figures["rows"] if who in each["who"] and each["step"] == step]
    return found


@pytest.fixture(scope="module")
def connects() -> Bench:
    return Bench(lambda: measured("bench.connect", "--rounds", "5"))


def test_a_callback_over_https_costs_a_fraction_of_the_hand_written_one(connects):
    """
    A fourteenth on a quiet machine (bench/README.md); a fifth holds on a loud one.
    """
    assert connects.best(by_hand("Authlib", "callback"), above=5) > 5


def test_an_exchange_opens_no_tls_connection(connects):
    """
    Kept connections serve them all, where the hand-written route shakes hands for each.
    """
    assert row(connects.counted, "gateway", "callback")["tls_per_request"] < 0.1
    assert 1 == row(connects.counted, "Authlib", "callback")["tls_per_request"]


def test_a_connect_that_stores_its_state_costs_about_as_much_as_one_that_does_not(connects):
    """
    The hand-written route keeps state in a cookie; the gateway writes a row, checks session and form, and logs the request. 0.94 of its CPU on
    a quiet machine (bench/README.md, where the aim is 0.8); at most 1.5 times holds on a loud one.
    """
    assert connects.best(by_hand("Authlib", "connect"), above=0.67) > 0.67


@pytest.fixture(scope="module")
def reads() -> Bench:
    return Bench(lambda: measured("bench.reads", "--rounds", "3", "--connections", "100"))


def test_a_token_read_costs_at_most_twice_the_hand_written_one(reads):
    """
    That one looks a key up and decrypts; the gateway also checks reach, freeze and limits, records the read and writes an access line.
    The aim is 1.1 ×; server and Postgres together take 1.5 × (bench/README.md).
    """
    assert reads.best(by_hand("by hand", "read"), above=1 / 2) > 1 / 2


def test_a_token_read_is_one_statement_and_one_written_row(reads):
    """
    Key, reach, freezes, limits, row and record in one call; the count for the limits is written once a second.
    """
    ours = row(reads.counted, "gateway", "read")
    assert ours["statements"] == 1
    assert ours["rows_written"] < 1.2
    assert ours["wal_bytes"] < 400
    assert 0 < ours["postgres_us"]


# -- the proxy -------------------------------------------------------------------------------------------------------


def proxied() -> dict:
    from bench.proxy import measure

    affinity = os.sched_getaffinity(0)
    try:
        return measure(1, share=0.2)["ratios"]
    finally:
        os.sched_setaffinity(0, affinity)


def test_a_proxied_call_costs_about_as_much_as_by_hand():
    """
    Key, reach, limits, record and decryption included (bench/README.md): a few times the CPU of a proxy that looks nothing up, at most.
    """

    def worst_size(ratios: dict) -> float:
        return min(1 / size["cpu_us"] for size in ratios.values())

    assert Bench(proxied).best(worst_size, above=1 / 5) > 1 / 5


def test_an_agencys_locations_read_at_once_by_two_processes_are_minted_once_each():
    """
    Four readers of each of thirty locations; the published run has 500 locations, 300 of them read by four processes.
    """
    command = [sys.executable, "-m", "bench.agency", "--locations", "40", "--read", "30", "--readers", "4"]
    run = subprocess.run(
        [*command, "--processes", "2", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=200, check=False
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)

    assert (told["locations"], told["most_for_one"], told["tokens"]) == (30, 1, 30)
