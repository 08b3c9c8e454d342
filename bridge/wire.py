"""The Produce request and its answer, framed by hand: the only messages that carry data.

Everything else of Kafka's protocol goes through kio's schemas (messages.py). Produce does not,
because a batch of up to 1 MB would be copied several times on its way into a generic encoder, and
because one answer is parsed for every request. Sans-I/O: buffers out, bytes in.

Source: Apache Kafka, clients/src/main/resources/common/message/ProduceRequest.json,
ProduceResponse.json, versions 9 (flexible) to 13 (topic ids in the place of names). Integers are
big-endian; "compact" lengths are unsigned varints of length + 1; every struct ends in tagged
fields.

    request   size i32 | api key i16 = 0 | version i16 | correlation id i32 | client id i16 + bytes
    | tags
              transactional id: compact, null | acks i16 = -1 | timeout ms i32
              topics: compact array of (name: compact | id: 16 bytes,
                  partitions: compact array of (index i32, records: compact bytes, tags), tags),
                  tags
    response  correlation id i32 | tags
              topics: compact array of (name | id, partitions: compact array of (
                  index i32, error i16, base offset i64, log append time i64, log start offset i64,
                  record errors: compact array of (batch index i32, message: compact nullable,
                  tags), message: compact nullable, tags [0: current leader (id i32, epoch i32,
                  tags)]), tags)
              throttle ms i32 | tags
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bridge.errors import ProtocolMismatch

PRODUCE_KEY: Final = 0
PRODUCE_VERSION_MIN: Final = 9
PRODUCE_VERSION_MAX: Final = 13
TOPIC_ID_VERSION: Final = 13
"""From here on a topic is named by its id: one that was deleted and made again is told apart."""

_ACKS_ALL: Final = -1
_REQUEST: Final = struct.Struct(">ihhi")
_INDEX: Final = struct.Struct(">i")
_ANSWER: Final = struct.Struct(">ihqqq")
_NO_TAGS: Final = b"\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicKey:
    """How a topic is named in a request: by `id` where the version allows, else by `name`."""

    name: str
    id: bytes

    def on_wire(self, version: int) -> bytes:
        if version >= TOPIC_ID_VERSION:
            return self.id
        encoded = self.name.encode()
        return uvarint(len(encoded) + 1) + encoded


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceAnswer:
    """What the broker said about one partition's batch."""

    topic: bytes
    """As `TopicKey.on_wire` gives it."""
    partition: int
    code: int
    base_offset: int
    message: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProduceResponse:
    """`throttle_ms`: how long the broker wants nothing more; it will not read us meanwhile."""

    answers: list[ProduceAnswer]
    throttle_ms: int


def uvarint(number: int) -> bytes:
    """An unsigned varint, seven bits a byte, lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def produce_request(
    topics: Mapping[TopicKey, Sequence[tuple[int, Sequence[bytes]]]],
    *,
    version: int,
    correlation_id: int,
    client_id: bytes,
    timeout_ms: int,
) -> list[bytes]:
    """One Produce request as buffers to be written one after the other.

    `topics` gives for each topic its (partition, pieces of one batch); the pieces are passed on as
    they are. One batch a partition: Kafka refuses more (87).
    """
    pieces: list[bytes] = [
        b"",
        len(client_id).to_bytes(2, "big"),
        client_id,
        _NO_TAGS,
        b"\0",  # no transactional id
        struct.pack(">hi", _ACKS_ALL, timeout_ms),
        uvarint(len(topics) + 1),
    ]
    for topic, batches in topics.items():
        pieces += (topic.on_wire(version), uvarint(len(batches) + 1))
        for index, batch in batches:
            pieces += (_INDEX.pack(index), uvarint(sum(map(len, batch)) + 1), *batch, _NO_TAGS)
        pieces.append(_NO_TAGS)
    pieces.append(_NO_TAGS)
    size = _REQUEST.size - 4 + sum(map(len, pieces))
    pieces[0] = _REQUEST.pack(size, PRODUCE_KEY, version, correlation_id)
    return pieces


def parse_produce_answer(body: bytes, *, version: int) -> ProduceResponse:
    """What a response says, behind its header. ProtocolMismatch if it cannot be read."""
    try:
        reader = _Reader(body)
        answers = _parse_answers(reader, version)
        (throttle_ms,) = _INDEX.unpack(reader.take(_INDEX.size))
        return ProduceResponse(answers=answers, throttle_ms=throttle_ms)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ProtocolMismatch(
            f"Produce answer of {len(body)} bytes breaks off: {error}"
        ) from error


def _parse_answers(reader: _Reader, version: int) -> list[ProduceAnswer]:
    answers: list[ProduceAnswer] = []
    for _ in range(reader.uvarint() - 1):
        if version >= TOPIC_ID_VERSION:
            topic = reader.take(16)
        else:
            name = reader.take(reader.uvarint() - 1)
            topic = uvarint(len(name) + 1) + name
        for _ in range(reader.uvarint() - 1):
            index, code, base_offset, _, _ = _ANSWER.unpack(reader.take(_ANSWER.size))
            for _ in range(reader.uvarint() - 1):
                reader.take(4)
                reader.string()
                reader.skip_tags()
            message = reader.string()
            reader.skip_tags()
            answers.append(
                ProduceAnswer(
                    topic=topic,
                    partition=index,
                    code=code,
                    base_offset=base_offset,
                    message=message,
                )
            )
        reader.skip_tags()
    return answers


class _Reader:
    """A cursor over one response. IndexError past its end."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, size: int) -> bytes:
        end = self._position + size
        if size < 0 or end > len(self._data):
            raise IndexError(f"{size} bytes wanted at {self._position}")
        piece = self._data[self._position : end]
        self._position = end
        return piece

    def uvarint(self) -> int:
        number = shift = 0
        while shift < 35:
            byte = self._data[self._position]
            self._position += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise IndexError("varint over five bytes")

    def string(self) -> str | None:
        length = self.uvarint()
        return None if length == 0 else self.take(length - 1).decode()

    def skip_tags(self) -> None:
        for _ in range(self.uvarint()):
            self.uvarint()
            self.take(self.uvarint())
