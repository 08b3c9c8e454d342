"""What a connected client may send besides PUBLISH, and the answers.

Owns SUBSCRIBE, UNSUBSCRIBE, the acknowledgements of deliveries, PUBREL, PINGREQ and DISCONNECT.
Whatever changes durable state is answered when that is durable.
"""

from struct import unpack
from typing import TYPE_CHECKING

import msgspec

from gateway.mqtt.decode import decode_packet
from gateway.mqtt.encode import PINGRESP_BYTES, encode_packet
from gateway.mqtt.errors import (
    MalformedPacket,
    MqttError,
    PacketTooLarge,
    ProtocolError,
    QuotaExceeded,
    SecondConnect,
)
from gateway.mqtt.packets import (
    LEVEL_3_1,
    LEVEL_5_0,
    Auth,
    Disconnect,
    PingReq,
    PubAck,
    PubComp,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    SubscriptionRequest,
    UnsubAck,
    Unsubscribe,
)
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from gateway.mqtt.reason_codes import ReasonCode
from gateway.mqtt.replay import read_replay, split_replay
from gateway.mqtt.retained_feed import send_retained
from gateway.mqtt.session import Session, Subscription
from gateway.mqtt.sessions import granted_expiry_s
from gateway.mqtt.shared import split_shared
from gateway.mqtt.topics import check_topic_filter, is_shared
from gateway.mqtt.wire import Reader

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.endpoint import Endpoint

_FAILURE_3_1_1 = 0x80
_PUBACKS_MAX = 256
"""Looked at together; were it a whole read, one other packet in it would be found each time."""


def handle_control(
    connection: "Endpoint", broker: "Broker", first_byte: int, reader: Reader
) -> None:
    """One packet that is no PUBLISH, from a connected client; raises a PeerError for a bad one."""
    if connection.is_ended:
        return  # by a log that refused the messages before this packet
    session = connection.session
    assert session is not None
    if first_byte == 0x10:
        raise SecondConnect("CONNECT on a connected connection")  # [MQTT-3.1.0-2]
    packet = decode_packet(first_byte, reader, connection.level)
    broker.counters.controls_received += 1
    match packet:
        case PingReq():
            connection.answer(PINGRESP_BYTES)
        case PubAck():
            if not broker.dead_letters.takes(session, packet.packet_id, 1, packet.code):
                return
            connection.answer(session.outbox.acknowledged(packet.packet_id, broker.now_ms()))
            broker.deliveries.used(session)
        case PubRec():
            if not broker.dead_letters.takes(session, packet.packet_id, 2, packet.code):
                return
            connection.answer(
                session.outbox.received(packet.packet_id, packet.code, broker.now_ms())
            )
            broker.deliveries.used(session)
        case PubComp():
            connection.answer(session.outbox.completed(packet.packet_id, broker.now_ms()))
            broker.deliveries.used(session)
        case PubRel():
            _release(connection, broker, session, packet)
        case Subscribe():
            _subscribe(connection, broker, session, packet)
        case Unsubscribe():
            _unsubscribe(connection, broker, session, packet)
        case Disconnect():
            _disconnect(connection, broker, session, packet)
        case Auth():
            if connection.enhanced is None:
                raise ProtocolError("AUTH without an authentication method")  # [MQTT-4.12.0-7]
            connection.enhanced.received(packet)
        case _:
            raise ProtocolError(f"{type(packet).__name__} from a client")


