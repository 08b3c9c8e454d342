"""Messages a second from MQTT into the log, beside mosquitto.

The gateway acknowledges after fdatasync, on a real file system. mosquitto stores nothing: it runs
without persistence, without limits on queues and in-flight messages, with TCP_NODELAY. Each
measurement is a fresh server and `mqttload` on another core; a repetition takes all servers in
turn, so that what disturbs the machine disturbs them alike.

At QoS 1 a message counts when its PUBACK came. At QoS 0 nobody acknowledges, so what the server had
received in the end counts (the log's end offsets; mosquitto's $SYS), over the time of the load and
of what the server still had to do after it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Shape, build_load, raise_descriptor_limit, run_load
from bench.machine import Cores, choose_cores
from bench.peers import NatsServer, RumqttdServer, find_peer
from bench.process_cost import cpu_s, memory, wait_until_idle
from bench.report import NOTHING, Report, Sample, Table, begin, parser
from bench.servers import GatewayServer, MosquittoServer, Server
from tests.rigs.needs import find_program

_LOADS = ((1, 200), (100, 1), (100, 20), (1000, 1), (1000, 20))
_QUICK_LOADS = ((1, 200), (20, 1))
_PARTITION_COUNTS = (4, 16)

# What is asked of the gateway at QoS 1, as a multiple of mosquitto's rate, and of NATS's.
_ASKED = {(1, 200): 4.0, (100, 20): 4.0, (100, 1): 1.0, (1000, 1): 1.0}
_ASKED_NATS = 20.0
_MEMORY_ASKED_MIB = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One server under one load, once."""

    rate: float
    cpu_us: float
    p50_us: float
    p99_us: float
    peak_kib: float
    resident_kib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """All repetitions of one server under one load."""

    rate: Sample
    cpu_us: Sample
    p50_us: Sample
    p99_us: Sample
    peak_kib: Sample
    resident_kib: Sample

    @classmethod
    def of(cls, taken: Sequence[Measurement]) -> Series:
        return cls(
            rate=Sample.of(each.rate for each in taken),
            cpu_us=Sample.of(each.cpu_us for each in taken),
            p50_us=Sample.of(each.p50_us for each in taken),
            p99_us=Sample.of(each.p99_us for each in taken),
            peak_kib=Sample.of(each.peak_kib for each in taken),
            resident_kib=Sample.of(each.resident_kib for each in taken),
        )


MakeServer = Callable[[], Server]
Results = dict[Shape, dict[str, Series]]


def measure(
    make: MakeServer, shape: Shape, seconds: float, program: Path, cores: Cores
) -> tuple[str, Measurement]:
    server = make()
    server.start()
    sent_count = 0
    try:
        pid = server.pid
        connecting_s = cost_of_connecting(pid, program, server.port, shape, cores)
        cpu_before_s = cpu_s(pid) + connecting_s
        load = run_load(program, server.port, shape, seconds, cores)
        sent_count = load.count
        busy_s = wait_until_idle(pid)
        cpu_used_s = cpu_s(pid) - cpu_before_s
        used = memory(pid)
    finally:
        received = server.finish(sent_count)
    if shape.qos == 0:
        count, took_s = received, load.took_s + busy_s
    else:
        count, took_s = load.count, load.took_s
        if received < count:
            raise RuntimeError(f"{server.name}: {count} acknowledged, {received} received")
    return server.name, Measurement(
        rate=count / took_s,
        cpu_us=cpu_used_s * 1e6 / max(1, received),
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        peak_kib=used.peak_kib,
        resident_kib=used.resident_kib,
    )


def cost_of_connecting(pid: int, program: Path, port: int, shape: Shape, cores: Cores) -> float:
    """CPU seconds that these connections alone take, once the start is over: no message's cost."""
    wait_until_idle(pid, timeout_s=5.0)
    before_s = cpu_s(pid)
    run_load(program, port, shape, 0.0, cores)
    wait_until_idle(pid, timeout_s=5.0)
    return cpu_s(pid) - before_s


