"""Kafka's varints: protobuf's zig-zag encoding (sint32, sint64)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log.varint import TABLE_SIZE, VARINT, decode_varint, encode_varint, varint
from tests.log.strategies import searched

# From the examples of the protobuf encoding guide and ByteUtilsTest of Apache Kafka.
GOLDEN = [
    (0, "00"),
    (-1, "01"),
    (1, "02"),
    (63, "7e"),
    (-64, "7f"),
    (64, "8001"),
    (-65, "8101"),
    (8191, "fe7f"),
    (-8192, "ff7f"),
    (8192, "808001"),
    (1048575, "feff7f"),
    (1048576, "80808001"),
    (2**31 - 1, "feffffff0f"),
    (-(2**31), "ffffffff0f"),
    (2**63 - 1, "feffffffffffffffff01"),
    (-(2**63), "ffffffffffffffffff01"),
]


@pytest.mark.parametrize(("number", "encoded"), GOLDEN)
def test_golden_vectors(number: int, encoded: str) -> None:
    assert encode_varint(number).hex() == encoded
    assert varint(number).hex() == encoded
    assert decode_varint(bytes.fromhex(encoded), 0) == (number, len(encoded) // 2)


@searched
@given(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_what_was_encoded_is_decoded_wherever_it_stands(
    number: int, before: bytes, after: bytes
) -> None:
    encoded = varint(number)
    assert decode_varint(before + encoded + after, len(before)) == (
        number,
        len(before) + len(encoded),
    )


def test_the_table_is_what_the_function_gives() -> None:
    assert tuple(encode_varint(number) for number in range(TABLE_SIZE)) == VARINT
    assert max(map(len, VARINT)) == 2


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff"])
def test_a_number_that_breaks_off_is_an_index_error(data: bytes) -> None:
    with pytest.raises(IndexError):
        decode_varint(data, 0)


def test_more_than_64_bits_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        decode_varint(b"\xff" * 10 + b"\x01", 0)
