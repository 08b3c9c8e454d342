"""One interface to clients of other people, and what each of them cannot do.

A driver subscribes, publishes, and can lose its connection without a DISCONNECT. Every call
blocks, and has a limit.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, cast

import aiomqtt
import paho.mqtt.client as paho
from amqtt.client import MQTTClient
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from tests.rigs import mqttjs

PATIENCE_S = 15.0
T = TypeVar("T")
CONTENT_TYPE = "text/plain"
USER_PROPERTY = ("unit", "°C")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`content_type` and `user_property` are only filled where MQTT 5.0 is spoken."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    content_type: str | None = None
    user_property: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the gateway is: with `ca` over TLS, with `path` over WebSocket."""

    port: int
    ca: Path | None = None
    path: str | None = None


class Subscriber(Protocol):
    """`keeps`: its session outlives the connection. It has subscribed when it is made."""

    def take(self) -> Message: ...
    def lose(self) -> None:
        """The connection ends without a DISCONNECT."""

    def close(self) -> None: ...


class Driver(Protocol):
    name: ClassVar[str]
    is_5_0: ClassVar[bool]

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber: ...

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        """Returns when it is acknowledged. With MQTT 5.0 the message has two properties."""


# -- paho-mqtt ---------------------------------------------------------------------------------


def _paho_properties(kind: int, **values: object) -> Any:
    made = cast(Any, PahoProperties)(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def _message_properties() -> Any:
    return _paho_properties(
        PacketTypes.PUBLISH, ContentType=CONTENT_TYPE, UserProperty=[USER_PROPERTY]
    )


def _from_paho(topic: str, payload: bytes, qos: int, retain: bool, properties: Any) -> Message:
    pairs = getattr(properties, "UserProperty", None) or [None]
    return Message(
        topic=topic,
        payload=payload,
        qos=qos,
        retain=retain,
        content_type=getattr(properties, "ContentType", None),
        user_property=pairs[0],
    )


def _do(_result: object) -> None:
    """A callback's answer is not wanted."""


class _PahoSubscriber:
    def __init__(
        self, version: int, place: Place, client_id: str, topic: str, keeps: bool, will: str
    ) -> None:
        self._messages: queue.Queue[Message] = queue.Queue()
        self._client = _paho_client(version, place, client_id, keeps)
        if will:
            self._client.will_set(will, b"gone", qos=1)
        subscribed = threading.Event()
        self._client.on_message = lambda _c, _u, message: self._messages.put(
            _from_paho(
                message.topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                getattr(message, "properties", None),
            )
        )
        self._client.on_connect = lambda *_: _do(self._client.subscribe(topic, qos=2))
        self._client.on_subscribe = lambda *_: subscribed.set()
        _paho_connect(self._client, version, place, keeps)
        assert subscribed.wait(PATIENCE_S)

    def take(self) -> Message:
        return self._messages.get(timeout=PATIENCE_S)

    def lose(self) -> None:
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def _paho_client(version: int, place: Place, client_id: str, keeps: bool) -> paho.Client:
    client = paho.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=version,  # type: ignore[arg-type]
        clean_session=None if version == paho.MQTTv5 else not keeps,
        transport="tcp" if place.path is None else "websockets",
        reconnect_on_failure=False,
    )
    if place.path is not None:
        client.ws_set_options(path=place.path)
    if place.ca is not None:
        client.tls_set(str(place.ca))
    return client


def _paho_connect(client: paho.Client, version: int, place: Place, keeps: bool) -> None:
    more: dict[str, Any] = {}
    if version == paho.MQTTv5:
        more = {
            "clean_start": not keeps,
            "properties": _paho_properties(
                PacketTypes.CONNECT, SessionExpiryInterval=300 if keeps else 0
            ),
        }
    client.connect("127.0.0.1", place.port, **more)
    assert client.loop_start() == MQTTErrorCode.MQTT_ERR_SUCCESS


class Paho5:
    name: ClassVar[str] = "paho-mqtt 5.0"
    is_5_0: ClassVar[bool] = True
    version: ClassVar[int] = int(paho.MQTTv5)

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber:
        return _PahoSubscriber(self.version, place, client_id, topic, keeps, will)

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        client = _paho_client(self.version, place, "", keeps=False)
        connected = threading.Event()
        client.on_connect = lambda *_: connected.set()
        _paho_connect(client, self.version, place, keeps=False)
        assert connected.wait(PATIENCE_S)
        properties = _message_properties() if self.is_5_0 else None
        sent = client.publish(topic, payload, qos, retain, properties)
        sent.wait_for_publish(PATIENCE_S)
        assert sent.is_published()
        client.disconnect()
        client.loop_stop()


