"""`sluicegate dead-letters` beside a running gateway."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import PubAck
from tests.gateway.test_cli import sluicegate
from tests.rigs import GatewayProcess
from tests.rigs.ports import free_port


class Picky:
    """A 5.0 subscriber that refuses while `refuses`, and remembers what it was sent."""

    def __init__(self, port: int) -> None:
        self.refuses = True
        self.came: list[paho.MQTTMessage] = []
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, "picky", protocol=paho.MQTTv5, manual_ack=True
        )
        self.client.on_message = self._came
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("plant/#", 1)

    def _came(self, client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        self.came.append(message)
        if self.refuses:
            sock = client.socket()
            assert isinstance(sock, socket.socket)
            sock.sendall(encode_packet(PubAck(packet_id=message.mid, code=0x99), 5))
        else:
            client.ack(message.mid, message.qos)

    def hear(self, count: int) -> list[paho.MQTTMessage]:
        deadline = time.monotonic() + 10
        while len(self.came) < count and time.monotonic() < deadline:
            self.client.loop(0.05)
        came, self.came = self.came, []
        return came


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path / "data") as running:
        yield running


def publish(port: int, *payloads: bytes) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, "device", protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    given: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    given.ContentType = "text"
    given.UserProperty = [("line", "4"), ("sluicegate.dead.cause", "forged")]
    for payload in payloads:
        client.publish("plant/a b", payload, qos=1, properties=given).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def test_dead_letters_are_listed_and_published_again(gateway: GatewayProcess) -> None:
    url = f"mqtt://127.0.0.1:{gateway.port}"
    picky = Picky(gateway.port)
    picky.client.loop(0.2)
    publish(gateway.port, b"one", b"two", b"three")
    assert len(picky.hear(3)) == 3
    # Somebody's message under that name is none.
    other = paho.Client(CallbackAPIVersion.VERSION2, "forger", protocol=paho.MQTTv5)
    other.connect("127.0.0.1", gateway.port)
    other.loop_start()
    other.publish("$dead-letter/x", b"forged", qos=1).wait_for_publish(10)
    other.loop_stop()

    done = sluicegate("dead-letters", "ls", "--at", url)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [[line[0], *line[2:]] for line in lines] == [
        ["0", "'picky'", "refused 0x99", "'plant/a b'", "3 bytes"],
        ["1", "'picky'", "refused 0x99", "'plant/a b'", "3 bytes"],
        ["2", "'picky'", "refused 0x99", "'plant/a b'", "5 bytes"],
    ]
    done = sluicegate("dead-letters", "ls", "--at", url, "--from", "1", "--limit", "1", "--json")
    (letter,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (letter["offset"], letter["topic"]) == (1, "plant/a b")
    assert bytes.fromhex(letter["payload"]) == b"two"
    assert letter["dead"]["attempts"] == "1" and letter["dead"]["stream"] == "mqtt"

    picky.refuses = False
    done = sluicegate("dead-letters", "redrive", "--to", url, "--offset", "1-2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 published and acknowledged"
    came = picky.hear(2)
    assert [(each.topic, each.payload, each.qos) for each in came] == [
        ("plant/a b", b"two", 1),
        ("plant/a b", b"three", 1),
    ]
    properties: Any = came[0].properties
    assert properties.ContentType == "text"
    assert properties.UserProperty == [("line", "4"), ("sluicegate.redriven", "1")]
    # They stay listed.
    assert len(sluicegate("dead-letters", "ls", "--at", url).stdout.splitlines()) == 3


def test_without_dead_letters_nothing_is_listed(gateway: GatewayProcess) -> None:
    done = sluicegate("dead-letters", "ls", "--at", f"mqtt://127.0.0.1:{gateway.port}")
    assert (done.returncode, done.stdout) == (0, "")


def test_without_a_gateway_it_says_what_to_do() -> None:
    done = sluicegate("dead-letters", "ls", "--at", f"mqtt://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "Start the gateway" in done.stderr


@pytest.mark.parametrize("text", ["x", "5-3", "-1", "1-", ""])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    done = sluicegate("dead-letters", "redrive", "--to", url, f"--offset={text}")
    assert done.returncode == 2
    assert "7 or as 3-12" in done.stderr
