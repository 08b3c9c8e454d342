"""The durable state: what a round of changes takes, and what it can never grow to."""

import asyncio
from pathlib import Path

import pytest

from log import Committer, Log, LogFailed, LogLimits, StreamSpec
from log.frame import state_entry
from log.state import DurableState

MIB = 1024 * 1024


def open_log(directory: Path) -> Log:
    limits = LogLimits(journal_bytes=16 * MIB)
    return Log.open(directory, [StreamSpec(name="s", partition_count=1)], limits=limits)


def test_a_round_takes_what_the_last_value_of_each_key_takes() -> None:
    state = DurableState()
    for size in (400_000, 10, 300_000, 70):
        state.put(b"key", bytes(size))
    state.put(b"gone", b"x" * 1000)
    state.put(b"gone", None)
    expected = state.round_bytes
    assert expected == sum(len(state_entry(change)) for change in state.cut())
    assert state.round_bytes == 0


async def test_a_key_that_changes_again_and_again_never_outgrows_the_journal(
    tmp_path: Path,
) -> None:
    """A client that subscribes thousands of times in one read saves its session each time."""
    log = open_log(tmp_path)
    committer = Committer(log, asyncio.get_running_loop())
    for number in range(200):
        log.put_state(b"session", bytes([number]) * 400_000)
        committer.request()
    await asyncio.wait_for(committer.flush(), 10)
    assert log.get_state(b"session") == bytes([199]) * 400_000
    await committer.close()
    log.close()


async def test_a_round_of_state_is_closed_at_the_size_of_a_frame_and_congests(
    tmp_path: Path,
) -> None:
    log = open_log(tmp_path)
    committer = Committer(log, asyncio.get_running_loop())
    for number in range(12):
        log.put_state(b"session/%d" % number, bytes(400_000))
        committer.request()
    assert log.state.round_bytes < log.frame_bytes_max
    congested = [committer.congested]
    await asyncio.wait_for(committer.flush(), 10)
    congested.append(committer.congested)
    assert congested == [True, False]
    await committer.close()
    log.close()


async def test_a_round_no_journal_could_take_is_a_failure_and_no_endless_wait(
    tmp_path: Path,
) -> None:
    log = open_log(tmp_path)
    committer = Committer(log, asyncio.get_running_loop())
    for number in range(50):
        log.put_state(b"session/%d" % number, bytes(400_000))
    with pytest.raises(LogFailed, match="larger than the journal"):
        await asyncio.wait_for(committer.flush(), 10)
    await committer.close()
    log.close()
