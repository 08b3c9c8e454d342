"""What is tried with records that the upstream refused as they were framed. Sans-I/O, one a
partition.

Nothing is given up: too large is cut smaller (and much later tried bigger again), a refused
timestamp is replaced (the first one kept in a header), anything else is encoded anew. When that
has not helped `stuck_after` times the partition is called stuck, and tried slowly for ever: its
records stay in the log until a person has acted.
"""

from __future__ import annotations

from bridge.codes import Meaning
from bridge.limits import BridgeLimits
from bridge.position import Outgoing, Restamp, Shape


class Remedies:
    """The `shape` that what is read next must have, and how often the next batch was refused."""

    def __init__(self, limits: BridgeLimits) -> None:
        self._stuck_after = limits.stuck_after
        self._batch_bytes_limit = limits.batch_bytes_max
        self._batch_bytes_max = limits.batch_bytes_max
        self._split_recover_after = limits.split_recover_after
        self._accepted_count = 0
        self._mark_until = 0
        self._restamp_until = 0
        self._restamp = Restamp.NO
        self._reframe_until = 0
        self._refusal_count = 0

    @property
    def is_refused(self) -> bool:
        """The next records were refused, and nothing is known yet that must help."""
        return self._refusal_count > 0

    @property
    def is_stuck(self) -> bool:
        return self._refusal_count >= self._stuck_after

    def shape(self) -> Shape:
        return Shape(
            batch_bytes_max=self._batch_bytes_max,
            mark_until=self._mark_until,
            restamp_until=self._restamp_until,
            restamp=self._restamp,
            reframe_until=self._reframe_until,
        )

    @property
    def marked_until(self) -> int:
        return self._mark_until

    def mark_until(self, offset: int) -> None:
        """Records below `offset` may be upstream already."""
        self._mark_until = max(self._mark_until, offset)

    def accepted(self) -> None:
        self._refusal_count = 0
        if self._batch_bytes_max < self._batch_bytes_limit:
            self._accepted_count += 1
            if self._accepted_count >= self._split_recover_after:
                self._accepted_count = 0
                self._batch_bytes_max = min(self._batch_bytes_limit, 2 * self._batch_bytes_max)

    def unreadable(self) -> None:
        """The log could not give the next records: nothing that is sent would help."""
        self._refusal_count = max(self._refusal_count, self._stuck_after)

    def refused(self, what: Meaning, batch: Outgoing) -> bool:
        """True when this refusal is the one that makes the partition stuck."""
        if what is Meaning.SPLIT and batch.end_offset - batch.first_offset > 1:
            self._batch_bytes_max = max(1, batch.size_bytes // 2)
            self._accepted_count = 0
            return False
        if what is Meaning.RESTAMP:
            again = batch.first_offset < self._restamp_until
            self._restamp = Restamp.NONE if again else Restamp.NOW
            self._restamp_until = batch.end_offset
        elif what is Meaning.BAD_BATCH and self._refusal_count:
            self._reframe_until = batch.end_offset
        self._refusal_count += 1
        return self._refusal_count == self._stuck_after
