"""Opening a data directory: its lock, its journal, its recovery.

DATA/lock               held while a gateway has it
DATA/journal            journal.py
DATA/checkpoint[.old]   checkpoint.py
DATA/streams/           a directory for each partition: segment.py, partition.json (recovery.py)
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from log.checkpoint import Checkpoint, read_checkpoint
from log.errors import LogLocked, LogUnusable, PartitionsReduced
from log.files import Files
from log.journal import Journal
from log.journal_file import create_journal, holds_frames, open_journal, repair_journal
from log.limits import LogLimits
from log.partition import Partition
from log.recovery import STREAMS_DIRECTORY, Recovery
from log.streams import StreamSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """A configured stream and its partitions, by index."""

    name: str
    spec: StreamSpec
    partitions: tuple[Partition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedDirectory:
    """A data directory that is locked and recovered."""

    lock: int
    journal: Journal
    recovery: Recovery
    streams: Mapping[str, Stream]


def open_directory(
    files: Files, directory: Path, streams: Sequence[StreamSpec], limits: LogLimits
) -> OpenedDirectory:
    """Locks and recovers `directory`, making what is missing. Errors as `Log.open`."""
    _make_directories(files, directory)
    try:
        lock = files.lock(directory / "lock")
    except BlockingIOError as error:
        raise LogLocked(
            f"{directory} is in use by another gateway: stop it, or give --data"
        ) from error
    try:
        checkpoint, problems = read_checkpoint(files, directory)
        journal = _open_journal(files, directory, checkpoint, limits)
        recovery = Recovery(files, directory, limits, journal)
        recovery.report.checkpoint_problems = problems
        recovery.run(checkpoint, streams)
        _refuse_fewer_partitions(streams, recovery)
    except BaseException:
        files.close(lock)
        raise
    return OpenedDirectory(
        lock=lock,
        journal=journal,
        recovery=recovery,
        streams=_streams(streams, recovery.partitions.values()),
    )


def _make_directories(files: Files, directory: Path) -> None:
    made = [directory]
    while not files.exists(made[-1]):
        made.append(made[-1].parent)
    files.make_directory(directory / STREAMS_DIRECTORY)
    for each in reversed(made):
        # If power fails before this, the directory may be gone with all that was synced in it. A
        # process killed here leaves it there and not synced, so it is done at each start.
        with contextlib.suppress(PermissionError):  # then somebody else made it
            files.sync_directory(each.parent)


def _open_journal(
    files: Files, directory: Path, checkpoint: Checkpoint | None, limits: LogLimits
) -> Journal:
    path = directory / "journal"
    if checkpoint is None:
        journal = open_journal(files, path)
        if journal is None:
            if holds_frames(files, path):
                raise LogUnusable(
                    f"{path} has a damaged header and there is no whole checkpoint beside it: put"
                    " one of them back; or move the journal away to go on without what it held"
                    " (the newest records and the cursors)"
                )
            size_bytes, log_id = limits.journal_bytes, files.random_bytes(16)
            journal = create_journal(files, path, size_bytes=size_bytes, log_id=log_id)
        return journal
    if not files.exists(path):
        raise LogUnusable(
            f"{path} is missing: put it back; or remove {directory / 'checkpoint'}* to go on"
            " without what it held (the newest records and the cursors)"
        )
    journal = open_journal(files, path) or repair_journal(
        files, path, size_bytes=limits.journal_bytes, log_id=checkpoint.log_id
    )
    if checkpoint.log_id != journal.log_id:
        raise LogUnusable(
            f"{path} belongs to another data directory: put back the one that was here"
        )
    return journal


def _refuse_fewer_partitions(specs: Sequence[StreamSpec], recovery: Recovery) -> None:
    stored = Counter(partition.stream for partition in recovery.partitions.values())
    for spec in specs:
        if stored[spec.name] > spec.partition_count:
            raise PartitionsReduced(
                f"stream {spec.name!r} has {stored[spec.name]} partitions on disk and"
                f" {spec.partition_count} in the configuration: give at least as many"
            )


def _streams(specs: Sequence[StreamSpec], partitions: Iterable[Partition]) -> dict[str, Stream]:
    by_stream: dict[str, list[Partition]] = {}
    for partition in partitions:
        by_stream.setdefault(partition.stream, []).append(partition)
    return {
        spec.name: Stream(
            name=spec.name,
            spec=spec,
            partitions=tuple(sorted(by_stream[spec.name], key=lambda partition: partition.index)),
        )
        for spec in specs
    }
