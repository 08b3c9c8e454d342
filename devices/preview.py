"""What a payload means, for a person's eyes. Owns no state and never raises on bad bytes.

`preview(payload)` tells JSON, text and CBOR apart by trying them in that order: a CBOR map or
array never begins like UTF-8 text, so the order decides only for scalars, where text is the
better guess. What is none of them is shown as hexadecimal digits, with what each decoder said.

CBOR is printed in the diagnostic notation of RFC 8949, 8: `{"t": 21.5, 3: h'00ff', 1(1700000000)}`.
Tags are shown, never acted on: a payload must not choose that a pattern is compiled, a power is
computed or a shared reference makes a cycle.
"""

import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import cbor2
from cbor2 import CBORDecoder, CBORError, CBORSimpleValue, CBORTag

from devices.limits import PreviewLimits

# Every tag that cbor2 would interpret (date, bignum, regular expression, references, ...).
_TAGS_OF_CBOR2 = (
    *(0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261),
    *(1004, 43000, 55799),
)
_NUMBERS_SHOWN_BITS_MAX = 1_024
_ELLIPSIS = "…"


class PreviewKind(StrEnum):
    """How the payload was read."""

    EMPTY = "empty"
    JSON = "json"
    TEXT = "text"
    CBOR = "cbor"
    BYTES = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """`text` is printable and bounded; `problem` says why it is not the whole decoded payload."""

    kind: PreviewKind
    text: str
    size_bytes: int
    problem: str | None = None


def preview(
    payload: bytes, *, size_bytes: int | None = None, limits: PreviewLimits | None = None
) -> Preview:
    """Decode `payload` for display. `size_bytes` is its full size where only its start was kept."""
    limits = limits or PreviewLimits()
    size_bytes = len(payload) if size_bytes is None else size_bytes
    if size_bytes == 0:
        return Preview(kind=PreviewKind.EMPTY, text="", size_bytes=0)
    if size_bytes > len(payload):
        return _undecoded(
            payload, size_bytes, f"only the first {len(payload)} bytes were kept", limits
        )
    if size_bytes > limits.payload_bytes_max:
        problem = f"longer than the {limits.payload_bytes_max} bytes that are decoded"
        return _undecoded(payload, size_bytes, problem, limits)
    return _decode(payload, limits)


def _decode(payload: bytes, limits: PreviewLimits) -> Preview:
    text = _utf8(payload)
    if text is not None:
        json_text, json_problem = _try_json(text, limits)
        if json_text is not None:
            return _shown(PreviewKind.JSON, json_text, payload, limits)
        if text.isprintable() or _is_plain_text(text):
            problem = json_problem if text.lstrip()[:1] in ("{", "[") else None
            return _shown(PreviewKind.TEXT, text, payload, limits, problem)
    cbor_text, cbor_problem = _try_cbor(payload, limits)
    if cbor_text is not None:
        return _shown(PreviewKind.CBOR, cbor_text, payload, limits)
    return _undecoded(payload, len(payload), f"not text, and not CBOR: {cbor_problem}", limits)


def _utf8(payload: bytes) -> str | None:
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_plain_text(text: str) -> bool:
    return all(c.isprintable() or c in "\t\r\n" for c in text)


def _try_json(text: str, limits: PreviewLimits) -> tuple[str | None, str]:
    try:
        value = json.loads(text)
        return _printed(value, limits), ""
    except RecursionError:
        return None, f"JSON nested deeper than {limits.depth_max}"
    except ValueError as error:
        return None, f"not JSON: {_one_line(error)}"


