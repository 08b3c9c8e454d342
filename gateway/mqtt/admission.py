"""CONNECT: who is let in, and what CONNACK says (3.1, 3.2 of both versions).

Owns the checks of a CONNECT that need more than the packet, and the terms the server offers:
Receive Maximum, Topic Alias Maximum, Maximum Packet Size, Server Keep Alive. Who the client is,
the connection's authenticator says (authentication.py), at once or later.
"""

from functools import partial
from typing import TYPE_CHECKING

from gateway.mqtt.authentication import Attempt, Refused, Verdict
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.enhanced import Enhanced
from gateway.mqtt.errors import (
    AuthMethodNotSupported,
    ClientIdentifierInvalid,
    MqttError,
    PacketTooLarge,
    ServerShuttingDown,
    StorageUnavailable,
)
from gateway.mqtt.inbound import Inbound, check_response_topic
from gateway.mqtt.packets import LEVEL_3_1, LEVEL_3_1_1, LEVEL_5_0, ConnAck, Connect
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from gateway.mqtt.reason_codes import ReasonCode, connack_reason, connack_return_code
from gateway.mqtt.session import EXPIRY_NEVER_S
from gateway.mqtt.sessions import granted_expiry_s
from gateway.mqtt.topics import check_topic_name

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.connection import Connection


def admit(connection: "Connection", broker: "Broker", packet: Connect) -> None:
    """Makes the connection a connected one, or raises the MqttError that refuses it."""
    properties = packet.properties
    connection.level = packet.level
    connection.peer_packet_bytes_max = properties.maximum_packet_bytes
    connection.wants_reasons = properties.request_problem_information != 0
    _check(broker, packet)
    authenticator = connection.authenticator
    method = properties.authentication_method
    if method is not None and (authenticator is None or method not in authenticator.methods):
        raise AuthMethodNotSupported(f"authentication method {method!r}")  # [MQTT-4.12.0-1]
    if authenticator is None:
        _let_in(connection, broker, packet)
        return
    attempt = Attempt(
        client_id=packet.client_id,
        peer=connection.peer,
        user_name=packet.user_name,
        password=packet.password,
        certificate_name=connection.certificate_name,
    )
    connection.wait_for_authentication()
    decided = partial(_answered, connection, broker, packet)
    if method is None:
        authenticator.authenticate(attempt, decided)
        return
    connection.enhanced = Enhanced(connection, authenticator, method, attempt)
    connection.enhanced.begin(
        properties.authentication_data, asked=connection.authenticated, decided=decided
    )


def _answered(
    connection: "Connection", broker: "Broker", packet: Connect, verdict: Verdict
) -> None:
    if connection.is_ended:
        return
    if isinstance(verdict, Refused):
        connection.end(verdict.error)
        return
    connection.user_name = verdict.user_name
    try:
        _check(broker, packet)  # again: time has passed
        _let_in(connection, broker, packet, data=verdict.data)
    except MqttError as error:
        connection.end(error)
        return
    connection.authenticated()


def _let_in(
    connection: "Connection", broker: "Broker", packet: Connect, *, data: bytes | None = None
) -> None:
    """`data` is the Authentication Data of CONNACK."""
    client_id = packet.client_id
    while not client_id or (not packet.client_id and client_id in broker.sessions):
        client_id = f"auto-{broker.rng.getrandbits(64):016x}"  # [MQTT-3.2.2-16]
    # [MQTT-3.2.2-21] told as Server Keep Alive; 3.1.1 3.1.2.10 allows it without telling.
    connection.keep_alive_s = min(packet.keep_alive_s, broker.limits.keep_alive_s_max)
    if packet.level == LEVEL_5_0 and not packet.keep_alive_s:
        connection.keep_alive_s = broker.limits.keep_alive_s_max
    expiry_s = granted_expiry_s(_requested_expiry_s(packet), broker.limits)
    terms = _terms(connection, broker, packet, client_id, expiry_s, data)
    if connection.peer_packet_bytes_max is not None and not connection.accepts_size(
        len(_connack(packet, terms, is_present=False))
    ):
        raise PacketTooLarge("CONNACK is larger than the client takes")  # [MQTT-3.1.2-24]
    opened = broker.sessions.open(
        connection, client_id, clean=packet.clean_start, expiry_s=expiry_s
    )
    inbound = Inbound(broker.ingest, client_id, packet.level, broker.limits)
    connection.connected(packet, opened.session, inbound)
    if opened.due_will is not None:
        broker.publish_will(client_id, opened.due_will)
    answer = _connack(packet, terms, is_present=opened.is_present)
    if opened.state_changed:
        # If power fails after CONNACK and before the old session's removal is on disk, its packet
        # identifiers would come back and a new message be taken for an old one; so CONNACK waits.
        connection.hold()
    connection.send(answer)
    connection.alias_topics(packet.properties.topic_alias_maximum or 0)
    session, window = opened.session, opened.window
    connection.send(
        session.outbox.attach(
            level=packet.level,
            receive_maximum=packet.properties.receive_maximum,
            packet_bytes_max=packet.properties.maximum_packet_bytes,
            in_flight=[] if window is None else window.in_flight,
            unlogged=session.unlogged,
            now_ms=broker.now_ms(),
        )
    )
    session.unlogged = None
    broker.catchup.attach(session, None if window is None else window.positions)
    broker.deliveries.groups.attach(session)
    broker.deliveries.used(session)
    broker.listener.client_connected(
        client_id,
        level=packet.level,
        peer=connection.peer,
        keep_alive_s=connection.keep_alive_s,
    )


