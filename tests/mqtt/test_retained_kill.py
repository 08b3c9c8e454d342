"""SIGKILL while devices publish retained messages: what was acknowledged is sent to who asks."""

import random
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.rigs import GatewayProcess
from tests.rigs.ports import wait_for

TOPIC_COUNT = 40
LIVES_COUNT = 4


def client_of(client_id: str) -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)


class Publisher:
    """Publishes numbers to its topics in turn, and remembers which it saw acknowledged."""

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.next_number = 1
        self.sent: dict[str, int] = {}
        self.acknowledged: dict[str, int] = {}

    def talk(self, port: int, seconds: float) -> None:
        client = client_of(self.client_id)
        client.max_inflight_messages_set(20)
        pending: dict[int, tuple[str, int]] = {}

        def published(_client: object, _data: object, mid: int, *_rest: object) -> None:
            topic, number = pending[mid]
            self.acknowledged[topic] = max(number, self.acknowledged.get(topic, 0))

        client.on_publish = published
        client.connect("127.0.0.1", port)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for _ in range(10):
                topic = f"{self.client_id}/{self.next_number % TOPIC_COUNT}/value"
                info = client.publish(topic, b"%d" % self.next_number, qos=1, retain=True)
                pending[info.mid] = (topic, self.next_number)
                self.sent[topic] = self.next_number
                self.next_number += 1
            if client.loop(0.005) != paho.MQTT_ERR_SUCCESS:
                return


def retained(port: int, topic_filter: str, count: int) -> dict[str, int]:
    """What a new subscriber is sent with RETAIN."""
    found: dict[str, int] = {}
    client = client_of("subscriber")

    def came(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        assert message.retain
        assert message.topic not in found
        found[message.topic] = int(message.payload)

    client.on_message = came
    client.connect("127.0.0.1", port)
    client.subscribe(topic_filter, qos=1)
    client.loop_start()
    wait_for(lambda: len(found) >= count, timeout=10, what=f"{count} retained messages")
    time.sleep(0.2)
    client.disconnect()
    client.loop_stop()
    return found


@pytest.mark.e2e
@pytest.mark.parametrize("lost", ["nothing", "the table"])
def test_retained_messages_that_were_acknowledged_survive_sigkill(
    tmp_path: Path, lost: str
) -> None:
    rng = random.Random(5)
    data = tmp_path / "data"
    gateway = GatewayProcess(data)
    publishers = [Publisher(f"device-{number}") for number in range(3)]
    for _ in range(LIVES_COUNT):
        gateway.start()
        for publisher in publishers:
            publisher.talk(gateway.port, rng.uniform(0.1, 0.9))
        gateway.kill()
        if lost == "the table":
            for path in data.glob("retained.db*"):
                path.unlink()
    gateway.start()
    found = retained(gateway.port, "+/+/value", sum(len(each.sent) for each in publishers))
    assert gateway.terminate() == 0
    for publisher in publishers:
        assert publisher.acknowledged, "too slow to be acknowledged"
        assert len(publisher.acknowledged) == TOPIC_COUNT
        for topic, number in publisher.acknowledged.items():
            assert number <= found[topic] <= publisher.sent[topic]
