"""Bringing a data directory back to what was acknowledged, and saying what was found.

    1. the newest whole checkpoint;
    2. each partition's segments: the last is checked batch by batch from the checkpoint on, and
       cut behind its last valid batch;
    3. the journal from the checkpoint on: records beyond the segments go to the tails, state is
       applied;
    4. where a segment has less than the checkpoint says, older journal frames may still hold it.

Nothing here stops for damage: corruption is a value in the report (STYLE.md point 9). What cannot
be brought back is a `Lost` range. A directory with no checkpoint at all is read from what its
files say.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from log.checkpoint import Checkpoint, PartitionPoint
from log.errors import LogUnusable
from log.files import Files
from log.frame import Run, StateChange, parse_entries
from log.journal import BLOCK_BYTES, Damage, FoundFrame, Journal
from log.limits import LogLimits
from log.partition import Partition
from log.segment import Segment, SegmentScan
from log.state import DurableState
from log.streams import StreamSpec

PARTITION_FILE = "partition.json"
STREAMS_DIRECTORY = "streams"


class PartitionFile(msgspec.Struct, frozen=True, kw_only=True):
    """STREAM-PARTITION/partition.json: what the directory is, should every checkpoint be lost."""

    format: int
    stream: str
    index: int
    partition_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Offsets of a partition, both included, that were acknowledged and cannot be read any more."""

    stream: str
    partition: int
    first_offset: int
    last_offset: int
    cause: str


@dataclass(slots=True, kw_only=True)
class RecoveryReport:
    """What recovery found. `clean` when nothing but whole frames and batches."""

    checkpoint_found: bool = False
    frames_replayed: int = 0
    records_replayed: int = 0
    torn_frame: bool = False
    checkpoint_problems: list[str] = field(default_factory=list)
    journal_damage: list[Damage] = field(default_factory=list)
    segments_cut: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.torn_frame or self.lines())

    def lines(self) -> list[str]:
        """One sentence for each thing an operator should know."""
        out = [f"checkpoint damaged: {problem}" for problem in self.checkpoint_problems]
        out += [
            f"journal damaged: frames {damage.first_sequence}..{damage.next_sequence - 1}"
            f" at position {damage.position} do not hold their checksum"
            for damage in self.journal_damage
        ]
        out += self.segments_cut
        out += [
            f"lost: {lost.stream}-{lost.partition} offsets {lost.first_offset}"
            f"..{lost.last_offset} ({lost.cause})"
            for lost in self.lost
        ]
        return out


