"""Retained messages out of the log, and out of what was published.

Owns what is kept of a message, and the reading of a stretch of the log for the records that have
the header mqtt.retain. A batch in which it does not occur is not decoded.
"""

import logging

from gateway.ingest import RETAIN_HEADER
from gateway.mqtt.properties import NO_PROPERTIES, Properties, encode_properties
from gateway.mqtt.retained_store import Retained
from gateway.mqtt.stored import stored_message
from log import CorruptBatch, OffsetOutOfRange, Partition, Record, decode_batch
from log.record_batch import batch_records, parse_header

_log = logging.getLogger(__name__)

_OVERHEAD_BYTES = 500
"""Memory of a message beside its payload and properties, about."""


def memory_bytes(change: Retained) -> int:
    return len(change.payload) + len(change.properties) + _OVERHEAD_BYTES


def retained_of(
    *,
    topic: bytes,
    payload: bytes,
    qos: int,
    client_id: str,
    properties: Properties,
    place: tuple[int, int],
    stored_ms: int,
) -> Retained:
    """`place`: partition id and offset."""
    expiry_s = properties.message_expiry_s
    return Retained(
        topic=topic,
        payload=payload,
        qos=qos,
        client_id=client_id,
        properties=_kept_properties(properties),
        partition_id=place[0],
        offset=place[1],
        stored_ms=stored_ms,
        expires_ms=None if expiry_s is None else stored_ms + expiry_s * 1000,
    )


def _kept_properties(given: Properties) -> bytes:
    """What is passed on to subscribers, as bytes."""
    kept = Properties(
        payload_format=given.payload_format,
        message_expiry_s=given.message_expiry_s,
        content_type=given.content_type,
        response_topic=given.response_topic,
        correlation_data=given.correlation_data,
        user_properties=given.user_properties,
    )
    return b"" if kept == NO_PROPERTIES else encode_properties(kept)


def read_retained(
    partition: Partition, offset: int, *, bytes_max: int
) -> tuple[list[Retained], int]:
    """The retained messages of about `bytes_max` stored bytes of the log, the last of each topic,
    and where to go on. For a worker thread; OSError. What cannot be read is skipped, and said."""
    found: dict[bytes, Retained] = {}
    looked = kept = 0
    while looked < bytes_max and kept < bytes_max:
        end = partition.durable_end
        try:
            batches = partition.read(offset, bytes_max=bytes_max)
        except OffsetOutOfRange as error:
            offset = error.start
            continue
        except CorruptBatch as error:
            _log.error("retained.log_unreadable partition=%s cause=%s", partition, error)
            return list(found.values()), end
        if not batches:
            return list(found.values()), max(offset, end)
        for batch in batches:
            looked += len(batch.data)
            try:
                records = _records_with_retain(batch.data)
            except CorruptBatch as error:
                _log.error("retained.batch_unreadable offset=%d cause=%s", batch.base_offset, error)
                records = []
            for record in records:
                if record.offset >= offset and RETAIN_HEADER in record.headers:
                    change = _of_record(record, partition.partition_id)
                    found[change.topic] = change
                    kept += memory_bytes(change)
            offset = max(offset, batch.last_offset + 1)
    return list(found.values()), offset


def _records_with_retain(data: bytes) -> list[Record]:
    """All records of a batch where one may have the header: decoding costs 100 times the look."""
    header = parse_header(data)
    if RETAIN_HEADER[0] not in batch_records(data, header):
        return []
    return decode_batch(data)


def _of_record(record: Record, partition_id: int) -> Retained:
    message = stored_message(record)
    return retained_of(
        topic=message.topic,
        payload=record.value or b"",
        qos=message.qos,
        client_id=message.client_id,
        properties=message.properties,
        place=(partition_id, record.offset),
        stored_ms=record.timestamp_ms,
    )
