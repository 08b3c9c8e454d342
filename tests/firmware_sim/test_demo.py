"""`./demo` as a new user meets it: the exit status, the time, and what is left behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "firmware-sim", "demo"]
SECONDS_MAX = 90


def children(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    """The gateway and the upstream, by now."""
    found: list[psutil.Process] = psutil.Process(demo.pid).children(recursive=True)
    assert len(found) == 2, found
    return found


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def start(tmp_path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"TMPDIR": str(tmp_path), "HOME": str(Path.home()), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.e2e
def test_the_demo_loses_nothing_and_says_so_in_time(tmp_path: Path) -> None:
    began_s = time.monotonic()
    demo = start(tmp_path)
    output, _ = demo.communicate(timeout=150)
    took_s = time.monotonic() - began_s
    assert demo.returncode == 0, output
    assert "nothing acknowledged was lost" in output, output
    assert output.count("(SIGKILL)") == 2
    assert "demo upstream (Tansu, embedded; not Apache Kafka)" in output
    assert "Traceback" not in output
    assert took_s < SECONDS_MAX
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    demo = start(tmp_path)
    time.sleep(6)
    started = children(demo)
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert "Traceback" not in output
    assert "every process of the demo has ended" in output
    assert list(tmp_path.iterdir()) == []
    assert living(started) == []


@pytest.mark.e2e
def test_not_even_a_killed_demo_leaves_processes_behind(tmp_path: Path) -> None:
    demo = start(tmp_path)
    time.sleep(6)
    started = children(demo)
    demo.kill()
    demo.wait()
    deadline_s = time.monotonic() + 5
    while living(started) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert living(started) == []
