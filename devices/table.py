"""Which devices were seen, in memory, between two writes to the store.

Owns: the changes since the last `drain()`, one per device, bounded in number and in size.
Never: touches a file, reads a clock, blocks, raises, or refuses a message. It is called from the
MQTT loop with what just happened there, so each call is a dict look-up and a few stores.

When more devices change between two drains than `pending_max`, further ones are not recorded and
`unrecorded_count` counts them: presence and last readings are rebuilt by the device's next
message, and the messages themselves are in the log.
"""

from collections.abc import Iterable

from devices.limits import DeviceLimits


class DeviceChange:
    """What became of one device since the last drain. None: nothing new is known of that."""

    __slots__ = (
        "address",
        "client_id",
        "connected",
        "connected_ms",
        "disconnected_ms",
        "first_seen_ms",
        "last_message_ms",
        "last_payload",
        "last_size_bytes",
        "last_topic",
        "message_count",
        "protocol",
    )

    def __init__(self, client_id: str, first_seen_ms: int) -> None:
        self.client_id = client_id
        self.first_seen_ms = first_seen_ms
        self.protocol: str | None = None
        self.address: str | None = None
        self.connected: bool | None = None
        self.connected_ms: int | None = None
        self.disconnected_ms: int | None = None
        self.last_message_ms: int | None = None
        self.last_topic: str | None = None
        self.last_payload: bytes | None = None
        self.last_size_bytes: int | None = None
        self.message_count = 0

    def absorb_older(self, older: "DeviceChange") -> None:
        """Fill in from a change of the same device that happened before this one."""
        self.first_seen_ms = older.first_seen_ms
        self.message_count += older.message_count
        for name in _CARRIED:
            if getattr(self, name) is None:
                setattr(self, name, getattr(older, name))


_CARRIED = tuple(
    name
    for name in DeviceChange.__slots__
    if name not in ("client_id", "first_seen_ms", "message_count")
)


class DeviceTable:
    """The listener that the MQTT server tells what it sees; see the module's docstring."""

    def __init__(self, limits: DeviceLimits | None = None) -> None:
        self._limits = limits or DeviceLimits()
        self._payload_bytes_max = self._limits.payload_bytes_max
        self._topic_chars_max = self._limits.topic_chars_max
        self._changes: dict[str, DeviceChange] = {}
        self.unrecorded_count = 0

    @property
    def pending_count(self) -> int:
        """Changes that wait for `drain()`."""
        return len(self._changes)

    def client_connected(self, client_id: str, *, protocol: str, address: str, now_ms: int) -> None:
        """A CONNECT was accepted. On a take-over, report the old connection's end first."""
        change = self._changes.get(client_id) or self._new_change(client_id, now_ms)
        if change is not None:
            change.protocol = protocol
            change.address = address
            change.connected = True
            change.connected_ms = now_ms

    def client_disconnected(self, client_id: str, *, now_ms: int) -> None:
        """The connection ended, in whatever way."""
        change = self._changes.get(client_id) or self._new_change(client_id, now_ms)
        if change is not None:
            change.connected = False
            change.disconnected_ms = now_ms

    def message_seen(
        self, client_id: str, topic: str, payload: bytes, *, now_ms: int, count: int = 1
    ) -> None:
        """`count` messages came on `topic`, the last of them with `payload`."""
        change = self._changes.get(client_id) or self._new_change(client_id, now_ms)
        if change is None:
            return
        change.message_count += count
        change.last_message_ms = now_ms
        size_bytes = change.last_size_bytes = len(payload)
        # Kept whole where short: a slice of all of it is the same object, not a copy.
        max_bytes = self._payload_bytes_max
        change.last_payload = payload if size_bytes <= max_bytes else payload[:max_bytes]
        max_chars = self._topic_chars_max
        change.last_topic = topic if len(topic) <= max_chars else topic[:max_chars]

    def drain(self) -> list[DeviceChange]:
        """All changes since the last drain; they are the caller's now."""
        changes = list(self._changes.values())
        self._changes = {}
        return changes

    def put_back(self, changes: Iterable[DeviceChange]) -> None:
        """Take changes again that could not be written; what happened since then wins."""
        for older in changes:
            newer = self._changes.get(older.client_id)
            if newer is not None:
                newer.absorb_older(older)
            elif len(self._changes) < self._limits.pending_max:
                self._changes[older.client_id] = older
            else:
                self.unrecorded_count += 1

    def _new_change(self, client_id: str, now_ms: int) -> DeviceChange | None:
        if (
            len(self._changes) >= self._limits.pending_max
            or len(client_id) > self._limits.client_id_chars_max
        ):
            self.unrecorded_count += 1
            return None
        change = self._changes[client_id] = DeviceChange(client_id, now_ms)
        return change
