"""Tells the device table what the MQTT broker sees; owns nothing but the translation."""

from __future__ import annotations

from collections.abc import Callable

from devices import DeviceTable

_PROTOCOLS = {3: "MQTT 3.1", 4: "MQTT 3.1.1", 5: "MQTT 5.0"}


class DevicePresence:
    """A listener of the broker (`gateway.mqtt.broker.Listener`)."""

    def __init__(self, table: DeviceTable, now_ms: Callable[[], int]) -> None:
        self._table = table
        self._now_ms = now_ms

    def client_connected(self, client_id: str, *, level: int, peer: str, keep_alive_s: int) -> None:
        self._table.client_connected(
            client_id,
            protocol=_PROTOCOLS.get(level, f"level {level}"),
            address=peer,
            now_ms=self._now_ms(),
        )

    def client_disconnected(self, client_id: str, *, clean: bool) -> None:
        self._table.client_disconnected(client_id, now_ms=self._now_ms())

    def message_seen(self, client_id: str, topic: str, payload: bytes) -> None:
        self._table.message_seen(client_id, topic, payload, now_ms=self._now_ms())
