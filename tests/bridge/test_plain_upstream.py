"""An upstream that could not say later what it has of a producer gets no producer at all."""

from __future__ import annotations

import struct

from bridge.framing import _outgoing
from bridge.position import PLAIN, Identity
from log.record_batch import Record, encode_batch

PRODUCER = struct.Struct(">qhi")
PRODUCER_POSITION = 43


def stamped(identity: Identity) -> tuple[int, ...]:
    records = [
        Record(offset=offset, timestamp_ms=1, key=b"k", value=b"v") for offset in range(7, 10)
    ]
    sent = b"".join(_outgoing(encode_batch(records), 7, 10, identity).pieces)
    return PRODUCER.unpack_from(sent, PRODUCER_POSITION)


def test_plain_batches_carry_neither_producer_nor_sequence() -> None:
    """Kafka reads -1, -1, -1 as "not idempotent"; any other sequence with them is refused."""
    assert stamped(PLAIN) == (-1, -1, -1)


def test_an_idempotent_batch_has_its_offset_for_a_sequence() -> None:
    assert stamped(Identity(producer_id=5, epoch=2)) == (5, 2, 7)
