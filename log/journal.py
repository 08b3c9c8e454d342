"""The journal: one preallocated file, written in a circle, that makes a round of the event loop
durable with one fdatasync.

Owns the bytes of the journal file and where the next frame goes. It knows nothing of partitions:
what a frame carries is frame.py's. It has no thread: `write` is called by the committer in one of
its own.

    file:   block 0                    header (journal_file.py)
            blocks 1 .. n              frames, each beginning at a block

    frame:  0   magic     4s   "SLGF"
            4   crc32c    u32  of the log id and everything behind this field
            8   sequence  u64  one more than the frame before it
            16  synced    u64  the newest sequence known to be durable when this frame was placed
            24  size      u32  bytes of entries
            28  entries

The log id under the checksum is what a publisher cannot know: no payload can pass for a frame,
wherever a lost block makes reading stumble over it.

A frame takes whole blocks. A block that holds an acknowledged frame is thus never written again
until the frame is no longer needed: a write torn by a power cut can damage only what was not
acknowledged. A frame that does not fit before the end of the file begins at block 1 instead.

Several frames may share one fdatasync; a power cut may keep any of their blocks. Reading begins
where the checkpoint says and ends where the next sequence is missing. What is found beyond tells
which of two things happened. If a later frame or the checkpoint says that a missing one was synced,
then acknowledged bytes were damaged: that is reported, and reading goes on behind the damage.
Otherwise nothing beyond was acknowledged: those frames are wiped before anything new is written,
so that they can never follow a later frame of theirs. Frames that nothing says were synced are
written once more: a killed process, or a failed fdatasync, may have left them in memory only.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import google_crc32c

from log.files import Files

BLOCK_BYTES: Final = 4096
FRAME_MAGIC: Final = b"SLGF"
_CRC: Final = struct.Struct(">I")
_FRAME: Final = struct.Struct(">4sIQQI")
_FRAME_REST: Final = struct.Struct(">QQI")
FRAME_HEADER_BYTES: Final = _FRAME.size
LOOK_AHEAD_BYTES: Final = 24 * 1024 * 1024
"""How far beyond a missing frame others are looked for: twice what can be in flight
(pending_bytes_max and a frame), so that all that was not acknowledged is found, without reading
the whole file at each start.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameWrite:
    """A frame that has its place: what to write where."""

    sequence: int
    position: int
    size_bytes: int
    pieces: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFrame:
    """A frame read back whole: its checksum holds."""

    sequence: int
    synced_sequence: int
    position: int
    end_position: int
    entries: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Blocks that do not hold the frames that were there; `next_sequence` is whole again."""

    first_sequence: int
    next_sequence: int
    position: int
    size_bytes: int


def whole_blocks(size_bytes: int) -> int:
    """The bytes of the blocks that so many bytes take."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class Journal:
    """Places frames in the circle and finds them again."""

    def __init__(self, files: Files, handle: int, *, size_bytes: int, log_id: bytes) -> None:
        self._files = files
        self._handle = handle
        self.size_bytes = size_bytes
        self.log_id = log_id
        self._id_crc = google_crc32c.value(log_id)
        self.next_sequence = 1
        self.next_position = BLOCK_BYTES
        self.synced_sequence = 0
        self.torn = False
        """After `read`: whether an unfinished frame stood at the end."""
        self._live: deque[tuple[int, int, int]] = deque()
        """Frames still needed, oldest first: sequence, position, whole blocks taken (skipped ones
        too).
        """
        self.used_bytes = 0

    @property
    def capacity_bytes(self) -> int:
        return self.size_bytes - BLOCK_BYTES

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes

    # -- writing

    def fits(self, entries_bytes: int) -> bool:
        """Whether a frame with that many bytes of entries has a place now."""
        return self._fits(whole_blocks(FRAME_HEADER_BYTES + entries_bytes))

    def _fits(self, taken: int) -> bool:
        if not self._live:  # what would be skipped holds nothing either
            return taken <= self.capacity_bytes
        return taken + self._skip(taken) <= self.free_bytes

    def place(self, entries: Sequence[bytes]) -> FrameWrite:
        """Gives the next frame its sequence and position. The caller has asked `fits`."""
        size = sum(map(len, entries))
        taken = whole_blocks(FRAME_HEADER_BYTES + size)
        assert self._fits(taken), "would overwrite frames still needed"
        sequence = self.next_sequence
        rest = _FRAME_REST.pack(sequence, self.synced_sequence, size)
        crc = google_crc32c.extend(self._id_crc, rest)
        for piece in entries:
            crc = google_crc32c.extend(crc, piece)
        head = FRAME_MAGIC + _CRC.pack(crc) + rest
        padding = bytes(taken - FRAME_HEADER_BYTES - size)
        wraps = self.size_bytes - self.next_position < taken
        position = BLOCK_BYTES if wraps else self.next_position
        self._take(sequence, position, taken)
        return FrameWrite(
            sequence=sequence,
            position=position,
            size_bytes=taken,
            pieces=(head, *entries, padding),
        )

    def write(self, frames: Sequence[FrameWrite]) -> int:
        """Writes and syncs `frames`; gives the bytes written. For a worker thread: touches no
        state.

        If power fails before fdatasync returns, any blocks of these frames may be missing, so none
        of them may be acknowledged earlier. OSError from here means just that: not acknowledged,
        ever.
        """
        written = 0
        for frame in frames:
            written += self._files.write_at(self._handle, frame.position, frame.pieces)
        self._files.datasync(self._handle)
        return written

    def synced(self, sequence: int) -> None:
        """`write` returned for the frames up to `sequence`: later frames will say so."""
        self.synced_sequence = sequence

    def _skip(self, taken: int) -> int:
        """Bytes left unused at the end of the file if a frame of `taken` bytes comes next."""
        left = self.size_bytes - self.next_position
        return left if left < taken else 0

    def _take(self, sequence: int, position: int, taken: int) -> None:
        """Books `taken` bytes at `position` for the frame, and whatever lies unused before it."""
        unused = (position - self.next_position) % self.capacity_bytes
        self._live.append((sequence, position, unused + taken))
        self.used_bytes += unused + taken
        self.next_sequence = sequence + 1
        self.next_position = position + taken

    # -- freeing

    def start(self, sequence: int) -> tuple[int, int]:
        """(sequence, position) from which to read so as to meet every frame from `sequence` on."""
        for frame_sequence, position, _ in self._live:
            if frame_sequence >= sequence:
                return frame_sequence, position
        return self.next_sequence, self.next_position

    @property
    def first_sequence(self) -> int:
        """The oldest frame that is held."""
        return self._live[0][0] if self._live else self.next_sequence

    def middle_sequence(self) -> int:
        """The sequence half-way through the frames still needed."""
        return self._live[len(self._live) // 2][0] if self._live else self.next_sequence

    def free_before(self, sequence: int) -> None:
        """Frames before `sequence` are not needed: a checkpoint that says so is durable."""
        while self._live and self._live[0][0] < sequence:
            self.used_bytes -= self._live.popleft()[2]

    # -- reading

    def read(
        self, sequence: int, position: int, *, synced_sequence: int = 0
    ) -> Iterator[FoundFrame | Damage]:
        """The frames from (sequence, position) on; afterwards the journal is ready to write behind
        them.

        `synced_sequence` is the newest that is known to have been synced. A `Damage` stands where
        acknowledged frames are missing.
        """
        self.next_sequence, self.next_position = sequence, position
        unsure: deque[FoundFrame] = deque()
        while True:
            found = self._next_frame()
            if found is None:
                at = self.next_position
                beyond = self._frames_beyond()
                known = max([synced_sequence, *(frame.synced_sequence for frame in beyond)])
                if known < self.next_sequence:
                    self.torn = self._torn_at_end()
                    self._settle(unsure, wiped=[frame.position for frame in beyond])
                    break
                yield self._damage(at, beyond, known)
                if not beyond:
                    self._settle(unsure, wiped=())
                    self.next_sequence = known + 1
                    break
                found = beyond[0]
            self._take(found.sequence, found.position, found.end_position - found.position)
            synced_sequence = max(synced_sequence, found.synced_sequence)
            unsure.append(found)
            while unsure and unsure[0].sequence <= synced_sequence:
                unsure.popleft()
            yield found
        self.synced_sequence = self.next_sequence - 1

    def _damage(self, position: int, beyond: Sequence[FoundFrame], known: int) -> Damage:
        """Of the frames from `next_sequence` to the first one beyond, or to the last one known."""
        end = beyond[0].position if beyond else position - BLOCK_BYTES
        return Damage(
            first_sequence=self.next_sequence,
            next_sequence=beyond[0].sequence if beyond else known + 1,
            position=position,
            size_bytes=(end - position) % self.capacity_bytes,
        )

    def _next_frame(self) -> FoundFrame | None:
        for position in (self.next_position, BLOCK_BYTES):
            found = self._frame_at(position, newer_than=self.next_sequence - 1)
            if found and found.sequence == self.next_sequence:
                return found
        return None

    def _frames_beyond(self) -> list[FoundFrame]:
        """Whole frames later than the missing one, by sequence, within LOOK_AHEAD_BYTES around the
        circle.
        """
        later = []
        position, seen = self.next_position, 0
        while seen < min(LOOK_AHEAD_BYTES, self.capacity_bytes):
            if position >= self.size_bytes:
                position = BLOCK_BYTES
            frame = self._frame_at(position, newer_than=self.next_sequence)
            step = BLOCK_BYTES
            if frame:
                later.append(frame)
                step = frame.end_position - position
            position += step
            seen += step
        return sorted(later, key=lambda frame: frame.sequence)

    def _settle(self, unsure: Iterable[FoundFrame], *, wiped: Sequence[int]) -> None:
        """Makes durable what was read: `unsure` frames for certain, what is at the positions
        `wiped` gone for good, and an unfinished frame at the end with them.

        If power fails here, frames are found as they were, and this is done at the next start:
        nothing has been written since, and what is written is what is there.
        """
        frames = list(unsure)
        for frame in frames:
            size = frame.end_position - frame.position
            data = self._files.read_at(self._handle, frame.position, size)
            self._files.write_at(self._handle, frame.position, (data,))
        positions = (*wiped, self.next_position) if self.torn else wiped
        for position in positions:
            self._files.write_at(self._handle, position, (bytes(BLOCK_BYTES),))
        if frames or positions:
            self._files.datasync(self._handle)

    def _torn_at_end(self) -> bool:
        """Whether an unfinished frame stands where the next one will go."""
        head = self._files.read_at(self._handle, self.next_position, FRAME_HEADER_BYTES)
        if len(head) < FRAME_HEADER_BYTES:
            return False
        magic, _, sequence, _, _ = _FRAME.unpack(head)
        return bool(magic == FRAME_MAGIC and sequence == self.next_sequence)

    def oldest(self, frames: Sequence[FoundFrame], sequence: int) -> FoundFrame | None:
        """The first of `frames` (by sequence) behind the newest around the circle, from `sequence`
        on. What an earlier lap left where a later one skipped is not the oldest by its sequence.
        """
        if not frames:
            return None
        end = frames[-1].end_position
        return min(
            (frame for frame in frames if frame.sequence >= sequence),
            key=lambda frame: (frame.position - end) % self.capacity_bytes,
            default=None,
        )

    def every_frame(self) -> list[FoundFrame]:
        """Every whole frame anywhere in the file, needed or not, by sequence. Reads the whole
        file.
        """
        found = []
        position = BLOCK_BYTES
        while position < self.size_bytes:
            frame = self._frame_at(position)
            if frame:
                found.append(frame)
            position = frame.end_position if frame else position + BLOCK_BYTES
        return sorted(found, key=lambda frame: frame.sequence)

    def _frame_at(self, position: int, *, newer_than: int = 0) -> FoundFrame | None:
        """The whole frame at `position` if it is newer than a sequence, or None.

        Whatever stands there, no byte of it is believed before the checksum holds.
        """
        head = self._files.read_at(self._handle, position, FRAME_HEADER_BYTES)
        if len(head) < FRAME_HEADER_BYTES:
            return None
        magic, crc, sequence, synced, size = _FRAME.unpack(head)
        if magic != FRAME_MAGIC or sequence <= newer_than:
            return None
        if position + FRAME_HEADER_BYTES + size > self.size_bytes:
            return None
        entries = self._files.read_at(self._handle, position + FRAME_HEADER_BYTES, size)
        if google_crc32c.extend(google_crc32c.extend(self._id_crc, head[8:]), entries) != crc:
            return None
        return FoundFrame(
            sequence=sequence,
            synced_sequence=synced,
            position=position,
            end_position=position + whole_blocks(FRAME_HEADER_BYTES + size),
            entries=entries,
        )

    def close(self) -> None:
        self._files.close(self._handle)