def _try_cbor(payload: bytes, limits: PreviewLimits) -> tuple[str | None, str]:
    source = io.BytesIO(payload)
    try:
        value = CBORDecoder(
            source,
            semantic_decoders=_SHOW_TAGS,
            max_depth=limits.depth_max,
            read_size=1,
        ).decode()
    except CBORError as error:
        return None, _one_line(error)
    except (ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        # What a decoder in another language may let through; the payload is at fault, not we.
        return None, f"{type(error).__name__}: {_one_line(error)}"
    rest_bytes = len(payload) - source.tell()
    if rest_bytes:
        return None, f"{rest_bytes} bytes follow the first data item"
    try:
        return _printed(value, limits), ""
    except RecursionError:
        return None, f"nested deeper than {limits.depth_max}"


def _show_tag(number: int) -> Any:
    return lambda value, immutable: CBORTag(number, value)


_SHOW_TAGS: Mapping[int, Any] = {number: _show_tag(number) for number in _TAGS_OF_CBOR2}


def _shown(
    kind: PreviewKind,
    text: str,
    payload: bytes,
    limits: PreviewLimits,
    problem: str | None = None,
) -> Preview:
    return Preview(
        kind=kind,
        text=_cut(text, limits.text_chars_max),
        size_bytes=len(payload),
        problem=problem,
    )


def _undecoded(payload: bytes, size_bytes: int, problem: str, limits: PreviewLimits) -> Preview:
    shown = payload[: limits.hex_bytes_max]
    text = shown.hex(" ") + (f" {_ELLIPSIS}" if size_bytes > len(shown) else "")
    return Preview(kind=PreviewKind.BYTES, text=text, size_bytes=size_bytes, problem=problem)


def _printed(value: object, limits: PreviewLimits) -> str:
    printer = _Printer(limits)
    printer.add(value, 0)
    return "".join(printer.pieces)


class _Printer:
    """Prints one decoded value; raises RecursionError where it is nested too deeply."""

    def __init__(self, limits: PreviewLimits) -> None:
        self._limits = limits
        self.pieces: list[str] = []

    def add(self, value: object, depth: int) -> None:
        if depth > self._limits.depth_max:
            raise RecursionError
        match value:
            case Mapping():
                self._add_map(value, depth)
            case list() | tuple() | set() | frozenset():
                self._add_array(value, depth)
            case CBORTag():
                self.pieces.append(f"{value.tag}(")
                self.add(value.value, depth + 1)
                self.pieces.append(")")
            case _:
                self.pieces.append(_scalar(value, self._limits))

    def _add_map(self, value: Mapping[Any, Any], depth: int) -> None:
        self.pieces.append("{")
        for index, (key, item) in enumerate(value.items()):
            if not self._separate(index, len(value)):
                break
            self.add(key, depth + 1)
            self.pieces.append(": ")
            self.add(item, depth + 1)
        self.pieces.append("}")

    def _add_array(self, value: Collection[object], depth: int) -> None:
        self.pieces.append("[")
        for index, item in enumerate(value):
            if not self._separate(index, len(value)):
                break
            self.add(item, depth + 1)
        self.pieces.append("]")

    def _separate(self, index: int, count: int) -> bool:
        if index:
            self.pieces.append(", ")
        if index < self._limits.items_max:
            return True
        self.pieces.append(f"{_ELLIPSIS} {count - index} more")
        return False


def _scalar(value: object, limits: PreviewLimits) -> str:
    match value:
        case str():
            return _string(_cut(value, limits.string_chars_max))
        case bool() | None:
            return {True: "true", False: "false", None: "null"}[value]
        case int():
            return _integer(value)
        case float():
            return _float(value)
        case bytes():
            shown = value[: limits.hex_bytes_max]
            return f"h'{shown.hex()}{_ELLIPSIS if len(value) > len(shown) else ''}'"
        case CBORSimpleValue():
            return f"simple({value.value})"
        case cbor2.undefined:
            return "undefined"
        case _:
            return f"<{type(value).__name__}>"


def _string(value: str) -> str:
    quoted = json.dumps(value, ensure_ascii=False)
    if quoted.isprintable():
        return quoted
    # Terminal controls, direction marks and lone surrogates must not reach a person's screen.
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in quoted)


def _integer(value: int) -> str:
    # Python refuses to print very long integers, and nobody could read them.
    bits = value.bit_length()
    return str(value) if bits <= _NUMBERS_SHOWN_BITS_MAX else f"<integer of {bits} bits>"


def _float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return repr(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _cut(text: str, chars_max: int) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + _ELLIPSIS


def _one_line(error: BaseException) -> str:
    return _cut(" ".join(str(error).split()) or type(error).__name__, 160)
