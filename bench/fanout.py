"""Deliveries a second from publishers to subscribers, beside mosquitto.

The gateway hands a message on only after fdatasync, on a real file system. mosquitto stores
nothing: it runs without persistence, without limits on queues and in-flight messages, with
TCP_NODELAY. Each measurement is a fresh server and `fanload` on another core; a repetition takes
both servers in turn, so that what disturbs the machine disturbs them alike.

Publishers have a bounded number of messages on their way (all subscribers have to have one before
it counts as arrived), so nothing is flooded and nothing dropped: a message that did not come, came
twice or out of order fails the bench. Latency is that of a full window, not of a quiet broker.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ingest import MakeServer
from bench.load import FanShape, build_load, raise_descriptor_limit, run_fan
from bench.machine import Cores, choose_cores
from bench.process_cost import cpu_s, memory, wait_until_idle
from bench.report import NOTHING, Report, Sample, Table, begin, parser
from bench.servers import GatewayServer, MosquittoServer
from tests.rigs.needs import find_program

# publishers, subscribers, messages in flight of each publisher, subscriber n has publisher n's only
_SHAPES = (
    (1, 1, 200, False),
    (1, 10, 200, False),
    (1, 100, 200, False),
    (1, 1000, 200, False),
    (100, 1, 20, False),
    (100, 100, 20, False),
    (100, 100, 20, True),
)
# One message at a time waits for a fdatasync each time: for the record, nothing is asked.
_LONE_SHAPES = ((1, 1, 1, False), (1, 100, 1, False))
_QUICK_SHAPES = ((1, 10, 20, False), (5, 5, 20, True), (1, 1, 1, False))

_PARTITIONS = 4
_ASKED = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One server in one shape, once. Memory is that at the end, or of the peak."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    peak_kib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All repetitions of one server in one shape."""

    rate: Sample
    cpu_us: Sample
    p50_us: Sample
    p99_us: Sample
    peak_kib: Sample

    @classmethod
    def of(cls, taken: Sequence[Measurement]) -> Series:
        return cls(
            rate=Sample.of(each.rate for each in taken),
            cpu_us=Sample.of(each.cpu_us for each in taken),
            p50_us=Sample.of(each.p50_us for each in taken),
            p99_us=Sample.of(each.p99_us for each in taken),
            peak_kib=Sample.of(each.peak_kib for each in taken),
        )


Results = dict[FanShape, dict[str, Series]]


def measure(
    make: MakeServer, shape: FanShape, seconds: float, program: Path, cores: Cores
) -> tuple[str, Measurement]:
    server = make()
    server.start()
    try:
        pid = server.pid
        # What connecting and subscribing costs is no delivery's cost.
        before_s = cpu_s(pid)
        run_fan(program, server.port, shape, 0.0, cores)
        wait_until_idle(pid, timeout_s=5.0)
        connected_s = cpu_s(pid)
        load = run_fan(program, server.port, shape, seconds, cores)
        wait_until_idle(pid)
        used_s = cpu_s(pid) - connected_s - (connected_s - before_s)
        peak_kib = memory(pid).peak_kib
    finally:
        server.finish(0)
    return server.name, Measurement(
        rate=load.count / load.took_s,
        cpu_us=used_s * 1e6 / max(1, load.count),
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        peak_kib=peak_kib,
    )


def measure_all(
    report: Report,
    shapes: Sequence[FanShape],
    servers: Sequence[MakeServer],
    arguments: argparse.Namespace,
    program: Path,
) -> Results:
    cores = choose_cores()
    results: Results = {}
    for shape in shapes:
        taken: dict[str, list[Measurement]] = {}
        for repetition in range(arguments.repetitions):
            for make in servers:
                name, got = measure(make, shape, arguments.seconds, program, cores)
                taken.setdefault(name, []).append(got)
                report.progress(
                    f"QoS {shape.qos}, {shape.name} #{repetition + 1} {name}: "
                    f"{got.rate:,.0f} deliveries/s, {got.cpu_us:.2f} µs CPU"
                )
                report.measured(
                    shape=f"QoS {shape.qos}, {shape.name}",
                    server=name,
                    repetition=repetition,
                    **{key: round(getattr(got, key), 3) for key in Measurement.__slots__},
                )
        results[shape] = {name: Series.of(each) for name, each in taken.items()}
    return results


