"""The durable state: a map of bytes to bytes that changes with the journal's frames.

Cursors, producer ids, kept MQTT sessions and received QoS 2 packet ids are in it. It is held in
memory whole, so what goes in must be bounded by its owner. A change is visible at once to who
reads it here, and durable with the frame of the round it was made in.
"""

from __future__ import annotations

from collections.abc import Iterable

from log.frame import STATE_HEADER_BYTES, STATE_KEY_BYTES_MAX, StateChange


def cursor_key(name: str, stream: str, index: int) -> bytes:
    """Where the cursor `name` of a partition is kept."""
    return f"cursor/{name}/{stream}/{index}".encode()


def state_lost_key(partition_id: int) -> bytes:
    """Where is kept up to which offset of a partition (i64) state was lost that spoke of it."""
    return b"state-lost/%d" % partition_id


class DurableState:
    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._durable: dict[bytes, bytes] = {}
        """What a checkpoint may hold: without the changes of frames that are not synced yet."""
        self._round: dict[bytes, bytes | None] = {}
        self.round_bytes = 0

    def put(self, key: bytes, value: bytes | None) -> None:
        """Sets or deletes (None) a key, in the current round."""
        assert len(key) <= STATE_KEY_BYTES_MAX, "a state key is its owner's to bound"
        _apply(self._values, key, value)
        if key in self._round:
            # Only the last value of a key is written, however often it changed in the round.
            self.round_bytes -= _entry_bytes(key, self._round[key])
        self._round[key] = value
        self.round_bytes += _entry_bytes(key, value)

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def get_durable(self, key: bytes) -> bytes | None:
        """The value that a power cut now would leave."""
        return self._durable.get(key)

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The pairs whose key begins with `prefix`, by key."""
        return sorted(pair for pair in self._values.items() if pair[0].startswith(prefix))

    def cut(self) -> list[StateChange]:
        """The round's changes; the last one of a key stands for all of that key."""
        changes = [StateChange(key=key, value=value) for key, value in self._round.items()]
        self._round = {}
        self.round_bytes = 0
        return changes

    def durable(self, changes: Iterable[StateChange]) -> None:
        """The frame with these changes was synced."""
        for change in changes:
            _apply(self._durable, change.key, change.value)

    def restore(self, changes: Iterable[StateChange]) -> None:
        """Takes changes that recovery read back."""
        for change in changes:
            _apply(self._values, change.key, change.value)
            _apply(self._durable, change.key, change.value)

    def snapshot(self) -> list[tuple[bytes, bytes]]:
        """All that is durable."""
        return list(self._durable.items())


def _entry_bytes(key: bytes, value: bytes | None) -> int:
    return STATE_HEADER_BYTES + len(key) + len(value or b"")


def _apply(values: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value
