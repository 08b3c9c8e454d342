"""All file calls of the log.

Nothing else under log/ opens, reads, writes, syncs, renames or removes a file, so that a test can
put a disk in its place that loses, tears and reorders what was not synced, or fails any call. So
the one random number of the log comes from here, too, and the clock that `Log.open` takes unless
it is given one.

`Files` is the interface, `DiskFiles` the real one. Every method raises OSError as the system does;
short reads and writes are completed here. Paths are absolute. A handle is an int of the
implementation's own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_IOV_MAX = 1024  # POSIX's floor is 16; Linux takes 1,024 buffers in one writev.


def wall_clock_ms() -> int:
    """The system's time."""
    return time.time_ns() // 1_000_000


class Files(Protocol):
    """What the log asks of a disk."""

    def open(self, path: Path, *, create: bool = False) -> int: ...
    def close(self, handle: int) -> None: ...
    def read_at(self, handle: int, position: int, size: int) -> bytes: ...
    def write_at(self, handle: int, position: int, pieces: Sequence[bytes]) -> int: ...
    def datasync(self, handle: int) -> None: ...
    def size(self, handle: int) -> int: ...
    def truncate(self, handle: int, size: int) -> None: ...
    def allocate(self, handle: int, size: int) -> None: ...
    def make_directory(self, path: Path) -> None: ...
    def sync_directory(self, path: Path) -> None: ...
    def list_directory(self, path: Path) -> list[str]: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def remove(self, path: Path) -> None: ...
    def exists(self, path: Path) -> bool: ...
    def free_bytes(self, path: Path) -> int: ...
    def lock(self, path: Path) -> int: ...
    def random_bytes(self, count: int) -> bytes: ...


class DiskFiles:
    """The operating system's files."""

    def open(self, path: Path, *, create: bool = False) -> int:
        """A handle for reading and writing; FileNotFoundError unless `create`."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return os.open(path, flags, 0o640)

    def close(self, handle: int) -> None:
        os.close(handle)

    def read_at(self, handle: int, position: int, size: int) -> bytes:
        """Up to `size` bytes from `position`; fewer only at the end of the file."""
        data = os.pread(handle, size, position)
        if len(data) == size or not data:
            return data
        parts = [data]
        got = len(data)
        while got < size:
            data = os.pread(handle, size - got, position + got)
            if not data:
                break
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    def write_at(self, handle: int, position: int, pieces: Sequence[bytes]) -> int:
        """Writes all the pieces one behind the other; gives the bytes written."""
        total = 0
        for first in range(0, len(pieces), _IOV_MAX):
            group = pieces[first : first + _IOV_MAX]
            size = sum(map(len, group))
            written = os.pwritev(handle, group, position + total)
            if written < size:
                rest = memoryview(b"".join(group))
                while written < size:
                    step = os.pwrite(handle, rest[written:], position + total + written)
                    if step == 0:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    written += step
            total += size
        return total

    def datasync(self, handle: int) -> None:
        os.fdatasync(handle)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def allocate(self, handle: int, size: int) -> None:
        """Writes zeros up to `size`, so that later writes in place change no metadata."""
        zeros = bytes(1 << 20)
        done = self.size(handle)
        while done < size:
            done += self.write_at(handle, done, (zeros[: min(len(zeros), size - done)],))

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def list_directory(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def exists(self, path: Path) -> bool:
        return path.exists()

    def free_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def lock(self, path: Path) -> int:
        """An exclusive lock held until the handle is closed; BlockingIOError if another process
        has it.
        """
        handle = self.open(path, create=True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        return handle

    def random_bytes(self, count: int) -> bytes:
        """From the system's source of secrets."""
        return os.urandom(count)
