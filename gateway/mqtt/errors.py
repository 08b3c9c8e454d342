"""What can go wrong in an MQTT conversation.

    MqttError
    +-- PeerError                 the client's fault; carries the 5.0 reason code
    |   +-- MalformedPacket             0x81  bytes that are no MQTT packet
    |   +-- ProtocolError               0x82  a packet that must not come now, or so
    |   |   +-- NotConnectFirst               the first packet is no CONNECT
    |   |   +-- SecondConnect                 CONNECT on a connected connection
    |   +-- UnsupportedProtocolVersion  0x84
    |   +-- ClientIdentifierInvalid     0x85
    |   +-- BadUserNameOrPassword       0x86
    |   +-- NotAuthorized               0x87
    |   +-- KeepAliveExpired            0x8D
    |   +-- TopicFilterInvalid          0x8F
    |   +-- ReplayInvalid               0x83  stored messages are asked for in no way we know
    |   +-- TopicNameInvalid            0x90
    |   +-- ReceiveMaximumExceeded      0x93
    |   +-- TopicAliasInvalid           0x94
    |   +-- PacketTooLarge              0x95
    |   +-- QuotaExceeded               0x97
    |   +-- AuthMethodNotSupported      0x8C
    +-- ServerEnds                not the client's fault: the server ends the connection
        +-- SessionTakenOver            0x8E
        +-- ServerBusy                  0x89  too many want to be authenticated at once
        +-- ServerShuttingDown          0x8B
        +-- StorageFailed               0x83  the log failed: nothing is acknowledged any more
        +-- StorageUnavailable          0x88  ... and a new client is not taken
        +-- StorageFull                 0x97  the log refuses new messages

    TransportError                what is below MQTT (PROXY header, TLS, WebSocket) is broken or
                                  refused: the connection is closed

They never leave the package: a connection turns one into its reason code (5.0) or into the
end of the network connection (3.1.1).
"""

from typing import ClassVar

from gateway.mqtt.reason_codes import ReasonCode


class MqttError(Exception):
    reason: ClassVar[ReasonCode] = ReasonCode.UNSPECIFIED_ERROR


class TransportError(Exception):
    """No MQTT can come of these bytes; there is no reason code to say it with."""


class PeerError(MqttError):
    """The client broke the protocol or a limit."""


class MalformedPacket(PeerError):
    reason = ReasonCode.MALFORMED_PACKET


class ProtocolError(PeerError):
    reason = ReasonCode.PROTOCOL_ERROR


class NotConnectFirst(ProtocolError):
    pass


class SecondConnect(ProtocolError):
    pass


class UnsupportedProtocolVersion(PeerError):
    """`level` is what the client asked for; it decides the form of the refusal."""

    reason = ReasonCode.UNSUPPORTED_PROTOCOL_VERSION

    def __init__(self, message: str, *, level: int) -> None:
        super().__init__(message)
        self.level = level


class ClientIdentifierInvalid(PeerError):
    reason = ReasonCode.CLIENT_IDENTIFIER_NOT_VALID


class AuthMethodNotSupported(PeerError):
    reason = ReasonCode.BAD_AUTHENTICATION_METHOD


class BadUserNameOrPassword(PeerError):
    reason = ReasonCode.BAD_USER_NAME_OR_PASSWORD


class NotAuthorized(PeerError):
    reason = ReasonCode.NOT_AUTHORIZED


class KeepAliveExpired(PeerError):
    reason = ReasonCode.KEEP_ALIVE_TIMEOUT


class TopicFilterInvalid(PeerError):
    reason = ReasonCode.TOPIC_FILTER_INVALID


class ReplayInvalid(PeerError):
    reason = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR


class TopicNameInvalid(PeerError):
    reason = ReasonCode.TOPIC_NAME_INVALID


class ReceiveMaximumExceeded(PeerError):
    reason = ReasonCode.RECEIVE_MAXIMUM_EXCEEDED


class TopicAliasInvalid(PeerError):
    reason = ReasonCode.TOPIC_ALIAS_INVALID


class PacketTooLarge(PeerError):
    reason = ReasonCode.PACKET_TOO_LARGE


class QuotaExceeded(PeerError):
    reason = ReasonCode.QUOTA_EXCEEDED


class ServerEnds(MqttError):
    """The server ends the connection for a reason of its own."""


class SessionTakenOver(ServerEnds):
    reason = ReasonCode.SESSION_TAKEN_OVER


class ServerShuttingDown(ServerEnds):
    reason = ReasonCode.SERVER_SHUTTING_DOWN


class ServerBusy(ServerEnds):
    reason = ReasonCode.SERVER_BUSY


class StorageFailed(ServerEnds):
    reason = ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR


class StorageUnavailable(ServerEnds):
    reason = ReasonCode.SERVER_UNAVAILABLE


class StorageFull(ServerEnds):
    reason = ReasonCode.QUOTA_EXCEEDED
