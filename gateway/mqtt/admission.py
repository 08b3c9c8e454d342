"""CONNECT: who is let in, and what CONNACK says (3.1, 3.2 of both versions).

Owns the checks of a CONNECT that need more than the packet, and the terms the server offers:
Receive Maximum, Topic Alias Maximum, Maximum Packet Size, Server Keep Alive. Who the client is,
the connection's authenticator says (authentication.py), at once or later.
"""

from functools import partial
from typing import TYPE_CHECKING

from gateway.mqtt.authentication import Attempt, Refused, Verdict
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import (
    AuthMethodNotSupported,
    ClientIdentifierInvalid,
    MqttError,
    RetainNotSupported,
    ServerShuttingDown,
    StorageUnavailable,
)
from gateway.mqtt.inbound import Inbound, check_response_topic
from gateway.mqtt.packets import LEVEL_3_1_1, LEVEL_5_0, ConnAck, Connect
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode, connack_return_code
from gateway.mqtt.session import EXPIRY_NEVER_S
from gateway.mqtt.sessions import granted_expiry_s
from gateway.mqtt.topics import check_topic_name

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.connection import Connection


def admit(connection: "Connection", broker: "Broker", packet: Connect) -> None:
    """Makes the connection a connected one, or raises the MqttError that refuses it."""
    connection.level = packet.level
    _check(broker, packet)
    authenticator = connection.authenticator
    if authenticator is None:
        if packet.properties.authentication_method is not None:
            raise AuthMethodNotSupported("extended authentication is not supported")
        _let_in(connection, broker, packet)
    elif packet.properties.authentication_method is not None:
        raise AuthMethodNotSupported("extended authentication is not supported")
    else:
        connection.wait_for_authentication()
        authenticator.authenticate(
            Attempt(
                client_id=packet.client_id,
                peer=connection.peer,
                user_name=packet.user_name,
                password=packet.password,
                certificate_name=connection.certificate_name,
            ),
            partial(_answered, connection, broker, packet),
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
        _let_in(connection, broker, packet)
    except MqttError as error:
        connection.end(error)
        return
    connection.authenticated()


def _let_in(connection: "Connection", broker: "Broker", packet: Connect) -> None:
    client_id = packet.client_id or f"auto-{broker.rng.getrandbits(64):016x}"
    # [MQTT-3.2.2-21] told as Server Keep Alive; 3.1.1 3.1.2.10 allows it without telling.
    connection.keep_alive_s = min(packet.keep_alive_s, broker.limits.keep_alive_s_max)
    if packet.level == LEVEL_5_0 and not packet.keep_alive_s:
        connection.keep_alive_s = broker.limits.keep_alive_s_max
    expiry_s = granted_expiry_s(_requested_expiry_s(packet), broker.limits)
    opened = broker.sessions.open(
        connection, client_id, clean=packet.clean_start, expiry_s=expiry_s
    )
    inbound = Inbound(broker.ingest, client_id, packet.level, broker.limits)
    connection.connected(packet, opened.session, inbound)
    if opened.due_will is not None:
        broker.publish_will(client_id, opened.due_will)
    answer = _connack(connection, broker, packet, expiry_s, is_present=opened.is_present)
    if opened.state_changed:
        # If power fails after CONNACK and before the old session's removal is on disk, its packet
        # identifiers would come back and a new message be taken for an old one; so CONNACK waits.
        connection.hold()
    connection.send(answer)
    outbox = opened.session.outbox
    dropped_count = outbox.dropped_count
    connection.send(
        outbox.attach(
            level=packet.level,
            receive_maximum=packet.properties.receive_maximum,
            packet_bytes_max=packet.properties.maximum_packet_bytes,
            now_ms=broker.now_ms(),
        )
    )
    broker.counters.deliveries_dropped += outbox.dropped_count - dropped_count
    broker.listener.client_connected(
        client_id,
        level=packet.level,
        peer=connection.peer,
        keep_alive_s=connection.keep_alive_s,
    )


def refusal(reason: ReasonCode, text: str, level: int) -> bytes:
    """The CONNACK that refuses; b"" where there is none to send (3.1.1, or no version known)."""
    if level >= LEVEL_5_0:
        packet = ConnAck(
            session_present=False, code=reason, properties=Properties(reason_string=text)
        )
        return encode_packet(packet, LEVEL_5_0)
    code = connack_return_code(reason)
    if level == 0 or code is None:
        return b""
    return encode_packet(ConnAck(session_present=False, code=code), LEVEL_3_1_1)


def _check(broker: "Broker", packet: Connect) -> None:
    limits = broker.limits
    if broker.storage_error is not None:
        raise StorageUnavailable("the log failed: nothing can be stored")
    if broker.is_draining:
        raise ServerShuttingDown("the gateway is shutting down")
    if not packet.client_id and packet.level < LEVEL_5_0 and not packet.clean_start:
        raise ClientIdentifierInvalid("empty client id without a clean session")  # [MQTT-3.1.3-8]
    if len(packet.client_id.encode()) > limits.client_id_bytes_max:
        raise ClientIdentifierInvalid(f"client id over {limits.client_id_bytes_max} bytes")
    if packet.will is not None:
        check_topic_name(
            packet.will.topic,
            bytes_max=limits.topic_bytes_max,
            levels_max=limits.topic_levels_max,
        )
        if packet.will.retain and packet.level == LEVEL_5_0:
            raise RetainNotSupported("retained messages are not kept")  # [MQTT-3.2.2-13]
        check_response_topic(packet.will.properties)


def _requested_expiry_s(packet: Connect) -> int:
    """3.1.1 knows only two lives of a session: with the connection, or for ever."""
    if packet.level == LEVEL_5_0:
        return packet.properties.session_expiry_s or 0
    return 0 if packet.clean_start else EXPIRY_NEVER_S


def _connack(
    connection: "Connection", broker: "Broker", packet: Connect, expiry_s: int, *, is_present: bool
) -> bytes:
    if packet.level < LEVEL_5_0:
        return encode_packet(ConnAck(session_present=is_present, code=0), packet.level)
    limits = broker.limits
    keep_alive_s = connection.keep_alive_s
    properties = Properties(
        session_expiry_s=expiry_s if expiry_s != _requested_expiry_s(packet) else None,
        receive_maximum=limits.receive_max,
        retain_available=0,
        maximum_packet_bytes=limits.packet_bytes_max,
        assigned_client_id=None if packet.client_id else connection.client_id,
        topic_alias_maximum=limits.topic_alias_max,
        server_keep_alive_s=keep_alive_s if keep_alive_s != packet.keep_alive_s else None,
        shared_subscription_available=0,
    )
    return encode_packet(
        ConnAck(session_present=is_present, code=0, properties=properties), LEVEL_5_0
    )
