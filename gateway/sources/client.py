"""paho-mqtt, held back: one connection to a broker whose answers are given by us.

Owns what paho does of itself and may not here. With `manual_ack` it leaves PUBACK and PUBCOMP to
us; but of a QoS 2 message it sends PUBREC as soon as it has read it, and gives it to us only after
PUBREL. From PUBREC on the message is ours [MQTT-4.3.3-9], so a kill between the two would lose it.
Therefore three of its methods are overridden here: a QoS 2 message is given to us when it is read,
PUBREC goes when we say so, and PUBREL is told to us. These are no public API of paho: they are
looked for when a source starts, and tests/gateway/test_source_kill.py tells if they changed.

It is driven without paho's thread: `loop_read`, `loop_write` and `loop_misc` in the event loop's
thread, so that a slice of messages goes to the log in one call and not reading is backpressure.
Only `open` waits (name, TCP, TLS): call it in another thread.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.mqtt.properties import NO_PROPERTIES, Properties
from gateway.sources.config import SourceConfig
from gateway.sources.intake import Answer, Incoming

_OVERRIDDEN: Final = ("_handle_publish", "_handle_pubrel", "_send_pubrec")


class Events(Protocol):
    """What happens on a connection; called in the thread that drives it."""

    def connected(self, client: BrokerClient, *, session_present: bool) -> None: ...
    def message(self, message: Incoming) -> None: ...
    def unreadable(self, message: Incoming) -> None: ...
    def released(self, packet_id: int) -> None: ...
    def subscribed(self, client: BrokerClient, codes: Sequence[str | None]) -> None: ...
    def lost(self, client: BrokerClient, reason: str) -> None: ...
    def wants_write(self, client: BrokerClient, wants: bool) -> None: ...
    def closing(self, client: BrokerClient) -> None: ...


class BrokerClient(paho.Client):
    """One attempt at one connection; another one needs another client."""

    def __init__(self, config: SourceConfig, client_id: str, events: Events) -> None:
        missing = [name for name in _OVERRIDDEN if not hasattr(paho.Client, name)]
        if missing:
            raise ImportError(f"paho-mqtt has no {', '.join(missing)}: use one from 2.2 on")
        self._config = config
        self._events = events
        self._is_5_0 = config.protocol == "5.0"
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self._is_5_0 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_5_0 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self.connect_timeout = config.limits.connect_timeout_ms / 1000
        self.on_connect = self._when_connected
        self.on_message = self._when_message
        self.on_subscribe = self._when_subscribed
        self.on_disconnect = self._when_lost
        self.on_socket_close = lambda client, userdata, sock: events.closing(self)
        self.on_socket_register_write = lambda *_: events.wants_write(self, True)
        self.on_socket_unregister_write = lambda *_: events.wants_write(self, False)

    def open(self) -> None:
        """Waits for TCP and TLS, and puts CONNECT into the queue. OSError (and ssl.SSLError)."""
        config = self._config
        if config.user_name is not None:
            self.username_pw_set(config.user_name, _password(config))
        if config.is_tls:
            authority = None if config.tls_ca is None else str(config.tls_ca)
            self.tls_set_context(ssl.create_default_context(cafile=authority))
        host, port, keep_alive = (
            config.address.host,
            config.address.port,
            config.limits.keep_alive_s,
        )
        if self._is_5_0:
            self.connect(
                host, port, keep_alive, clean_start=False, properties=_connect_properties(config)
            )
        else:
            self.connect(host, port, keep_alive)

    def subscribe_to(self, filters: Sequence[str], qos: int) -> None:
        """`subscribed` follows."""
        if self._is_5_0:
            # Retained messages once, when the subscription is new; RETAIN as it was published.
            options = SubscribeOptions(qos=qos, retainAsPublished=True, retainHandling=1)
            self.subscribe([(each, options) for each in filters])
        else:
            self.subscribe([(each, qos) for each in filters])

    def answer(self, answers: Sequence[tuple[Answer, int]]) -> None:
        """Puts acknowledgements into the queue; they go when the socket takes them."""
        for answer, packet_id in answers:
            if answer is Answer.PUBREC:
                super()._send_pubrec(packet_id)
            else:
                self.ack(packet_id, 1 if answer is Answer.PUBACK else 2)

    # -- what paho must not do by itself

    def _send_pubrec(self, mid: int) -> MQTTErrorCode:
        """Not when paho has read the message; `answer` sends it."""
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _handle_publish(self) -> MQTTErrorCode:
        result = super()._handle_publish()
        while self._in_messages:  # of QoS 2: paho keeps it until PUBREL
            _, message = self._in_messages.popitem()
            self._when_message(self, None, message)
        return result

    def _handle_pubrel(self) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if len(packet) < 2:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self._events.released(int.from_bytes(packet[:2], "big"))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    # -- paho's callbacks

    def _when_connected(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.ConnectFlags,
        code: ReasonCode,
        properties: PahoProperties | None,
    ) -> None:
        if not code.is_failure:
            self._events.connected(self, session_present=flags.session_present)
        else:
            self._events.lost(self, f"the broker refused: {code}")

    def _when_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic, read = message.topic, self._events.message
        except UnicodeDecodeError:
            topic, read = "", self._events.unreadable
        read(
            Incoming(
                topic,
                bytes(message.payload),
                message.qos,
                message.retain,
                message.dup,
                message.mid,
                _properties(message.properties),
            )
        )

    def _when_subscribed(
        self,
        client: paho.Client,
        userdata: Any,
        mid: int,
        codes: list[ReasonCode],
        properties: PahoProperties | None,
    ) -> None:
        self._events.subscribed(self, [str(code) if code.is_failure else None for code in codes])

    def _when_lost(
        self,
        client: paho.Client,
        userdata: Any,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        properties: PahoProperties | None,
    ) -> None:
        self._events.lost(self, str(code))


def _password(config: SourceConfig) -> str | None:
    if config.password_file is None:
        return None
    return config.password_file.read_text(encoding="utf-8").partition("\n")[0]


def _connect_properties(config: SourceConfig) -> PahoProperties:
    properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = config.limits.session_expiry_s
    properties.ReceiveMaximum = config.limits.in_flight_max
    properties.MaximumPacketSize = config.limits.packet_bytes_max
    return properties


def _properties(given: PahoProperties | None) -> Properties:
    if given is None or given.isEmpty():  # type: ignore[no-untyped-call]
        return NO_PROPERTIES
    get: Callable[[str], Any] = lambda name: getattr(given, name, None)  # noqa: E731
    return Properties(
        payload_format=get("PayloadFormatIndicator"),
        message_expiry_s=get("MessageExpiryInterval"),
        content_type=get("ContentType"),
        response_topic=get("ResponseTopic"),
        correlation_data=get("CorrelationData"),
        user_properties=tuple(get("UserProperty") or ()),
    )
