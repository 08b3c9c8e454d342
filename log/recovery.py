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
from itertools import pairwise
from pathlib import Path

from log.checkpoint import Checkpoint, PartitionPoint
from log.errors import LogUnusable
from log.files import Files
from log.frame import Run, StateChange, parse_entries
from log.journal import BLOCK_BYTES, Damage, FoundFrame, Journal
from log.limits import LogLimits
from log.partition import Partition
from log.partition_file import PartitionFile, read_partition_file, write_partition_file
from log.report import Lost, RecoveryReport
from log.segment import SUFFIXES, Segment, SegmentScan
from log.state import DurableState
from log.streams import StreamSpec

STREAMS_DIRECTORY = "streams"
RECORD_BYTES_MIN = 7
"""A record without key, value and headers: what bounds the count in damaged bytes."""


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
        self._lost: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self._met_since_damage: set[int] = set()
        """Partitions of which a frame behind the last damage said where they were."""
        self._state_lost = False
        """Changes of the durable state are gone: cursors may be missing, or too old."""
        self._seal_soon: set[int] = set()
        """Partitions brought back from journal frames that are not held any more."""

    def run(self, checkpoint: Checkpoint | None, specs: Iterable[StreamSpec]) -> None:
        """Opens what is there, replays, then makes the partitions of `specs` that are new."""
        by_name = {spec.name: spec for spec in specs}
        points = (
            {point.partition_id: point for point in checkpoint.partitions} if checkpoint else {}
        )
        for point in points.values():
            self._lost[point.stream, point.index] = list(point.lost)
        self._open_existing(by_name, points)
        if checkpoint:
            self.report.checkpoint_found = True
            self.next_partition_id = max(self.next_partition_id, checkpoint.next_partition_id)
            self.state.restore(StateChange(key=key, value=value) for key, value in checkpoint.state)
        self._replay(checkpoint, short=self._short(points))
        self._seal_again()
        self._account(points)
        self._keep_state_lost()
        self._create_missing(by_name)
        for partition in self.partitions.values():
            partition.topic_bytes_max //= len(self.partitions)

    # -- segments

    def _open_existing(
        self, specs: dict[str, StreamSpec], points: dict[int, PartitionPoint]
    ) -> None:
        by_directory = {f"{point.stream}-{point.index}": point for point in points.values()}
        for name in self._files.list_directory(self._streams):
            directory = self._streams / name
            point = by_directory.get(name)
            meta = self._identify(directory, point)
            if meta is None:
                continue
            spec = specs.get(meta.stream) or StreamSpec(
                name=meta.stream, partition_count=meta.index + 1
            )
            segments = self._open_segments(directory, meta, point)
            self._add(directory, spec, meta.index, meta.partition_id, segments)

    def _identify(self, directory: Path, point: PartitionPoint | None) -> PartitionFile | None:
        """None for a directory whose creation was cut short: no record was ever in it."""
        meta = read_partition_file(self._files, directory)
        if point is None:
            if meta is None and not self._holds_nothing(directory):
                raise LogUnusable(
                    f"{directory}/partition.json is missing or damaged: write it again as"
                    ' {"format":1,"stream":...,"index":...,"partition_id":...},'
                    " or move the directory away"
                )
            if meta:
                # A process killed while it made the partition may have left this in memory only.
                write_partition_file(self._files, directory, meta)
            return meta
        known = PartitionFile(
            format=1, stream=point.stream, index=point.index, partition_id=point.partition_id
        )
        if meta != known:
            self.report.partition_problems.append(
                f"partition.json of {directory.name} was damaged: written again from the checkpoint"
            )
            write_partition_file(self._files, directory, known)
        return known

    def _holds_nothing(self, directory: Path) -> bool:
        try:
            names = self._files.list_directory(directory)
        except NotADirectoryError:
            return True
        for name in names:
            if name.endswith(".log"):
                handle = self._files.open(directory / name)
                try:
                    if self._files.size(handle):
                        return False
                finally:
                    self._files.close(handle)
        return True

    def _open_segments(
        self, directory: Path, meta: PartitionFile, point: PartitionPoint | None
    ) -> list[Segment]:
        bases = self._segment_bases(directory, point.start_offset if point else 0)
        segments = [self._segment(directory, base) for base in bases]
        if not segments:
            start, end = (point.start_offset, point.sealed_end) if point else (0, 0)
            if start < end:
                self._lose(meta.stream, meta.index, start, end - 1, "no segment is there")
            segments = [self._segment(directory, end)]
            segments[0].create()
        for segment, following in pairwise(segments):
            self._report_cut(directory, segment, segment.open_closed())
            if segment.end_offset < following.base_offset:
                self._lose(
                    meta.stream,
                    meta.index,
                    segment.end_offset,
                    following.base_offset - 1,
                    f"segment {segment.base_offset} ends early",
                )
        self._recover_last(directory, segments[-1], point)
        return segments

    def _segment_bases(self, directory: Path, start_offset: int) -> list[int]:
        """The segments that are there. What retention had removed and is there again is removed
        again, and so are indexes without a log.
        """
        names = [
            name
            for name in self._files.list_directory(directory)
            if name[:20].isdecimal() and name[20:] in SUFFIXES
        ]
        bases = sorted(int(name[:20]) for name in names if name.endswith(".log"))
        while len(bases) > 1 and bases[1] <= start_offset:
            self._segment(directory, bases.pop(0)).delete()
        for name in names:
            if int(name[:20]) not in bases and not name.endswith(".log"):
                self._segment(directory, int(name[:20])).delete()
        return bases

    def _recover_last(
        self, directory: Path, segment: Segment, point: PartitionPoint | None
    ) -> None:
        position, end = 0, segment.base_offset
        known = point is not None and point.segment_base == segment.base_offset
        if point and known and segment.holds(point.valid_bytes):
            position, end = point.valid_bytes, point.sealed_end
        self._report_cut(directory, segment, segment.recover(position, end, known=known))

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
        sequence, position, state_from = 1, BLOCK_BYTES, 1
        if checkpoint:
            sequence, position = checkpoint.sequence, checkpoint.position
            state_from = checkpoint.state_sequence
        if astray:
            first = journal.oldest(older, sequence)
            if first:
                sequence, position = first.sequence, first.position
            self._note_astray(checkpoint, state_from, first)
        for frame in older:
            if frame.sequence < sequence:
                self._replay_frame(frame, only=short, with_state=False)
        self._seal_soon = {each for each in short if self.partitions[each].tail.chunks}
        for found in journal.read(sequence, position, synced_sequence=state_from - 1):
            if isinstance(found, Damage):
                self.report.journal_damage.append(found)
                self._state_lost = True
                self._met_since_damage.clear()
            else:
                self.report.frames_replayed += 1
                self._replay_frame(found, only=None, with_state=found.sequence >= state_from)
        self.report.torn_frame = journal.torn

    def _note_astray(
        self, checkpoint: Checkpoint | None, state_from: int, first: FoundFrame | None
    ) -> None:
        """Says what cannot be known without the newest checkpoint."""
        problems = self.report.checkpoint_problems
        if checkpoint is None and not problems and (first or self._hold_records()):
            problems.append("there is none")
        if first and first.sequence > state_from:
            self._state_lost = True
            problems.append(
                f"journal frames {state_from}..{first.sequence - 1} were used again since:"
                " what they changed in cursors and sessions is lost"
            )
        elif checkpoint is None and not first and self._hold_records():
            self._state_lost = True
            problems.append("nor is there a journal: cursors and sessions are lost")

    def _hold_records(self) -> bool:
        return any(partition.sealed_end for partition in self.partitions.values())

    def _keep_state_lost(self) -> None:
        """Durable with the checkpoint that ends this start: owners of cursors may come later."""
        if not self._state_lost:
            return
        self.report.state_lost = True
        self.state.restore(
            StateChange(key=partition.state_lost_key, value=partition.end_offset.to_bytes(8, "big"))
            for partition in self.partitions.values()
        )

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
        self._met_since_damage.add(run.partition_id)
        first = run.chunk_base_offset + run.first_delta
        if first < partition.end_offset:
            return  # sealed before the stop, or met already
        if first > partition.end_offset:
            cause = "journal or segment damaged"
            self._lose(partition.stream, partition.index, partition.end_offset, first - 1, cause)
        partition.tail.restore(run, sequence)
        self.report.records_replayed += run.record_count

    def _seal_again(self) -> None:
        """What was brought back from frames that are free already gets its segment before anything
        can be written over them.
        """
        for partition_id in self._seal_soon:
            partition = self.partitions[partition_id]
            job = partition.seal_job(close_open=True)
            if job:
                partition.sealed(partition.write_sealed(job))

    def _account(self, points: dict[int, PartitionPoint]) -> None:
        """What was there and nothing holds any more is lost; its offsets are not given again."""
        for partition_id, partition in self.partitions.items():
            point = points.get(partition_id)
            end, cause = partition.end_offset, "segment cut short"
            if point and point.durable_end > end:
                if point.sealed_end <= end:
                    cause = "journal damaged"
                end = point.durable_end
            damaged = self.report.journal_damage
            if damaged and partition_id not in self._met_since_damage:
                # No frame behind the damage says where the partition was.
                end += sum(each.size_bytes for each in damaged) // RECORD_BYTES_MIN
                cause = "journal damaged: these at most"
            if end > partition.end_offset:
                self._lose(partition.stream, partition.index, partition.end_offset, end - 1, cause)
                partition.tail.skip_to(end)
            ranges = self._lost.get((partition.stream, partition.index), [])
            partition.lost = [each for each in ranges if each[1] >= partition.start_offset]

    def _lose(self, stream: str, index: int, first: int, last: int, cause: str) -> None:
        """Reports a loss, unless an earlier start did: the checkpoint knows."""
        known = self._lost.setdefault((stream, index), [])
        if any(low <= first and last <= high for low, high in known):
            return
        known.append((first, last))
        self.report.lost.append(
            Lost(
                stream=stream,
                partition=index,
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
        # If power fails before this, the partition is made again at the next start: it holds
        # nothing.
        write_partition_file(self._files, directory, meta)
        self._add(directory, spec, index, partition_id, [segment])
