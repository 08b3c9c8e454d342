"""What crosses the core's border: identities, plans, batches, and what Kafka said. Values only.

Sequences come from offsets: the sequence of a record is its offset mod 2^31, so that after a break
the last sequence Kafka has names the next offset to send, and no boundary need be remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

SEQUENCES: Final = 1 << 31
"""Kafka's sequences go from 0 to 2^31 - 1 and begin again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The idempotent producer that a partition's records are sent as."""

    producer_id: int
    epoch: int

    @property
    def is_idempotent(self) -> bool:
        return self.producer_id >= 0


PLAIN = Identity(producer_id=-1, epoch=-1)
"""No identity: at least once, for an upstream that could not say what it has of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Records below `until` may have been sent, first at `at_ms`; those below `mark_until` perhaps
    to a Kafka that forgot our producer since. Durable before the first of them is sent.
    """

    until: int
    at_ms: int
    mark_until: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the leader said it has, asked in this order on one connection: that it leads the
    partition in `leader_epoch`; the last sequence of our producer (None: it knows none); the end of
    its log; the high watermark. So all it has of us is below `log_end`, and replicated once the
    watermark is there.
    """

    epoch: int
    sequence: int | None
    leader_epoch: int
    log_end: int
    high_watermark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Records below `end_offset` are in the leader's log and perhaps nowhere else: replicated when
    the high watermark of `leader_epoch` has passed `log_end`.
    """

    end_offset: int
    leader_epoch: int
    log_end: int


class Restamp(Enum):
    """Which timestamp replaces one that the broker refused."""

    NO = 0
    NOW = 1
    NONE = 2
    """Kafka's "no timestamp" (-1), which no broker compares with its clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How records are framed where they cannot go as stored. All bounds are offsets, exclusive."""

    batch_bytes_max: int
    mark_until: int = 0
    """Records below may be upstream already: each gets the header `sluicegate.resent`."""
    restamp_until: int = 0
    restamp: Restamp = Restamp.NO
    reframe_until: int = 0
    """Records below are decoded and encoded anew, uncompressed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """What to read next. `number` tells a plan of before a break from one of after."""

    number: int
    offset: int
    bytes_max: int
    is_live: bool
    identity: Identity
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """One batch as it goes into a Produce: `pieces` joined are a RecordBatch of base offset 0."""

    first_offset: int
    end_offset: int
    size_bytes: int
    pieces: tuple[bytes, ...]
    resent_count: int = 0


class State(Enum):
    """What a person is shown."""

    IDENTIFYING = "no producer id yet"
    ASKING = "asking the upstream where to go on"
    SENDING = "sending"
    WAITING = "waiting to try again"
    STUCK = "stuck: the upstream does not take the next records"
    REPLICATED = "everything is upstream"


@dataclass(slots=True, kw_only=True)
class Counts:
    """Records since the process started; `forgotten` and `renewed` are events."""

    sent: int = 0
    resent: int = 0
    dropped: int = 0
    upstream_lost: int = 0
    forgotten: int = 0
    renewed: int = 0


def sequence_of(offset: int) -> int:
    return offset % SEQUENCES


def offset_after(sequence: int, *, near: int, end: int) -> int:
    """The offset behind the record with that sequence: from `near` to `end` if there is one so,
    else the nearest below `near` (which may be negative: then no record of ours has it).
    """
    forward = near + (sequence + 1 - near) % SEQUENCES
    return forward if forward <= end else forward - SEQUENCES
