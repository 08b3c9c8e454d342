"""Apache Kafka's own tools read what the gateway wrote: every segment, every index."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.rigs import GatewayProcess, dump_log, need_java

PARTITION_COUNT = 3
CONFIG = """\
[log]
segment_bytes_max = "64 KiB"     # many closed segments from few messages
seal_bytes = "8 KiB"
chunk_bytes_max = "4 KiB"
seal_age_ms = 300
"""


def publish(port: int, client_id: str, payloads: list[bytes]) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(200)
    client.connect("127.0.0.1", port)
    client.loop_start()
    sent = [client.publish(f"site/{client_id}/x", payload, qos=1) for payload in payloads]
    for each in sent:
        each.wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


def reading(client_id: str, number: int) -> bytes:
    # Not all the same, or zstd leaves nothing to fill a segment with.
    noise = hashlib.sha256(f"{client_id}:{number}".encode()).hexdigest()
    return f"{client_id}:{number}:{noise}".encode() * 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with many closed segments, some written after a SIGKILL."""
    directory = tmp_path_factory.mktemp("log")
    config = directory / "gateway.toml"
    config.write_text(CONFIG)
    gateway = GatewayProcess(directory / "data", config=config)
    gateway.start()
    for device in range(6):
        publish(gateway.port, f"dev-{device}", [reading(f"d{device}", n) for n in range(3000)])
    gateway.kill()
    gateway.start()
    for device in range(6):
        publish(gateway.port, f"dev-{device}", [reading(f"e{device}", n) for n in range(500)])
    assert gateway.terminate() == 0
    return directory / "data"


def segments(data: Path, suffix: str) -> list[Path]:
    return sorted(data.glob(f"streams/*/*{suffix}"))


@need_java
def test_dump_log_reads_every_record_of_every_segment(data: Path, tmp_path: Path) -> None:
    files = segments(data, ".log")
    closed = Counter(file.parent.name for file in files)
    ours = {f"mqtt-{number}" for number in range(PARTITION_COUNT)}
    assert set(closed) == ours | {"_dead-letter-0"}
    assert sum(closed.values()) > 3 * PARTITION_COUNT, "too few segments to show anything"
    output = dump_log(tmp_path, files)
    assert output.count("Dumping ") == len(files)
    assert "isvalid: false" not in output
    assert not re.search(r"Found|[Mm]ismatch|[Ee]xception|ERROR|WARN|non consecutive", output)
    batches = re.findall(r"baseOffset: \d+ lastOffset: \d+ count: (\d+) .*isvalid: true", output)
    records = re.findall(
        r"^\| offset: \d+ .*headerKeys: \[mqtt\.topic\] key: (dev-\d) payload: (\w\d:\d+):",
        output,
        re.MULTILINE,
    )
    assert sum(map(int, batches)) == len(records) == 6 * 3500
    for device in range(6):
        mine = [name for key, name in records if key == f"dev-{device}"]
        sent = [f"d{device}:{n}" for n in range(3000)] + [f"e{device}:{n}" for n in range(500)]
        assert mine == sent


@need_java
def test_offset_and_time_indexes_pass_kafka_s_sanity_check(data: Path, tmp_path: Path) -> None:
    files = segments(data, ".index") + segments(data, ".timeindex")
    assert len(files) == 2 * len(segments(data, ".log"))
    output = dump_log(tmp_path, files, index_sanity=True)
    for file in files:
        passed = f"{file} passed sanity check." in output
        # Kafka has nothing to say about an index that has no entry yet.
        empty = f"{file} is empty." in output and file.stat().st_size == 0
        assert passed or empty, output
    assert output.count("passed sanity check") > len(files) // 2


@need_java
def test_every_index_entry_leads_to_the_batch_that_kafka_finds(data: Path, tmp_path: Path) -> None:
    """Without `--index-sanity-check` the tool looks each entry up in the log beside it."""
    files = segments(data, ".index") + segments(data, ".timeindex")
    output = dump_log(tmp_path, files)
    assert "offset: " in output
    assert "timestamp: " in output
    assert not re.search(r"Found|[Mm]ismatch|[Ee]xception|Out of order", output), output
