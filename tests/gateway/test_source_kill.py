"""A source beside a real Mosquitto, with the gateway as a process: kills, restarts, outages."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from log import Log, Record, StreamSpec
from tests.rigs import GatewayProcess, wait_for
from tests.rigs.mosquitto import Mosquitto
from tests.rigs.needs import need_mosquitto

pytestmark = need_mosquitto

KEEPING = "persistence true\npersistence_location {directory}/\nautosave_interval 1\n"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    directory = tmp_path / "broker"
    broker = Mosquitto(directory, settings=KEEPING.format(directory=directory))
    broker.start()
    yield broker
    broker.stop()


def configure(tmp_path: Path, broker: Mosquitto, more: str = "") -> Path:
    file = tmp_path / "sluicegate.toml"
    file.write_text(
        f'[source.plant]\nurl = "mqtt://127.0.0.1:{broker.port}"\nfilters = ["plant/#"]\n{more}\n'
        '[source.plant.limits]\nbackoff_min_ms = 50\nbackoff_max_ms = "200 ms"\n'
    )
    return file


def wait_until_says(gateway: GatewayProcess, what: str) -> None:
    wait_for(lambda: what in gateway.output_since_start(), timeout=20, what=what)


def records(data: Path) -> list[Record]:
    """Everything stored by a gateway that has ended."""
    log = Log.open(data, [StreamSpec(name="mqtt", partition_count=3)])
    found = [
        record
        for partition in log.streams["mqtt"].partitions
        for record in partition.records(partition.start_offset, count_max=10**6)
    ]
    log.close()
    return found


class Plant:
    """A publisher of numbers on ten topics, that goes on through the broker's restarts."""

    def __init__(self, broker: Mosquitto, qos: int) -> None:
        self._qos = qos
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "plant", clean_session=False, protocol=paho.MQTTv311
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        self.count = 0

    def publish(self, count: int) -> None:
        """Returns when the broker has acknowledged them."""
        wait_for(self._client.is_connected, timeout=10, what="the publisher is connected")
        sent = []
        for _ in range(count):
            topic, payload = f"plant/{self.count % 10}", b"%d" % self.count
            sent.append(self._client.publish(topic, payload, qos=self._qos))
            self.count += 1
        for each in sent:
            each.wait_for_publish(20)

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize(("qos", "protocol"), [(1, "5.0"), (1, "3.1.1"), (2, "5.0"), (2, "3.1.1")])
def test_everything_published_while_the_gateway_is_killed_arrives(
    tmp_path: Path, broker: Mosquitto, qos: int, protocol: str
) -> None:
    """And at QoS 2 once: its identifiers are durable with the records [MQTT-4.3.3-10]."""
    config = configure(tmp_path, broker, f'qos = {qos}\nprotocol = "{protocol}"')
    gateway = GatewayProcess(tmp_path / "data", config=config)
    plant = Plant(broker, qos)
    try:
        gateway.start()
        wait_until_says(gateway, "source.subscribed")
        for _ in range(5):
            publisher = threading.Thread(target=plant.publish, args=(400,))
            publisher.start()
            time.sleep(0.1)
            gateway.kill()
            publisher.join()
            plant.publish(50)
            gateway.start()
        plant.publish(1)
        wanted = {b"%d" % number for number in range(plant.count)}
        wait_until_says(gateway, "source.connected")
        time.sleep(1.5)
        assert gateway.terminate() == 0
    finally:
        plant.stop()
        gateway.kill()
    found = records(gateway.data_dir)
    seen = Counter(record.value or b"" for record in found)
    assert seen.keys() == wanted
    if qos == 2:
        assert [value for value, count in seen.items() if count > 1] == []
    for topic in range(10):
        firsts = list(
            dict.fromkeys(
                int(record.value or b"") for record in found if record.key == b"plant/%d" % topic
            )
        )
        assert firsts == sorted(firsts), f"plant/{topic} is out of order"


def test_records_of_a_source_have_the_topic_as_key_and_what_5_0_says_as_headers(
    tmp_path: Path, broker: Mosquitto
) -> None:
    config = configure(tmp_path, broker)
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        wait_until_says(gateway, "source.subscribed")
        client = paho.Client(CallbackAPIVersion.VERSION2, "p5", protocol=paho.MQTTv5)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.ContentType = "text/plain"
        properties.UserProperty = ("unit", "C")
        client.publish("plant/a", b"1", qos=1, properties=properties).wait_for_publish(5)
        client.publish("other", b"2", qos=1).wait_for_publish(5)
        client.disconnect()
        client.loop_stop()
        time.sleep(0.5)
        assert gateway.terminate() == 0
    (record,) = records(gateway.data_dir)
    assert (record.key, record.value) == (b"plant/a", b"1")
    assert dict(record.headers) == {
        b"mqtt.topic": b"plant/a",
        b"mqtt.content-type": b"text/plain",
        b"unit": b"C",
    }


def test_a_broker_that_is_away_at_the_start_and_restarted_later_is_no_error(
    tmp_path: Path, broker: Mosquitto
) -> None:
    broker.stop()
    config = configure(tmp_path, broker)
    plant = None
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        wait_until_says(gateway, "source.away")
        broker.start()
        wait_until_says(gateway, "source.subscribed")
        try:
            plant = Plant(broker, 1)
            plant.publish(100)
            broker.stop()
            broker.start()
            wait_for(
                lambda: gateway.output_since_start().count("session=kept") == 1,
                timeout=10,
                what="the source is back",
            )
            plant.publish(100)
        finally:
            if plant is not None:
                plant.stop()
        time.sleep(0.5)
        assert gateway.terminate() == 0
        assert gateway.output_since_start().count("source.subscribed") == 1
    assert {record.value for record in records(gateway.data_dir)} == {
        b"%d" % number for number in range(200)
    }


def test_local_subscribers_get_what_a_source_brings(tmp_path: Path, broker: Mosquitto) -> None:
    config = configure(tmp_path, broker)
    got = []
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        wait_until_says(gateway, "source.subscribed")
        client = paho.Client(CallbackAPIVersion.VERSION2, "local", protocol=paho.MQTTv311)
        client.on_message = lambda client, userdata, message: got.append(message.payload)
        client.connect("127.0.0.1", gateway.port)
        client.subscribe("plant/+", 1)
        client.loop_start()
        time.sleep(0.3)
        plant = Plant(broker, 1)
        plant.publish(20)
        plant.stop()
        wait_for(lambda: len(got) == 20, timeout=5, what="20 messages at the local subscriber")
        client.disconnect()
        client.loop_stop()
    assert got == [b"%d" % number for number in range(20)]
