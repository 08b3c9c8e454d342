"""The topic index: exact, used, rebuilt, and never believed where it cannot be right."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from log import Files, Log, LogLimits, Partition, Record, RecordTemplate, Selection
from log.files import DiskFiles
from log.scan import block_keys
from log.topic_index import HEAD_BYTES
from tests.log.helpers import SMALL, Clock, checkpoint, commit, seal, spec

TOPICS = [b"plant/line-%02d/%s" % (number, b"x" * (number * 3)) for number in range(30)]
TEMPLATES = [RecordTemplate(b"device", ((b"mqtt.topic", topic),)) for topic in TOPICS]
STRANGE = RecordTemplate(None, ((b"mqtt.topic", b"a\x14mqtt.topic\x02b"),))


class Counting(DiskFiles):
    """Counts the bytes read of log files."""

    def __init__(self) -> None:
        self.read_bytes = 0

    def read_at(self, handle: int, position: int, size: int) -> bytes:
        data = super().read_at(handle, position, size)
        self.read_bytes += len(data)
        return data


def opened(data: Path, files: Files | None = None, limits: LogLimits = SMALL) -> Log:
    return Log.open(data, [spec()], limits=limits, now_ms=Clock(), files=files or DiskFiles())


def fill(log: Log, *, rounds: int = 60, seed: int = 1) -> None:
    """Some segments, and something in the tail; the first topic only now and then."""
    rng = random.Random(seed)
    partition = log.partition("mqtt", 0)
    for number in range(rounds):
        for _ in range(20):
            template = TEMPLATES[rng.randrange(1, len(TOPICS))]
            log.append(partition, template, [rng.randbytes(60)])
        if number % 20 == 7:
            log.append(partition, TEMPLATES[0], [b"rare", b"rarer"])
        if number % 30 == 8:
            log.append(partition, STRANGE, [b"strange"])
        commit(log)
        if number % 4 == 3 and number < rounds - 3:
            seal(log, partition)


def found(partition: Partition, *topics: bytes, bytes_max: int = 3000) -> list[Record]:
    selection = Selection(set(topics).__contains__)
    records: list[Record] = []
    offset = partition.start_offset
    while offset != partition.durable_end:
        scan = partition.scan(offset, selection, bytes_max=bytes_max)
        assert scan.next_offset > offset
        records += scan.records
        offset = scan.next_offset
    return records


def expected(partition: Partition, *topics: bytes) -> list[Record]:
    count = partition.durable_end - partition.start_offset
    return [
        record
        for record in partition.records(partition.start_offset, count_max=count)
        if record.headers[0][1] in topics
    ]


def check_all(partition: Partition) -> None:
    rng = random.Random(3)
    for topics in ([TOPICS[0]], rng.sample(TOPICS, 5), TOPICS, [b"none"]):
        assert found(partition, *topics) == expected(partition, *topics)
    strange = b"a\x14mqtt.topic\x02b"
    assert found(partition, strange) == expected(partition, strange) != []
    assert found(partition, TOPICS[0]) != []


def build(partition: Partition) -> int:
    steps = 0
    while partition.index_topics():
        steps += 1
        assert steps < 1000
    return steps


def sidecars(data: Path) -> list[Path]:
    return sorted(data.rglob("*.topics"))


def test_what_is_scanned_is_what_is_there(tmp_path: Path) -> None:
    log = opened(tmp_path / "data")
    fill(log)
    partition = log.partition("mqtt", 0)
    assert len(partition.segments) > 3
    check_all(partition)
    log.close()
    log = opened(tmp_path / "data")
    assert len(sidecars(tmp_path / "data")) == len(log.partition("mqtt", 0).segments)
    check_all(log.partition("mqtt", 0))
    assert build(log.partition("mqtt", 0)) == 0
    log.close()


def test_batches_without_a_wanted_topic_are_not_read(tmp_path: Path) -> None:
    log = opened(tmp_path / "data")
    fill(log, rounds=200)
    log.close()
    files = Counting()
    log = opened(tmp_path / "data", files)
    partition = log.partition("mqtt", 0)
    files.read_bytes = 0
    rare = found(partition, TOPICS[0])
    assert len(rare) == 20
    assert files.read_bytes < partition.stored_bytes / 2
    files.read_bytes = 0
    assert found(partition, b"none") == []
    # Of each chapter its last batch is read, and the index.
    assert files.read_bytes < partition.stored_bytes / 3
    log.close()


def test_the_index_of_the_open_segment_is_used_before_it_is_written(tmp_path: Path) -> None:
    files = Counting()
    log = opened(tmp_path / "data", files)
    partition = log.partition("mqtt", 0)
    log.append(partition, TEMPLATES[1], [bytes(3000)])
    commit(log)
    seal(log, partition)
    files.read_bytes = 0
    assert found(partition, TOPICS[0]) == []
    assert files.read_bytes == 0
    assert len(found(partition, TOPICS[1])) == 1
    log.close()


def damaged(kind: str, data: bytes) -> bytes | None:
    middle = len(data) // 2
    return {
        "missing": None,
        "empty": b"",
        "cut": data[:-1],
        "head only": data[:HEAD_BYTES],
        "half": data[:middle],
        "zeros": bytes(len(data)),
        "zeros behind": data[:middle] + bytes(len(data) - middle),
        "bit in the payload": data[:-3] + bytes([data[-3] ^ 4]) + data[-2:],
        "bit in the head": data[:20] + bytes([data[20] ^ 4]) + data[21:],
        "another format": data[:4] + b"\2" + data[5:],
        "garbage behind": data + b"SGTX" + bytes(100),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "cut",
        "head only",
        "half",
        "zeros",
        "zeros behind",
        "bit in the payload",
        "bit in the head",
        "another format",
        "garbage behind",
    ],
)
def test_a_damaged_index_is_done_without_and_built_again(tmp_path: Path, kind: str) -> None:
    log = opened(tmp_path / "data")
    fill(log)
    log.close()
    whole = {path: path.read_bytes() for path in sidecars(tmp_path / "data")}
    for path, content in whole.items():
        wrong = damaged(kind, content)
        path.unlink()
        if wrong is not None:
            path.write_bytes(wrong)
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    check_all(partition)
    assert bool(build(partition)) == (kind != "garbage behind")
    check_all(partition)
    log.close()
    files = Counting()
    log = opened(tmp_path / "data", files)
    partition = log.partition("mqtt", 0)
    files.read_bytes = 0
    assert found(partition, b"none") == []
    assert files.read_bytes < partition.stored_bytes / 2, "it was not built again"
    log.close()


def test_an_index_of_another_log_is_not_believed(tmp_path: Path) -> None:
    """As when the log was cut at a recovery and went on with other records."""
    for name, seed in (("data", 1), ("other", 2)):
        log = opened(tmp_path / name)
        fill(log, seed=seed)
        log.close()
    for path in sidecars(tmp_path / "data"):
        other = tmp_path / "other" / path.relative_to(tmp_path / "data")
        if other.exists():
            path.write_bytes(other.read_bytes())
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    check_all(partition)
    assert build(partition) > 0
    check_all(partition)
    log.close()


def test_what_a_kill_took_of_the_index_is_built_again(tmp_path: Path) -> None:
    """A chapter in the making is lost, and the next one begins behind it."""
    log = opened(tmp_path / "data")
    fill(log, rounds=10)
    partition = log.partition("mqtt", 0)
    lost = partition.segments[-1].topics
    assert lost.open is not None and lost.open.batch_count
    lost.open = None
    log.close()
    log = opened(tmp_path / "data")
    fill(log, rounds=10, seed=4)
    partition = log.partition("mqtt", 0)
    check_all(partition)
    assert build(partition) > 0
    check_all(partition)
    log.close()


def test_the_index_goes_with_its_segment(tmp_path: Path) -> None:
    log = opened(tmp_path / "data")
    fill(log)
    partition = log.partition("mqtt", 0)
    first = partition.segments[0]
    assert first.path(".topics").exists()
    partition.remove([first])
    first.delete()
    assert not first.path(".topics").exists()
    checkpoint(log)
    log.close()
    orphan = first.path(".topics")
    orphan.write_bytes(b"left")
    opened(tmp_path / "data").close()
    assert not orphan.exists()


def test_chapters_stay_within_their_memory(tmp_path: Path) -> None:
    """More topics than fit make more chapters, of which each repeats its names."""
    log = opened(tmp_path / "data", limits=replace(SMALL, topic_index_bytes=1000))
    fill(log)
    partition = log.partition("mqtt", 0)
    check_all(partition)
    heads = [head for segment in partition.segments for head in segment.topics.heads()]
    assert len(heads) > 2 * len(partition.segments)
    log.close()


def test_a_chapter_that_is_not_worth_its_bytes_is_not_kept(tmp_path: Path) -> None:
    log = opened(tmp_path / "data")
    partition = log.partition("mqtt", 0)
    for number in range(300):
        template = RecordTemplate(
            None, ((b"mqtt.topic", random.Random(number).randbytes(9).hex().encode()),)
        )
        log.append(partition, template, [b"1"])
    commit(log)
    seal(log, partition)
    partition.segments[-1].topics.close_chapter()
    (head,) = partition.segments[-1].topics.heads()
    assert head.payload_bytes == 0
    topic = random.Random(7).randbytes(9).hex().encode()
    assert [record.offset for record in found(partition, topic)] == [7]
    assert build(partition) == 0
    log.close()


class Failing(DiskFiles):
    fail: Callable[[Path], bool] = staticmethod(lambda path: False)

    def open(self, path: Path, *, create: bool = False) -> int:
        if self.fail(path):
            raise OSError(28, "no space left on device")
        return super().open(path, create=create)


def test_an_index_that_cannot_be_written_or_read_fails_nothing(tmp_path: Path) -> None:
    files = Failing()
    files.fail = lambda path: path.suffix == ".topics"
    log = opened(tmp_path / "data", files)
    fill(log)
    partition = log.partition("mqtt", 0)
    check_all(partition)
    with pytest.raises(OSError):
        build(partition)
    files.fail = lambda path: False
    assert build(partition) > 0
    check_all(partition)
    log.close()


def test_the_topics_of_a_batch_are_known_from_its_templates(tmp_path: Path) -> None:
    """What is noted when records are appended is what reading the whole batch would find."""
    log = opened(tmp_path)
    fill(log)
    for partition in log.partitions.values():
        chunks = partition.tail.chunks
        assert chunks
        for chunk in chunks:
            block = chunk.block()
            assert block.topic_keys is not None
            assert set(block.topic_keys) - {b""} == block_keys(block.records)
