"""What a limit in the configuration may be set to, and why not less or more.

Bounds a person's file only: code and tests make the dataclasses of limits as they like. Where a
name is not listed, its unit decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bridge.limits import BridgeLimits
from gateway.config_reader import Document, Table
from gateway.limits import MqttLimits, SourceLimits
from log.limits import LogLimits

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_YEAR_MS: Final = 366 * 24 * 3_600 * 1_000


@dataclass(frozen=True, slots=True)
class Range:
    """From `least` to `most`, both allowed; `why` ends the sentence that says so."""

    least: int
    most: int
    why: str

    def __str__(self) -> str:
        return f"From {self.least} to {self.most}: {self.why}"


_SIXTEEN_BITS: Final = Range(1, 65_535, "MQTT gives it 16 bits")
_THIRTY_TWO_BITS: Final = Range(1, 2**32 - 1, "MQTT gives it 32 bits")
_TIME: Final = Range(1, _YEAR_MS, "milliseconds, up to a year")
_SIZE: Final = Range(1, 64 * GIB, "bytes, up to 64 GiB")
_COUNT: Final = Range(1, 2**31 - 1, "a count of something is held in memory")

RANGES: Final[Mapping[type, Mapping[str, Range]]] = {
    MqttLimits: {
        "receive_max": _SIXTEEN_BITS,
        "topic_alias_max": _SIXTEEN_BITS,
        "delivery_topic_alias_max": Range(0, 65_535, "MQTT gives it 16 bits"),
        "keep_alive_s_max": _SIXTEEN_BITS,
        "client_id_bytes_max": _SIXTEEN_BITS,
        "topic_bytes_max": _SIXTEEN_BITS,
        "topic_levels_max": Range(1, 65_535, "a topic has no more"),
        "delivery_in_flight_max": Range(1, 65_535, "each has a packet identifier of 16 bits"),
        "delivery_attempts_max": Range(0, 255, "it is counted in 8 bits; 0: sent again for ever"),
        "session_expiry_s_max": _THIRTY_TWO_BITS,
        "handshake_bytes_max": Range(1 * KIB, 1 * MIB, "so much is read of a client not known yet"),
        "connect_bytes_max": Range(64, 1 * MIB, "so much is held of a client not known yet"),
        "packet_bytes_max": Range(64, 1000 * KIB, "its record must fit into Kafka's default"),
    },
    SourceLimits: {
        "in_flight_max": _SIXTEEN_BITS,
        "keep_alive_s": _SIXTEEN_BITS,
        "session_expiry_s": _THIRTY_TWO_BITS,
        "packet_bytes_max": Range(64, 1000 * KIB, "its record must fit into Kafka's default"),
        "slice_count_max": Range(1, 10_000, "other clients wait so long"),
    },
    LogLimits: {
        "journal_bytes": Range(4 * MIB, 16 * GIB, "less stalls ingest, more makes a start long"),
        "pending_bytes_max": Range(64 * KIB, 16 * MIB, "recovery looks no further ahead"),
        "journal_reserve_bytes": Range(64 * KIB, 8 * GIB, "cursors and sessions go there"),
        "frame_bytes_max": Range(64 * KIB, 8 * MIB, "one fdatasync carries it"),
        "chunk_bytes_max": Range(1 * KIB, 960 * KIB, "a batch must fit into Kafka's default"),
        "record_bytes_max": Range(1 * KIB, 1000 * KIB, "with framing it must fit into Kafka's"),
        "chunk_records_max": Range(1, 8_192, "offset deltas take two bytes at most"),
        "segment_bytes_max": Range(
            64 * KIB, 2**31 - 1, "Kafka's indexes hold positions in 31 bits"
        ),
        "index_interval_bytes": Range(1, 2**31 - 1, "positions have 31 bits"),
        "zstd_level": Range(1, 22, "zstd has no others"),
    },
    BridgeLimits: {
        "in_flight_max": Range(1, 5, "Kafka recognises a duplicate among the last five"),
        "request_bytes_max": Range(1 * KIB, 100 * MIB, "a broker takes no more"),
        "batch_bytes_max": Range(1 * KIB, 1000 * KIB, "it must fit into Kafka's default"),
    },
}


def range_of(kind: type, name: str) -> Range:
    """What the field `name` of the limits `kind` may be."""
    if found := RANGES.get(kind, {}).get(name):
        return found
    if name.endswith("_ms") or "_ms_" in name:
        return _TIME
    if name.endswith("_bytes") or "_bytes_" in name:
        return _SIZE
    return _COUNT


def check_together(document: Document, limits: MqttLimits, log: LogLimits) -> None:
    """Reports limits that are sound alone and not beside each other."""
    if limits.packet_bytes_max > log.record_bytes_max:
        document.add_problem(
            *_place(document, ("limits", "packet_bytes_max"), ("log", "record_bytes_max")),
            f"packet_bytes_max = {limits.packet_bytes_max} of [limits] is more than "
            f"record_bytes_max = {log.record_bytes_max} of [log]",
            "A packet becomes one record: lower packet_bytes_max, or raise record_bytes_max",
        )
    for name, factor, why in (
        ("journal_reserve_bytes", 2, "half of the journal is for records"),
        ("pending_bytes_max", 1, "what waits for the disk must find room"),
        ("frame_bytes_max", 4, "a checkpoint must be done before its frames are written over"),
        ("record_bytes_max", 4, "a checkpoint must be done before its frames are written over"),
    ):
        other: int = getattr(log, name)
        if log.journal_bytes < factor * other:
            document.add_problem(
                *_place(document, ("log", "journal_bytes"), ("log", name)),
                f"journal_bytes = {log.journal_bytes} is too small for {name} = {other}",
                f"At least {factor * other} for journal_bytes, or at most "
                f"{log.journal_bytes // factor} for {name}: {why}",
            )


def check_bridge(table: Table, limits: BridgeLimits) -> None:
    """Reports limits of an upstream that are sound alone and not beside each other; `table` is its
    [upstream.NAME.limits].
    """
    for name, why in (
        ("loaded_bytes_max", "a read begins only where a whole one has room"),
        ("memory_bytes_max", "one read must find room"),
    ):
        most: int = getattr(limits, name)
        if most < limits.read_bytes:
            key = name if table.has(name) else "read_bytes"
            table.problem(
                key,
                f"{name} = {most} is less than read_bytes = {limits.read_bytes}: nothing would"
                " ever be read",
                f"At least {limits.read_bytes} for {name}, or less for read_bytes: {why}",
            )


def _place(document: Document, *keys: tuple[str, str]) -> tuple[str, str]:
    """The first of these keys that the file sets: the others are at their defaults."""
    return next((each for each in keys if document.has(*each)), keys[0])
