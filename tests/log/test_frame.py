"""What a journal frame carries."""

from __future__ import annotations

import pytest

from log.errors import UnknownFormat
from log.frame import StateChange, parse_entries, state_entry


def test_an_entry_of_an_unknown_kind_is_another_releases_and_not_a_failed_assertion() -> None:
    known = StateChange(key=b"key", value=b"value")
    entries = parse_entries(state_entry(known) + b"\x07")
    assert next(entries) == known
    with pytest.raises(UnknownFormat, match="kind 7"):
        next(entries)
