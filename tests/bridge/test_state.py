"""What the bridge keeps in the log's durable state, byte for byte."""

from __future__ import annotations

import pytest

from bridge.position import Attempt, Identity
from bridge.state import (
    KeptIdentity,
    attempt_key,
    decode_attempt,
    decode_identity,
    encode_attempt,
    encode_identity,
    partition_producer_key,
    producer_key,
)


def test_identity_is_kept_with_the_cluster_that_gave_it() -> None:
    kept = KeptIdentity(identity=Identity(producer_id=258, epoch=3), cluster_id="MkU3")
    assert encode_identity(kept) == b"\0\0\0\0\0\0\x01\x02\0\x03MkU3"
    assert decode_identity(encode_identity(kept)) == kept


def test_attempt_is_three_numbers() -> None:
    attempt = Attempt(until=258, at_ms=1, mark_until=2)
    assert encode_attempt(attempt) == (
        b"\0\0\0\0\0\0\x01\x02" + b"\0\0\0\0\0\0\0\x01" + b"\0\0\0\0\0\0\0\x02"
    )
    assert decode_attempt(encode_attempt(attempt)) == attempt


@pytest.mark.parametrize("value", [None, b"", b"short"])
def test_what_cannot_be_read_is_as_good_as_none(value: bytes | None) -> None:
    assert decode_identity(value) is None
    assert decode_attempt(value) is None


def test_keys_of_upstreams_and_partitions_do_not_meet() -> None:
    keys = {
        producer_key("a"),
        producer_key("b"),
        partition_producer_key("a", "s", 1),
        partition_producer_key("a", "s", 11),
        attempt_key("a", "s", 1),
    }
    assert len(keys) == 5
