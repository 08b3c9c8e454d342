"""The journal: one preallocated file, written in a circle, that makes a round of the event loop
durable with one fdatasync.

Owns the bytes of the journal file and where the next frame goes. It knows nothing of partitions:
what a frame carries is frame.py's. It has no thread: `write` is called by the committer in one of
its own.

    file:   block 0                    header
            blocks 1 .. n              frames, each beginning at a block

    header: 0   magic     8s   "SLGJRNL" and format version 1
            8   block     u32  4096
            12  blocks    u32  in the file, header included
            16  log id    16s  random; the checkpoint repeats it, so that no other log's is taken
            32  crc32c    u32  of the 32 bytes before

    frame:  0   magic     4s   "SLGF"
            4   crc32c    u32  of everything behind this field
            8   sequence  u64  one more than the frame before it
            16  synced    u64  the newest sequence known to be durable when this frame was placed
            24  size      u32  bytes of entries
            28  entries

A frame takes whole blocks. A block that holds an acknowledged frame is thus never written again
until the frame is no longer needed: a write torn by a power cut can damage only what was not
acknowledged. A frame that does not fit before the end of the file begins at block 1 instead.

Several frames may share one fdatasync; a power cut may keep any of their blocks. Reading begins
where the checkpoint says and ends where the next sequence is missing. What is found beyond tells
which of two things happened. If a later frame says that a missing one was synced, then
acknowledged bytes were damaged: that is reported, and reading goes on behind the damage. Otherwise
nothing beyond was acknowledged: those frames are wiped before anything new is written, so that
they can never follow a later frame of theirs.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from log.errors import UnknownFormat
from log.files import Files

BLOCK_BYTES: Final = 4096
MAGIC: Final = b"SLGJRNL\x01"
FRAME_MAGIC: Final = b"SLGF"
_FILE_HEADER: Final = struct.Struct(">8sII16s")
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
    """Blocks between two good frames that do not hold the frames that were there."""

    first_sequence: int
    next_sequence: int
    position: int


def _blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


class Journal:
    """Places frames in the circle and finds them again."""

    def __init__(self, files: Files, handle: int, *, size_bytes: int, log_id: bytes) -> None:
        self._files = files
        self._handle = handle
        self.size_bytes = size_bytes
        self.log_id = log_id
        self.next_sequence = 1
        self.next_position = BLOCK_BYTES
        self.synced_sequence = 0
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
        taken = _blocks(FRAME_HEADER_BYTES + entries_bytes)
        return taken + self._skip(taken) <= self.free_bytes

    def place(self, entries: Sequence[bytes]) -> FrameWrite:
        """Gives the next frame its sequence and position. The caller has asked `fits`."""
        size = sum(map(len, entries))
        taken = _blocks(FRAME_HEADER_BYTES + size)
        assert taken + self._skip(taken) <= self.free_bytes, "would overwrite frames still needed"
        sequence = self.next_sequence
        rest = _FRAME_REST.pack(sequence, self.synced_sequence, size)
        crc = google_crc32c.value(rest)
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

    def middle_sequence(self) -> int:
        """The sequence half-way through the frames still needed."""
        return self._live[len(self._live) // 2][0] if self._live else self.next_sequence

    def free_before(self, sequence: int) -> None:
        """Frames before `sequence` are not needed: a checkpoint that says so is durable."""
        while self._live and self._live[0][0] < sequence:
            self.used_bytes -= self._live.popleft()[2]

    # -- reading

    def read(self, sequence: int, position: int) -> Iterator[FoundFrame | Damage]:
        """The frames from (sequence, position) on; afterwards the journal is ready to write behind
        them.

        A `Damage` stands where acknowledged frames are missing between good ones.
        """
        self.next_sequence, self.next_position = sequence, position
        while True:
            found = self._next_frame()
            if found is None:
                beyond = self._frames_beyond()
                if not any(frame.synced_sequence >= self.next_sequence for frame in beyond):
                    self._wipe(beyond)
                    break
                found = beyond[0]
                yield Damage(
                    first_sequence=self.next_sequence,
                    next_sequence=found.sequence,
                    position=self.next_position,
                )
            self._take(found.sequence, found.position, found.end_position - found.position)
            yield found
        self.synced_sequence = self.next_sequence - 1

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

    def _wipe(self, frames: Sequence[FoundFrame]) -> None:
        """Makes frames that were never acknowledged unreadable, durably.

        If power fails here, they are found and wiped at the next start: nothing has been written
        since.
        """
        for frame in frames:
            self._files.write_at(self._handle, frame.position, (bytes(BLOCK_BYTES),))
        if frames:
            self._files.datasync(self._handle)

    def torn_at_end(self) -> bool:
        """After `read`: whether an unfinished frame stands where the next one will go."""
        head = self._files.read_at(self._handle, self.next_position, FRAME_HEADER_BYTES)
        if len(head) < FRAME_HEADER_BYTES:
            return False
        magic, _, sequence, _, _ = _FRAME.unpack(head)
        return bool(magic == FRAME_MAGIC and sequence == self.next_sequence)

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
        if google_crc32c.extend(google_crc32c.value(head[8:]), entries) != crc:
            return None
        return FoundFrame(
            sequence=sequence,
            synced_sequence=synced,
            position=position,
            end_position=position + _blocks(FRAME_HEADER_BYTES + size),
            entries=entries,
        )

    def close(self) -> None:
        self._files.close(self._handle)


def create_journal(files: Files, path: Path, *, size_bytes: int, log_id: bytes) -> Journal:
    """A new journal of `size_bytes` (rounded to blocks) at `path`, durable when this returns."""
    size_bytes = _blocks(size_bytes)
    handle = files.open(path, create=True)
    files.truncate(handle, 0)
    files.allocate(handle, size_bytes)
    _write_header(files, handle, size_bytes, log_id)
    # If power fails before these, there is a journal of zeros or none: it holds nothing and is
    # made again.
    files.datasync(handle)
    files.sync_directory(path.parent)
    return Journal(files, handle, size_bytes=size_bytes, log_id=log_id)


def repair_journal(files: Files, path: Path, *, log_id: bytes) -> Journal:
    """A journal whose header is damaged, with the header written again; its frames are as they
    were.
    """
    handle = files.open(path)
    size_bytes = files.size(handle) // BLOCK_BYTES * BLOCK_BYTES
    _write_header(files, handle, size_bytes, log_id)
    files.datasync(handle)
    return Journal(files, handle, size_bytes=size_bytes, log_id=log_id)


def _write_header(files: Files, handle: int, size_bytes: int, log_id: bytes) -> None:
    header = _FILE_HEADER.pack(MAGIC, BLOCK_BYTES, size_bytes // BLOCK_BYTES, log_id)
    files.write_at(handle, 0, (header, _CRC.pack(google_crc32c.value(header))))


def open_journal(files: Files, path: Path) -> Journal | None:
    """The journal at `path`; None if there is none or its header was never completed.
    UnknownFormat.
    """
    if not files.exists(path):
        return None
    handle = files.open(path)
    head = files.read_at(handle, 0, _FILE_HEADER.size + _CRC.size)
    header, crc = head[: _FILE_HEADER.size], head[_FILE_HEADER.size :]
    if len(crc) < _CRC.size or _CRC.pack(google_crc32c.value(header)) != crc:
        files.close(handle)
        return None
    magic, block, blocks, log_id = _FILE_HEADER.unpack(header)
    if magic != MAGIC or block != BLOCK_BYTES:
        files.close(handle)
        raise UnknownFormat(
            f"{path} is of format {magic!r}, this release reads {MAGIC!r}: run its writer"
        )
    return Journal(files, handle, size_bytes=blocks * block, log_id=log_id)
