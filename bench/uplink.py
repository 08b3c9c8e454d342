"""Bytes on the uplink for each message: a stored backlog, and live readings as they come.

Everything goes through the counting proxies of a Kafka node's uplink listener, so that what counts
is TCP payload in both directions: batches, requests, answers, metadata. Beside it
confluent-kafka's producer with the same messages, zstd and linger.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.backlog import driven_log, store
from bench.drain import DEVICE_COUNT, INTERVAL_MS
from bench.machine import choose_cores
from bench.mqtt_probe import Probe
from bench.readings import Device, Reading, make_devices, readings
from bench.report import Report, Table
from bench.servers import GatewayServer
from gateway.ingest import TOPIC_HEADER
from tests.rigs import KafkaCluster
from tests.rigs.ports import wait_for
from tests.rigs.upstream import end_offsets

_PARTITION_COUNT = 3
_LIVE_DEVICE_COUNT = 50
_LIVE_INTERVAL_MS = 1_000

Client = Callable[[KafkaCluster, str, Path, list[Reading]], None]
"""Brings readings to a topic through the node's uplink listener; returns when they are there."""


class Uplink:
    """The node's uplink listener and what went through it."""

    def __init__(self, kafka: KafkaCluster) -> None:
        self._kafka = kafka

    def bytes(self) -> tuple[int, int]:
        """(to Kafka, from Kafka) so far."""
        proxies = self._kafka.uplinks
        up = sum(each.bytes_to_target for each in proxies)
        return up, sum(each.bytes_from_target for each in proxies)

    @contextlib.contextmanager
    def counted(self, into: list[int]) -> Iterator[None]:
        before = self.bytes()
        yield
        time.sleep(0.3)  # the proxy's threads count after they have sent
        into[:] = [after - earlier for after, earlier in zip(self.bytes(), before, strict=True)]


def measure_uplink(report: Report, directory: Path, *, quick: bool) -> Table:
    table = Table(
        "Bytes a message on the uplink",
        ("what", "client", "messages", "payload + topic", "to Kafka", "from Kafka", "of raw"),
    )
    stored_count, live_s = (5_000, 2.0) if quick else (500_000, 30.0)
    with KafkaCluster(directory / "kafka") as kafka:
        uplink = Uplink(kafka)
        backlog = _backlog(stored_count)
        live = _live(live_s)
        kinds: list[tuple[str, list[Reading], dict[str, Client]]] = [
            ("backlog", backlog, {"sluicegate": _drain_sluicegate, "confluent": _drain_confluent}),
            ("live, linger 50 ms", live, _live_clients(50)),
            ("live, linger 1 s", live, _live_clients(1_000)),
        ]
        for what, source, clients in kinds:
            raw = sum(len(each.payload) + len(each.device.topic) for each in source)
            for name, client in clients.items():
                topic = f"{name}-{len(table.rows)}"
                kafka.create_topic(topic, _PARTITION_COUNT)
                counted: list[int] = []
                with uplink.counted(counted):
                    client(kafka, topic, directory, source)
                up, down = counted
                table.add(
                    what,
                    name,
                    f"{len(source):,}",
                    f"{raw / len(source):.1f}",
                    f"{up / len(source):.1f}",
                    f"{down / len(source):.1f}",
                    f"{up / raw:.0%}",
                )
                report.measured(
                    what="uplink", kind=what, client=name, count=len(source), up=up, down=down
                )
                report.progress(f"uplink: {what}, {name}: {up / len(source):.1f} bytes a message")
    table.notes.append("TCP payload through a proxy; IP and TCP headers come on top for everybody")
    table.notes.append(
        f"live: {_LIVE_DEVICE_COUNT} devices with a reading a second each; what comes within the"
        " linger shares a request"
    )
    return table


def _backlog(count: int) -> list[Reading]:
    start_ms = time.time_ns() // 1_000_000 - count // DEVICE_COUNT * INTERVAL_MS - 60_000
    devices = make_devices(DEVICE_COUNT)
    return list(readings(devices, count, start_ms=start_ms, interval_ms=INTERVAL_MS))


