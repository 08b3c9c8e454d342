"""The log: streams of partitions in a data directory, one journal for all of them.

Owns the directory. It is driven by its caller from one thread, the event loop's, and has no thread
of its own; the steps that wait for the disk are calls that may run in another thread and change
nothing here:

    append, put_state        records and state of the current round
    cut -> frame             the round is closed and has its place in the journal
      write(frames)          * in the committer's thread: written and synced
    durable(frames)          readers see the records; only now may anything be acknowledged
    partition.seal_job -> partition.write_sealed * -> sealed
    checkpoint -> write_checkpoint * -> checkpointed       journal space is free again

The order of duties is the caller's: a frame is durable in the order it was cut; no acknowledgement
before `durable`; a checkpoint is taken with no seal job under way. A failed `write` is reported
with `fail`, after which nothing is appended any more: what reached the disk is known only by
opening the log again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from log.checkpoint import Checkpoint, write_checkpoint
from log.errors import LogFailed, LogFull, UnknownPartition
from log.files import DiskFiles, Files, wall_clock_ms
from log.frame import RUN_HEADER_BYTES, Run, StateChange, run_header, state_entry
from log.guard import call_guarded
from log.journal import BLOCK_BYTES, FrameWrite
from log.limits import LogLimits
from log.opening import OpenedDirectory, Stream, open_directory
from log.partition import Partition, Sealed
from log.record_batch import RecordTemplate
from log.report import RecoveryReport
from log.segment import Segment
from log.stats import LogStats
from log.streams import StreamSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A round on its way to the disk."""

    write: FrameWrite
    runs: Sequence[tuple[Partition, Run]]
    changes: Sequence[StateChange]


