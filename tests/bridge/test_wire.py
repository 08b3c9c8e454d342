"""The hand-framed Produce against kio's schemas, which are generated from Kafka's own."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kio.schema.errors import ErrorCode
from kio.schema.produce.v9.request import ProduceRequest as RequestV9
from kio.schema.produce.v9.response import PartitionProduceResponse as AnswerV9
from kio.schema.produce.v9.response import ProduceResponse as ResponseV9
from kio.schema.produce.v9.response import TopicProduceResponse as TopicV9
from kio.schema.produce.v13.request import ProduceRequest as RequestV13
from kio.schema.produce.v13.response import (
    LeaderIdAndEpoch,
    PartitionProduceResponse,
    ProduceResponse,
    TopicProduceResponse,
)
from kio.schema.types import BrokerId
from kio.serial import entity_reader, entity_writer
from kio.static.primitive import i32, i32Timedelta, i64

from bridge.errors import ProtocolMismatch
from bridge.wire import TopicKey, parse_produce_answer, produce_request, uvarint

_ID = bytes(range(16))
_HEADER_BYTES = 4 + 2 + 2 + 4 + 2 + len("us") + 1


def _body(pieces: list[bytes]) -> bytes:
    """What is behind the size and the request header, both checked."""
    whole = b"".join(pieces)
    assert int.from_bytes(whole[:4], "big") == len(whole) - 4
    assert whole[4:6] == b"\0\0"
    assert whole[8:12] == b"\0\0\0\x07"
    return whole[_HEADER_BYTES:]


@given(
    batches=st.dictionaries(
        st.integers(0, 100), st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3),
        min_size=1, max_size=5,
    )
)  # fmt: skip
@pytest.mark.parametrize("version", [9, 13])
def test_request_is_what_kafkas_schema_says(version: int, batches: dict[int, list[bytes]]) -> None:
    topics = {TopicKey(name="s" * 200, id=_ID): list(batches.items())}
    pieces = produce_request(
        topics, version=version, correlation_id=7, client_id=b"us", timeout_ms=1500
    )
    kind: Any = RequestV13 if version >= 13 else RequestV9
    request, size = entity_reader(kind)(_body(pieces), 0)
    assert size == len(_body(pieces))
    assert request.acks == -1
    assert request.transactional_id is None
    assert request.timeout == timedelta(milliseconds=1500)
    (topic,) = request.topic_data
    assert getattr(topic, "topic_id", None) == UUID(bytes=_ID) or topic.name == "s" * 200
    found = {each.index: bytes(each.records) for each in topic.partition_data}
    assert found == {index: b"".join(parts) for index, parts in batches.items()}


def test_batches_are_not_copied_into_the_request() -> None:
    batch = bytes(1000)
    topics = {TopicKey(name="s", id=_ID): [(0, (batch,))]}
    pieces = produce_request(topics, version=13, correlation_id=1, client_id=b"", timeout_ms=1)
    assert any(piece is batch for piece in pieces)


def _encoded(entity: object) -> bytes:
    buffer = io.BytesIO()
    entity_writer(type(entity))(buffer, entity)  # type: ignore[type-var]
    return buffer.getvalue()


def test_answer_by_topic_id_is_read_with_its_leader_hint_skipped() -> None:
    answer = PartitionProduceResponse(
        index=i32(2),
        error_code=ErrorCode.not_leader_or_follower,
        base_offset=i64(-1),
        error_message="no leader here",
        record_errors=(),
        current_leader=LeaderIdAndEpoch(leader_id=BrokerId(3), leader_epoch=i32(9)),
    )
    topic = TopicProduceResponse(topic_id=UUID(bytes=_ID), partition_responses=(answer,))
    body = _encoded(
        ProduceResponse(
            responses=(topic,), throttle_time=i32Timedelta.parse(timedelta(milliseconds=70))
        )
    )
    response = parse_produce_answer(body, version=13)
    (read,) = response.answers
    assert response.throttle_ms == 70
    assert (read.topic, read.partition, read.code) == (_ID, 2, 6)
    assert read.message == "no leader here"


def test_answer_by_name_is_read() -> None:
    answer = AnswerV9(
        index=i32(1),
        error_code=ErrorCode.none,
        base_offset=i64(77),
        record_errors=(),
    )
    topic = TopicV9(name="s", partition_responses=(answer,))  # type: ignore[arg-type]
    body = _encoded(ResponseV9(responses=(topic,)))
    (read,) = parse_produce_answer(body, version=9).answers
    assert read.topic == TopicKey(name="s", id=_ID).on_wire(9)
    assert (read.partition, read.code, read.base_offset) == (1, 0, 77)


@given(st.binary(max_size=200), st.sampled_from([9, 13]))
def test_garbage_is_a_protocol_mismatch_and_nothing_else(body: bytes, version: int) -> None:
    try:
        parse_produce_answer(body, version=version)
    except ProtocolMismatch:
        pass


@pytest.mark.parametrize(
    ("number", "encoded"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (300, b"\xac\x02")]
)
def test_unsigned_varints_are_seven_bits_a_byte(number: int, encoded: bytes) -> None:
    assert uvarint(number) == encoded