class Paho311(Paho5):
    name: ClassVar[str] = "paho-mqtt 3.1.1"
    is_5_0: ClassVar[bool] = False
    version: ClassVar[int] = int(paho.MQTTv311)


# -- clients on asyncio ------------------------------------------------------------------------


class _Loop:
    """A loop in a thread of its own, for clients that need one that runs all the time."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)


def _aiomqtt_client(place: Place, client_id: str, keeps: bool, will: str) -> aiomqtt.Client:
    return aiomqtt.Client(
        "127.0.0.1",
        place.port,
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion.V5,
        clean_start=cast(Any, not keeps),
        properties=_paho_properties(PacketTypes.CONNECT, SessionExpiryInterval=300 if keeps else 0),
        will=aiomqtt.Will(will, b"gone", 1) if will else None,
        transport="tcp" if place.path is None else "websockets",
        websocket_path=place.path,
        tls_context=ssl.create_default_context(cafile=str(place.ca)) if place.ca else None,
    )


class _AiomqttSubscriber:
    def __init__(
        self, loop: _Loop, place: Place, client_id: str, topic: str, keeps: bool, will: str
    ) -> None:
        self._loop = loop
        self._client = loop.run(self._start(place, client_id, topic, keeps, will))

    async def _start(
        self, place: Place, client_id: str, topic: str, keeps: bool, will: str
    ) -> aiomqtt.Client:
        client = _aiomqtt_client(place, client_id, keeps, will)
        await client.__aenter__()
        await client.subscribe(topic, qos=2)
        return client

    def take(self) -> Message:
        async def next_message() -> Message:
            message = await anext(aiter(self._client.messages))
            return _from_paho(
                str(message.topic),
                message.payload,
                message.qos,
                message.retain,
                message.properties,
            )

        return self._loop.run(next_message())

    def lose(self) -> None:
        async def cut() -> None:
            sock = self._client._client.socket()
            assert sock is not None
            cast(socket.socket, sock).shutdown(socket.SHUT_RDWR)

        self._loop.run(cut())

    def close(self) -> None:
        self._loop.run(self._client.__aexit__(None, None, None))


class Aiomqtt:
    name: ClassVar[str] = "aiomqtt"
    is_5_0: ClassVar[bool] = True

    def __init__(self) -> None:
        self._loop = _Loop()

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber:
        return _AiomqttSubscriber(self._loop, place, client_id, topic, keeps, will)

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        async def send() -> None:
            async with _aiomqtt_client(place, "", keeps=False, will="") as client:
                await client.publish(topic, payload, qos, retain, _message_properties())

        self._loop.run(send())


def _amqtt_url(place: Place) -> str:
    if place.path is not None:
        return f"ws://127.0.0.1:{place.port}{place.path}"
    return f"{'mqtts' if place.ca else 'mqtt'}://127.0.0.1:{place.port}/"


class _AmqttSubscriber:
    def __init__(
        self, loop: _Loop, place: Place, client_id: str, topic: str, keeps: bool, will: str
    ) -> None:
        self._loop = loop
        config: dict[str, Any] = {"auto_reconnect": False}
        if will:
            config["will"] = {"topic": will, "message": "gone", "qos": 1, "retain": False}
        self._client = loop.run(self._start(place, client_id, topic, keeps, config))

    async def _start(
        self, place: Place, client_id: str, topic: str, keeps: bool, config: dict[str, Any]
    ) -> MQTTClient:
        client = MQTTClient(client_id=client_id, config=config)
        await client.connect(
            _amqtt_url(place), cleansession=not keeps, cafile=str(place.ca) if place.ca else None
        )
        assert await client.subscribe([(topic, 2)]) == [2]
        return client

    def take(self) -> Message:
        message = self._loop.run(self._client.deliver_message())
        packet = message.publish_packet
        return Message(
            topic=message.topic,
            payload=bytes(message.data),
            qos=message.qos,
            retain=bool(packet.retain_flag),
        )

    def lose(self) -> None:
        self._loop.run(self._client._handler.writer.close())

    def close(self) -> None:
        self._loop.run(self._client.disconnect())


class Amqtt:
    """Speaks 3.1.1 only, so no properties."""

    name: ClassVar[str] = "amqtt"
    is_5_0: ClassVar[bool] = False

    def __init__(self) -> None:
        logging.getLogger("amqtt").setLevel(logging.CRITICAL)
        self._loop = _Loop()

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber:
        return _AmqttSubscriber(self._loop, place, client_id, topic, keeps, will)

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        async def send() -> None:
            client = MQTTClient(config={"auto_reconnect": False})
            await client.connect(_amqtt_url(place), cafile=str(place.ca) if place.ca else None)
            await client.publish(topic, payload, qos=qos, retain=retain)
            await client.disconnect()

        self._loop.run(send())


# -- programs ----------------------------------------------------------------------------------


class _Program:
    """A program that prints a JSON object for each message, and other lines."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def wait_for(self, word: str) -> None:
        """Until a line has it; messages that came before are kept."""
        early = []
        while word not in (line := self._lines.get(timeout=PATIENCE_S)):
            early.append(line)
        for line in early:
            self._lines.put(line)

    def message(self) -> str:
        while not (line := self._lines.get(timeout=PATIENCE_S)).startswith("{"):
            pass
        return line

    def lose(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        # mosquitto_sub waits for its socket to close, and not always sees it.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.lose()


class _MosquittoSubscriber(_Program):
    def __init__(self, command: Sequence[str | Path]) -> None:
        super().__init__(command)
        self.wait_for("SUBACK")

    def take(self) -> Message:
        given = json.loads(self.message())
        properties = given.get("properties", {})
        pairs = list(properties.get("user-properties", {}).items())
        return Message(
            topic=given["topic"],
            payload=given["payload"].encode(),
            qos=given["qos"],
            retain=bool(given["retain"]),
            content_type=properties.get("content-type"),
            user_property=pairs[0] if pairs else None,
        )


class MosquittoTools:
    """Have no WebSocket."""

    name: ClassVar[str] = "mosquitto_pub, mosquitto_sub"
    is_5_0: ClassVar[bool] = True

    @staticmethod
    def _where(place: Place) -> list[str]:
        tls = ["--cafile", str(place.ca)] if place.ca else []
        return ["-h", "127.0.0.1", "-p", str(place.port), "-V", "5", *tls]

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber:
        more = ["-c", "-x", "300"] if keeps else []
        if will:
            more += ["--will-topic", will, "--will-payload", "gone", "--will-qos", "1"]
        format_ = ["-F", "%j", "-d", "-q", "2"]
        where = self._where(place)
        command = ["stdbuf", "-oL", "mosquitto_sub", *where, "-i", client_id, "-t", topic]
        return _MosquittoSubscriber([*command, *format_, *more])

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        properties = ["-D", "publish", "content-type", CONTENT_TYPE]
        properties += ["-D", "publish", "user-property", *USER_PROPERTY]
        what = ["-t", topic, "-m", payload.decode(), "-q", str(qos), *["-r"] * retain]
        command = ["mosquitto_pub", *self._where(place), *what, *properties]
        subprocess.run(command, check=True, timeout=PATIENCE_S)


class _JsSubscriber(_Program):
    def __init__(self, command: Sequence[str | Path]) -> None:
        super().__init__(command)
        self.wait_for("ready")

    def take(self) -> Message:
        given = json.loads(self.message())
        user = given["user"]
        return Message(
            topic=given["topic"],
            payload=bytes.fromhex(given["payload"]),
            qos=given["qos"],
            retain=given["retain"],
            content_type=given["contentType"],
            user_property=next(iter(user.items())) if user else None,
        )


class MqttJs:
    name: ClassVar[str] = "MQTT.js"
    is_5_0: ClassVar[bool] = True

    def __init__(self) -> None:
        mqttjs.install()

    def _command(self, place: Place, **how: object) -> list[str | Path]:
        scheme = "ws" if place.path is not None else "mqtts" if place.ca else "mqtt"
        url = f"{scheme}://127.0.0.1:{place.port}{place.path or ''}"
        script = Path(__file__).with_name("mqtt_js.js")
        ca = str(place.ca) if place.ca else None
        return ["node", script, json.dumps({"url": url, "ca": ca, **how})]

    def subscribe(
        self, place: Place, client_id: str, topic: str, *, keeps: bool = False, will: str = ""
    ) -> Subscriber:
        return _JsSubscriber(
            self._command(place, clientId=client_id, subscribe=topic, keeps=keeps, will=will)
        )

    def publish(
        self, place: Place, topic: str, payload: bytes, *, qos: int, retain: bool = False
    ) -> None:
        command = self._command(
            place, publish=topic, payload=payload.decode(), qos=qos, retain=retain
        )
        subprocess.run(command, check=True, timeout=PATIENCE_S)


DRIVERS: dict[str, type[Driver]] = {
    each.name: each for each in (Paho5, Paho311, Aiomqtt, Amqtt, MosquittoTools, MqttJs)
}
