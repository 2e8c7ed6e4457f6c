"""
The machine: cores, and the CPU time of a server.

The server has one core for itself; clients, provider and database share the other. Linux only: other systems do not pin processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2
"""Of the kernel's clock ids: what the scheduler charged a process, to the nanosecond (`clock_getcpuclockid`)."""


@dataclass(frozen=True)
class Cores:
    """The server's core and the core of all others; the same if there is only one."""

    server: int
    others: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first and the last core that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[-1])

    def settle(self) -> None:
        """Move this process and its future children off the server's core."""
        os.sched_setaffinity(0, {self.others})

    @contextmanager
    def for_a_server(self) -> Iterator[None]:
        """Processes started inside run on the server's core: affinity is inherited."""
        os.sched_setaffinity(0, {self.server})
        try:
            yield
        finally:
            self.settle()


@dataclass(frozen=True)
class Spent:
    """One reading, in seconds: CPU of a server's processes, busy time of its core, and elapsed time."""

    cpu: float
    busy: float
    wall: float

    @classmethod
    def now(cls, pid: int, core: int) -> Spent:
        """The reading for the process `pid` with all its children."""
        return cls(cpu_seconds(pid), _busy_seconds(core), time.monotonic())

    def since(self, before: Spent) -> Spent:
        """The difference to `before`."""
        return Spent(self.cpu - before.cpu, self.busy - before.busy, self.wall - before.wall)

    @property
    def foreign(self) -> float:
        """The share of the time in which other processes used the core."""
        return max(0.0, self.busy - self.cpu) / self.wall if self.wall else 0.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a process tree, including ended threads."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    return sum(time.clock_gettime_ns((~process.pid << 3) | _CPUCLOCK_SCHED) for process in tree) / 1e9


def stolen_seconds() -> float:
    """Steal time of all cores, from /proc/stat."""
    return int(Path("/proc/stat").read_text("ascii").split("\n", 1)[0].split()[8]) / _TICKS_PER_SECOND


def _busy_seconds(core: int) -> float:
    """Busy time of a core, from /proc/stat (proc(5)): user, nice, system, irq, softirq, steal."""
    line = next(row for row in Path("/proc/stat").read_text("ascii").splitlines() if row.startswith(f"cpu{core} "))
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND


def describe() -> str:
    """The machine in a line, for the table's head."""
    model = next((row.split(":", 1)[1].strip() for row in _cpuinfo() if row.startswith("model name")), "unknown")
    return f"{model}, {os.cpu_count()} cores, Linux {os.uname().release}"


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text("utf-8").splitlines()
