"""The server on real sockets, with the real committer, and clients that are not ours.

paho-mqtt speaks 5.0, amqtt 3.1.1, mosquitto's tools both; none shares code with the server.
"""

import asyncio
import inspect
import logging
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import uvloop
from amqtt.client import MQTTClient
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.ingest import Ingest
from gateway.limits import MqttLimits
from gateway.mqtt.broker import Broker
from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    Publish,
    SubAck,
    Subscribe,
    SubscriptionRequest,
)
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.retained_service import RetainedService
from gateway.mqtt.server import Server
from gateway.mqtt.wire import Reader
from gateway.routing import Router
from log import Committer, Log, LogLimits, Record, StreamSpec

# paho-mqtt's Properties is untyped.
new_properties: Callable[[int], Any] = PahoProperties


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """The test runs on asyncio's loop and on uvloop."""

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(**arguments))

    signature = inspect.signature(test)
    factory = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), factory]
    )
    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    factories = [asyncio.new_event_loop, uvloop.new_event_loop]
    return pytest.mark.parametrize("loop_factory", factories, ids=["asyncio", "uvloop"])(run)


class Running:
    """A server that listens, and what it has stored."""

    def __init__(self, log: Log, committer: Committer, server: Server, port: int) -> None:
        self.log = log
        self.committer = committer
        self.server = server
        self.port = port

    def records(self) -> list[Record]:
        return [
            record
            for partition in self.log.streams["mqtt"].partitions
            for record in partition.records(0, count_max=1_000_000)
        ]


@asynccontextmanager
async def running(directory: Path, **limits: int) -> AsyncIterator[Running]:
    loop = asyncio.get_running_loop()
    # Nobody seals here, so all that a test publishes stays in memory.
    spec = StreamSpec(name="mqtt", partition_count=3)
    log = Log.open(directory, [spec], limits=LogLimits(tail_bytes_max=32 << 20))
    committer = Committer(log, loop)
    retained = RetainedService(log, MqttLimits(**limits), directory)
    await retained.start()
    retained.table.request = committer.request
    broker = Broker(
        log=log,
        ingest=Ingest(log, Router({"mqtt": 3})),
        committer=committer,
        retained=retained.table,
        limits=MqttLimits(**limits),
        now_ms=lambda: time.monotonic_ns() // 1_000_000,
        rng=random.Random(1),
    )
    committer.add_participant(broker)
    committer.add_participant(retained.table)
    server = Server(broker)
    listener = socket.create_server(("127.0.0.1", 0))
    port = await server.start(listener)
    try:
        yield Running(log, committer, server, port)
    finally:
        await server.stop()
        await retained.stop()
        await committer.close()
        log.close()


