"""What a figure was measured on, and which core runs what."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
_PROBE_COUNT = 200
_PROBE_BYTES = 4096
_NOT_A_DISK = ("tmpfs", "ramfs", "overlay")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """The core of the server under test, and that of the load, of brokers and of this harness."""

    server: int
    load: int

    def pin_server(self) -> tuple[str, ...]:
        """The command prefix that runs something on the server's core."""
        return _taskset(self.server)

    def pin_load(self) -> tuple[str, ...]:
        return _taskset(self.load)

    def pin_harness(self) -> None:
        """Moves this process, and by inheritance what it starts unpinned, off the server's core."""
        os.sched_setaffinity(0, {self.load})


def choose_cores() -> Cores:
    """First and last core we may use; one core for both is said in the report, not hidden."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(server=allowed[0], load=allowed[-1])


def _taskset(core: int) -> tuple[str, ...]:
    program = shutil.which("taskset")
    return (program, "-c", str(core)) if program else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything a reader needs to judge a figure."""

    cpu: str
    core_count: int
    memory_mib: int
    kernel: str
    system: str
    disk: str
    fdatasync_us: str
    python: str
    uvloop: str
    revision: str
    began: str
    load_average: str
    cores: Cores

    def rows(self) -> list[tuple[str, str]]:
        pinned = f"server on core {self.cores.server}, load on core {self.cores.load}"
        if self.cores.server == self.cores.load:
            pinned += " (ONE core for both: these figures are too low)"
        return [
            ("cpu", f"{self.cpu}, {self.core_count} cores, {self.memory_mib} MiB"),
            ("kernel", f"{self.kernel}, {self.system}"),
            ("disk", f"{self.disk}, append of {_PROBE_BYTES} B + fdatasync: {self.fdatasync_us}"),
            ("python", f"{self.python}, uvloop {self.uvloop}"),
            ("revision", self.revision),
            ("began", f"{self.began}, load average {self.load_average}"),
            ("pinned", pinned),
        ]

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def describe(directory: Path) -> Machine:
    """`directory` is where the data of the run goes; its disk is probed for two seconds at most."""
    cpu = _first_line("/proc/cpuinfo", "model name")
    memory_kib = int(_first_line("/proc/meminfo", "MemTotal").split()[0])
    return Machine(
        cpu=cpu or platform.processor(),
        core_count=os.cpu_count() or 1,
        memory_mib=memory_kib // 1024,
        kernel=platform.release(),
        system=_system(),
        disk=_file_system(directory),
        fdatasync_us=_probe_disk(directory),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        uvloop=_version("uvloop"),
        revision=_revision(),
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        load_average=f"{os.getloadavg()[0]:.2f}",
        cores=choose_cores(),
    )


def work_directory(given: Path | None) -> Path:
    """Where the data goes: not /tmp, which is memory on many machines."""
    directory = given or _CHECKOUT / ".cache" / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _first_line(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _file_system(directory: Path) -> str:
    best, kind, source = "", "unknown", "unknown"
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, file_system, *_ = line.split()
        inside = directory.resolve().is_relative_to(point)
        if inside and len(point) >= len(best):
            best, kind, source = point, file_system, device
    warning = " (NOT a disk: fdatasync costs nothing here)" if kind in _NOT_A_DISK else ""
    return f"{kind} on {source}{warning}"


def _probe_disk(directory: Path) -> str:
    path = directory / "probe"
    took_us = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, _PROBE_COUNT * _PROBE_BYTES)
        os.fsync(descriptor)
        deadline = time.monotonic() + 2.0
        for index in range(_PROBE_COUNT):
            began = time.perf_counter()
            os.pwrite(descriptor, os.urandom(_PROBE_BYTES), index * _PROBE_BYTES)
            os.fdatasync(descriptor)
            took_us.append((time.perf_counter() - began) * 1e6)
            if time.monotonic() > deadline:
                break
    finally:
        os.close(descriptor)
        path.unlink()
    took_us.sort()
    return (
        f"median {statistics.median(took_us):.0f} µs, p99 {took_us[len(took_us) * 99 // 100]:.0f}"
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    git = ["git", "-C", str(_CHECKOUT)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return "unknown"
    suffix = " with changes" if changed.stdout.strip() else ""
    return head.stdout.decode().strip() + suffix
