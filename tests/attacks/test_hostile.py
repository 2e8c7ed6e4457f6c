"""
Hostile responses wherever a provider is called, against a gateway process: the short form of `python -m bench.hostile`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are told by Linux only"),
]


def test_a_hostile_answer_has_its_slug_stores_nothing_and_costs_little_time_and_memory():
    """
    Each over within ten seconds (fifteen on a loaded machine), at most twenty megabytes above what stood before, and nothing half-done: whatever was sent, and where.
    """
    command = [sys.executable, "-m", "bench.hostile", "--short", "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550, check=False)

    assert run.stdout, run.stderr
    rows = json.loads(run.stdout)
    assert [] == [f"{row['place']}: {row['answer']}: {', '.join(row['broken'])}" for row in rows if row["broken"]]
    assert 0 == run.returncode
    assert {"connect", "refresh", "check"} < {row["place"].rpartition(", ")[2] for row in rows}
