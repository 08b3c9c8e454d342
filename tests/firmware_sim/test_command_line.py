"""The fleet and the auditor as scripts use them: processes, files, exit statuses."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from kafka_place import partition_of
from ledger import LedgerWriter, read_ledger
from outbox import Message
from payload import encode_reading
from upstreams import Tansu

from tests.rigs import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 3


def run(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "firmware-sim", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.mark.mosquitto
def test_a_fleet_with_all_kinds_of_faults_gets_everything_acknowledged(
    mosquitto: Mosquitto, tmp_path: Path
) -> None:
    """Mosquitto is killed on the way: a broker none of ours wrote, so a fault is the fleet's."""
    path = tmp_path / "ledger"
    command = ["fleet", f"--ledger={path}", f"--port={mosquitto.port}", "--devices=40"]
    fleet = subprocess.Popen(
        [sys.executable, "firmware-sim", *command, "--seconds=8", "--rate=5", "--json"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(4)
    assert mosquitto.process is not None
    mosquitto.process.kill()
    mosquitto.process.wait()
    time.sleep(0.5)
    mosquitto.start()
    output, _ = fleet.communicate(timeout=60)
    assert fleet.returncode == 0, output
    last = json.loads(output.splitlines()[-1])
    ledger = read_ledger(path)
    assert ledger.complete
    assert last["phase"] == "drained"
    assert last["published"] == len(ledger.messages) > 500
    for entry in ledger.messages.values():
        assert (entry.acknowledged_ms is None) == (entry.given_up is not None)
        assert entry.given_up is not None or entry.sent_count > 0
    assert last["sent_again"] > 0
    assert {device.protocol for device in ledger.devices.values()} == {"3.1.1", "5.0"}
    assert ledger.events["connected"] > 40


@pytest.mark.mosquitto
def test_sigterm_ends_the_readings_and_drains(mosquitto: Mosquitto, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    fleet = subprocess.Popen(
        [
            *(sys.executable, "firmware-sim", "fleet", f"--ledger={path}", "--devices=5"),
            *(f"--port={mosquitto.port}", "--seconds=60", "--profile=meter"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    time.sleep(3)
    fleet.terminate()
    assert fleet.wait(10) == 0
    ledger = read_ledger(path)
    assert ledger.complete
    assert ledger.waiting_count == 0


def test_a_fleet_without_a_gateway_ends_with_status_3(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    done = run(
        *("fleet", f"--ledger={path}", "--port=1", "--devices=3", "--seconds=1"),
        *("--drain-seconds=1", "--rate=5"),
    )
    assert done.returncode == 3
    assert "not drained" in done.stdout
    assert read_ledger(path).waiting_count > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile=toaster"], "'toaster' is unknown; known: meter"),
        (["--replay=no-such-set"], "give a CSV file or one of seattle-weather"),
        (["--profiles=none.toml"], "none.toml: No such file"),
    ],
)
def test_wrong_wishes_end_with_status_2_and_a_hint(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    done = run("fleet", f"--ledger={tmp_path / 'l'}", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


class Upstream:
    """A topic in the embedded demo upstream, with one device's messages in ledger and topic."""

    def __init__(self, bootstrap: str, path: Path) -> None:
        self.bootstrap = bootstrap
        self.path = path
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic("mqtt", PARTITIONS, 1)])["mqtt"].result(10)
        self._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
        topic = "site/x/dev/reading"
        self._headers: dict[str, str | bytes | None] = {"mqtt.topic": topic.encode()}
        ledger = LedgerWriter(path, seed=1, at_ms=0)
        ledger.device(
            "dev", protocol="5.0", profile="meter", topic=topic, headers={"mqtt.topic": topic}
        )
        for seq in range(1, 6):
            message = Message(seq=seq, topic=topic, payload=self.payload(seq), qos=1, taken_ms=seq)
            ledger.published("dev", message)
            ledger.sent("dev", seq, dup=False, at_ms=seq)
            ledger.acknowledged("dev", seq, at_ms=seq)
        ledger.end(at_ms=9, waiting_count=0)
        ledger.close()

    def payload(self, seq: int) -> bytes:
        return encode_reading(seq, 1000 + seq, {"temp": seq / 2})

    def produce(self, *seqs: int) -> None:
        for seq in seqs:
            self._producer.produce(
                "mqtt",
                key=b"dev",
                value=self.payload(seq),
                headers=self._headers,
                partition=partition_of(b"dev", PARTITIONS),
            )
            assert self._producer.flush(10) == 0

    def audit(self) -> tuple[int, dict[str, Any]]:
        done = run(
            *("audit", f"--ledger={self.path}", f"--bootstrap={self.bootstrap}"),
            *("--settle-seconds=0.5", "--json"),
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    tansu = Tansu(tmp_path)
    tansu.start()
    yield Upstream(f"127.0.0.1:{tansu.port}", tmp_path / "ledger")
    tansu.stop()


def test_an_audit_of_a_sound_run_ends_with_status_0(upstream: Upstream) -> None:
    upstream.produce(1, 2, 3, 4, 5)
    status, report = upstream.audit()
    assert (status, report["passed"]) == (0, True)
    assert (report["published"], report["acknowledged"], report["upstream"]) == (5, 5, 5)


@pytest.mark.parametrize(
    ("produced", "finding"),
    [
        ((1, 2, 4, 5), "lost"),
        ((1, 2, 3, 4, 5, 5), "duplicated_unexplained"),
        ((1, 3, 2, 4, 5), "out_of_order"),
    ],
)
def test_an_audit_that_finds_a_fault_ends_with_status_1(
    upstream: Upstream, produced: tuple[int, ...], finding: str
) -> None:
    upstream.produce(*produced)
    status, report = upstream.audit()
    assert (status, report["passed"]) == (1, False)
    assert report[finding]["count"] == 1


def test_an_audit_without_an_upstream_ends_with_status_4(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    LedgerWriter(path, seed=1, at_ms=0).close()
    done = run("audit", f"--ledger={path}", "--bootstrap=127.0.0.1:1")
    assert done.returncode == 4
    assert "127.0.0.1:1" in done.stderr
