"""A gateway's storage and bridge in the test's own loop, and the same as a process to be killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge import Bridge, BridgeLimits, BridgeStatus, UpstreamConfig, parse_upstream_url
from log import (
    Committer,
    Log,
    LogLimits,
    Partition,
    RecordTemplate,
    Retention,
    StreamSpec,
)
from tests.rigs import UpstreamRecord, read_topic

UPSTREAM = "up"


def config(
    bootstrap: str, *, limits: dict[str, int] | None = None, **settings: Any
) -> UpstreamConfig:
    return UpstreamConfig(
        name=UPSTREAM,
        bootstrap=parse_upstream_url(f"kafka://{bootstrap}"),
        limits=BridgeLimits(**(limits or {})),
        **settings,
    )


class Site:
    """`async with`: an open log, its committer and a bridge that `connect` starts."""

    def __init__(
        self,
        directory: Path,
        stream: str,
        *,
        partition_count: int = 1,
        now_ms: Callable[[], int] | None = None,
        retention: Retention | None = None,
        segment_bytes_max: int = 1 << 26,
    ) -> None:
        self.directory = directory
        self.stream = stream
        self._partition_count = partition_count
        self._retention = retention or Retention()
        self._limits = LogLimits(segment_bytes_max=segment_bytes_max)
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.bridge: Bridge | None = None

    async def __aenter__(self) -> Self:
        spec = StreamSpec(
            name=self.stream, partition_count=self._partition_count, retention=self._retention
        )
        self.log = Log.open(
            self.directory,
            [spec],
            limits=self._limits,
            required_cursors=frozenset({UPSTREAM}),
            now_ms=self._now_ms,
        )
        self.committer = Committer(self.log, asyncio.get_running_loop())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.disconnect()
        await self.committer.flush()
        await self.committer.close()
        self.log.close()

    def partition(self, index: int = 0) -> Partition:
        return self.log.partition(self.stream, index)

    async def publish(self, count: int, *, first: int = 0, run: int = 50, size: int = 40) -> None:
        """Records `first` and following, dealt to the partitions in runs; durable when it returns.

        The value is the number, padded; the key names the partition.
        """
        for start in range(first, first + count, run):
            index = start // run % self._partition_count
            template = RecordTemplate(b"device-%d" % index, [(b"mqtt.topic", b"t/%d" % index)])
            values = [b"%d" % n for n in range(start, min(start + run, first + count))]
            values = [value.ljust(size) for value in values]
            self.log.append(self.partition(index), template, values)
            self.committer.request()
            if start // run % 100 == 99:
                await self.committer.flush()
        await self.committer.flush()

    def seal(self) -> None:
        """What is durable is in segments now, in compressed batches."""
        for index in range(self._partition_count):
            partition = self.partition(index)
            job = partition.seal_job(close_open=True)
            if job is not None:
                self.log.sealed(partition, partition.write_sealed(job))

    async def connect(self, upstream: UpstreamConfig) -> Bridge:
        self.bridge = Bridge(self.log, self.committer, upstream)
        await self.bridge.start()
        return self.bridge

    async def disconnect(self) -> None:
        if self.bridge is not None:
            await self.bridge.stop()
            self.bridge = None

    def status(self) -> BridgeStatus:
        assert self.bridge is not None
        return self.bridge.status()

    async def until(
        self, condition: Callable[[BridgeStatus], object], *, timeout: float = 20.0
    ) -> BridgeStatus:
        """Waits for a status that satisfies the condition; says the last one if none does."""
        deadline = time.monotonic() + timeout
        while not condition(status := self.status()):
            assert time.monotonic() < deadline, f"not within {timeout} s: {status}"
            await asyncio.sleep(0.01)
        return status

    async def lag_at_most(self, count: int) -> BridgeStatus:
        return await self.until(lambda status: status.lag_count <= count)

    async def drained(self, *, timeout: float = 20.0) -> BridgeStatus:
        return await self.until(lambda status: status.lag_count == 0, timeout=timeout)


def numbers(records: list[UpstreamRecord]) -> list[int]:
    return [int(record.value or b"") for record in records]


async def upstream(bootstrap: str, topic: str) -> list[UpstreamRecord]:
    return await asyncio.to_thread(read_topic, bootstrap, topic)


async def assert_exactly_once(
    bootstrap: str, topic: str, count: int, *, partition_count: int = 1
) -> list[UpstreamRecord]:
    """All numbers once, and in order within each partition: the judge is Kafka's own consumer."""
    records = await upstream(bootstrap, topic)
    for index in range(partition_count):
        found = numbers([each for each in records if each.partition == index])
        assert found == sorted(found), f"partition {index} is out of order"
        assert len(found) == len(set(found)), f"partition {index} has duplicates"
    assert sorted(numbers(records)) == list(range(count))
    return records


class SiteProcess:
    """`python -m tests.bridge.site`: publishes and replicates until it is killed."""

    def __init__(
        self, directory: Path, stream: str, bootstrap: str, *, count: int, limits: dict[str, int]
    ) -> None:
        what = {
            "directory": str(directory),
            "stream": stream,
            "bootstrap": bootstrap,
            "count": count,
            "limits": limits,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bridge.site", json.dumps(what)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )

    def wait_until_sent(self, count: int) -> None:
        """Returns when so many records were answered by the upstream."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if int(line) >= count:
                return
        raise AssertionError(f"the process ended with {self._process.wait()}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def _run(what: dict[str, Any]) -> None:
    async with Site(Path(what["directory"]), what["stream"]) as site:
        await site.publish(what["count"])
        site.seal()
        await site.connect(config(what["bootstrap"], limits=what["limits"]))
        while True:
            await asyncio.sleep(0.005)
            print(sum(each.sent_count for each in site.status().partitions), flush=True)


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.argv[1])))