def _live(seconds: float) -> list[Reading]:
    count = int(seconds * 1_000 / _LIVE_INTERVAL_MS) * _LIVE_DEVICE_COUNT
    devices = make_devices(_LIVE_DEVICE_COUNT)
    return list(
        readings(
            devices, count, start_ms=time.time_ns() // 1_000_000, interval_ms=_LIVE_INTERVAL_MS
        )
    )


def _drain_sluicegate(
    kafka: KafkaCluster, topic: str, directory: Path, source: list[Reading]
) -> None:
    data = directory / "uplink-data"
    with driven_log(data, partition_count=_PARTITION_COUNT) as driver:
        store(driver, source)
    _drain("sluicegate", kafka, topic, "--data", str(data))


def _drain_confluent(
    kafka: KafkaCluster, topic: str, directory: Path, source: list[Reading]
) -> None:
    start_ms = source[0].taken_ms
    _drain("confluent", kafka, topic, "--count", str(len(source)), "--start-ms", str(start_ms))


def _drain(client: str, kafka: KafkaCluster, topic: str, *more: str) -> None:
    command = [sys.executable, "-m", "bench.drain", client, "--topic", topic, *more]
    command += ["--bootstrap", kafka.uplink_bootstrap, "--partitions", str(_PARTITION_COUNT)]
    finished = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1]
    )
    if finished.returncode != 0:
        raise RuntimeError(f"{client}: exit {finished.returncode}\n{finished.stderr[-4000:]}")
    _wait_for(kafka, topic, json.loads(finished.stdout)["count"])


def _live_clients(linger_ms: int) -> dict[str, Client]:
    return {
        "sluicegate": functools.partial(_live_sluicegate, linger_ms),
        "confluent": functools.partial(_live_confluent, linger_ms),
    }


def _live_sluicegate(
    linger_ms: int, kafka: KafkaCluster, topic: str, directory: Path, source: list[Reading]
) -> None:
    server = GatewayServer(
        directory,
        choose_cores(),
        partition_count=_PARTITION_COUNT,
        more_config=(
            f'[upstream.bench]\nurl = "kafka://{kafka.uplink_bootstrap}"\ntopic = "{topic}"\n'
            f"linger_ms = {linger_ms}\n"
        ),
    )
    server.start()
    probes = {each.device.client_id: Probe(server.port, each.device.client_id) for each in source}
    for each in _in_time(source):
        probes[each.device.client_id].publish(each.device.topic, each.payload)
    _wait_for(kafka, topic, len(source))
    for probe in probes.values():
        probe.close()
    server.finish(len(source))


def _live_confluent(
    linger_ms: int, kafka: KafkaCluster, topic: str, directory: Path, source: list[Reading]
) -> None:
    from confluent_kafka import Producer

    producer = Producer(
        {
            "bootstrap.servers": kafka.uplink_bootstrap,
            "enable.idempotence": True,
            "compression.type": "zstd",
            "linger.ms": linger_ms,
            "partitioner": "murmur2_random",
        }
    )
    for each in _in_time(source):
        producer.produce(
            topic, key=each.device.key, value=each.payload, headers=_headers(each.device)
        )
        producer.poll(0)
    producer.flush(30)
    _wait_for(kafka, topic, len(source))


def _headers(device: Device) -> list[tuple[str, str | bytes | None]]:
    return [(TOPIC_HEADER.decode(), device.topic.encode())]


def _in_time(source: list[Reading]) -> Iterator[Reading]:
    """Each reading when it is due, the first one now."""
    began, first_ms = time.monotonic(), source[0].taken_ms
    for each in source:
        wait_s = (each.taken_ms - first_ms) / 1_000 - (time.monotonic() - began)
        if wait_s > 0:
            time.sleep(wait_s)
        yield each


def _wait_for(kafka: KafkaCluster, topic: str, count: int) -> None:
    def arrived() -> bool:
        return sum(end_offsets(kafka.bootstrap, topic).values()) >= count

    wait_for(arrived, timeout=60, what=f"{count} messages in {topic}", every=0.2)
