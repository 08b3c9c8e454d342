"""A disk that loses, tears and reorders what was not synced, and fails when it is told to.

It stands behind `log.files.Files`. The fault model, against which the log is tested:

- A file has what the process wrote (the page cache) and what is on the platter. `datasync` brings
  data and size of one file to the platter; nothing else is known to be there.
- A power cut keeps, of the writes since the last sync, any selection of 512-byte sectors, each in
  any of the versions it had: none, all, a prefix of them, or a random selection. A sector is never
  torn itself. The size after the cut is any that the file had since the sync. Sectors inside that
  size which were never written are zeros.
- Directories know names. A name that was made, renamed or removed is on the platter only after
  `sync_directory` of that directory: before it, a power cut keeps any selection of these changes.
  A rename is atomic: never both names, never none. Syncing a file does not sync its name.
- `kill` (SIGKILL) loses nothing and syncs nothing: handles and locks are gone, the cache stays.
  What a restarted process then reads is thus not known to be on the platter.
- A failed `datasync` (EIO) drops what it was to write: the cache still shows it, a later datasync
  succeeds, and a power cut loses it. (Linux marks such pages clean: "fsyncgate".)
- A failed write may have written a part. ENOSPC comes when a file would grow and `room_bytes` is
  used up.
- The power can fail before, within or after any call; while it is off, every call fails.

Not modelled: sectors that go bad by themselves (test_damage.py flips bits), and a disk that lies
about a flush.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """The power failed in this call. No code of the log may catch it."""


@dataclass(slots=True, eq=False)
class Inode:
    """A file's bytes in the cache and on the platter, and what lies between."""

    cache: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(position, data) of each write, (size, None) of each truncation, since the last sync."""

    def write(self, position: int, data: bytes) -> None:
        _put(self.cache, position, data)
        self.pending.append((position, data))

    def truncate(self, size: int) -> None:
        _resize(self.cache, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        for position, data in self.pending:
            _apply(self.platter, position, data)
        self.pending.clear()

    def cut_power(self, rng: random.Random) -> None:
        """Leaves on the platter one of the contents that the fault model allows."""
        kept = rng.choice((0.0, 1.0, 0.5, 0.9, -1.0))
        pending = self.pending
        if kept < 0:  # a prefix
            pending, kept = pending[: rng.randrange(len(pending) + 1)], 1.0
        sizes = [len(self.platter)]
        for position, data in pending:
            size = position if data is None else max(sizes[-1], position + len(data))
            sizes.append(size)
            if data is None:
                if rng.random() < kept:
                    _resize(self.platter, position)
                continue
            for start, end in _sectors(position, len(data)):
                if rng.random() < kept:
                    _put(self.platter, position + start, data[start:end])
        _resize(self.platter, sizes[-1] if kept == 1.0 else rng.choice(sizes))
        self.pending.clear()
        self.cache = bytearray(self.platter)

    def drop_pending(self, rng: random.Random) -> None:
        """A sync failed: some of it was written, of the rest the cache says it were clean."""
        for position, data in self.pending:
            if rng.random() < 0.3:
                _apply(self.platter, position, data)
        self.pending.clear()


@dataclass(slots=True, eq=False)
class Directory:
    """Names in the cache and on the platter."""

    names: dict[str, Inode | Directory] = field(default_factory=dict)
    platter: dict[str, Inode | Directory] = field(default_factory=dict)
    pending: list[tuple[str, str, Inode | Directory | None]] = field(default_factory=list)
    """("link", name, what), ("unlink", name, None), or (old name, new name, what): a rename."""

    def change(self, kind: str, name: str, what: Inode | Directory | None) -> None:
        _rename(self.names, kind, name, what)
        self.pending.append((kind, name, what))

    def sync(self) -> None:
        self.platter = dict(self.names)
        self.pending.clear()

    def cut_power(self, rng: random.Random) -> None:
        kept = rng.choice((0.0, 1.0, 0.5, -1.0))
        pending = self.pending
        if kept < 0:
            pending, kept = pending[: rng.randrange(len(pending) + 1)], 1.0
        for kind, name, what in pending:
            if rng.random() < kept:
                _rename(self.platter, kind, name, what)
        self.pending.clear()
        self.names = dict(self.platter)
        for what in self.names.values():
            what.cut_power(rng)


class SimulatedDisk:
    """`log.files.Files` on the fault model above. `root` is there already, and durable."""

    def __init__(self, rng: random.Random, root: Path = Path("/disk")) -> None:
        self.rng = rng
        self.root = root
        self.top = Directory()
        self.calls: list[str] = []
        """Names of the calls since `forget_calls`, newest last."""
        self.on = True
        self.cut_in: int | None = None
        """The power fails in the n-th call from now on (1: the next)."""
        self.stop: Callable[[], None] = self.cut_power
        """What happens then: `cut_power` or `kill`."""
        self.fail_in: int | None = None
        self.fail_with = errno.EIO
        """Error of the call that `fail_in` counts down to."""
        self.failed: str | None = None
        """The call that failed so."""
        self.room_bytes: int | None = None
        """Bytes by which files may still grow; None is no bound."""
        self._handles: dict[int, tuple[Inode, str]] = {}
        self._next_handle = 3
        self._locks: dict[Inode, int] = {}

    # -- what happens to it

    def cut_power(self) -> None:
        """Off: what was not synced is lost in part. `turn_on` to go on."""
        self.top.cut_power(self.rng)
        self._forget_process()

    def kill(self) -> None:
        """The process dies, the kernel lives."""
        self._forget_process()

    def _forget_process(self) -> None:
        self._handles.clear()
        self._locks.clear()
        self.on = False

    def turn_on(self) -> None:
        self.on = True
        self.cut_in = self.fail_in = None

    @property
    def open_handle_count(self) -> int:
        return len(self._handles)

    def _enter(self, call: str, within: Callable[[], None] | None = None) -> None:
        """Each call begins here; `within` does a part of it before the power fails."""
        if not self.on:
            raise PowerCut(call)
        self.calls.append(call)
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in <= 0:
                if within and self.rng.random() < 0.5:
                    within()
                self.cut_in = None
                self.stop()
                raise PowerCut(call)
        if self.fail_in is not None:
            self.fail_in -= 1
            if self.fail_in <= 0:
                if within and self.rng.random() < 0.5:
                    within()
                self.fail_in = None
                self.failed = call
                raise OSError(self.fail_with, os.strerror(self.fail_with), call)

    # -- files

    def open(self, path: Path, *, create: bool = False) -> int:
        self._enter(f"open {path.name}")
        directory = self._directory(path.parent)
        found = directory.names.get(path.name)
        if found is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            found = Inode()
            directory.change("link", path.name, found)
        assert isinstance(found, Inode), path
        handle = self._next_handle
        self._next_handle += 1
        self._handles[handle] = (found, path.name)
        return handle

    def close(self, handle: int) -> None:
        """Never fails and never ends the power: what it could break, other calls break."""
        if not self.on:
            return
        inode, _ = self._handles.pop(handle)
        if self._locks.get(inode) == handle:
            del self._locks[inode]

    def read_at(self, handle: int, position: int, size: int) -> bytes:
        inode, name = self._inode(handle)
        self._enter(f"read {name}")
        if position < 0 or size < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return bytes(inode.cache[position : position + size])

    def write_at(self, handle: int, position: int, pieces: Sequence[bytes]) -> int:
        inode, name = self._inode(handle)
        data = b"".join(pieces)

        def a_part() -> None:
            inode.write(position, data[: self.rng.randrange(len(data) + 1)])

        self._enter(f"write {name}", a_part)
        self._grow(inode, position + len(data), f"write {name}")
        if data:
            inode.write(position, data)
        return len(data)

    def datasync(self, handle: int) -> None:
        inode, name = self._inode(handle)
        try:
            self._enter(f"datasync {name}", None)
        except OSError:
            inode.drop_pending(self.rng)
            raise
        inode.sync()

    def size(self, handle: int) -> int:
        inode, name = self._inode(handle)
        self._enter(f"size {name}")
        return len(inode.cache)

    def truncate(self, handle: int, size: int) -> None:
        inode, name = self._inode(handle)
        self._enter(f"truncate {name}", lambda: inode.truncate(size))
        self._grow(inode, size, f"truncate {name}")
        inode.truncate(size)

    def allocate(self, handle: int, size: int) -> None:
        inode, name = self._inode(handle)
        self._enter(f"allocate {name}")
        if size > len(inode.cache):
            self._grow(inode, size, f"allocate {name}")
            inode.truncate(size)

    # -- directories

    def make_directory(self, path: Path) -> None:
        self._enter(f"mkdir {path.name}")
        directory = self.top
        for name in path.relative_to(self.root).parts:
            found = directory.names.get(name)
            if found is None:
                found = Directory()
                directory.change("link", name, found)
            assert isinstance(found, Directory), path
            directory = found

    def sync_directory(self, path: Path) -> None:
        self._enter(f"syncdir {path.name}")
        if path != self.root.parent:
            self._directory(path).sync()

    def list_directory(self, path: Path) -> list[str]:
        self._enter(f"list {path.name}")
        return sorted(self._directory(path).names)

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent
        directory = self._directory(source.parent)
        self._enter(f"rename {target.name}")
        found = directory.names[source.name]
        directory.change(source.name, target.name, found)

    def remove(self, path: Path) -> None:
        self._enter(f"remove {path.name}")
        directory = self._directory(path.parent)
        if path.name not in directory.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        directory.change("unlink", path.name, None)

    def exists(self, path: Path) -> bool:
        self._enter(f"exists {path.name}")
        if path == self.root:
            return True
        try:
            return path.name in self._directory(path.parent).names
        except FileNotFoundError:
            return False

    def free_bytes(self, path: Path) -> int:
        return 1 << 40 if self.room_bytes is None else self.room_bytes

    def lock(self, path: Path) -> int:
        handle = self.open(path, create=True)
        inode, _ = self._handles[handle]
        if inode in self._locks:
            self.close(handle)
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
        self._locks[inode] = handle
        return handle

    def random_bytes(self, count: int) -> bytes:
        return self.rng.randbytes(count)

    # -- inside

    def _inode(self, handle: int) -> tuple[Inode, str]:
        if not self.on:
            raise PowerCut("off")
        return self._handles[handle]

    def _directory(self, path: Path) -> Directory:
        directory = self.top
        for name in path.relative_to(self.root).parts:
            found = directory.names.get(name)
            if not isinstance(found, Directory):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            directory = found
        return directory

    def _grow(self, inode: Inode, size: int, call: str) -> None:
        growth = size - len(inode.cache)
        if self.room_bytes is None or growth <= 0:
            return
        if growth > self.room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), call)
        self.room_bytes -= growth


def _put(content: bytearray, position: int, data: bytes) -> None:
    if position > len(content):
        content.extend(bytes(position - len(content)))
    content[position : position + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def _apply(content: bytearray, position: int, data: bytes | None) -> None:
    if data is None:
        _resize(content, position)
    else:
        _put(content, position, data)


def _sectors(position: int, size: int) -> list[tuple[int, int]]:
    """The parts of a write that lie in different sectors, as slices of its data."""
    cuts = [0, *range(SECTOR_BYTES - position % SECTOR_BYTES, size, SECTOR_BYTES), size]
    return [(cuts[i], cuts[i + 1]) for i in range(len(cuts) - 1) if cuts[i] < cuts[i + 1]]


def _rename(
    names: dict[str, Inode | Directory], kind: str, name: str, what: Inode | Directory | None
) -> None:
    if kind == "link":
        assert what is not None
        names[name] = what
    elif kind == "unlink":
        names.pop(name, None)
    else:
        assert what is not None
        if names.get(kind) is what:
            del names[kind]
        names[name] = what