class RawClient:
    """A client of the codec alone, on asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._data = b""

    @classmethod
    async def open(cls, port: int, client_id: str = "raw") -> "RawClient":
        client = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 22))
        client.send(Connect(level=5, client_id=client_id, clean_start=True, keep_alive_s=60))
        assert isinstance(await client.next(), ConnAck)
        return client

    def send(self, *packets: Packet) -> None:
        self.writer.write(b"".join(encode_packet(packet, 5) for packet in packets))

    async def next(self) -> Packet | None:
        """The next packet, None at the end of the connection."""
        while True:
            frame = next_frame(self._data, 0, len(self._data), 1 << 28) if self._data else 2
            if isinstance(frame, Frame):
                reader = Reader(self._data, frame.start, frame.stop)
                packet = decode_packet(frame.first_byte, reader, 5)
                self._data = self._data[frame.stop :]
                return packet
            data = await asyncio.wait_for(self.reader.read(1 << 16), 20)
            if not data:
                return None
            self._data += data


@on_both_loops
async def test_a_message_is_acknowledged_and_can_be_read(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await RawClient.open(gateway.port)
        client.send(Publish(topic="a", payload=b"1", qos=1, packet_id=1))
        assert await client.next() == PubAck(packet_id=1)
        assert [record.value for record in gateway.records()] == [b"1"]
        client.writer.close()


@on_both_loops
async def test_a_flood_larger_than_every_buffer_is_stored_in_order(tmp_path: Path) -> None:
    """The acknowledgements are not read meanwhile: the server stops reading, and loses nothing."""
    count = 40_000
    async with running(tmp_path, receive_max=65_535, write_buffer_bytes_max=16_384) as gateway:
        client = await RawClient.open(gateway.port)
        client.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096
        )
        for number in range(count):
            packet = Publish(
                topic="t", payload=b"%d" % number, qos=1, packet_id=number % 65_535 + 1
            )
            client.send(packet)
        await asyncio.sleep(0.5)
        for number in range(count):
            assert await client.next() == PubAck(packet_id=number % 65_535 + 1)
        assert [record.value for record in gateway.records()] == [b"%d" % n for n in range(count)]
        client.writer.close()


@on_both_loops
async def test_stopping_stores_and_acknowledges_what_was_read_and_says_goodbye(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as gateway:
        client = await RawClient.open(gateway.port)
        client.send(*(Publish(topic="a", payload=b"x", qos=1, packet_id=n + 1) for n in range(50)))
        # The server has read it when it has answered a second client that came later.
        other = await RawClient.open(gateway.port, "other")
        stopping = asyncio.create_task(gateway.server.stop())
        for number in range(50):
            assert await client.next() == PubAck(packet_id=number + 1)
        goodbye = await client.next()
        assert isinstance(goodbye, Disconnect)
        assert goodbye.code == ReasonCode.SERVER_SHUTTING_DOWN
        assert await client.next() is None
        await stopping
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", gateway.port)
        assert len(gateway.records()) == 50
        other.writer.close()


@on_both_loops
async def test_the_last_word_reaches_a_client_that_is_thrown_out(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        client = await RawClient.open(gateway.port)
        client.writer.write(b"\x00\x00")
        answer = await client.next()
        assert isinstance(answer, Disconnect) and answer.code == ReasonCode.MALFORMED_PACKET
        assert await client.next() is None


@on_both_loops
async def test_connections_beyond_the_limit_are_closed_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, connections_max=2) as gateway:
        one = await RawClient.open(gateway.port, "one")
        two = await RawClient.open(gateway.port, "two")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        try:
            assert await asyncio.wait_for(reader.read(), 10) == b""
        except ConnectionResetError:
            pass
        for each in (one.writer, two.writer, writer):
            each.close()


@on_both_loops
async def test_a_subscriber_that_stops_reading_does_not_hold_the_others(tmp_path: Path) -> None:
    async with running(tmp_path, write_buffer_bytes_max=65_536) as gateway:
        stuck = await RawClient.open(gateway.port, "stuck")
        quick = await RawClient.open(gateway.port, "quick")
        request = SubscriptionRequest(filter="#", qos=0)
        for client in (stuck, quick):
            client.send(Subscribe(packet_id=1, requests=(request,)))
            assert isinstance(await client.next(), SubAck)
        stuck.reader._transport.pause_reading()  # type: ignore[attr-defined]
        publisher = await RawClient.open(gateway.port, "publisher")
        for number in range(400):
            publisher.send(Publish(topic="t", payload=bytes(50_000), qos=1, packet_id=number + 1))
            assert await publisher.next() == PubAck(packet_id=number + 1)
            assert isinstance(await quick.next(), Publish)
        assert gateway.server.broker.counters.deliveries_dropped > 0
        for client in (stuck, quick, publisher):
            client.writer.close()


# -- clients that are not ours


class Paho:
    """paho-mqtt 5.0 on its own thread, with what it has heard."""

    def __init__(
        self,
        client_id: str,
        port: int,
        *,
        session_s: int = 0,
        clean: bool = True,
        alias_max: int = 0,
    ) -> None:
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv5
        )
        self.messages: list[paho.MQTTMessage] = []
        self.connected: list[Any] = []
        self.disconnected: list[Any] = []
        self.client.on_message = lambda _client, _data, message: self.messages.append(message)
        self.client.on_connect = lambda *args: self.connected.append(args)
        self.client.on_disconnect = lambda *args: self.disconnected.append(args)
        properties = new_properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = session_s
        properties.TopicAliasMaximum = alias_max
        self.client.connect("127.0.0.1", port, clean_start=clean, properties=properties)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


@on_both_loops
async def test_paho_publishes_and_subscribes_at_every_qos(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        subscriber = await asyncio.to_thread(Paho, "subscriber", gateway.port)
        await until(lambda: subscriber.connected)
        subscriber.client.subscribe([("site/+/temp", SubscribeOptions(qos=2))])
        publisher = await asyncio.to_thread(Paho, "publisher", gateway.port)
        await until(lambda: publisher.connected and len(gateway.server.broker.tree))
        properties = new_properties(PacketTypes.PUBLISH)
        properties.ContentType = "application/cbor"
        properties.UserProperty = [("unit", "C")]
        for number in range(30):
            publisher.client.publish(
                "site/1/temp", b"%d" % number, qos=number % 3, properties=properties
            )
        await until(lambda: len(subscriber.messages) == 30)
        by_qos = {qos: [m.payload for m in subscriber.messages if m.qos == qos] for qos in range(3)}
        assert by_qos == {qos: [b"%d" % n for n in range(qos, 30, 3)] for qos in range(3)}
        got: Any = subscriber.messages[0].properties
        assert (got.ContentType, got.UserProperty) == ("application/cbor", [("unit", "C")])
        await until(lambda: not publisher.client._out_messages)
        assert [record.value for record in gateway.records()] == [b"%d" % n for n in range(30)]
        for client in (subscriber, publisher):
            await asyncio.to_thread(client.close)


@on_both_loops
async def test_paho_resumes_its_session(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        first = await asyncio.to_thread(Paho, "keeps", gateway.port, session_s=600, clean=False)
        await until(lambda: first.connected)
        first.client.subscribe("missed/#", qos=1)
        await until(lambda: len(gateway.server.broker.tree))
        await asyncio.to_thread(first.close)
        raw = await RawClient.open(gateway.port)
        raw.send(Publish(topic="missed/one", payload=b"1", qos=1, packet_id=1))
        assert await raw.next() == PubAck(packet_id=1)
        again = await asyncio.to_thread(Paho, "keeps", gateway.port, session_s=600, clean=False)
        await until(lambda: again.messages)
        assert again.connected[0][2].session_present
        assert [message.payload for message in again.messages] == [b"1"]
        await asyncio.to_thread(again.close)
        raw.writer.close()


@on_both_loops
async def test_paho_is_told_that_it_was_taken_over(tmp_path: Path) -> None:
    async with running(tmp_path) as gateway:
        old = await asyncio.to_thread(Paho, "same", gateway.port)
        await until(lambda: old.connected)
        old.client.reconnect_delay_set(60, 60)
        new = await asyncio.to_thread(Paho, "same", gateway.port)
        await until(lambda: old.disconnected)
        assert old.disconnected[0][3] == "Session taken over"
        for client in (old, new):
            await asyncio.to_thread(client.close)


@on_both_loops
async def test_amqtt_publishes_and_subscribes_at_every_qos(tmp_path: Path) -> None:
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    config = {"auto_reconnect": False}
    async with running(tmp_path) as gateway:
        url = f"mqtt://127.0.0.1:{gateway.port}/"
        subscriber = MQTTClient(client_id="subscriber", config=dict(config))
        await subscriber.connect(url)
        assert await subscriber.subscribe([("a/#", 2)]) == [2]
        publisher = MQTTClient(client_id="publisher", config=dict(config))
        await publisher.connect(url)
        for number in range(12):
            await asyncio.wait_for(publisher.publish("a/b", b"%d" % number, qos=number % 3), 10)
        for number in range(12):
            message = await asyncio.wait_for(subscriber.deliver_message(), 10)
            assert message is not None
            assert (message.data, message.qos) == (b"%d" % number, number % 3)
        assert [record.value for record in gateway.records()] == [b"%d" % n for n in range(12)]
        await publisher.disconnect()
        await subscriber.disconnect()


@pytest.mark.mosquitto
@pytest.mark.parametrize("version", ["mqttv311", "mqttv5"])
@on_both_loops
async def test_mosquittos_tools_publish_and_subscribe(tmp_path: Path, version: str) -> None:
    async with running(tmp_path) as gateway:
        common = ["-h", "127.0.0.1", "-p", str(gateway.port), "-V", version, "-q", "2"]
        subscriber = subprocess.Popen(
            ["mosquitto_sub", *common, "-t", "m/#", "-C", "100", "-F", "%t %p"],
            stdout=subprocess.PIPE,
        )
        await until(lambda: len(gateway.server.broker.tree))
        lines = b"".join(b"line %d\n" % number for number in range(100))
        publisher = await asyncio.to_thread(
            subprocess.run,
            ["mosquitto_pub", *common, "-t", "m/x", "-l"],
            input=lines,
            timeout=30,
            check=False,
        )
        assert publisher.returncode == 0
        output, _ = await asyncio.to_thread(subscriber.communicate, timeout=30)
        assert output == b"".join(b"m/x line %d\n" % number for number in range(100))
        assert len(gateway.records()) == 100
