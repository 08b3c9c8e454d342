"""The door of one listener: who may come in before anything of MQTT is known, and through what.

Owns the counts of who is in, and the settings that a reload may change while connections are open:
these keep what they came in with. Sans-I/O.
"""

from collections import Counter
from typing import TYPE_CHECKING

from gateway.limits import MqttLimits
from gateway.listeners import ListenerConfig
from gateway.mqtt.authentication import Authenticator

if TYPE_CHECKING:
    from ssl import SSLContext

_RATE_WINDOW_MS = 1_000


class Door:
    """`tls` and `authenticator` are for connections to come; None: not asked for."""

    def __init__(
        self,
        config: ListenerConfig,
        *,
        tls: "SSLContext | None" = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self.config = config
        self.tls = tls
        self.authenticator = authenticator
        self.count = 0
        self.refused: Counter[str] = Counter()
        """By the limit that refused, since the last report."""
        self._by_address: dict[str, int] = {}
        self._window_began_ms = -_RATE_WINDOW_MS
        self._window_count = 0

    @property
    def is_plain(self) -> bool:
        """Nothing stands between the socket and MQTT."""
        place = self.config.place
        return not (place.is_tls or place.is_websocket or self.config.proxy_protocol)

    def enter(self, limits: MqttLimits, now_ms: int) -> bool:
        """One more connection; False: it is refused, and must not `leave`."""
        config = self.config
        most = config.connections_max
        if most is not None and self.count >= most:
            return self._refuse("connections_max")
        if now_ms - self._window_began_ms >= _RATE_WINDOW_MS:
            self._window_began_ms = now_ms
            self._window_count = 0
        if self._window_count >= (config.connect_rate_max or limits.connect_rate_max):
            return self._refuse("connect_rate_max")
        self._window_count += 1
        self.count += 1
        return True

    def enter_from(self, host: str, limits: MqttLimits) -> bool:
        """It is known where an entered connection comes from; False: as `enter`."""
        address = _counted(host)
        count = self._by_address.get(address, 0)
        most = self.config.connections_per_address_max or limits.connections_per_address_max
        if count >= most:
            return self._refuse("connections_per_address_max")
        self._by_address[address] = count + 1
        return True

    def leave(self) -> None:
        """What `enter` let in is gone."""
        self.count -= 1

    def leave_from(self, host: str) -> None:
        """What `enter_from` let in is gone."""
        address = _counted(host)
        count = self._by_address[address]
        if count > 1:
            self._by_address[address] = count - 1
        else:
            del self._by_address[address]

    def _refuse(self, why: str) -> bool:
        self.refused[why] += 1
        return False


def _counted(host: str) -> str:
    """One machine has a whole /64 of IPv6 to come from."""
    if ":" not in host:
        return host
    import ipaddress

    try:
        number = int(ipaddress.IPv6Address(host.partition("%")[0]))
    except ValueError:
        return host
    return f"{number >> 64:x}"
