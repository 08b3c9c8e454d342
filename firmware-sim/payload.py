"""The bytes of a reading: a CBOR map, as small firmware would send it.

    {"s": sequence of this device, "t": its own clock in ms, column: value, ...}

The sequence goes on over power losses (it is kept in flash, as real firmware keeps a frame
counter), so an auditor can account for every message by (device, sequence).
"""

from typing import Any

import cbor2
from recordings import Row


def encode_reading(seq: int, clock_ms: int, row: Row) -> bytes:
    """The payload of one PUBLISH."""
    return cbor2.dumps({"s": seq, "t": clock_ms, **row})


def sequence_of(payload: bytes) -> int | None:
    """The sequence in a payload; None when these bytes are no reading of ours."""
    try:
        reading: Any = cbor2.loads(payload)
    except (cbor2.CBORDecodeError, ValueError, OverflowError):
        return None
    seq = reading.get("s") if isinstance(reading, dict) else None
    return seq if isinstance(seq, int) and not isinstance(seq, bool) else None
