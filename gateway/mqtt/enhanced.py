"""Enhanced authentication: the exchange of AUTH packets of MQTT 5.0 (4.12).

Owns who may say what next in an exchange, before CONNACK and when a connected client authenticates
again. What is in the data, only the listener's authenticator knows (authentication.py).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.mqtt.authentication import (
    Accepted,
    Attempt,
    Authenticator,
    Challenge,
    Exchange,
    Refused,
    Verdict,
)
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.errors import PacketTooLarge, ProtocolError
from gateway.mqtt.packets import LEVEL_5_0, Auth
from gateway.mqtt.properties import Properties
from gateway.mqtt.reason_codes import ReasonCode

if TYPE_CHECKING:
    from gateway.mqtt.endpoint import Endpoint


class Enhanced:
    """The authentication of one connection, with the method that its CONNECT named."""

    def __init__(
        self, connection: "Endpoint", authenticator: Authenticator, method: str, attempt: Attempt
    ) -> None:
        self.method = method
        self._connection = connection
        self._authenticator = authenticator
        self._attempt = attempt
        self._exchange: Exchange | None = None
        self._is_asked = False
        """An AUTH of the client is awaited."""
        self._asked: Callable[[], None] = _nothing
        self._decided: Callable[[Verdict], None] = _nothing_of

    def begin(
        self, data: bytes | None, *, asked: Callable[[], None], decided: Callable[[Verdict], None]
    ) -> None:
        """CONNECT gave `data`. `asked` is called whenever the client was sent an AUTH, `decided`
        once at the end; neither when the connection has ended."""
        self._asked = asked
        self._decided = decided
        self._exchange = self._authenticator.begin(self.method, self._attempt)
        self._exchange.step(data, self._answered)

    def received(self, packet: Auth) -> None:
        """An AUTH of the client, before CONNACK or after."""
        properties = packet.properties
        if properties.authentication_method != self.method:
            raise ProtocolError("another authentication method")  # [MQTT-4.12.0-5], 4.12.1-1
        if packet.code == ReasonCode.RE_AUTHENTICATE:
            if self._exchange is not None or not self._connection.is_connected:
                raise ProtocolError("an authentication is under way")
            self.begin(properties.authentication_data, asked=_nothing, decided=self._decided_again)
        elif packet.code != ReasonCode.CONTINUE_AUTHENTICATION or not self._is_asked:
            raise ProtocolError("AUTH that answers nothing")  # [MQTT-4.12.0-3]
        else:
            self._is_asked = False
            assert self._exchange is not None
            self._exchange.step(properties.authentication_data, self._answered)

    def _answered(self, verdict: Accepted | Refused | Challenge) -> None:
        if self._connection.is_ended:
            return
        if isinstance(verdict, Challenge):
            self._is_asked = True
            self._send(ReasonCode.CONTINUE_AUTHENTICATION, verdict.data)  # [MQTT-4.12.0-2]
            if not self._connection.is_ended:
                self._asked()
            return
        self._exchange = None
        self._decided(verdict)

    def _decided_again(self, verdict: Verdict) -> None:
        """Of a client that is connected [MQTT-4.12.1-2]."""
        if isinstance(verdict, Refused):
            self._connection.end(verdict.error)
            return
        self._connection.user_name = verdict.user_name
        self._send(ReasonCode.SUCCESS, verdict.data)

    def _send(self, code: ReasonCode, data: bytes | None) -> None:
        properties = Properties(authentication_method=self.method, authentication_data=data)
        packet = encode_packet(Auth(code=code, properties=properties), LEVEL_5_0)
        if self._connection.accepts_size(len(packet)):
            self._connection.send(packet)
        else:
            self._connection.end(PacketTooLarge("AUTH is larger than the client takes"))


def _nothing() -> None:
    pass


def _nothing_of(_verdict: Verdict) -> None:
    pass
