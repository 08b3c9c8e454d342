"""The real disk behind `Files`, with system calls that fail for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from log import DiskFiles, Log, LogLocked
from log.files import wall_clock_ms
from tests.log.helpers import SMALL, spec, values
from tests.rigs import need_strace

ROOT = Path(__file__).parents[2]


def test_pieces_beyond_one_system_call_are_written_whole(tmp_path: Path) -> None:
    files = DiskFiles()
    handle = files.open(tmp_path / "file", create=True)
    pieces = [b"%d," % number for number in range(5000)]
    size = files.write_at(handle, 7, pieces)
    assert size == len(b"".join(pieces)) == files.size(handle) - 7
    assert files.read_at(handle, 7, 1 << 20) == b"".join(pieces)
    assert files.read_at(handle, 0, 9) == bytes(7) + b"0,"
    assert files.read_at(handle, 1 << 20, 5) == b""
    files.close(handle)


def test_reads_and_writes_that_the_system_cuts_short_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = DiskFiles()
    handle = files.open(tmp_path / "file", create=True)
    pwritev, pwrite, pread = os.pwritev, os.pwrite, os.pread
    monkeypatch.setattr(os, "pwritev", lambda h, pieces, at: pwritev(h, [pieces[0][:3]], at))
    monkeypatch.setattr(os, "pwrite", lambda h, data, at: pwrite(h, data[:5], at))
    monkeypatch.setattr(os, "pread", lambda h, size, at: pread(h, min(size, 4), at))
    pieces = [b"0123456789", b"abcdefghijklmnop", b"", b"end"]
    assert files.write_at(handle, 2, pieces) == 29
    assert files.read_at(handle, 2, 29) == b"".join(pieces)
    assert files.read_at(handle, 2, 99) == b"".join(pieces)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="No space left"):
        files.write_at(handle, 0, pieces)
    files.close(handle)


def test_allocated_space_is_zeros_and_stays_what_it_was(tmp_path: Path) -> None:
    files = DiskFiles()
    handle = files.open(tmp_path / "file", create=True)
    files.write_at(handle, 0, (b"kept",))
    files.allocate(handle, (1 << 20) + 5)
    assert files.size(handle) == (1 << 20) + 5
    assert files.read_at(handle, 0, 8) == b"kept" + bytes(4)
    files.allocate(handle, 3)
    assert files.size(handle) == (1 << 20) + 5
    files.truncate(handle, 2)
    assert files.read_at(handle, 0, 9) == b"ke"
    files.datasync(handle)
    files.close(handle)


def test_names(tmp_path: Path) -> None:
    files = DiskFiles()
    with pytest.raises(FileNotFoundError):
        files.open(tmp_path / "none")
    files.make_directory(tmp_path / "a" / "b")
    files.make_directory(tmp_path / "a" / "b")
    files.close(files.open(tmp_path / "a" / "x", create=True))
    files.rename(tmp_path / "a" / "x", tmp_path / "a" / "y")
    files.sync_directory(tmp_path / "a")
    assert files.list_directory(tmp_path / "a") == ["b", "y"]
    assert files.exists(tmp_path / "a" / "y")
    files.remove(tmp_path / "a" / "y")
    assert not files.exists(tmp_path / "a" / "y")
    assert files.free_bytes(tmp_path) > 0
    assert files.random_bytes(16) != files.random_bytes(16)
    assert wall_clock_ms() > 1_700_000_000_000


def test_a_data_directory_is_for_one_gateway_at_a_time(tmp_path: Path) -> None:
    log = Log.open(tmp_path, [spec()], limits=SMALL)
    with pytest.raises(LogLocked, match="is in use by another gateway"):
        Log.open(tmp_path, [spec()], limits=SMALL)
    log.close()
    Log.open(tmp_path, [spec()], limits=SMALL).close()


PUBLISHER = """
import asyncio, sys
from pathlib import Path
from log import Committer, Log, LogFailed, RecordTemplate
from tests.log.helpers import SMALL, spec

async def main():
    log = Log.open(Path(sys.argv[1]), [spec()], limits=SMALL)
    committer = Committer(log, asyncio.get_running_loop())
    print("open", flush=True)
    for number in range(8):
        try:
            log.append(log.partition("mqtt", 0), RecordTemplate(None), [b"%d" % number])
            await committer.flush()
            print("acknowledged", number, flush=True)
        except LogFailed as error:
            print("refused", number, error, flush=True)
    await committer.close()
    log.close()

asyncio.run(main())
"""


def published(directory: Path, *inject: str) -> list[str]:
    """What a publisher says, whose n-th system calls of a kind fail."""
    command = [
        *("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync,pwritev,pwritev2"),
        *(argument for each in inject for argument in ("-e", f"inject={each}")),
        *(sys.executable, "-c", PUBLISHER, str(directory)),
    ]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.splitlines()


@need_strace
@pytest.mark.parametrize(
    "call", ["fdatasync:error=EIO", "pwritev,pwritev2:error=EIO", "pwritev,pwritev2:error=ENOSPC"]
)
def test_a_system_call_that_fails_ends_acknowledgements_for_good(tmp_path: Path, call: str) -> None:
    Log.open(tmp_path, [spec()], limits=SMALL).close()
    said = published(tmp_path)
    assert [line for line in said if line.startswith("acknowledged")] == [
        f"acknowledged {number}" for number in range(8)
    ]
    before = 8
    met: set[int] = set()
    for when in range(1, 10):
        said = published(tmp_path, f"{call}:when={when}")
        acknowledged = [int(line.split()[1]) for line in said if line.startswith("acknowledged")]
        refused = [line for line in said if line.startswith("refused")]
        met.add(len(acknowledged))
        assert acknowledged == list(range(len(acknowledged)))
        if said[:1] == ["open"]:
            assert len(acknowledged) + len(refused) == 8
            assert all("nothing is acknowledged any more" in line for line in refused)
        log = Log.open(tmp_path, [spec()], limits=SMALL)
        found = values(log.partition("mqtt", 0))
        new = [b"%d" % number for number in acknowledged]
        assert found[before : before + len(new)] == new
        assert len(found) - before - len(new) in (0, 1), "one may be there without an answer"
        assert log.recovery.lost == []
        before = len(found)
        log.close()
    assert len(met) > 4, met