def measure_all(
    report: Report,
    shapes: Sequence[Shape],
    servers: Sequence[MakeServer],
    arguments: argparse.Namespace,
    program: Path,
    peers: Sequence[MakeServer],
) -> Results:
    cores = choose_cores()
    results: Results = {}
    for shape in shapes:
        taken: dict[str, list[Measurement]] = {}
        for repetition in range(arguments.repetitions):
            for make in servers:
                if shape.qos == 0 and make in peers:
                    continue  # nobody could say what they have received
                name, got = measure(make, shape, arguments.seconds, program, cores)
                taken.setdefault(name, []).append(got)
                report.progress(
                    f"{shape.name} #{repetition + 1} {name}: "
                    f"{got.rate:,.0f} msg/s, {got.cpu_us:.2f} µs CPU"
                )
                report.measured(
                    shape=shape.name, server=name, repetition=repetition, **_as_json(got)
                )
        results[shape] = {name: Series.of(each) for name, each in taken.items()}
    return results


def _as_json(got: Measurement) -> dict[str, float]:
    return {name: round(getattr(got, name), 3) for name in Measurement.__slots__}


def rate_table(results: Results, qos: int) -> Table:
    table = Table(
        f"QoS {qos}, 64-byte payloads: median (lowest-highest)",
        (
            "connections x in flight",
            "server",
            "1,000 msg/s",
            "x mosquitto",
            "CPU µs/msg",
            "ack p50 ms",
            "ack p99 ms",
        ),
    )
    for shape, by_server in results.items():
        if shape.qos != qos:
            continue
        peer = by_server.get(MosquittoServer.name)
        for name, series in by_server.items():
            ratio = f"{series.rate.median / peer.rate.median:.2f}" if peer else NOTHING
            with_acks = qos > 0
            table.add(
                f"{shape.connections} x {shape.window}",
                name,
                series.rate.shown(scale=1e-3),
                ratio,
                series.cpu_us.shown(digits=2),
                series.p50_us.shown(digits=2, scale=1e-3) if with_acks else NOTHING,
                series.p99_us.shown(digits=2, scale=1e-3) if with_acks else NOTHING,
            )
    if qos == 0:
        table.notes.append(
            "counted: what the server had received in the end, not what the load had sent"
        )
    else:
        table.notes.append(
            "sluicegate: each acknowledged message was on disk (fdatasync); mosquitto: in memory"
        )
        table.notes.append("ack: from writing a whole window to its last PUBACK")
    table.notes.append("CPU: user and system, all threads, without what connecting takes")
    return table


def memory_table(results: Results) -> Table:
    table = Table("Memory at the end of each load, MiB", ("load", "server", "resident", "peak"))
    for shape, by_server in results.items():
        for name, series in by_server.items():
            table.add(
                shape.name,
                name,
                series.resident_kib.shown(scale=1 / 1024),
                series.peak_kib.shown(scale=1 / 1024),
            )
    return table


