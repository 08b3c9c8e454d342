"""A partition leader of Apache Kafka as far as an idempotent producer can tell, for simulations.

It behaves as the project's trials of the real one say, and no better: with no state it takes any
sequence; a duplicate is one of the last five batches with the same first and last sequence; what is
not replicated vanishes with the leader; a request of a dead connection may still be carried out.
The judge is real Kafka (test_against_kafka.py); the model is there to reach states in seconds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from bridge.position import SEQUENCES, Outgoing, Standing

OK = 0
NOT_LEADER = 6
TIMED_OUT = 7
TOO_LARGE = 10
OUT_OF_ORDER = 45


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record upstream: `offset` is the gateway's, `marked`: it came with the header."""

    offset: int
    marked: bool
    producer_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    producer_id: int
    first_sequence: int
    last_sequence: int
    entries: tuple[Entry, ...]

    @staticmethod
    def of(outgoing: Outgoing, producer_id: int) -> Batch:
        first, end = outgoing.first_offset, outgoing.end_offset
        return Batch(
            producer_id=producer_id,
            first_sequence=first % SEQUENCES,
            last_sequence=(end - 1) % SEQUENCES,
            entries=tuple(
                Entry(
                    offset=offset,
                    marked=offset < first + outgoing.resent_count,
                    producer_id=producer_id,
                )
                for offset in range(first, end)
            ),
        )


@dataclass(slots=True)
class Pending:
    """A request in the leader's queue, or appended and waiting for the replicas."""

    batch: Batch
    answer: int | None = None
    waits_for: int | None = None
    """The log end that must be replicated before the answer is OK."""


@dataclass(slots=True)
class ModelLeader:
    """`log` is the leader's; below `replicated` it is on the followers, too."""

    records_max: int = 1_000_000
    log: list[Batch] = field(default_factory=list)
    replicated: int = 0
    """Batches."""
    leader_epoch: int = 0
    forgotten_before: dict[int, int] = field(default_factory=dict)
    """For a producer whose state expired: the batches before this index do not count."""
    queue: deque[Pending] = field(default_factory=deque)

    def receive(self, batch: Batch) -> Pending:
        pending = Pending(batch=batch)
        self.queue.append(pending)
        return pending

    def process(self) -> None:
        """Carries out the oldest request in the queue."""
        if self.queue:
            pending = self.queue.popleft()
            pending.answer, pending.waits_for = self._append(pending.batch)

    def answer_of(self, pending: Pending) -> int | None:
        """None while the replicas are waited for."""
        if pending.answer == OK and pending.waits_for is not None:
            return OK if self.replicated >= pending.waits_for else None
        return pending.answer

    def replicate(self, count: int) -> None:
        self.replicated = min(len(self.log), self.replicated + count)

    def fail_over(self) -> None:
        """The leader dies; a follower leads on with what was replicated. Its queue dies with it."""
        del self.log[self.replicated :]
        for producer_id, first in self.forgotten_before.items():
            self.forgotten_before[producer_id] = min(first, len(self.log))
        self.queue.clear()
        self.leader_epoch += 1

    def expire(self, producer_id: int) -> None:
        self.forgotten_before[producer_id] = len(self.log)

    def standing(self, producer_id: int) -> Standing:
        mine = self._state(producer_id)
        return Standing(
            epoch=0,
            sequence=mine[-1].last_sequence if mine else None,
            leader_epoch=self.leader_epoch,
            log_end=self._end(len(self.log)),
            high_watermark=self._end(self.replicated),
        )

    def entries(self) -> list[Entry]:
        return [entry for batch in self.log for entry in batch.entries]

    def replicated_offsets(self) -> set[int]:
        return {entry.offset for batch in self.log[: self.replicated] for entry in batch.entries}

    def _append(self, batch: Batch) -> tuple[int, int | None]:
        if len(batch.entries) > self.records_max:
            return TOO_LARGE, None
        mine = self._state(batch.producer_id)
        sequences = (batch.first_sequence, batch.last_sequence)
        for known in mine[-5:]:
            if (known.first_sequence, known.last_sequence) == sequences:
                return OK, next(n for n, each in enumerate(self.log, 1) if each is known)
        if mine and batch.first_sequence != (mine[-1].last_sequence + 1) % SEQUENCES:
            return OUT_OF_ORDER, None
        self.log.append(batch)
        return OK, len(self.log)

    def _state(self, producer_id: int) -> list[Batch]:
        first = self.forgotten_before.get(producer_id, 0)
        return [batch for batch in self.log[first:] if batch.producer_id == producer_id]

    def _end(self, batch_count: int) -> int:
        return sum(len(batch.entries) for batch in self.log[:batch_count])
