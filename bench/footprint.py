"""What a gateway takes: bytes a message on disk and on the uplink, memory, and time to start.

Disk: the fleet's CBOR readings stored with a simulated clock, so that segments are sealed as they
would have been: at a busy site by size, at a quiet one by age. The journal is a file of fixed size
and is shown apart. Uplink: see bench/uplink.py. Memory and start: the whole process, beside
mosquitto.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import STREAM, driven_log, store
from bench.load import raise_descriptor_limit
from bench.machine import choose_cores
from bench.mqtt_probe import Probe, first_acknowledged
from bench.process_cost import memory, wait_until_idle
from bench.readings import make_devices, readings
from bench.report import NOTHING, Report, Sample, Table, begin, parser
from bench.servers import GatewayServer, MosquittoServer, Server
from bench.uplink import measure_uplink
from log import RecordTemplate
from tests.rigs.needs import find_program, missing_for

_PARTITION_COUNT = 3
_CONNECTION_COUNT = 1_000
_BIG_LOG_BYTES = 1 << 30
_BIG_VALUE_BYTES = 4_096
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A fleet over a time: how many devices, how often each reads, for how long."""

    name: str
    device_count: int
    interval_ms: int
    hours: float

    @property
    def reading_count(self) -> int:
        return int(self.hours * 3_600_000 / self.interval_ms * self.device_count)


_SITES = (
    Site(name="50 devices, one reading a second each", device_count=50, interval_ms=1_000, hours=2),
    Site(name="50 devices, one a minute", device_count=50, interval_ms=60_000, hours=24),
    Site(name="1,000 devices, one a second", device_count=1_000, interval_ms=1_000, hours=0.2),
)
_QUICK_SITES = (Site(name="50 devices, quick", device_count=50, interval_ms=1_000, hours=0.05),)


def measure_disk(report: Report, directory: Path, sites: Sequence[Site]) -> Table:
    table = Table(
        "Bytes a message on disk",
        (
            "fleet",
            "messages",
            "payload",
            "payload + topic",
            "segments",
            "indexes",
            "of payload + topic",
            "records a batch",
        ),
    )
    for site in sites:
        data = directory / "disk"
        shutil.rmtree(data, ignore_errors=True)
        payload_bytes = topic_bytes = 0
        start_ms = time.time_ns() // 1_000_000 - int(site.hours * 3_600_000)
        source = list(
            readings(
                make_devices(site.device_count),
                site.reading_count,
                start_ms=start_ms,
                interval_ms=site.interval_ms,
            )
        )
        for each in source:
            payload_bytes += len(each.payload)
            topic_bytes += len(each.device.topic)
        with driven_log(data, partition_count=_PARTITION_COUNT) as driver:
            # A gateway commits each read by itself; in the journal only, so this changes nothing.
            count = store(driver, source, round_count=site.device_count)
        batches = count_batches(data)
        segments = total_bytes(data, "*.log")
        indexes = total_bytes(data, "*.index") + total_bytes(data, "*.timeindex")
        raw = payload_bytes + topic_bytes
        table.add(
            site.name,
            f"{count:,}",
            f"{payload_bytes / count:.1f}",
            f"{raw / count:.1f}",
            f"{segments / count:.1f}",
            f"{indexes / count:.2f}",
            f"{(segments + indexes) / raw:.0%}",
            f"{count / batches:,.0f}",
        )
        report.measured(
            what="disk",
            site=site.name,
            count=count,
            payload_bytes=payload_bytes,
            topic_bytes=topic_bytes,
            segment_bytes=segments,
            index_bytes=indexes,
            batch_count=batches,
            journal_bytes=(data / "journal").stat().st_size,
        )
        report.progress(f"disk: {site.name}: {segments / count:.1f} bytes a message")
        journal_mib = (data / "journal").stat().st_size / (1 << 20)
    table.notes.append(f"besides: the journal, one file of {journal_mib:.0f} MiB, preallocated")
    table.notes.append("segments hold payload, topic, client id, time and Kafka's framing")
    return table


def total_bytes(data: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in data.glob(f"streams/{STREAM}-*/{pattern}"))


def count_batches(data: Path) -> int:
    """Walks the segments by the length field of Kafka's batch header."""
    count = 0
    for path in data.glob(f"streams/{STREAM}-*/*.log"):
        content = path.read_bytes()
        position = 0
        while position < len(content):
            position += 12 + int.from_bytes(content[position + 8 : position + 12], "big")
            count += 1
    return count


MakeServer = Callable[[], Server]


