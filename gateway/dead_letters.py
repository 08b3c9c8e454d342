"""`sluicegate dead-letters`: dead letters of a running gateway, over MQTT 5.0.

Owns the two commands. They are a client like others: what is stored comes by a replay of
`$dead-letter/#` (gateway/mqtt/replay.py), and what is re-driven is published with QoS 1 and counts
when its PUBACK is there. A replay has no end, so that is where nothing has come for `--quiet`
seconds. Dead letters stay where they are: a re-driven one is still listed.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import paho.mqtt.client as paho
from cyclopts import App, Parameter
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.errors import StartFailed, UsageInvalid
from gateway.mqtt.dead_letters import DEAD_HEADER_PREFIX, DEAD_LETTERS, DEAD_TOPIC_PREFIX
from gateway.urls import parse_source

letters_app = App(name="dead-letters", help="What subscribers would not have, stored apart.")

_ANSWER_S_MAX = 10.0
"""For CONNACK, SUBACK and each PUBACK."""

_TOPIC_PREFIX = DEAD_TOPIC_PREFIX.decode()
_DEAD_PREFIX = DEAD_HEADER_PREFIX.decode()
_OURS = "sluicegate."
_PASSED_ON = ("PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData")

At = Annotated[str, Parameter(name=["--at", "--to"], help="The gateway, mqtt:// or mqtts://.")]
User = Annotated[str | None, Parameter(help="Password in SLUICEGATE_PASSWORD.")]
Authority = Annotated[Path | None, Parameter(help="Certificates to trust, for mqtts://.")]
Quiet = Annotated[float, Parameter(help="Nothing for so many seconds: that was all.")]


class Letter(NamedTuple):
    """`topic` is the original's; `marks` are sluicegate.dead.*, without that."""

    offset: int
    topic: str
    payload: bytes
    marks: dict[str, str]
    properties: Any


@letters_app.command(name="ls")
def list_letters(
    *,
    at: At = "mqtt://127.0.0.1:1883",
    first: Annotated[int, Parameter(name="--from", help="Offset of the first.")] = 0,
    limit: int = 1000,
    json_lines: Annotated[bool, Parameter(name="--json", negative=())] = False,
    user: User = None,
    ca: Authority = None,
    quiet: Quiet = 2.0,
) -> None:
    """List dead letters: offset, time, who would not have it, why, topic and size."""
    link = _Link(at, user, ca)
    for letter in link.read(first, None, limit, quiet):
        print(_as_json(letter) if json_lines else _as_line(letter))
    link.close()


@letters_app.command
def redrive(
    *,
    to: At,
    offset: Annotated[str, Parameter(help="A-B, both included, or A: as `ls` lists them.")],
    user: User = None,
    ca: Authority = None,
    quiet: Quiet = 2.0,
) -> None:
    """Publish dead letters again, with QoS 1 on their topic: all who subscribe get them."""
    first, last = _range(offset)
    link = _Link(to, user, ca)
    letters = link.read(first, last, last - first + 1, quiet)
    for letter in letters:
        link.publish(letter)
        print(f"{letter.offset}\t{letter.topic}", flush=True)
    link.close()
    print(f"{len(letters)} published and acknowledged")


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise UsageInvalid(f"--offset {text}: write it as 7 or as 3-12")
    return int(first), int(last)


def _as_line(letter: Letter) -> str:
    marks = letter.marks
    at = datetime.fromtimestamp(int(marks["time"]) / 1000, UTC).isoformat(timespec="seconds")
    size = f"{len(letter.payload)} bytes"
    who = f"{marks['client']!r}"
    return "\t".join((str(letter.offset), at, who, marks["cause"], repr(letter.topic), size))


def _as_json(letter: Letter) -> str:
    about = {"offset": letter.offset, "topic": letter.topic, "payload": letter.payload.hex()}
    return json.dumps({**about, "dead": letter.marks})