def asked_table(results: Results) -> Table:
    """What the project asks of itself, beside what came out. It decides nothing here."""
    table = Table("Asked and measured, QoS 1", ("what", "asked", "measured", "met"))
    ours = {count: f"sluicegate, {count} partitions" for count in _PARTITION_COUNTS}
    for shape, by_server in results.items():
        peer, mine = by_server.get(MosquittoServer.name), by_server.get(ours[4])
        asked = _ASKED.get((shape.connections, shape.window))
        if shape.qos == 1 and mine and peer and asked:
            ratio = mine.rate.median / peer.rate.median
            table.add(
                f"{shape.name}, x mosquitto", f">= {asked}", f"{ratio:.2f}", _met(ratio >= asked)
            )
        synced = by_server.get(NatsServer.name)
        if shape.qos == 1 and mine and synced and asked:
            ratio = mine.rate.median / synced.rate.median
            table.add(
                f"{shape.name}, x {NatsServer.name}",
                f">= {_ASKED_NATS}",
                f"{ratio:.2f}",
                _met(ratio >= _ASKED_NATS),
            )
        wide = by_server.get(ours[16])
        if shape.qos == 1 and mine and wide:
            ratio = wide.rate.median / mine.rate.median
            table.add(
                f"{shape.name}, 16 partitions to 4", ">= 0.8", f"{ratio:.2f}", _met(ratio >= 0.8)
            )
    peaks = [
        max(series.peak_kib.values) / 1024
        for by_server in results.values()
        for name, series in by_server.items()
        if name in ours.values()
    ]
    if peaks:
        table.add(
            "peak memory, MiB",
            f"< {_MEMORY_ASKED_MIB}",
            f"{max(peaks):.1f}",
            _met(max(peaks) < _MEMORY_ASKED_MIB),
        )
    return table


def _met(is_met: bool) -> str:
    return "yes" if is_met else "NO"


def other_peers(
    report: Report, arguments: argparse.Namespace, directory: Path, cores: Cores
) -> list[MakeServer]:
    """Those that were asked for and are here; at QoS 1 only."""
    known: dict[str, tuple[bool, MakeServer]] = {
        "nats-server": (arguments.nats, lambda: NatsServer(directory, cores)),
        "rumqttd": (arguments.rumqttd, lambda: RumqttdServer(directory, cores)),
    }
    found: list[MakeServer] = []
    for program, (is_wanted, make) in known.items():
        if is_wanted and find_peer(program) is None:
            report.progress(
                f"{program} is not here: left out; docs/performance.md says how to get it"
            )
        elif is_wanted:
            found.append(make)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    report, directory = begin("ingest", arguments)
    directory = directory / "ingest"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    loads = _QUICK_LOADS if arguments.quick else _LOADS
    shapes = [
        Shape(qos=qos, connections=connections, window=window)
        for qos in arguments.qos
        for connections, window in loads
        if arguments.only in (None, f"{connections}x{window}")
    ]
    raise_descriptor_limit(max(shape.connections for shape in shapes))
    cores = choose_cores()
    servers: list[MakeServer] = [
        *(
            lambda count=count: GatewayServer(directory, cores, partition_count=count)
            for count in arguments.partitions
        ),
    ]
    if arguments.no_peer:
        report.progress("without a peer in the same run no ratio is shown")
    elif find_program("mosquitto") is None:
        report.progress(
            "mosquitto is not here, so there is no peer; sudo apt-get install mosquitto"
        )
    else:
        servers.insert(0, lambda: MosquittoServer(directory, cores))
    peers = other_peers(report, arguments, directory, cores)
    servers += peers
    program = build_load(directory.parent)
    results = measure_all(report, shapes, servers, arguments, program, peers)
    for qos in arguments.qos:
        report.table(rate_table(results, qos))
    report.table(memory_table(results))
    report.table(asked_table(results))
    report.finish()
    shutil.rmtree(directory)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=None, help="of load in each measurement")
    made.add_argument("--qos", type=int, nargs="+", default=[1, 0], choices=(0, 1))
    made.add_argument("--partitions", type=int, nargs="*", default=list(_PARTITION_COUNTS))
    made.add_argument("--only", metavar="CxW", help="one load, such as 100x20")
    made.add_argument("--no-peer", action="store_true", help="without mosquitto, while tuning")
    made.add_argument("--nats", action="store_true", help="also NATS, with an fsync each message")
    made.add_argument("--rumqttd", action="store_true", help="also rumqttd, which is in memory")
    arguments = made.parse_args(argv)
    if arguments.seconds is None:
        arguments.seconds = 0.5 if arguments.quick else 4.0
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    return arguments


if __name__ == "__main__":
    main()
