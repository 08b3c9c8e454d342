"""Fills a data directory through the log's own API, without a gateway and without waiting.

It does what committer and housekeeper do, one step after the other in one thread, and with a clock
that can be simulated: an hour of a slow fleet is sealed as an hour would have been.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bench.readings import Device, Reading
from gateway.ingest import TOPIC_HEADER
from gateway.partitioner import partition_for
from log import Log, LogLimits, Partition, RecordTemplate, StreamSpec

STREAM = "mqtt"
_SEAL_CHECK_MS = 1_000


class LogDriver:
    """An open log with nobody else at it. `clock_ms` is what its records are stamped with."""

    def __init__(
        self, data: Path, *, partition_count: int, limits: LogLimits | None = None
    ) -> None:
        self.clock_ms = 0
        data.mkdir(parents=True, exist_ok=True)
        spec = StreamSpec(name=STREAM, partition_count=partition_count)
        self.log = Log.open(data, [spec], limits=limits, now_ms=lambda: self.clock_ms)
        self.partitions = self.log.streams[STREAM].partitions

    def commit(self) -> None:
        """Makes the round durable, and seals and checkpoints where that is due."""
        frame = self.log.cut()
        while frame is None and not self.log.round_empty:
            self._make_room()
            frame = self.log.cut()
        if frame is not None:
            self.log.write([frame])
            self.log.durable([frame])
        self.seal(lambda partition: partition.seal_full())

    def seal(self, due: Callable[[Partition], bool], *, close_open: bool = False) -> None:
        for partition in self.partitions:
            if due(partition):
                job = partition.seal_job(close_open=close_open)
                if job is not None:
                    self.log.sealed(partition, partition.write_sealed(job))

    def checkpoint(self) -> None:
        self.log.checkpointed(self.log.write_checkpoint(self.log.checkpoint()))

    def _make_room(self) -> None:
        self.seal(lambda _: True, close_open=True)
        self.checkpoint()


@contextlib.contextmanager
def driven_log(
    data: Path, *, partition_count: int, limits: LogLimits | None = None
) -> Iterator[LogDriver]:
    """Open, and in the end sealed, checkpointed and closed."""
    driver = LogDriver(data, partition_count=partition_count, limits=limits)
    try:
        yield driver
    finally:
        driver.log.close()


def template_of(device: Device) -> RecordTemplate:
    """What the gateway stores of a device's messages beside the payload."""
    return RecordTemplate(device.key, ((TOPIC_HEADER, device.topic.encode()),))


def store(driver: LogDriver, source: Iterable[Reading], *, round_count: int = 1_000) -> int:
    """Appends, commits `round_count` records at a time, seals by size and age; gives the count."""
    places: dict[str, tuple[Partition, RecordTemplate]] = {}
    count = 0
    sealed_check_ms = 0
    for reading in source:
        device = reading.device
        place = places.get(device.client_id)
        if place is None:
            index = partition_for(device.key, len(driver.partitions))
            place = places[device.client_id] = (driver.partitions[index], template_of(device))
        driver.clock_ms = reading.taken_ms
        driver.log.append(place[0], place[1], [reading.payload])
        count += 1
        if count % round_count == 0:
            driver.commit()
            if driver.clock_ms - sealed_check_ms >= _SEAL_CHECK_MS:
                sealed_check_ms = driver.clock_ms
                driver.seal(lambda each: each.seal_overdue(driver.clock_ms), close_open=True)
    driver.commit()
    return count
