"""The crash simulation is worth something only if it finds bugs: here it is given some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from log.checkpoint import Checkpoint
from log.errors import CorruptBatch
from log.journal import Journal
from log.segment import Segment
from log.state import DurableState
from log.store import Log
from tests.log.simulated_disk import SimulatedDisk
from tests.log.simulation import World
from tests.log.test_crash_simulation import simulate

POINTS_MAX = 3000


class SkipsJournalSync(SimulatedDisk):
    def datasync(self, handle: int) -> None:
        if self._handles[handle][1] != "journal":
            super().datasync(handle)


class SkipsSegmentSync(SimulatedDisk):
    def datasync(self, handle: int) -> None:
        if not self._handles[handle][1].endswith(".log"):
            super().datasync(handle)


class SkipsCheckpointSync(SimulatedDisk):
    def datasync(self, handle: int) -> None:
        if self._handles[handle][1] != "checkpoint.new":
            super().datasync(handle)


class SkipsDirectorySync(SimulatedDisk):
    def sync_directory(self, path: Path) -> None:
        pass


@pytest.mark.parametrize(
    "disk", [SkipsJournalSync, SkipsSegmentSync, SkipsCheckpointSync, SkipsDirectorySync]
)
def test_a_sync_that_is_left_out_is_found(disk: type[SimulatedDisk]) -> None:
    class Careless(World):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.disk = disk(self.disk.rng)

    assert_found(Careless)


def test_acknowledging_before_the_write_is_found() -> None:
    class Hasty(World):
        def write(self, log: Log) -> None:
            log.durable([frame for frame, _ in self.cut_rounds if frame])
            for _, done in self.cut_rounds:
                self.model.add(done)
            super().write(log)

        def acknowledge(self, log: Log) -> None:
            self.cut_rounds = []

    assert_found(Hasty)


def test_freeing_the_journal_before_the_checkpoint_is_durable_is_found() -> None:
    class FreesEarly(World):
        def checkpoint(self, log: Log) -> None:
            if self.rng.random() < 0.2:
                super().checkpoint(log)
            else:  # it is still on its way to the disk
                log.journal.free_before(log.needed_sequence)

    assert_found(FreesEarly)


def test_a_checkpoint_that_drops_the_tails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Log.checkpoint

    def wrong(log: Log) -> Checkpoint:
        found = right(log)
        end = log.journal.start(log.journal.synced_sequence + 1)
        fields = {name: getattr(found, name) for name in found.__struct_fields__}
        return Checkpoint(**{**fields, "sequence": end[0], "position": end[1]})

    monkeypatch.setattr(Log, "checkpoint", wrong)
    assert_found(World)


def test_state_that_is_saved_before_it_is_durable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DurableState, "snapshot", lambda state: list(state._values.items()))
    assert_found(World)


@pytest.mark.parametrize("owner", [Journal, Segment])
def test_believing_what_a_killed_process_had_not_synced_is_found(
    monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    def nothing(*_: object, **__: object) -> None: ...

    monkeypatch.setattr(owner, "_settle", nothing)
    # Seeds shortly before one that shows it: where the simulation changes, the search is longer.
    assert_found(World, seed={Journal: 22, Segment: 100}[owner])


def assert_found(make: Callable[[int], World], *, seed: int = 1) -> None:
    # Wrong contents, or none that can be decoded.
    with pytest.raises((AssertionError, CorruptBatch)) as found:
        simulate(make, POINTS_MAX, errors=False, seed=seed)
    print(found.value.__notes__[0])
