"""What a process has used so far: CPU and memory, all its threads, from /proc."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    resident_kib: int
    peak_kib: int


def cpu_s(pid: int) -> float:
    """User and system seconds of all threads, also of those that ended."""
    # The second field is the command in parentheses, which may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S


def memory(pid: int) -> Memory:
    values = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            values[name] = int(value.split()[0])
    return Memory(resident_kib=values["VmRSS"], peak_kib=values["VmHWM"])


def wait_until_idle(pid: int, *, timeout_s: float = 20.0) -> float:
    """Waits until the process uses next to no CPU; gives how long it was still busy."""
    began = time.monotonic()
    busy_until, before = began, cpu_s(pid)
    while time.monotonic() - began < timeout_s:
        time.sleep(0.1)
        now = cpu_s(pid)
        if now - before > 0.02:
            busy_until = time.monotonic()
        elif time.monotonic() - busy_until >= 0.3:
            break
        before = now
    return busy_until - began
