"""A stored backlog brought to Apache Kafka, beside confluent-kafka's producer.

The gateway's side reads its own sealed segments from disk; the producer (librdkafka: idempotent,
zstd, linger 50 ms) is given the same keys, values and headers from memory. One broker on the other
core, a topic of its own for each run, after a warm-up of both that is not counted. What arrived is
counted in Kafka by its end offsets.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import STREAM, driven_log, store
from bench.drain import DEVICE_COUNT, INTERVAL_MS
from bench.machine import Cores, choose_cores
from bench.readings import make_devices, readings
from bench.report import Report, Sample, Table, begin, parser
from tests.rigs import KafkaCluster
from tests.rigs.upstream import end_offsets

_PARTITION_COUNT = 3
_CLIENTS = ("sluicegate", "confluent")
_NAMES = {"sluicegate": "sluicegate, from its log", "confluent": "confluent-kafka, from memory"}
_ASKED_LESS_CPU = 8.0
_WARM_UP_SHARE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What one run of bench.drain printed."""

    count: int
    took_s: float
    cpu_s: float
    peak_kib: int

    @property
    def rate(self) -> float:
        return self.count / self.took_s

    @property
    def cpu_s_per_million(self) -> float:
        return self.cpu_s * 1e6 / self.count


class Backlog:
    """A data directory that is copied for each run, so that each begins with the same log."""

    def __init__(self, directory: Path, count: int) -> None:
        self.count = count
        self._data = directory / f"backlog-{count}"
        # A whole backlog in the past: Kafka refuses timestamps more than an hour ahead.
        span_ms = count // DEVICE_COUNT * INTERVAL_MS
        self.start_ms = time.time_ns() // 1_000_000 - span_ms - 60_000

    def write(self) -> None:
        source = readings(
            make_devices(DEVICE_COUNT), self.count, start_ms=self.start_ms, interval_ms=INTERVAL_MS
        )
        with driven_log(self._data, partition_count=_PARTITION_COUNT) as driver:
            store(driver, source)

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._data.glob(f"streams/{STREAM}-*/*.log"))

    def copy(self) -> Path:
        copy = self._data.with_name("run")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._data, copy)
        return copy


def drain(client: str, backlog: Backlog, kafka: KafkaCluster, topic: str, cores: Cores) -> Drained:
    kafka.create_topic(topic, _PARTITION_COUNT)
    command = [*cores.pin_server(), sys.executable, "-m", "bench.drain", client]
    command += ["--bootstrap", kafka.bootstrap, "--topic", topic]
    if client == "sluicegate":
        command += ["--data", str(backlog.copy()), "--partitions", str(_PARTITION_COUNT)]
    else:
        command += ["--count", str(backlog.count), "--start-ms", str(backlog.start_ms)]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parents[1]
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{client} ended with {finished.returncode}:\n{finished.stderr[-4000:]}")
    result = json.loads(finished.stdout)
    arrived = sum(end_offsets(kafka.bootstrap, topic).values())
    if arrived != backlog.count or result["count"] != backlog.count:
        raise RuntimeError(f"{client}: {backlog.count} messages to send, {arrived} in Kafka")
    kafka.delete_topic(topic)
    return Drained(
        count=arrived,
        took_s=result["took_s"],
        cpu_s=result["cpu_s"],
        peak_kib=result["peak_kib"],
    )


def measure(
    report: Report, kafka: KafkaCluster, directory: Path, arguments: argparse.Namespace
) -> dict[str, list[Drained]]:
    cores = choose_cores()
    warm_up = Backlog(directory, max(1_000, arguments.count // _WARM_UP_SHARE))
    backlog = Backlog(directory, arguments.count)
    report.progress(f"writing a backlog of {backlog.count:,} messages")
    for each in (warm_up, backlog):
        each.write()
    per_message = backlog.stored_bytes() / backlog.count
    report.progress(f"{backlog.stored_bytes():,} bytes of segments, {per_message:.1f} a message")
    for client in _CLIENTS:
        drain(client, warm_up, kafka, f"warm-up-{client}", cores)
    taken: dict[str, list[Drained]] = {client: [] for client in _CLIENTS}
    for repetition in range(arguments.repetitions):
        for client in _CLIENTS:
            got = drain(client, backlog, kafka, f"run-{client}-{repetition}", cores)
            taken[client].append(got)
            report.measured(
                client=client,
                repetition=repetition,
                count=got.count,
                took_s=round(got.took_s, 3),
                cpu_s=round(got.cpu_s, 3),
                peak_kib=got.peak_kib,
            )
            report.progress(
                f"{client} #{repetition + 1}: {got.rate:,.0f} msg/s, "
                f"{got.cpu_s_per_million:.2f} s CPU per million"
            )
    return taken


def result_table(taken: dict[str, list[Drained]], count: int) -> Table:
    table = Table(
        f"{count:,} stored messages to Apache Kafka: median (lowest-highest)",
        ("client", "1,000 msg/s", "CPU s per million", "peak memory MiB", "in Kafka"),
    )
    for client, runs in taken.items():
        table.add(
            _NAMES[client],
            Sample.of(run.rate for run in runs).shown(scale=1e-3),
            Sample.of(run.cpu_s_per_million for run in runs).shown(digits=2),
            Sample.of(run.peak_kib for run in runs).shown(scale=1 / 1024),
            f"{runs[0].count:,} each time",
        )
    ours, peer = (
        Sample.of(run.cpu_s_per_million for run in taken[client]).median for client in _CLIENTS
    )
    less = peer / ours if ours else float("inf")
    met = "met" if less >= _ASKED_LESS_CPU else "NOT met"
    table.notes.append(
        f"{less:.1f} times less CPU than confluent-kafka; asked: {_ASKED_LESS_CPU:.0f} ({met})"
    )
    table.notes.append("confluent-kafka's peak includes the messages that it was given in memory")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=None, help="messages of the backlog")
    arguments = made.parse_args(argv)
    if arguments.count is None:
        arguments.count = 20_000 if arguments.quick else 2_000_000
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    report, directory = begin("bridge", arguments)
    directory = directory / "bridge"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with KafkaCluster(directory / "kafka") as kafka:
        taken = measure(report, kafka, directory, arguments)
    report.table(result_table(taken, arguments.count))
    report.finish()
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