def handle_pubacks(
    connection: "Endpoint", broker: "Broker", data: bytes, position: int, body: int, stop: int
) -> int:
    """The PUBACK in data[position:stop], and those that follow it where there is nothing else, and
    no reason code: a subscriber's for all that it has read. Returns where it has got to."""
    session = connection.session
    count = min((len(data) - position) // 4, _PUBACKS_MAX)
    end = position + 4 * count
    if (
        session is None
        or connection.is_ended
        or not count  # shorter than a PUBACK can be
        or data[position:end:4] != b"\x40" * count
        or data[position + 1 : end : 4] != b"\x02" * count
        or 0 in (packet_ids := unpack(f">{2 * count}H", data[position:end])[1::2])
    ):
        handle_control(connection, broker, data[position], Reader(data, body, stop))
        return stop
    connection.answer(session.outbox.all_acknowledged(packet_ids, broker.now_ms()))
    broker.deliveries.used(session)
    return end


def _release(connection: "Endpoint", broker: "Broker", session: Session, packet: PubRel) -> None:
    """PUBREL. PUBCOMP waits: if power fails before the identifier's removal is on disk, the
    client's next message of that identifier would be taken for this one."""
    if packet.packet_id in session.received:
        session.received.discard(packet.packet_id)
        broker.sessions.received_changed(session)
        connection.defer(encode_packet(PubComp(packet_id=packet.packet_id), connection.level))
        return
    code = ReasonCode.PACKET_IDENTIFIER_NOT_FOUND if connection.level == LEVEL_5_0 else 0
    connection.defer(
        encode_packet(PubComp(packet_id=packet.packet_id, code=code), connection.level)
    )


def _subscribe(
    connection: "Endpoint", broker: "Broker", session: Session, packet: Subscribe
) -> None:
    if len(packet.requests) > broker.limits.subscribe_filters_max:
        raise QuotaExceeded(f"{len(packet.requests)} filters in one SUBSCRIBE")
    broker.store()  # what came before is before the subscriptions
    if connection.is_ended:
        return
    known = set(session.subscriptions)
    answers = [
        _grant(connection, broker, session, request, packet.properties)
        for request in packet.requests
    ]
    broker.catchup.changed(session)
    answer = SubAck(
        packet_id=packet.packet_id,
        codes=tuple([code for code, _ in answers]),
        properties=_why(connection, [why for _, why in answers]),
    )
    _answer_change(connection, broker, session, answer)
    if not any(each.replay_limit is not None for each in session.subscriptions.values()):
        send_retained(broker, session, packet.requests, known)


def _grant(
    connection: "Endpoint",
    broker: "Broker",
    session: Session,
    request: SubscriptionRequest,
    properties: Properties,
) -> tuple[int, str]:
    """The SUBACK code of one filter, and why it is refused: a bad one does not end the connection
    (3.9.3). 3.1 has no code for it, so there it does."""
    is_5_0 = connection.level == LEVEL_5_0
    try:
        start, topic_filter = split_replay(request.filter)
        replay = read_replay(start, topic_filter, properties)
        check_topic_filter(
            split_shared(topic_filter)[1] if is_shared(topic_filter) else topic_filter,
            bytes_max=broker.limits.topic_bytes_max,
            levels_max=broker.limits.topic_levels_max,
        )
        broker.sessions.subscribe(
            session,
            Subscription(
                filter=topic_filter,
                qos=request.qos,
                no_local=request.no_local,
                retain_as_published=request.retain_as_published,
                subscription_id=next(iter(properties.subscription_ids), 0),
            ),
        )
        broker.deliveries.replayer.begin(session, topic_filter, replay)
    except MqttError as error:
        if connection.level == LEVEL_3_1:
            raise
        return error.reason if is_5_0 else _FAILURE_3_1_1, str(error)
    return request.qos, ""


def _why(connection: "Endpoint", reasons: list[str]) -> Properties:
    """A Reason String with the first fault, for who wants it [MQTT-3.1.2-29]."""
    text = next(filter(None, reasons), "")
    if not text or not connection.wants_reasons or connection.level < LEVEL_5_0:
        return NO_PROPERTIES
    return Properties(reason_string=text)


def _unsubscribe(
    connection: "Endpoint", broker: "Broker", session: Session, packet: Unsubscribe
) -> None:
    if len(packet.filters) > broker.limits.subscribe_filters_max:
        raise QuotaExceeded(f"{len(packet.filters)} filters in one UNSUBSCRIBE")
    codes = [_end_subscription(broker, session, name) for name in packet.filters]
    _answer_change(
        connection, broker, session, UnsubAck(packet_id=packet.packet_id, codes=tuple(codes))
    )


def _end_subscription(broker: "Broker", session: Session, topic_filter: str) -> int:
    """The UNSUBACK code of one filter."""
    try:
        topic_filter = split_replay(topic_filter)[1]
    except MqttError as error:
        return error.reason
    if broker.sessions.unsubscribe(session, topic_filter):
        return ReasonCode.SUCCESS
    try:
        check_topic_filter(topic_filter)
    except MqttError as error:
        return error.reason
    return ReasonCode.NO_SUBSCRIPTION_EXISTED


def _answer_change(
    connection: "Endpoint", broker: "Broker", session: Session, packet: SubAck | UnsubAck
) -> None:
    if session.is_stored:
        broker.sessions.changed(session)
    answer = encode_packet(packet, connection.level)
    if not connection.accepts_size(len(answer)) and packet.properties is not NO_PROPERTIES:
        # [MQTT-3.9.2-1], [MQTT-3.11.2-1]
        packet = msgspec.structs.replace(packet, properties=NO_PROPERTIES)
        answer = encode_packet(packet, connection.level)
    if not connection.accepts_size(len(answer)):
        raise PacketTooLarge("the answer is larger than the client takes")  # [MQTT-3.1.2-24]
    if session.is_stored:
        connection.defer(answer)
    else:
        connection.answer(answer)


def _disconnect(
    connection: "Endpoint", broker: "Broker", session: Session, packet: Disconnect
) -> None:
    """[MQTT-3.14.4-3] the will is discarded, unless the client asks for it (reason 0x04) or
    reports an error of its own."""
    expiry_s = packet.properties.session_expiry_s
    if packet.properties.server_reference is not None:
        raise MalformedPacket("Server Reference from a client")
    if expiry_s is not None:
        if session.expiry_s == 0 and expiry_s:
            raise ProtocolError("a session that ends now cannot be prolonged")  # 3.14.2.2.2
        broker.sessions.change_expiry(session, granted_expiry_s(expiry_s, broker.limits))
        broker.request()
    connection.disconnected(with_will=packet.code != ReasonCode.SUCCESS)