def rate_table(results: Results, qos: int) -> Table:
    table = Table(
        f"Fan-out, QoS {qos}, 64-byte payloads: median (lowest-highest)",
        (
            "publishers to subscribers",
            "server",
            "1,000 deliveries/s",
            "x mosquitto",
            "CPU µs/delivery",
            "p50 ms",
            "p99 ms",
            "peak MiB",
        ),
    )
    for shape, by_server in results.items():
        if shape.qos != qos:
            continue
        peer = by_server.get(MosquittoServer.name)
        for name, series in by_server.items():
            ratio = f"{series.rate.median / peer.rate.median:.2f}" if peer else NOTHING
            table.add(
                shape.name,
                name,
                series.rate.shown(scale=1e-3),
                ratio,
                series.cpu_us.shown(digits=2),
                series.p50_us.shown(digits=2, scale=1e-3),
                series.p99_us.shown(digits=2, scale=1e-3),
                series.peak_kib.shown(scale=1 / 1024),
            )
    table.notes.append("sluicegate: a message goes out once it is on disk; mosquitto: in memory")
    table.notes.append("p50, p99: from writing a message to its arrival at one subscriber")
    table.notes.append("pairs: each subscriber has one publisher's messages; else all have all")
    return table


def asked_table(results: Results) -> Table:
    """What the project asks of itself, beside what came out. It decides nothing here."""
    table = Table("Asked and measured, fan-out", ("what", "asked", "measured", "met"))
    for shape, by_server in results.items():
        peer = by_server.get(MosquittoServer.name)
        mine = [series for name, series in by_server.items() if name != MosquittoServer.name]
        if peer and mine and shape.window > 1:
            ratio = mine[0].rate.median / peer.rate.median
            table.add(
                f"QoS {shape.qos}, {shape.name}, x mosquitto",
                f">= {_ASKED}",
                f"{ratio:.2f}",
                "yes" if ratio >= _ASKED else "NO",
            )
    return table


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    report, directory = begin("fanout", arguments)
    directory = directory / "fanout"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    shapes = [
        FanShape(qos=qos, publishers=senders, subscribers=readers, window=window, paired=paired)
        for qos in arguments.qos
        for senders, readers, window, paired in (
            _QUICK_SHAPES if arguments.quick else (*_SHAPES, *_LONE_SHAPES)
        )
        if arguments.only in (None, f"{senders}x{readers}")
    ]
    raise_descriptor_limit(max(shape.publishers + shape.subscribers for shape in shapes))
    cores = choose_cores()
    servers: list[MakeServer] = [
        lambda: GatewayServer(directory, cores, partition_count=_PARTITIONS)
    ]
    if arguments.no_peer:
        report.progress("without a peer in the same run no ratio is shown")
    elif find_program("mosquitto") is None:
        report.progress(
            "mosquitto is not here, so there is no peer; sudo apt-get install mosquitto"
        )
    else:
        servers.insert(0, lambda: MosquittoServer(directory, cores))
    program = build_load(directory.parent, "fanload")
    results = measure_all(report, shapes, servers, arguments, program)
    for qos in arguments.qos:
        report.table(rate_table(results, qos))
    report.table(asked_table(results))
    report.finish()
    shutil.rmtree(directory)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=None, help="of load in each measurement")
    made.add_argument("--qos", type=int, nargs="+", default=[1, 0], choices=(0, 1))
    made.add_argument("--only", metavar="PxS", help="publishers x subscribers, such as 1x100")
    made.add_argument("--no-peer", action="store_true", help="without mosquitto, while tuning")
    arguments = made.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 0.5 if arguments.quick else 4.0
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    return arguments


if __name__ == "__main__":
    main()
