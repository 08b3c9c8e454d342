"""What Apache Kafka itself says of our segments: DumpLogSegments, on every file of a log."""

from __future__ import annotations

import random
import re
from pathlib import Path

from log import Log, RecordTemplate
from tests.log.helpers import SMALL, Clock, log_files, spec, values
from tests.rigs import need_java
from tests.rigs.kafka import dump_log


@need_java
def test_kafka_reads_every_segment_and_index_without_a_complaint(tmp_path: Path) -> None:
    clock = Clock()
    rng = random.Random(5)
    log = Log.open(tmp_path / "data", [spec(count=2)], limits=SMALL, now_ms=clock)
    sent: dict[int, list[tuple[int, bytes, bytes]]] = {0: [], 1: []}
    for number in range(2400):
        clock.now_ms += rng.choice((0, 1, 250, -40))
        partition = log.partition("mqtt", number % 2)
        key = b"device-%d" % rng.randrange(5)
        value = b"%d-" % number + rng.randbytes(40).hex().encode()
        template = RecordTemplate(key, ((b"mqtt.topic", b"a/%d" % number), (b"empty", b"")))
        log.append(partition, template, [value])
        sent[partition.index].append((clock.now_ms, key, value))
        if number % 7 == 0:
            frame = log.cut()
            assert frame is not None
            log.write([frame])
            log.durable([frame])
        if number % 60 == 0:
            for each in log.partitions.values():
                job = each.seal_job(close_open=rng.random() < 0.5)
                if job:
                    log.sealed(each, each.write_sealed(job))
            log.checkpointed(log.write_checkpoint(log.checkpoint()))
    frame = log.cut()
    assert frame is not None
    log.write([frame])
    log.durable([frame])
    log.close()
    for index, expected in sent.items():
        directory = tmp_path / "data" / "streams" / f"mqtt-{index}"
        files = log_files(directory)
        assert len(files) > 2
        output = dump_log(tmp_path / "tool", files)
        records = re.findall(
            r"offset: (\d+) CreateTime: (\d+) keySize: \d+ valueSize: \d+ sequence: -1"
            r" headerKeys: \[mqtt.topic,empty\] key: (\S+) payload: (\S+)",
            output,
        )
        assert [
            (int(offset), int(time_ms), key, value) for offset, time_ms, key, value in records
        ] == [
            (offset, time_ms, key.decode(), value.decode())
            for offset, (time_ms, key, value) in enumerate(expected)
        ]
        assert "isvalid: false" not in output
        assert output.count("isvalid: true") == output.count("compresscodec: zstd") > 5
    indexes = sorted((tmp_path / "data" / "streams").rglob("*index"))
    said = dump_log(tmp_path / "tool", indexes, index_sanity=True)
    assert said.count("passed sanity check") == len(indexes), said
    assert "mismatch" not in said.lower(), said
    log = Log.open(tmp_path / "data", [spec(count=2)], limits=SMALL, now_ms=clock)
    assert values(log.partition("mqtt", 0)) == [value for _, _, value in sent[0]]
    log.close()
