"""SIGTERM while requests to Kafka are in flight and nobody answers: the worst moment to stop."""

from __future__ import annotations

import time
from pathlib import Path

from tests.e2e.raw_mqtt import V5, RawClient
from tests.rigs import GatewayProcess, KafkaCluster, need_java, read_topic, wait_for
from tests.rigs.upstream import end_offsets

TOPIC = "stopped-mqtt"


def publish(gateway: GatewayProcess, first: int, count: int) -> None:
    with RawClient(gateway.port) as client:
        client.connect("device", V5)
        for number in range(first, first + count):
            client.publish("a/b", b"%d" % number, V5, packet_id=number + 1)


@need_java
def test_stop_takes_less_than_10_s_and_the_next_start_ships_the_rest_once(
    kafka: KafkaCluster, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    upstream = f'url = "kafka://{kafka.uplink_bootstrap}"\ntopic = "stopped-{{stream}}"\n'
    config.write_text(f"[upstream.central]\n{upstream}")
    gateway = GatewayProcess(tmp_path / "data", config=config)

    def arrived(count: int) -> None:
        wait_for(
            lambda: sum(end_offsets(kafka.bootstrap, TOPIC).values()) >= count,
            timeout=30,
            what=f"{count} records upstream",
            every=0.2,
        )

    try:
        gateway.start()
        publish(gateway, 0, 100)
        arrived(100)
        kafka.blackhole_uplink()
        publish(gateway, 100, 100)
        time.sleep(0.5)
        started = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - started < 10
    finally:
        kafka.restore_uplink()
    gateway.start()
    publish(gateway, 200, 10)
    arrived(210)
    assert gateway.terminate() == 0
    values = [int(record.value or b"") for record in read_topic(kafka.bootstrap, TOPIC)]
    assert values == list(range(210))
