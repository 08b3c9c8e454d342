"""What bench/sessions stores while its subscribers are away, through the log's own API."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from bench.backlog import LogDriver, driven_log
from gateway.ingest import TOPIC_HEADER
from gateway.partitioner import partition_for
from log import Partition, RecordTemplate

PARTITIONS = 4
EACH = 100
"""Messages for each session."""

_ROUND = 2_000
_MESSAGES_A_MS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much. `common_topics`: beside one for each session."""

    messages: int
    sessions: int
    common_topics: int
    everything: int


class Filler:
    """Stores numbered messages of devices with topics, with the gateway's keys and headers."""

    def __init__(self, driver: LogDriver) -> None:
        self._driver = driver
        self._rng = random.Random(7)
        self._noise = self._rng.randbytes(1 << 16)
        self._runs: dict[Partition, list[tuple[RecordTemplate, list[bytes]]]] = {
            partition: [] for partition in driver.partitions
        }
        self._waiting = 0
        self.count = 0

    def place(self, client_id: str, topic: str) -> tuple[Partition, RecordTemplate]:
        key = client_id.encode()
        partition = self._driver.partitions[partition_for(key, len(self._driver.partitions))]
        return partition, RecordTemplate(key, ((TOPIC_HEADER, topic.encode()),))

    def store(self, place: tuple[Partition, RecordTemplate]) -> None:
        at = self.count * 37 & 0xFFFF
        payload = self.count.to_bytes(8, "little") + self._noise[at : at + 35]
        self._runs[place[0]].append((place[1], [payload]))
        self.count += 1
        self._waiting += 1
        if self._waiting >= _ROUND:
            self.commit()

    def commit(self) -> None:
        driver = self._driver
        driver.clock_ms += self._waiting // _MESSAGES_A_MS
        for partition, runs in self._runs.items():
            if runs:
                driver.log.append_runs(partition, runs)
                self._runs[partition] = []
        self._waiting = 0
        driver.commit()


def store_for_sessions(data: Path, size: Size) -> None:
    """Each session's topic has EACH messages, evenly among those of the others."""
    with driven_log(data, partition_count=PARTITIONS) as driver:
        driver.clock_ms = time.time_ns() // 1_000_000
        filler = Filler(driver)
        away = [
            filler.place(f"away-device-{number}", f"away/{number}/reading")
            for number in range(size.sessions)
        ]
        common = [
            filler.place(f"device-{number // 4}", f"plant/{number // 4}/value/{number % 4}")
            for number in range(size.common_topics)
        ]
        interval = size.messages // (EACH * size.sessions)
        rng = random.Random(11)
        for number in range(size.messages):
            turn, rest = divmod(number, interval)
            filler.store(
                common[int(rng.random() * len(common))] if rest else away[turn % len(away)]
            )
        filler.commit()


def store_for_everything(data: Path, size: Size) -> None:
    with driven_log(data, partition_count=PARTITIONS) as driver:
        driver.clock_ms = time.time_ns() // 1_000_000
        filler = Filler(driver)
        places = [
            filler.place(f"device-{number}", f"plant/{number}/value") for number in range(1_000)
        ]
        for number in range(size.everything):
            filler.store(places[number % len(places)])
        filler.commit()
