"""The main promise, end to end against three Apache Kafka brokers, while everything breaks.

200 devices publish through one gateway; the uplink is cut twice, the gateway killed twice with
SIGKILL, one broker killed. Then: every acknowledged message is in Kafka exactly once, in order per
device, with the same key, value and headers, on the partition of Kafka's own default partitioner.

What exactly once means: a QoS 2 message is upstream once, literally. Each record that was
stored is upstream once. Where a QoS 1 device did not get its PUBACK and sent again, that is another
record, marked `mqtt.dup`, and the fleet's ledger knows of each (MQTT 5.0, 4.3.2: at least once).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from log import Log, StreamSpec
from tests.e2e.judge import judge
from tests.rigs import (
    GatewayProcess,
    KafkaCluster,
    UpstreamRecord,
    default_partitions,
    need_java,
    read_topic,
    wait_for,
)
from tests.rigs.fleet import FleetProcess
from tests.rigs.upstream import end_offsets

PARTITION_COUNT = 3
STREAM = "mqtt"
TOPIC = "everything-mqtt"
# The fleet publishes until everything has happened; this only bounds it.
FLEET_S = 300.0


def stored_records(data: Path) -> list[list[tuple[object, ...]]]:
    """By partition, in order: what an ended gateway holds."""
    log = Log.open(data, [StreamSpec(name=STREAM, partition_count=PARTITION_COUNT)])
    try:
        return [
            [
                (record.key, record.value, record.timestamp_ms, tuple(record.headers))
                for record in partition.records(partition.start_offset, count_max=10_000_000)
            ]
            for partition in log.streams[STREAM].partitions
        ]
    finally:
        log.close()


def upstream_records(records: list[UpstreamRecord]) -> list[list[tuple[object, ...]]]:
    """The same shape, of what a consumer got."""
    found: list[list[tuple[object, ...]]] = [[] for _ in range(PARTITION_COUNT)]
    for record in records:
        headers = tuple((name.encode(), value) for name, value in record.headers)
        found[record.partition].append((record.key, record.value, record.timestamp_ms, headers))
    return found


class Calamities:
    """What happens to the gateway's world, and how much was acknowledged before and after."""

    def __init__(self, cluster: KafkaCluster, gateway: GatewayProcess, fleet: FleetProcess) -> None:
        self._cluster = cluster
        self._gateway = gateway
        self._fleet = fleet
        self.uplink_cut_count = 0
        self.kill_count = 0
        self.broker_kill_count = 0
        self._dead: int | None = None

    def publishing_goes_on(self, count: int) -> None:
        """Waits until so many more were acknowledged; the fleet is still publishing."""
        wanted = self._fleet.acknowledged_count() + count
        wait_for(
            lambda: self._fleet.acknowledged_count() >= wanted,
            timeout=60,
            what=f"{count} more acknowledgements",
        )
        assert self._fleet.is_running(), self._fleet.output.read_text()

    def cut_uplink(self, *, silently: bool) -> None:
        if silently:
            self._cluster.blackhole_uplink()
        else:
            self._cluster.cut_uplink()
        self.uplink_cut_count += 1

    def kill_gateway(self) -> None:
        self._gateway.kill()
        self.kill_count += 1
        self._gateway.start()

    def kill_leader(self) -> None:
        self._dead = self._cluster.describe(TOPIC)[0].leader
        self._cluster.kill(self._dead)
        self.broker_kill_count += 1

    def repair(self) -> None:
        """The uplink and the broker are back."""
        self._cluster.restore_uplink()
        if self._dead is not None:
            dead, self._dead = self._dead, None
            self._cluster.restart(dead)


def everything_breaks(happened: Calamities) -> None:
    happened.publishing_goes_on(2000)
    happened.cut_uplink(silently=False)
    happened.publishing_goes_on(1500)
    happened.repair()
    happened.publishing_goes_on(1500)
    happened.kill_gateway()
    happened.publishing_goes_on(1500)
    happened.kill_leader()
    happened.publishing_goes_on(1500)
    happened.cut_uplink(silently=True)
    happened.publishing_goes_on(1500)
    happened.kill_gateway()
    happened.publishing_goes_on(1500)
    happened.repair()
    happened.publishing_goes_on(200)


def wait_until_all_is_upstream(cluster: KafkaCluster, *, at_least: int) -> None:
    """Until as much is upstream as was acknowledged, and nothing more comes."""
    seen = -1
    quiet_since = time.monotonic()

    def settled() -> bool:
        nonlocal seen, quiet_since
        count = sum(end_offsets(cluster.bootstrap, TOPIC).values())
        if count != seen:
            seen, quiet_since = count, time.monotonic()
        return count >= at_least and time.monotonic() - quiet_since > 4

    wait_for(settled, timeout=120, what=f"{at_least} records upstream", every=0.3)


@need_java
@pytest.mark.e2e
def test_every_acknowledged_message_is_in_kafka_exactly_once(
    kafka3: KafkaCluster, tmp_path: Path
) -> None:
    cluster = kafka3
    config = tmp_path / "gateway.toml"
    upstream = f'url = "kafka://{cluster.uplink_bootstrap}"\ntopic = "everything-{{stream}}"\n'
    config.write_text(f"[upstream.central]\n{upstream}")
    gateway = GatewayProcess(tmp_path / "data", config=config)
    fleet = FleetProcess(
        tmp_path, port=gateway.port, device_count=200, seconds=FLEET_S, rate=2, seed=4
    )
    happened = Calamities(cluster, gateway, fleet)
    gateway.start()
    fleet.start()
    try:
        wait_for(fleet.ledger_file.exists, timeout=20, what="the fleet's ledger")
        everything_breaks(happened)
        fleet.end()
        status = fleet.wait()
    except BaseException:
        fleet.stop()
        gateway.kill()
        print(gateway.output.read_text()[-8000:])
        raise
    finally:
        happened.repair()
    assert status == 0, fleet.output.read_text()
    assert happened.uplink_cut_count == happened.kill_count == 2
    assert happened.broker_kill_count == 1

    ledger = fleet.ledger()
    assert ledger.is_complete
    assert ledger.waiting_count == 0
    assert len(ledger.headers) == 200
    wait_until_all_is_upstream(cluster, at_least=len(ledger.acknowledged()))
    assert gateway.terminate() == 0

    records = read_topic(cluster.bootstrap, TOPIC)
    placed = default_partitions(
        cluster.bootstrap, [name.encode() for name in ledger.headers], PARTITION_COUNT
    )
    verdict = judge(ledger, records, placed)
    print(verdict)
    assert verdict.findings == (), str(verdict)
    assert verdict.acknowledged_count > 10_000

    # Each stored record is upstream once, in the order and with the bytes and times it has here.
    assert upstream_records(records) == stored_records(gateway.data_dir)
