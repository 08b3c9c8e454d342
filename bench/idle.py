"""What ten thousand connections cost that do nothing, and what they do to the one that works.

Memory: a fresh server, then that many connected clients without traffic; the growth of its resident
memory for each.

Latency: one good device publishes at QoS 1, one message at a time, alone on a fresh server; then
beside a crowd of as many connections: half-open CONNECTs that trickle in, clients that say nothing
once connected, subscribers that do not read what they are sent (`bench.crowd`).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.crowd import crowd
from bench.ingest import MakeServer
from bench.load import Shape, build_load, raise_descriptor_limit, run_load
from bench.machine import Cores, choose_cores
from bench.process_cost import memory, wait_until_idle
from bench.report import Report, Sample, Table, begin, parser
from bench.servers import GatewayServer, MosquittoServer
from tests.rigs.needs import find_program

_ASKED_KIB = 12.0
_ASKED_P99_RATIO = 2.0
_GOOD_DEVICE = Shape(qos=1, connections=1, window=1)
_SPARE_CONNECTIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    p50_us: float
    p99_us: float
    resident_kib: float


def cost_of_idle(make: MakeServer, count: int, cores: Cores) -> tuple[str, float]:
    """KiB of resident memory for each connection."""
    server = make()
    server.start()
    try:
        wait_until_idle(server.pid)
        before_kib = memory(server.pid).resident_kib
        with crowd(server.port, cores, idle=count):
            wait_until_idle(server.pid)
            used_kib = memory(server.pid).resident_kib - before_kib
    finally:
        server.finish(0)
    return server.name, used_kib / count


def latency(
    make: MakeServer, count: int, seconds: float, program: Path, cores: Cores
) -> tuple[str, Latency, Latency]:
    """Of the good device, alone and then beside the crowd, on one server."""
    server = make()
    server.start()
    try:
        wait_until_idle(server.pid)
        alone = _good_device(server.pid, server.port, seconds, program, cores)
        third = count // 3
        kinds = {"half": count - 2 * third, "silent": third, "stuck": third}
        with crowd(server.port, cores, **kinds):
            beside = _good_device(server.pid, server.port, seconds, program, cores)
    finally:
        server.finish(0)
    return server.name, alone, beside


def _good_device(pid: int, port: int, seconds: float, program: Path, cores: Cores) -> Latency:
    load = run_load(program, port, _GOOD_DEVICE, seconds, cores)
    return Latency(p50_us=load.p50_us, p99_us=load.p99_us, resident_kib=memory(pid).resident_kib)


def memory_table(idle: dict[str, list[float]], count: int) -> Table:
    table = Table(
        f"{count:,} idle connections: median (lowest-highest)", ("server", "KiB a connection")
    )
    for name, values in idle.items():
        table.add(name, Sample.of(values).shown(digits=2))
    table.notes.append("growth of the server's resident memory; the kernel's buffers are not in it")
    return table


def latency_table(taken: dict[str, list[tuple[Latency, Latency]]], count: int) -> Table:
    table = Table(
        f"PUBACK latency of one good device: median (lowest-highest), beside {count:,} others",
        ("server", "beside it", "p50 ms", "p99 ms", "resident MiB"),
    )
    for name, pairs in taken.items():
        for which, label in enumerate(("nobody", "half-open, silent, not reading")):
            each = [pair[which] for pair in pairs]
            table.add(
                name,
                label,
                Sample.of(one.p50_us for one in each).shown(digits=2, scale=1e-3),
                Sample.of(one.p99_us for one in each).shown(digits=2, scale=1e-3),
                Sample.of(one.resident_kib for one in each).shown(scale=1 / 1024),
            )
    table.notes.append("sluicegate: with fdatasync before PUBACK; mosquitto: in memory")
    return table


def asked_table(
    idle: dict[str, list[float]], taken: dict[str, list[tuple[Latency, Latency]]], count: int
) -> Table:
    """What the project asks of itself, beside what came out. It decides nothing here."""
    table = Table(
        "Asked and measured, idle and slow connections", ("what", "asked", "measured", "met")
    )
    for name, values in idle.items():
        if name != MosquittoServer.name:
            worst = max(values)
            table.add(
                f"KiB an idle connection, of {count:,}",
                f"< {_ASKED_KIB:.0f}",
                f"{worst:.2f}",
                "yes" if worst < _ASKED_KIB else "NO",
            )
    for name, pairs in taken.items():
        if name != MosquittoServer.name:
            alone = Sample.of(pair[0].p99_us for pair in pairs).median
            ratio = Sample.of(pair[1].p99_us for pair in pairs).median / alone
            table.add(
                f"p99 PUBACK beside {count:,} slow connections, x alone",
                f"<= {_ASKED_P99_RATIO:.0f}",
                f"{ratio:.2f}",
                "yes" if ratio <= _ASKED_P99_RATIO else "NO",
            )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    report, directory = begin("idle", arguments)
    directory = directory / "idle"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    count: int = arguments.connections
    raise_descriptor_limit(count + _SPARE_CONNECTIONS)
    cores = choose_cores()
    more_config = f"[limits]\nconnections_max = {count + _SPARE_CONNECTIONS}\n"
    servers: list[MakeServer] = [
        lambda: GatewayServer(directory, cores, partition_count=4, more_config=more_config)
    ]
    if find_program("mosquitto") is not None and not arguments.no_peer:
        servers.insert(0, lambda: MosquittoServer(directory, cores))
    idle, taken = measure_all(report, servers, arguments, build_load(directory.parent), cores)
    report.table(memory_table(idle, count))
    report.table(latency_table(taken, count))
    report.table(asked_table(idle, taken, count))
    report.finish()
    shutil.rmtree(directory)


def measure_all(
    report: Report,
    servers: Sequence[MakeServer],
    arguments: argparse.Namespace,
    program: Path,
    cores: Cores,
) -> tuple[dict[str, list[float]], dict[str, list[tuple[Latency, Latency]]]]:
    count, seconds = arguments.connections, arguments.seconds
    idle: dict[str, list[float]] = {}
    taken: dict[str, list[tuple[Latency, Latency]]] = {}
    for repetition in range(arguments.repetitions):
        for make in servers:
            name, kib = cost_of_idle(make, count, cores)
            idle.setdefault(name, []).append(kib)
            report.progress(f"#{repetition + 1} {name}: {kib:.2f} KiB an idle connection")
            report.measured(server=name, repetition=repetition, idle_kib=round(kib, 3))
            name, alone, beside = latency(make, count, seconds, program, cores)
            taken.setdefault(name, []).append((alone, beside))
            report.progress(
                f"#{repetition + 1} {name}: p99 {alone.p99_us:.0f} µs alone, {beside.p99_us:.0f} "
                f"beside the crowd, {beside.resident_kib / 1024:.0f} MiB"
            )
            report.measured(
                server=name,
                repetition=repetition,
                alone_p50_us=alone.p50_us,
                alone_p99_us=alone.p99_us,
                beside_p50_us=beside.p50_us,
                beside_p99_us=beside.p99_us,
                beside_resident_kib=beside.resident_kib,
            )
    return idle, taken


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--connections", type=int, default=None, help="idle, and slow ones")
    made.add_argument("--seconds", type=float, default=None, help="of the good device, each time")
    made.add_argument("--no-peer", action="store_true", help="without mosquitto")
    arguments = made.parse_args(argv)
    if arguments.connections is None:
        arguments.connections = 300 if arguments.quick else 10_000
    if arguments.seconds is None:
        arguments.seconds = 0.5 if arguments.quick else 8.0
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    return arguments


if __name__ == "__main__":
    main()