class Recovery:
    """One recovery of one data directory. `partitions`, `state` and `report` are its results."""

    def __init__(self, files: Files, directory: Path, limits: LogLimits, journal: Journal) -> None:
        self._files = files
        self._streams = directory / STREAMS_DIRECTORY
        self._limits = limits
        self._journal = journal
        self.report = RecoveryReport()
        self.state = DurableState()
        self.partitions: dict[int, Partition] = {}
        self.next_partition_id = 1

    def run(self, checkpoint: Checkpoint | None, specs: Iterable[StreamSpec]) -> None:
        """Opens what is there, replays, then makes the partitions of `specs` that are new."""
        by_name = {spec.name: spec for spec in specs}
        points = (
            {point.partition_id: point for point in checkpoint.partitions} if checkpoint else {}
        )
        self._open_existing(by_name, points)
        if checkpoint:
            self.report.checkpoint_found = True
            self.next_partition_id = max(self.next_partition_id, checkpoint.next_partition_id)
            self.state.restore(StateChange(key=key, value=value) for key, value in checkpoint.state)
        self._replay(checkpoint, short=self._short(points))
        self._account(points)
        self._create_missing(by_name)

    # -- segments

    def _open_existing(
        self, specs: dict[str, StreamSpec], points: dict[int, PartitionPoint]
    ) -> None:
        for name in self._files.list_directory(self._streams):
            directory = self._streams / name
            meta = self._read_partition_file(directory)
            if meta is None:
                continue
            spec = specs.get(meta.stream) or StreamSpec(
                name=meta.stream, partition_count=meta.index + 1
            )
            segments = self._open_segments(directory, points.get(meta.partition_id))
            self._add(directory, spec, meta.index, meta.partition_id, segments)

    def _read_partition_file(self, directory: Path) -> PartitionFile | None:
        """None for a directory whose creation was cut short: no record was ever in it."""
        path = directory / PARTITION_FILE
        if not self._files.exists(path):
            return None
        handle = self._files.open(path)
        try:
            return msgspec.json.decode(self._files.read_at(handle, 0, 4096), type=PartitionFile)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            if self._holds_nothing(directory):
                return None
            raise LogUnusable(
                f"{path} is damaged ({error}): write it again as"
                ' {"format":1,"stream":...,"index":...,"partition_id":...},'
                " or move the directory away"
            ) from error
        finally:
            self._files.close(handle)

    def _holds_nothing(self, directory: Path) -> bool:
        for name in self._files.list_directory(directory):
            if name.endswith(".log"):
                handle = self._files.open(directory / name)
                try:
                    if self._files.size(handle):
                        return False
                finally:
                    self._files.close(handle)
        return True

    def _open_segments(self, directory: Path, point: PartitionPoint | None) -> list[Segment]:
        names = self._files.list_directory(directory)
        bases = sorted(
            int(name[:20]) for name in names if name.endswith(".log") and name[:20].isdigit()
        )
        for name in names:
            if name.endswith(("index",)) and int(name[:20]) not in bases:
                self._files.remove(directory / name)
        segments = [self._segment(directory, base) for base in bases]
        if not segments:
            segments = [self._segment(directory, point.sealed_end if point else 0)]
            segments[0].create()
        for segment, following in pairwise(segments):
            self._report_cut(directory, segment, segment.open_closed())
            if segment.end_offset != following.base_offset:
                self.report.segments_cut.append(
                    f"segment ends early: {directory.name} {segment.base_offset} at offset"
                    f" {segment.end_offset}, the next begins at {following.base_offset}"
                )
        self._recover_last(directory, segments[-1], point)
        return segments

    def _recover_last(
        self, directory: Path, segment: Segment, point: PartitionPoint | None
    ) -> None:
        position, end = 0, segment.base_offset
        if point and point.segment_base == segment.base_offset and segment.holds(point.valid_bytes):
            position, end = point.valid_bytes, point.sealed_end
        self._report_cut(directory, segment, segment.recover(position, end))

    def _report_cut(self, directory: Path, segment: Segment, scan: SegmentScan | None) -> None:
        if scan and scan.truncated_bytes:
            self.report.segments_cut.append(
                f"segment cut: {directory.name} {segment.base_offset} by"
                f" {scan.truncated_bytes} bytes to {scan.valid_bytes} ({scan.reason})"
            )

    def _segment(self, directory: Path, base_offset: int) -> Segment:
        interval = self._limits.index_interval_bytes
        return Segment(self._files, directory, base_offset, interval_bytes=interval)

    def _add(
        self,
        directory: Path,
        spec: StreamSpec,
        index: int,
        partition_id: int,
        segments: list[Segment],
    ) -> None:
        self.partitions[partition_id] = Partition(
            self._files,
            directory,
            spec,
            index,
            partition_id=partition_id,
            limits=self._limits,
            segments=segments,
        )
        self.next_partition_id = max(self.next_partition_id, partition_id + 1)

    # -- journal

    def _short(self, points: dict[int, PartitionPoint]) -> set[int]:
        """Partitions whose segments end before the checkpoint says they did."""
        return {
            partition_id
            for partition_id, point in points.items()
            if partition_id in self.partitions
            and self.partitions[partition_id].sealed_end < point.sealed_end
        }

    def _replay(self, checkpoint: Checkpoint | None, *, short: set[int]) -> None:
        journal = self._journal
        astray = checkpoint is None or bool(self.report.checkpoint_problems)
        older = journal.every_frame() if short or astray else []
        sequence, position, state_from = 1, BLOCK_BYTES, 0
        if checkpoint:
            sequence, position = checkpoint.sequence, checkpoint.position
            state_from = checkpoint.state_sequence
        if astray:
            first = next((frame for frame in older if frame.sequence >= sequence), None)
            if first:
                sequence, position = first.sequence, first.position
        for frame in older:
            if frame.sequence < sequence:
                self._replay_frame(frame, only=short, with_state=False)
        for found in journal.read(sequence, position):
            if isinstance(found, Damage):
                self.report.journal_damage.append(found)
            else:
                self.report.frames_replayed += 1
                self._replay_frame(found, only=None, with_state=found.sequence >= state_from)
        self.report.torn_frame = journal.torn_at_end()

    def _replay_frame(self, frame: FoundFrame, *, only: set[int] | None, with_state: bool) -> None:
        for entry in parse_entries(frame.entries):
            if isinstance(entry, StateChange):
                if with_state:
                    self.state.restore((entry,))
            elif only is None or entry.partition_id in only:
                self._replay_run(entry, frame.sequence)

    def _replay_run(self, run: Run, sequence: int) -> None:
        partition = self.partitions.get(run.partition_id)
        if partition is None:
            return  # its directory was removed by hand; what it held is gone with it
        first = run.chunk_base_offset + run.first_delta
        if first < partition.end_offset:
            return  # sealed before the stop, or met already
        if first > partition.end_offset:
            self._lose(partition, partition.end_offset, first - 1, "journal or segment damaged")
        partition.tail.restore(run, sequence)
        self.report.records_replayed += run.record_count

    def _account(self, points: dict[int, PartitionPoint]) -> None:
        """What the checkpoint knew of and nothing holds any more is lost; its offsets are not
        given again.
        """
        for partition_id, point in points.items():
            partition = self.partitions.get(partition_id)
            if partition and partition.end_offset < point.sealed_end:
                self._lose(
                    partition, partition.end_offset, point.sealed_end - 1, "segment cut short"
                )
                partition.tail.skip_to(point.sealed_end)

    def _lose(self, partition: Partition, first: int, last: int, cause: str) -> None:
        self.report.lost.append(
            Lost(
                stream=partition.stream,
                partition=partition.index,
                first_offset=first,
                last_offset=last,
                cause=cause,
            )
        )

    # -- new partitions

    def _create_missing(self, specs: dict[str, StreamSpec]) -> None:
        known = {(p.stream, p.index) for p in self.partitions.values()}
        for spec in specs.values():
            for index in range(spec.partition_count):
                if (spec.name, index) not in known:
                    self._create(spec, index)

    def _create(self, spec: StreamSpec, index: int) -> None:
        """Makes a partition's directory: its file last, so that without one it is known to be
        unfinished.
        """
        directory = self._streams / f"{spec.name}-{index}"
        self._files.make_directory(directory)
        segment = self._segment(directory, 0)
        segment.create()
        partition_id = self.next_partition_id
        meta = PartitionFile(format=1, stream=spec.name, index=index, partition_id=partition_id)
        handle = self._files.open(directory / PARTITION_FILE, create=True)
        try:
            self._files.write_at(handle, 0, (msgspec.json.encode(meta),))
            self._files.datasync(handle)
        finally:
            self._files.close(handle)
        # If power fails before these, the partition is made again at the next start: it holds
        # nothing.
        self._files.sync_directory(directory)
        self._files.sync_directory(self._streams)
        self._add(directory, spec, index, partition_id, [segment])
