"""What a log must hold, kept by who drives it: rounds, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field

from log.record_batch import Record

Content = tuple[int, bytes | None, bytes | None, tuple[tuple[bytes, bytes], ...]]
Name = tuple[str, int]


@dataclass(slots=True)
class Round:
    """What one frame holds: records by partition, changes of the state."""

    records: dict[Name, list[Content]] = field(default_factory=dict)
    changes: dict[bytes, bytes | None] = field(default_factory=dict)


class Model:
    """What is durable, as the log's caller was told."""

    def __init__(self) -> None:
        self.records: dict[Name, list[Content]] = {}
        """By partition; the place in the list is the offset."""
        self.state: dict[bytes, bytes] = {}

    def add(self, done: Round) -> None:
        for name, records in done.records.items():
            self.records.setdefault(name, []).extend(records)
        for key, value in done.changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value

    def ends(self) -> dict[Name, int]:
        return {name: len(records) for name, records in self.records.items() if records}


def check(found: list[Record], offset: int, expected: list[Content]) -> None:
    assert [r.offset for r in found] == list(range(offset, offset + len(expected)))
    assert [(r.timestamp_ms, r.key, r.value, r.headers) for r in found] == expected