class Log:
    """An open data directory. Made by `Log.open`."""

    def __init__(
        self,
        *,
        files: Files,
        directory: Path,
        limits: LogLimits,
        now_ms: Callable[[], int],
        required_cursors: frozenset[str],
        opened: OpenedDirectory,
    ) -> None:
        self._files = files
        self._directory = directory
        self._lock = opened.lock
        journal, recovery = opened.journal, opened.recovery
        self.now_ms = now_ms
        self.limits = limits
        self.required_cursors = required_cursors
        self.journal = journal
        self.state = recovery.state
        self.recovery: RecoveryReport = recovery.report
        self.partitions: Mapping[int, Partition] = recovery.partitions
        """Every partition on disk by its id, those of streams that are configured no more too."""
        self.streams: Mapping[str, Stream] = opened.streams
        self._next_partition_id = recovery.next_partition_id
        self.frame_bytes_max = min(limits.frame_bytes_max, journal.capacity_bytes // 4)
        self._reserve_bytes = min(limits.journal_reserve_bytes, journal.capacity_bytes // 2)
        self._round: list[Partition] = []
        self.round_bytes = 0
        """Upper bound of what the round's records will take in the journal."""
        self.in_flight_bytes = 0
        self.tail_bytes = sum(partition.tail.bytes for partition in recovery.partitions.values())
        self.stalled = ""
        """Why segments or checkpoints cannot be written, by the housekeeper; "" when they can."""
        self._failure: LogFailed | None = None
        self._expired: deque[Segment] = deque()
        self._listeners: list[Callable[[], None]] = []
        self._records = self._frames = self._fsyncs = self._removed = 0
        self._journal_written = self._segment_written = self._checkpoint_written = 0

    @classmethod
    def open(
        cls,
        directory: Path,
        streams: Sequence[StreamSpec],
        *,
        limits: LogLimits | None = None,
        files: Files | None = None,
        now_ms: Callable[[], int] = wall_clock_ms,
        required_cursors: frozenset[str] = frozenset(),
    ) -> Log:
        """Opens or makes the data directory, recovers, and writes a checkpoint.

        `required_cursors` are the names of cursors that retention waits for. LogLocked if another
        process has it; PartitionsReduced, UnknownFormat, LogUnusable when the operator must act;
        OSError from the disk. What recovery found is in `recovery`: log it, and show it.
        """
        limits = limits or LogLimits()
        files = files or DiskFiles()
        directory = directory.absolute()
        opened = open_directory(files, directory, streams, limits)
        try:
            log = cls(
                files=files,
                directory=directory,
                limits=limits,
                now_ms=now_ms,
                required_cursors=required_cursors,
                opened=opened,
            )
            # If power fails before this, a new partition has no checkpoint that names it, but its
            # own file.
            log.checkpointed(log.write_checkpoint(log.checkpoint()))
        except BaseException:
            files.close(opened.lock)
            raise
        return log

    def partition(self, stream: str, index: int) -> Partition:
        """UnknownPartition."""
        try:
            return self.streams[stream].partitions[index]
        except (KeyError, IndexError):
            raise UnknownPartition(f"no partition {index} of a stream {stream!r}") from None

    # -- the round

    def append(
        self, partition: Partition, template: RecordTemplate, values: Sequence[bytes]
    ) -> int:
        """Adds records to the current round, not durable yet; gives the first one's offset.

        LogFull: refuse the publisher. LogFailed: acknowledge no more. RecordTooLarge: none added.
        """
        if self._failure is not None or self.stalled:
            self._refuse_if_needed()
        tail = partition.tail
        first = tail.end_offset
        if values:
            is_new = not tail.round_chunks
            self.round_bytes += tail.append(template, values, self.now_ms())
            if is_new:
                self._round.append(partition)
        return first

    def append_runs(
        self, partition: Partition, runs: Sequence[tuple[RecordTemplate, Sequence[bytes]]]
    ) -> None:
        """As `append` for each of `runs`, in order: one call for what a turn of the loop brought.

        LogFull, LogFailed: none was added. RecordTooLarge: the runs before it were; keep values
        that could be out of here.
        """
        if self._failure is not None or self.stalled:
            self._refuse_if_needed()
        tail = partition.tail
        is_new = not tail.round_chunks
        before = tail.round_bytes
        try:
            tail.append_runs(runs, self.now_ms())
        finally:
            self.round_bytes += tail.round_bytes - before
            if is_new and tail.round_chunks:
                self._round.append(partition)

    def put_state(self, key: bytes, value: bytes | None) -> None:
        """Sets or deletes (None) a key of the durable state, in the current round. LogFailed."""
        if self._failure is not None:
            raise self._failure
        self.state.put(key, value)

    def get_state(self, key: bytes) -> bytes | None:
        return self.state.get(key)

    def scan_state(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        return self.state.scan(prefix)

    def cursor(self, name: str, partition: Partition) -> int | None:
        """The offset up to which the cursor's owner is done; None if it was never set."""
        value = self.state.get(partition.cursor_key(name))
        return None if value is None else int.from_bytes(value, "big")

    def set_cursor(self, name: str, partition: Partition, offset: int) -> None:
        """Moves a cursor, durable with the current round's frame. LogFailed."""
        self.put_state(partition.cursor_key(name), offset.to_bytes(8, "big"))

    @property
    def round_empty(self) -> bool:
        return not self._round and not self.state.round_bytes

    def cut(self) -> Frame | None:
        """Closes the round into a frame that has its place in the journal.

        None if the round is empty, or if the journal has no room: then a checkpoint must free some
        first. LogFailed for a round that no journal of this size could ever take: whoever let it
        grow past `pending_bytes_max` has a bug, and waiting would be for ever.
        """
        if self.round_empty:
            return None
        chunk_count = sum(len(partition.tail.round_chunks) for partition in self._round)
        bound = self.round_bytes + self.state.round_bytes + RUN_HEADER_BYTES * chunk_count
        # Were records to fill the reserve, a disk that then stalls would leave this round waiting.
        in_reserve = not self._round or self.stalled or not self.journal.used_bytes
        spare = 0 if in_reserve else self._reserve_bytes
        if not self.journal.fits(bound + spare):
            if bound + BLOCK_BYTES > self.journal.capacity_bytes:
                raise self.fail(OSError(f"a round of {bound} bytes is larger than the journal"))
            return None
        runs = [(partition, run) for partition in self._round for run in partition.tail.cut()]
        changes = self.state.cut()
        entries = [state_entry(change) for change in changes]
        for _, run in runs:
            entries += (run_header(run), run.records)
        write = self.journal.place(entries)
        self._round = []
        self.round_bytes = 0
        self.in_flight_bytes += write.size_bytes
        return Frame(write=write, runs=runs, changes=changes)

    def write(self, frames: Sequence[Frame]) -> int:
        """Writes and syncs frames, in the order they were cut. For a worker thread. OSError: see
        `fail`.
        """
        return self.journal.write([frame.write for frame in frames])

    def durable(self, frames: Sequence[Frame]) -> None:
        """`write` returned for these frames: their records can be read, and what they hold
        acknowledged.
        """
        for frame in frames:
            sequence = frame.write.sequence
            for partition, run in frame.runs:
                before = partition.tail.bytes
                partition.tail.place(run, sequence)
                self.tail_bytes += partition.tail.bytes - before
                self._records += run.record_count
            self.state.durable(frame.changes)
            self.in_flight_bytes -= frame.write.size_bytes
            self._journal_written += frame.write.size_bytes
        self.journal.synced(frames[-1].write.sequence)
        self._frames += len(frames)
        self._fsyncs += 1
        for listener in self._listeners:
            call_guarded(listener)

    def fail(self, error: Exception) -> LogFailed:
        """The journal could not be written or synced. From now on nothing is appended."""
        self._failure = LogFailed(
            f"the journal failed ({error}): nothing is acknowledged any more;"
            " check the disk, then restart"
        )
        return self._failure

    @property
    def failure(self) -> LogFailed | None:
        return self._failure

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Called after frames became durable: there may be something new to read."""
        self._listeners.append(listener)

    def remove_listener(self, listener: Callable[[], None]) -> None:
        """Ends what `add_listener` began."""
        self._listeners.remove(listener)

    def _refuse_if_needed(self) -> None:
        if self._failure is not None:
            raise self._failure
        free = self.journal.free_bytes - self.round_bytes
        if free < self._reserve_bytes or self.tail_bytes > self.limits.tail_bytes_max:
            raise LogFull(f"no room for more records while {self.stalled}")

    # -- sealing and checkpoints

    def sealed(self, partition: Partition, result: Sealed) -> None:
        """`partition.write_sealed` returned."""
        before = partition.tail.bytes
        partition.sealed(result)
        self.tail_bytes += partition.tail.bytes - before
        self._segment_written += result.written_bytes
        self._fsyncs += result.fsync_count

    @property
    def needed_sequence(self) -> int:
        """The first journal frame that a checkpoint now would keep."""
        needed = self.journal.synced_sequence + 1
        for partition in self.partitions.values():
            first = partition.tail.first_sequence
            if first is not None and first < needed:
                needed = first
        return needed

    def checkpoint(self) -> Checkpoint:
        """What to write so that recovery begins here. With no seal job under way."""
        sequence, position = self.journal.start(self.needed_sequence)
        return Checkpoint(
            log_id=self.journal.log_id,
            sequence=sequence,
            position=position,
            state_sequence=self.journal.synced_sequence + 1,
            next_partition_id=self._next_partition_id,
            partitions=[partition.point() for partition in self.partitions.values()],
            state=self.state.snapshot(),
        )

    def write_checkpoint(self, checkpoint: Checkpoint) -> tuple[Checkpoint, int]:
        """Makes it durable. For a worker thread. OSError: the last one stays in force."""
        return checkpoint, write_checkpoint(self._files, self._directory, checkpoint)

    def checkpointed(self, written: tuple[Checkpoint, int]) -> None:
        """`write_checkpoint` returned: the journal's space before it can be used again."""
        checkpoint, size_bytes = written
        self.journal.free_before(checkpoint.sequence)
        self._checkpoint_written += size_bytes
        self._fsyncs += 2

    # -- retention

    def replicated_to(self, partition: Partition) -> int | None:
        """The least of the required cursors, as durable; None if none is required.

        What is removed must not be asked for again after a power cut, by a cursor that went back.
        """
        names = partition.spec.replicated_by
        names = self.required_cursors if names is None else names
        if not names:
            return None
        found = (self.state.get_durable(partition.cursor_key(name)) for name in names)
        return min(int.from_bytes(value or b"", "big") for value in found)

    def expire(self) -> int:
        """Takes out of sight what retention lets go; gives how many segments `delete_expired` has
        to delete, with those it could not.
        """
        for partition in self.partitions.values():
            segments = partition.removable(
                now_ms=self.now_ms(), replicated_to=self.replicated_to(partition)
            )
            partition.remove(segments)
            self._expired += segments
        return len(self._expired)

    def delete_expired(self) -> int:
        """Deletes them, oldest first. For a worker thread. OSError: the rest waits for the next."""
        count = len(self._expired)
        while self._expired:
            self._expired[0].delete()
            self._expired.popleft()
            self._removed += 1
        return count

    # -- the rest

    def stats(self) -> LogStats:
        return LogStats(
            record_count=self._records,
            frame_count=self._frames,
            fsync_count=self._fsyncs,
            journal_written_bytes=self._journal_written,
            segment_written_bytes=self._segment_written,
            checkpoint_written_bytes=self._checkpoint_written,
            journal_used_bytes=self.journal.used_bytes,
            journal_bytes=self.journal.size_bytes,
            tail_bytes=self.tail_bytes,
            stored_bytes=sum(partition.stored_bytes for partition in self.partitions.values()),
            removed_segment_count=self._removed,
        )

    def close(self) -> None:
        """Seals what is durable, writes a checkpoint, gives the directory free.

        The caller has flushed the committer: a round that is not durable is not saved here. After
        `fail` only the files are closed: what is in memory may not be what is on disk. OSError
        from the disk.
        """
        try:
            if self._failure is None:
                for partition in self.partitions.values():
                    job = partition.seal_job(close_open=True)
                    if job:
                        self.sealed(partition, partition.write_sealed(job))
                self.checkpointed(self.write_checkpoint(self.checkpoint()))
        finally:
            for partition in self.partitions.values():
                partition.close()
            self.journal.close()
            self._files.close(self._lock)
