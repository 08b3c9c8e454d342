"""What the bridge keeps in the log's durable state, beside its cursors, byte for byte. Big-endian.

    bridge/UPSTREAM/producer                   producer id i64, epoch i16, cluster id UTF-8
    bridge/UPSTREAM/producer/STREAM/INDEX      the same, for a partition that needed one of its own
    bridge/UPSTREAM/attempt/STREAM/INDEX       until i64, time i64 ms, mark until i64

A producer id means something only in the cluster that gave it: the cluster id is kept with it.
Cursors are the log's own (`Log.set_cursor`). A value that cannot be read is as good as none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from bridge.position import Attempt, Identity

_PRODUCER: Final = struct.Struct(">qh")
_ATTEMPT: Final = struct.Struct(">qqq")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptIdentity:
    identity: Identity
    cluster_id: str


def producer_key(upstream: str) -> bytes:
    return f"bridge/{upstream}/producer".encode()


def partition_producer_key(upstream: str, stream: str, index: int) -> bytes:
    return f"bridge/{upstream}/producer/{stream}/{index}".encode()


def attempt_key(upstream: str, stream: str, index: int) -> bytes:
    return f"bridge/{upstream}/attempt/{stream}/{index}".encode()


def encode_identity(kept: KeptIdentity) -> bytes:
    identity = kept.identity
    return _PRODUCER.pack(identity.producer_id, identity.epoch) + kept.cluster_id.encode()


def decode_identity(value: bytes | None) -> KeptIdentity | None:
    if value is None or len(value) < _PRODUCER.size:
        return None
    producer_id, epoch = _PRODUCER.unpack_from(value)
    return KeptIdentity(
        identity=Identity(producer_id=producer_id, epoch=epoch),
        cluster_id=value[_PRODUCER.size :].decode(errors="replace"),
    )


def encode_attempt(attempt: Attempt) -> bytes:
    return _ATTEMPT.pack(attempt.until, attempt.at_ms, attempt.mark_until)


def known_attempt(kept: Attempt | None, lost_below: bytes | None) -> Attempt | None:
    """The attempt to go by. Where the log has lost state, records below `lost_below` (as under
    `Partition.state_lost_key`) may have been sent, though nothing says so any more.
    """
    lost = int.from_bytes(lost_below or b"", "big")
    if lost == 0 or (kept is not None and kept.until >= lost):
        return kept
    # Sent long ago, for all we know: so Kafka's knowing nothing of it proves nothing.
    return Attempt(until=lost, at_ms=0, mark_until=0 if kept is None else kept.mark_until)


def decode_attempt(value: bytes | None) -> Attempt | None:
    if value is None or len(value) != _ATTEMPT.size:
        return None
    until, at_ms, mark_until = _ATTEMPT.unpack(value)
    return Attempt(until=until, at_ms=at_ms, mark_until=mark_until)
