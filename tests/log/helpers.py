"""Driving a log in one thread, as its shells do, for tests that want one step at a time."""

from __future__ import annotations

from pathlib import Path

from log.limits import LogLimits
from log.partition import Partition
from log.record_batch import RecordTemplate
from log.store import Log
from log.streams import Retention, StreamSpec

NOW_MS = 1_700_000_000_000
SMALL = LogLimits(
    journal_bytes=256 * 1024,
    journal_reserve_bytes=32 * 1024,
    chunk_bytes_max=4 * 1024,
    chunk_records_max=50,
    record_bytes_max=16 * 1024,
    seal_bytes=8 * 1024,
    segment_bytes_max=16 * 1024,
    index_interval_bytes=1024,
)
TEMPLATE = RecordTemplate(b"device-1", ((b"mqtt.topic", b"a/b"),))


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def spec(name: str = "mqtt", count: int = 1, retention: Retention | None = None) -> StreamSpec:
    return StreamSpec(name=name, partition_count=count, retention=retention or Retention())


def commit(log: Log) -> None:
    frame = log.cut()
    if frame is None:
        for partition in log.partitions.values():
            seal(log, partition)
        checkpoint(log)
        frame = log.cut()
    assert frame is not None
    log.write([frame])
    log.durable([frame])


def put(log: Log, partition: Partition, *values: bytes) -> None:
    """Appends and makes durable."""
    log.append(partition, TEMPLATE, values)
    commit(log)


def seal(log: Log, partition: Partition) -> None:
    job = partition.seal_job(close_open=True)
    if job:
        log.sealed(partition, partition.write_sealed(job))


def checkpoint(log: Log) -> None:
    log.checkpointed(log.write_checkpoint(log.checkpoint()))


def values(partition: Partition) -> list[bytes | None]:
    count = partition.durable_end - partition.start_offset
    return [r.value for r in partition.records(partition.start_offset, count_max=count)]


def log_files(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.log"))
