"""Records and batches for Hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from log.record_batch import Record

searched = settings(
    max_examples=int(os.environ.get("SLUICEGATE_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
"""Few examples, so that a check stays quick; SLUICEGATE_EXAMPLES=5000 digs."""

NOW_MS = 1_700_000_000_000

timestamps = st.one_of(
    st.integers(NOW_MS - 50, NOW_MS + 50),  # a clock that is set back and forth
    st.integers(0, 2**42),  # one that was not set at all
)
headers = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=3)
small = st.one_of(st.none(), st.binary(max_size=30))
values = st.one_of(small, st.binary(min_size=60, max_size=70), st.binary(max_size=400))


@st.composite
def records(draw: st.DrawFn, *, max_size: int = 12, gaps: bool = False) -> list[Record]:
    """At least one record, offsets ascending; without `gaps`, contiguous."""
    offset = draw(st.integers(0, 2**40))
    found = []
    for _ in range(draw(st.integers(1, max_size))):
        record = Record(
            offset=offset,
            timestamp_ms=draw(timestamps),
            key=draw(small),
            value=draw(values),
            headers=tuple(draw(headers)),
        )
        found.append(record)
        offset += draw(st.integers(1, 200)) if gaps else 1
    return found


levels = st.sampled_from([None, 1, 3])
