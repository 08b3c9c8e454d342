"""What a stream is to the log: a name, partitions, and how long its records are kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NAME_BYTES_MAX: Final = 249
"""Kafka's limit for a topic name (Topic.java): a stream can become a topic as it is."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """When a partition's oldest closed segments may go: over `bytes_max`, or all older than
    `age_ms_max`.

    With `keep_unreplicated`, never before every required cursor is past them. None is no bound.
    """

    bytes_max: int | None = None
    age_ms_max: int | None = None
    keep_unreplicated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """A stream as configured."""

    name: str
    partition_count: int = 3
    retention: Retention = Retention()
    replicated_by: frozenset[str] | None = None
    """Names of the cursors that its retention waits for; None: those that `Log.open` was given."""

    def __post_init__(self) -> None:
        if problem := name_problem(self.name):
            raise ValueError(problem)
        if self.partition_count < 1:
            raise ValueError(
                f"stream {self.name!r} has {self.partition_count} partitions: at least 1"
            )


def name_problem(name: str) -> str | None:
    """Why `name` cannot be a stream's, or None. The rule is Kafka's for topics."""
    if not _NAME.fullmatch(name) or name in (".", "..") or len(name) > NAME_BYTES_MAX:
        return f"stream name {name!r}: use 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, '.', '_', '-'"
    return None
