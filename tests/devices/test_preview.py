"""Decoding for display: whatever the bytes, a bounded printable text, and never an exception."""

import math
import time

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import PreviewKind, PreviewLimits, preview

LIMITS = PreviewLimits()


def test_a_json_reading_is_shown_as_json() -> None:
    shown = preview(b'{"t": 21.5, "ok": true, "who": null}')
    assert (shown.kind, shown.text) == (PreviewKind.JSON, '{"t": 21.5, "ok": true, "who": null}')
    assert shown.problem is None


def test_a_cbor_reading_is_shown_in_the_diagnostic_notation_of_rfc_8949_8() -> None:
    shown = preview(cbor2.dumps({"t": 21.5, 3: b"\x00\xff", "l": [1, -2, None]}))
    assert (shown.kind, shown.text) == (
        PreviewKind.CBOR,
        '{"t": 21.5, 3: h\'00ff\', "l": [1, -2, null]}',
    )


@pytest.mark.parametrize(
    ("payload_hex", "text"),
    [
        # RFC 8949, appendix A
        ("00", "0"),
        ("1bffffffffffffffff", "18446744073709551615"),
        ("3903e7", "-1000"),
        ("f97c00", "Infinity"),
        ("f97e00", "NaN"),
        ("f4", "false"),
        ("f7", "undefined"),
        ("f0", "simple(16)"),
        ("c11a514b67b0", "1(1363896240)"),
        ("c249010000000000000000", "2(h'010000000000000000')"),
        ("d74401020304", "23(h'01020304')"),
        ("d818456449455446", "24(h'6449455446')"),
        ("9f018202039f0405ffff", "[1, [2, 3], [4, 5]]"),
        ("bf61610161629f0203ffff", '{"a": 1, "b": [2, 3]}'),
        ("a201020304", "{1: 2, 3: 4}"),
        ("d9d9f7a1616101", '55799({"a": 1})'),
    ],
)
def test_cbor_examples_of_rfc_8949_appendix_a(payload_hex: str, text: str) -> None:
    shown = preview(bytes.fromhex(payload_hex))
    assert (shown.kind, shown.text) == (PreviewKind.CBOR, text)


@pytest.mark.parametrize("payload", [b"OFF", b"two\nlines", "21,5 °C".encode()])
def test_plain_text_is_shown_as_text(payload: bytes) -> None:
    shown = preview(payload)
    assert (shown.kind, shown.text) == (PreviewKind.TEXT, payload.decode())


def test_broken_json_is_shown_as_text_with_what_is_wrong() -> None:
    shown = preview(b'{"t": 21.5')
    assert shown.kind is PreviewKind.TEXT
    assert shown.problem is not None
    assert "not JSON" in shown.problem


def test_bytes_that_are_nothing_known_are_shown_as_hexadecimal_with_the_reason() -> None:
    shown = preview(b"\xa1\x61")
    assert (shown.kind, shown.text) == (PreviewKind.BYTES, "a1 61")
    assert shown.problem is not None
    assert "end of stream" in shown.problem


def test_bytes_after_the_first_cbor_item_are_not_hidden() -> None:
    shown = preview(b"\xa0\x00\x00")
    assert shown.kind is PreviewKind.BYTES
    assert shown.problem is not None
    assert "2 bytes follow" in shown.problem


def test_a_payload_of_which_only_the_start_was_kept_is_not_decoded() -> None:
    shown = preview(b'{"t":1}', size_bytes=9_000)
    assert (shown.kind, shown.size_bytes) == (PreviewKind.BYTES, 9_000)
    assert shown.text.endswith("…")


def test_no_payload_at_all_is_empty() -> None:
    assert preview(b"").kind is PreviewKind.EMPTY


@pytest.mark.parametrize(
    "payload",
    [
        b"\x81" * 60_000,
        b"\xd8\x63" * 30_000 + b"\x00",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"[" * 30 + b"]" * 30,
        bytes.fromhex("d81c81d81d00"),  # an array that contains itself (tags 28, 29)
        b"\x9b\x00\xff\xff\xff\xff\xff\xff\xff",  # an array that claims 2^56 items
        b"\x5b\x00\xff\xff\xff\xff\xff\xff\xff",
        bytes.fromhex("c5821a3b9aca0001"),  # 1 * 2^1000000000 (tag 5)
        cbor2.dumps(cbor2.CBORTag(35, "(a+)+$")),
        b"9" * 60_000,
        b'"\\ud800"',
        b'"\\u202e\\u009b"',
        b"\x65a\x1b[2J",
        b"\x00" * 70_000,
    ],
    ids=lambda payload: repr(payload[:12]),
)
def test_hostile_payloads_end_in_a_bounded_printable_text_at_once(payload: bytes) -> None:
    began = time.process_time()
    shown = preview(payload)
    assert time.process_time() - began < 2.0
    assert len(shown.text) <= LIMITS.text_chars_max
    assert shown.text.isprintable()
    shown.text.encode()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(payload: bytes) -> None:
    shown = preview(payload)
    assert all(c.isprintable() or c in "\t\r\n" for c in shown.text)
    assert len(shown.text) <= LIMITS.text_chars_max


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_VALUES, max_size=4) | st.dictionaries(st.text(), _VALUES, max_size=4))
def test_every_cbor_map_or_array_of_a_reading_is_recognised(value: object) -> None:
    shown = preview(cbor2.dumps(value))
    assert shown.kind is PreviewKind.CBOR
    assert shown.problem is None


def test_limits_cut_wide_and_long_values() -> None:
    limits = PreviewLimits(items_max=2, string_chars_max=4, hex_bytes_max=2, text_chars_max=60)
    shown = preview(cbor2.dumps([b"abcdef", "abcdef", 3, 4]), limits=limits)
    assert shown.text == "[h'6162…', \"abc…\", … 2 more]"
    assert math.isfinite(len(preview(b"x" * 500, limits=limits).text))
    assert len(preview(b"x" * 500, limits=limits).text) == 60