class _Link:
    """A connection to a gateway; StartFailed says what did not go."""

    def __init__(self, url: str, user: str | None, ca: Path | None) -> None:
        self._url = url
        address, is_tls = parse_source(url)
        self._client = client = paho.Client(
            CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._answers: dict[int, list[Any]] = {}
        self._connected: list[Any] = []
        self._found: list[Letter] = []
        client.on_connect = lambda _client, _data, _flags, code, _properties: (
            self._connected.append(code)
        )
        client.on_subscribe = lambda _client, _data, mid, codes, _properties: (
            self._answers.__setitem__(mid, codes)
        )
        client.on_publish = lambda _client, _data, mid, code, _properties: (
            self._answers.__setitem__(mid, [code])
        )
        client.on_message = self._came
        try:
            if user is not None:
                client.username_pw_set(user, os.environ.get("SLUICEGATE_PASSWORD"))
            if is_tls:
                client.tls_set_context(ssl.create_default_context(cafile=ca))
            client.connect(address.host, address.port)
        except OSError as error:
            raise StartFailed(
                f"{url}: {error}. Start the gateway, or give the address of a running one"
            ) from error
        self._wait("CONNACK", lambda: self._connected)

    def read(self, first: int, last: int | None, limit: int, quiet_s: float) -> list[Letter]:
        """Those from `first` to `last`, `limit` at most, in order."""
        asked: Any = Properties(PacketTypes.SUBSCRIBE)  # type: ignore[no-untyped-call]
        asked.UserProperty = [("from", f"offset:{first}"), ("position", "1")]
        topic_filter = _TOPIC_PREFIX + "#"
        _, mid = self._client.subscribe(
            topic_filter, options=SubscribeOptions(qos=0), properties=asked
        )
        assert mid is not None
        self._wait("SUBACK", lambda: self._answers.get(mid))
        count, since = -1, 0.0
        while (
            len(self._found) < limit
            and (last is None or not self._found or self._found[-1].offset < last)
            and (count != len(self._found) or time.monotonic() - since < quiet_s)
        ):
            if count != len(self._found):
                count, since = len(self._found), time.monotonic()
            self._turn()
        found = [each for each in self._found if last is None or each.offset <= last][:limit]
        self._client.unsubscribe(topic_filter)
        return found

    def publish(self, letter: Letter) -> None:
        properties: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name in _PASSED_ON:
            if (value := getattr(letter.properties, name, None)) is not None:
                setattr(properties, name, value)
        kept = [each for each in _user(letter.properties) if not each[0].startswith(_OURS)]
        properties.UserProperty = [*kept, ("sluicegate.redriven", str(letter.offset))]
        info = self._client.publish(letter.topic, letter.payload, qos=1, properties=properties)
        self._wait(f"PUBACK of {letter.offset}", lambda: self._answers.get(info.mid))

    def close(self) -> None:
        self._client.disconnect()

    def _came(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        told = dict(_user(message.properties))  # ours are behind the publisher's
        if told.get("sluicegate.stream") == DEAD_LETTERS:
            marks = {
                name.removeprefix(_DEAD_PREFIX): value
                for name, value in told.items()
                if name.startswith(_DEAD_PREFIX)
            }
            topic = message.topic.removeprefix(_TOPIC_PREFIX)
            payload = bytes(message.payload)
            letter = Letter(
                int(told["sluicegate.offset"]), topic, payload, marks, message.properties
            )
            self._found.append(letter)

    def _wait(self, what: str, answer: Callable[[], list[Any] | None]) -> None:
        deadline = time.monotonic() + _ANSWER_S_MAX
        while not (codes := answer()):
            if time.monotonic() > deadline:
                raise StartFailed(f"{self._url}: no {what} within {_ANSWER_S_MAX:.0f} s")
            self._turn()
        if codes[0].value >= 0x80:
            raise StartFailed(f"{self._url}: {what} says {codes[0]}")

    def _turn(self) -> None:
        code = self._client.loop(0.05)
        if code != paho.MQTT_ERR_SUCCESS:
            raise StartFailed(f"{self._url}: {paho.error_string(code)}")


def _user(properties: Any) -> list[tuple[str, str]]:
    return list(getattr(properties, "UserProperty", []))
