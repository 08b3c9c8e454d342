"""What a client may send before its CONNACK (3.1, 4.12).

Owns the framing of CONNECT and of the AUTH packets that may follow it, of bounded size; what they
mean is in admission.py and enhanced.py. What comes behind them is kept until the client is let in.
"""

from typing import TYPE_CHECKING

from gateway.mqtt.admission import admit
from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.errors import MalformedPacket, NotConnectFirst, ProtocolError
from gateway.mqtt.packets import LEVEL_5_0, Auth, Connect, Disconnect
from gateway.mqtt.wire import Reader

if TYPE_CHECKING:
    from gateway.mqtt.broker import Broker
    from gateway.mqtt.connection import Connection

_CONNECT = 0x10
_CONNECT_5_0 = b"\0\4MQTT\5"

_WHEN_AUTHENTICATED = 1 << 62
"""More bytes than come: what follows a CONNECT is kept until it is known who sends it."""


def take(connection: "Connection", broker: "Broker", data: bytes) -> int:
    """The packets of `data`, from the first on; returns how many bytes they were."""
    position = 0
    while position < len(data) and not connection.is_ended:
        if connection.is_connected:
            return position + connection.parse(data[position:])
        if connection.is_authenticating:
            connection.needed_bytes = _WHEN_AUTHENTICATED
            return position
        if connection.enhanced is None and data[position] != _CONNECT:
            # [MQTT-3.1.0-1] the first packet must be a CONNECT
            raise NotConnectFirst(f"first packet begins with 0x{data[position]:02x}")
        frame = next_frame(data, position, len(data), broker.limits.connect_bytes_max)
        if not isinstance(frame, Frame):
            connection.needed_bytes = frame
            return position
        if connection.enhanced is not None:
            _authenticate(connection, data, frame)
        else:
            _connect(connection, broker, data, frame)
        position = frame.stop
    return position


def _connect(connection: "Connection", broker: "Broker", data: bytes, frame: Frame) -> None:
    if data.startswith(_CONNECT_5_0, frame.start):
        connection.level = LEVEL_5_0  # so that a bad CONNECT is answered with its reason
        if frame.start > 2 and data[frame.start - 1] == 0:
            raise MalformedPacket("Remaining Length longer than needed")  # [MQTT-1.5.5-1]
    packet = decode_packet(frame.first_byte, Reader(data, frame.start, frame.stop), 0)
    assert isinstance(packet, Connect)
    admit(connection, broker, packet)


def _authenticate(connection: "Connection", data: bytes, frame: Frame) -> None:
    """[MQTT-3.1.2-30] nothing but AUTH and DISCONNECT before CONNACK."""
    packet = decode_packet(frame.first_byte, Reader(data, frame.start, frame.stop), LEVEL_5_0)
    if isinstance(packet, Disconnect):
        connection.disconnected(with_will=False)
        return
    if not isinstance(packet, Auth):
        raise ProtocolError(f"{type(packet).__name__} before CONNACK")
    assert connection.enhanced is not None
    connection.wait_for_authentication()
    connection.enhanced.received(packet)
