"""`append_runs` is `append` for many runs in one call: the same records, in the same places."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from log import Log, LogLimits, RecordTemplate, RecordTooLarge, StreamSpec

LIMITS = LogLimits(chunk_bytes_max=2_000, chunk_records_max=70, journal_bytes=1 << 20)
TEMPLATES = [
    RecordTemplate(b"device-%d" % index, ((b"mqtt.topic", b"t/%d" % index),)) for index in range(3)
]

runs_strategy = st.lists(
    st.tuples(
        st.sampled_from(TEMPLATES),
        st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=150,
)


def _open(directory: Path) -> Log:
    return Log.open(
        directory,
        [StreamSpec(name="mqtt", partition_count=1)],
        limits=LIMITS,
        now_ms=lambda: 1_700_000_000_000,
    )


def _commit(log: Log) -> None:
    frame = log.cut()
    assert frame is not None
    log.write([frame])
    log.durable([frame])


@settings(max_examples=60, deadline=None)
@given(rounds=st.lists(runs_strategy, min_size=1, max_size=3))
def test_append_runs_stores_what_append_of_each_run_stores(
    rounds: list[list[tuple[RecordTemplate, list[bytes]]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    one = _open(tmp_path_factory.mktemp("one"))
    other = _open(tmp_path_factory.mktemp("other"))
    for runs in rounds:
        one.append_runs(one.partition("mqtt", 0), runs)
        for template, values in runs:
            other.append(other.partition("mqtt", 0), template, values)
        _commit(one)
        _commit(other)
    partition = one.partition("mqtt", 0)
    expected = [value for runs in rounds for _, values in runs for value in values]
    records = partition.records(0, count_max=len(expected) + 1)
    assert [record.value for record in records] == expected
    assert [record.offset for record in records] == list(range(len(expected)))
    assert records == other.partition("mqtt", 0).records(0, count_max=len(expected) + 1)
    one.close()
    other.close()


def test_the_bytes_of_a_round_bound_what_its_frame_takes(tmp_path: Path) -> None:
    log = _open(tmp_path)
    log.append_runs(
        log.partition("mqtt", 0), [(template, [b"x" * 100]) for template in TEMPLATES * 40]
    )
    bound = log.round_bytes
    frame = log.cut()
    assert frame is not None
    assert sum(len(run.records) for _, run in frame.runs) <= bound
    log.close()


def test_a_record_that_is_too_large_is_refused_with_the_runs_before_it_kept(
    tmp_path: Path,
) -> None:
    log = _open(tmp_path)
    partition = log.partition("mqtt", 0)
    with pytest.raises(RecordTooLarge):
        log.append_runs(
            partition,
            [(TEMPLATES[0], [b"kept"]), (TEMPLATES[1], [bytes(LIMITS.record_bytes_max)])],
        )
    _commit(log)
    assert [record.value for record in partition.records(0, count_max=9)] == [b"kept"]
    log.close()


@pytest.mark.parametrize("by_runs", [True, False])
def test_a_round_in_which_all_was_too_large_is_no_round(tmp_path: Path, by_runs: bool) -> None:
    log = _open(tmp_path)
    partition = log.partition("mqtt", 0)
    for _ in range(2):
        with pytest.raises(RecordTooLarge):
            if by_runs:
                log.append_runs(partition, [(TEMPLATES[1], [bytes(LIMITS.record_bytes_max)])])
            else:
                log.append(partition, TEMPLATES[1], [bytes(LIMITS.record_bytes_max)])
    assert log.round_empty
    assert log.cut() is None
    log.append_runs(partition, [(TEMPLATES[0], [b"next"])])
    assert log._round == [partition]
    _commit(log)
    assert [record.value for record in partition.records(0, count_max=9)] == [b"next"]
    log.close()