def measure_memory(
    report: Report, servers: Sequence[MakeServer], arguments: argparse.Namespace
) -> Table:
    connection_count = 50 if arguments.quick else _CONNECTION_COUNT
    table = Table(
        "Memory, MiB resident: median (lowest-highest)",
        ("server", "idle", f"{connection_count:,} idle connections", "KiB a connection"),
    )
    taken: dict[str, list[tuple[int, int]]] = {}
    for repetition in range(arguments.repetitions):
        for make in servers:
            server = make()
            server.start()
            try:
                wait_until_idle(server.pid, timeout_s=5)
                idle_kib = memory(server.pid).resident_kib
                probes = [Probe(server.port, f"idle-{i}") for i in range(connection_count)]
                wait_until_idle(server.pid, timeout_s=5)
                connected_kib = memory(server.pid).resident_kib
                for probe in probes:
                    probe.close()
            finally:
                server.finish(0)
            taken.setdefault(server.name, []).append((idle_kib, connected_kib))
            report.measured(
                what="memory",
                server=server.name,
                repetition=repetition,
                idle_kib=idle_kib,
                connected_kib=connected_kib,
                connection_count=connection_count,
            )
            report.progress(
                f"memory: {server.name}: {idle_kib} KiB idle, {connected_kib} connected"
            )
    for name, values in taken.items():
        table.add(
            name,
            Sample.of(idle for idle, _ in values).shown(scale=1 / 1024),
            Sample.of(connected for _, connected in values).shown(scale=1 / 1024),
            Sample.of((after - before) / connection_count for before, after in values).shown(),
        )
    return table


def measure_start(report: Report, directory: Path, arguments: argparse.Namespace) -> Table:
    """From exec to the first PUBACK, with two sizes of log, after a stop and after a kill."""
    table = Table(
        "Seconds from process start to the first PUBACK: median (lowest-highest)",
        ("server", "log", "last end", "seconds", "journal replayed"),
    )
    cores = choose_cores()
    big_bytes = (1 << 24) if arguments.quick else _BIG_LOG_BYTES
    if find_program("mosquitto") is not None:
        took = []
        for _ in range(arguments.repetitions):
            broker = MosquittoServer(directory, cores)
            began = time.monotonic()
            broker.start()
            took.append(first_acknowledged(broker.port, timeout_s=_START_TIMEOUT_S) - began)
            broker.stop()
        table.add(
            "mosquitto", "none (no persistence)", NOTHING, Sample.of(took).shown(digits=2), NOTHING
        )
    for log_bytes in (0, big_bytes):
        for ended in ("SIGTERM", "SIGKILL"):
            took, replayed = [], ""
            server = GatewayServer(directory, cores, partition_count=_PARTITION_COUNT)
            if log_bytes:
                report.progress(f"start: writing a log of {log_bytes >> 20} MiB")
                fill(server.data, log_bytes)
                os.sync()  # or the disk is still busy with it while the start is timed
            for _ in range(arguments.repetitions):
                leave(server, signal.Signals[ended])
                began = time.monotonic()
                server.spawn()
                took.append(first_acknowledged(server.port, timeout_s=_START_TIMEOUT_S) - began)
                replayed = server.replayed()
                server.end(signal.SIGTERM)
                report.measured(what="start", log_bytes=log_bytes, ended=ended, took_s=took[-1])
                report.progress(
                    f"start: {log_bytes >> 20} MiB, {ended}: {took[-1]:.2f} s, {replayed}"
                )
            server.remove()
            size = "nothing before" if not log_bytes else f"{log_bytes >> 20:,} MiB"
            table.add("sluicegate", size, ended, Sample.of(took).shown(digits=2), replayed)
    return table


def fill(data: Path, size_bytes: int) -> None:
    """Segments of about so many bytes, of values that do not compress."""
    rng = random.Random(1)
    template = RecordTemplate(b"filler", ((b"mqtt.topic", b"bench/fill"),))
    with driven_log(data, partition_count=_PARTITION_COUNT) as driver:
        driver.clock_ms = time.time_ns() // 1_000_000
        written = 0
        while written < size_bytes:
            for partition in driver.partitions:
                values = [rng.randbytes(_BIG_VALUE_BYTES) for _ in range(64)]
                driver.log.append(partition, template, values)
                written += 64 * _BIG_VALUE_BYTES
            driver.commit()


def leave(server: GatewayServer, number: signal.Signals) -> None:
    """Runs it once with some messages that stay unsealed, and ends it that way."""
    server.start()
    with Probe(server.port, "before") as probe:
        for _ in range(120):
            probe.publish_many("bench/before", [b"x" * 512] * 500)
    server.end(number)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser(__doc__).parse_args(argv)
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    report, directory = begin("footprint", arguments)
    directory = directory / "footprint"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    raise_descriptor_limit(_CONNECTION_COUNT)
    cores = choose_cores()
    servers: list[MakeServer] = [
        lambda: GatewayServer(directory, cores, partition_count=_PARTITION_COUNT)
    ]
    if find_program("mosquitto") is not None:
        servers.insert(0, lambda: MosquittoServer(directory, cores))
    report.table(measure_disk(report, directory, _QUICK_SITES if arguments.quick else _SITES))
    if missing := missing_for("kafka"):
        report.progress(f"no uplink figures: {missing}")
    else:
        report.table(measure_uplink(report, directory, quick=arguments.quick))
    report.table(measure_memory(report, servers, arguments))
    report.table(measure_start(report, directory, arguments))
    report.finish()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
