"""One client that brings a backlog to Kafka, in a process of its own so that its cost is its own.

    python -m bench.drain sluicegate --data DIR --bootstrap H:P --topic T --partitions N
    python -m bench.drain confluent  --count N  --bootstrap H:P --topic T

Prints one line of JSON. Time counts from before the first connection to the last acknowledgement,
CPU until the cursor is durable, too; opening the log, or making the messages and holding them in
memory, comes before. Both are given the same keys, values and headers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import time
from pathlib import Path

from bench.backlog import STREAM
from bench.process_cost import memory
from bench.readings import make_devices, readings
from gateway.ingest import TOPIC_HEADER

DEVICE_COUNT = 200
INTERVAL_MS = 1_000
UPSTREAM = "bench"
_POLL_S = 0.01
_FULL_QUEUE_WAIT_S = 0.05


class Meter:
    """Time since it was made until `arrived`, and CPU time of this process until `print`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_s = _cpu_s()
        self._took_s = 0.0

    def arrived(self) -> None:
        self._took_s = time.perf_counter() - self._began

    def print(self, count: int, **more: object) -> None:
        result = {
            "count": count,
            "took_s": self._took_s,
            "cpu_s": _cpu_s() - self._cpu_s,
            "peak_kib": memory(os.getpid()).peak_kib,
            **more,
        }
        print(json.dumps(result), flush=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def drain_sluicegate(arguments: argparse.Namespace) -> None:
    from bridge import Bridge, UpstreamConfig, parse_upstream_url
    from log import Committer, Housekeeper, Log, StreamSpec

    loop = asyncio.get_running_loop()
    spec = StreamSpec(name=STREAM, partition_count=arguments.partitions)
    log = Log.open(arguments.data, [spec], required_cursors=frozenset({UPSTREAM}))
    committer = Committer(log, loop)
    housekeeper = Housekeeper(log, committer, loop)
    housekeeper.start()
    config = UpstreamConfig(
        name=UPSTREAM,
        bootstrap=parse_upstream_url(f"kafka://{arguments.bootstrap}"),
        topic_template=arguments.topic,
    )
    partitions = log.streams[STREAM].partitions
    count = sum(each.durable_end - each.start_offset for each in partitions)
    meter = Meter()
    bridge = Bridge(log, committer, config)
    await bridge.start()
    while bridge.status().lag_count:  # noqa: ASYNC110  nothing tells when a lag is gone
        await asyncio.sleep(_POLL_S)
    meter.arrived()
    status = bridge.status()
    await bridge.stop()
    meter.print(count, sent_bytes=status.sent_bytes, request_count=status.request_count)
    await housekeeper.stop()
    await committer.flush()
    await committer.close()
    log.close()


def drain_confluent(arguments: argparse.Namespace) -> None:
    from confluent_kafka import Producer

    devices = make_devices(DEVICE_COUNT)
    headers: dict[str, list[tuple[str, str | bytes | None]]]
    headers = {each.client_id: [(TOPIC_HEADER.decode(), each.topic.encode())] for each in devices}
    messages = [
        (each.device.key, each.payload, headers[each.device.client_id], each.taken_ms)
        for each in readings(
            devices, arguments.count, start_ms=arguments.start_ms, interval_ms=INTERVAL_MS
        )
    ]
    meter = Meter()
    producer = Producer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "enable.idempotence": True,
            "compression.type": "zstd",
            "linger.ms": 50,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
    )
    produce, poll = producer.produce, producer.poll
    for index, (key, value, header, taken_ms) in enumerate(messages):
        while True:
            try:
                produce(arguments.topic, key=key, value=value, headers=header, timestamp=taken_ms)
                break
            except BufferError:
                poll(_FULL_QUEUE_WAIT_S)
        if index % 1000 == 0:
            poll(0)
    left = producer.flush(120)
    if left:
        raise TimeoutError(f"{left} messages were not acknowledged")
    meter.arrived()
    meter.print(arguments.count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("client", choices=("sluicegate", "confluent"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--start-ms", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.client == "confluent":
        drain_confluent(arguments)
        return
    try:
        import uvloop
    except ImportError:
        asyncio.run(drain_sluicegate(arguments))
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(drain_sluicegate(arguments))


if __name__ == "__main__":
    main()