def refusal(reason: ReasonCode, text: str, level: int, *, bytes_max: int | None = None) -> bytes:
    """The CONNACK that refuses; b"" where there is none to send (3.1.1, or no version known).

    `bytes_max` is the client's Maximum Packet Size, where it is known.
    """
    if level >= LEVEL_5_0:
        code = connack_reason(reason)
        for properties in (Properties(reason_string=text), NO_PROPERTIES):
            packet = ConnAck(session_present=False, code=code, properties=properties)
            data = encode_packet(packet, LEVEL_5_0)
            if bytes_max is None or len(data) <= bytes_max:
                return data  # [MQTT-3.2.2-19]
        return b""
    return_code = connack_return_code(reason)
    if level == 0 or return_code is None:
        return b""
    return encode_packet(ConnAck(session_present=False, code=return_code), LEVEL_3_1_1)


def _check(broker: "Broker", packet: Connect) -> None:
    limits = broker.limits
    if broker.storage_error is not None:
        raise StorageUnavailable("the log failed: nothing can be stored")
    if broker.is_draining:
        raise ServerShuttingDown("the gateway is shutting down")
    if not packet.client_id and (
        packet.level == LEVEL_3_1 or (packet.level == LEVEL_3_1_1 and not packet.clean_start)
    ):
        raise ClientIdentifierInvalid("empty client id without a clean session")  # [MQTT-3.1.3-8]
    if len(packet.client_id.encode()) > limits.client_id_bytes_max:
        raise ClientIdentifierInvalid(f"client id over {limits.client_id_bytes_max} bytes")
    if packet.will is not None:
        check_topic_name(
            packet.will.topic,
            bytes_max=limits.topic_bytes_max,
            levels_max=limits.topic_levels_max,
        )
        check_response_topic(packet.will.properties)


def _requested_expiry_s(packet: Connect) -> int:
    """3.1.1 knows only two lives of a session: with the connection, or for ever."""
    if packet.level == LEVEL_5_0:
        return packet.properties.session_expiry_s or 0
    return 0 if packet.clean_start else EXPIRY_NEVER_S


def _connack(packet: Connect, terms: Properties, *, is_present: bool) -> bytes:
    if packet.level == LEVEL_3_1:
        is_present = False  # a reserved byte
    return encode_packet(
        ConnAck(session_present=is_present, code=0, properties=terms), packet.level
    )


def _terms(
    connection: "Connection",
    broker: "Broker",
    packet: Connect,
    client_id: str,
    expiry_s: int,
    data: bytes | None,
) -> Properties:
    """What CONNACK says to a 5.0 client (3.2.2.3)."""
    if packet.level < LEVEL_5_0:
        return NO_PROPERTIES
    limits = broker.limits
    keep_alive_s = connection.keep_alive_s
    return Properties(
        session_expiry_s=expiry_s if expiry_s != _requested_expiry_s(packet) else None,
        receive_maximum=limits.receive_max,
        maximum_packet_bytes=limits.packet_bytes_max,
        assigned_client_id=None if packet.client_id else client_id,
        topic_alias_maximum=limits.topic_alias_max,
        server_keep_alive_s=keep_alive_s if keep_alive_s != packet.keep_alive_s else None,
        shared_subscription_available=1,
        authentication_method=packet.properties.authentication_method,  # [MQTT-4.12.0-5]
        authentication_data=data,
    )
