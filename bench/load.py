"""The loads in C: mqttload of bench/ingest, fanload of bench/fanout; made when not there yet."""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.machine import Cores

_LINE = re.compile(r"^(\d+) msg/s  \(n=(\d+), ([\d.]+)s.*p50=(\d+)us p99=(\d+)us")
_FAN_LINE = re.compile(
    r"^\d+ deliveries/s n=(\d+) ([\d.]+)s p50=(\d+)us p99=(\d+)us disordered=(\d+)"
)
_AWAY_LINE = re.compile(
    r"^(\d+) messages ([\d.]+) s, first ([\d.]+) s, disordered=(\d+) extra=(\d+) done=(\d+)"
)
_SPARE_DESCRIPTORS = 256


class LoadFailed(Exception):
    """The load ended before its time; the text has what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the load does. At QoS 0 a window is only the unit of writing."""

    qos: int
    connections: int
    window: int
    payload_bytes: int = 64

    @property
    def name(self) -> str:
        return f"QoS {self.qos}, {self.connections} x {self.window}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """`count`: acknowledged (QoS 1), or given to the kernel (QoS 0), in `took_s`."""

    count: int
    took_s: float
    p50_us: int
    p99_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FanShape:
    """`window`: messages of each publisher that may be on their way. `paired`: subscriber n has
    only what publisher n sends; else every subscriber has everything."""

    qos: int
    publishers: int
    subscribers: int
    window: int
    paired: bool = False
    payload_bytes: int = 64

    @property
    def name(self) -> str:
        pairs = " pairs" if self.paired else ""
        return f"{self.publishers} to {self.subscribers}{pairs}, {self.window} in flight"


def build_load(directory: Path, name: str = "mqttload", *, is_library: bool = False) -> Path:
    """The program bench/NAME.c. Raises LoadFailed where there is no C compiler."""
    source = Path(__file__).with_name(f"{name}.c")
    program = directory / name
    flags = ("-O2", "-shared", "-fPIC") if is_library else ("-O2",)
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LoadFailed("no C compiler for the load; sudo apt-get install gcc libc6-dev")
    subprocess.run([compiler, *flags, "-o", str(program), str(source)], check=True)
    return program


def raise_descriptor_limit(connections: int) -> None:
    """For this process and those it starts. Raises LoadFailed where the hard limit is too low."""
    wanted = connections + _SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise LoadFailed(f"{wanted} file descriptors are needed, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_load(program: Path, port: int, shape: Shape, seconds: float, cores: Cores) -> LoadResult:
    """Raises LoadFailed when it was refused or dropped."""
    numbers = (port, shape.connections, shape.window, shape.qos, shape.payload_bytes, seconds)
    match = _run(program, numbers, shape.name, seconds, cores, _LINE)
    rate, count, _, p50, p99 = match.groups()
    # The line rounds the time to a tenth; count / rate is exact.
    took_s = int(count) / int(rate) if int(rate) else seconds
    return LoadResult(count=int(count), took_s=took_s, p50_us=int(p50), p99_us=int(p99))


def run_fan(program: Path, port: int, shape: FanShape, seconds: float, cores: Cores) -> LoadResult:
    """`count`: deliveries. Raises LoadFailed when it was refused, dropped, or had messages twice,
    out of order or not at all."""
    numbers = (port, shape.publishers, shape.subscribers, shape.window, shape.qos)
    more = (shape.payload_bytes, seconds, int(shape.paired))
    match = _run(program, (*numbers, *more), shape.name, seconds, cores, _FAN_LINE)
    count, took_s, p50, p99, disordered = match.groups()
    if int(disordered):
        raise LoadFailed(f"{shape.name}: {disordered} deliveries out of order, or twice")
    return LoadResult(count=int(count), took_s=float(took_s), p50_us=int(p50), p99_us=int(p99))


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayClients:
    """Clients of persistent sessions, or of none (`replay`). `topic_filter`: %u is the client's
    number; `expected_count`: messages that each waits for; `are_numbered`: payloads say their
    place, and what is twice or out of order fails the bench."""

    name: str
    count: int
    qos: int
    topic_filter: str
    expected_count: int = 0
    are_numbered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AwayResult:
    """`took_s`: until the last client had its last message; `first_s`: until the first had."""

    count: int
    took_s: float
    first_s: float


def run_away(
    program: Path, port: int, action: str, clients: AwayClients, seconds: float, cores: Cores
) -> AwayResult:
    """`action`: leave, return or replay. Raises LoadFailed when it was refused or dropped, had not
    all in `seconds`, or had messages twice or out of order."""
    numbers = (action, clients.count, clients.qos, clients.expected_count, seconds)
    arguments = (port, *numbers, clients.topic_filter, clients.name)
    name = f"{clients.count} clients {action}"
    match = _run(program, arguments, name, seconds, cores, _AWAY_LINE)
    count, took_s, first_s, disordered, extra, _ = match.groups()
    if clients.are_numbered and (int(disordered) or int(extra)):
        raise LoadFailed(f"{name}: {disordered} out of order or twice, {extra} too many")
    return AwayResult(count=int(count), took_s=float(took_s), first_s=float(first_s))


def _run(
    program: Path,
    numbers: tuple[float | str, ...],
    name: str,
    seconds: float,
    cores: Cores,
    line: re.Pattern[str],
) -> re.Match[str]:
    command = [*cores.pin_load(), str(program), *map(str, numbers)]
    finished = subprocess.run(command, capture_output=True, timeout=seconds + 60)
    output = finished.stdout.decode()
    match = line.match(output)
    if finished.returncode != 0 or match is None:
        error = finished.stderr.decode().strip()
        raise LoadFailed(f"{name}: exit {finished.returncode}: {error or output}")
    return match
