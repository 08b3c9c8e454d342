"""Every bench runs and prints its rows. No figure is looked at: that is for a quiet machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs import need_java, need_mosquitto
from tests.rigs.needs import require

_CHECKOUT = Path(__file__).parents[2]


def run(name: str, directory: Path, *more: str) -> dict[str, list[str]]:
    """The tables' first columns, by title, of a quick run."""
    json_path = directory / "result.json"
    command = [sys.executable, "-m", f"bench.{name}", "--quick", "--json", str(json_path)]
    command += ["--directory", str(directory / "data"), *more]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=_CHECKOUT, timeout=240)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    document = json.loads(json_path.read_text())
    assert document["measurements"]
    assert document["machine"]["cpu"]
    for table in document["tables"]:
        assert f"### {table['title']}" in finished.stdout
    return {
        table["title"].partition(":")[0]: [row[0] for row in table["rows"]]
        for table in document["tables"]
    }


@pytest.mark.e2e
@need_mosquitto
def test_ingest_measures_both_servers_under_the_same_load(tmp_path: Path) -> None:
    require("compiler")
    tables = run("ingest", tmp_path)
    each_load_three_servers = ["1 x 200"] * 3 + ["20 x 1"] * 3
    assert tables["QoS 1, 64-byte payloads"] == each_load_three_servers
    assert tables["QoS 0, 64-byte payloads"] == each_load_three_servers
    assert len(tables["Memory at the end of each load, MiB"]) == 12
    assert "peak memory, MiB" in tables["Asked and measured, QoS 1"]


@pytest.mark.e2e
@need_mosquitto
def test_fanout_has_every_message_in_order_at_every_subscriber_of_both_servers(
    tmp_path: Path,
) -> None:
    require("compiler")
    tables = run("fanout", tmp_path)
    shapes = ["1 to 10, 20 in flight", "5 to 5 pairs, 20 in flight", "1 to 1, 1 in flight"]
    each_shape_both_servers = [shape for shape in shapes for _ in range(2)]
    assert tables["Fan-out, QoS 1, 64-byte payloads"] == each_shape_both_servers
    assert tables["Fan-out, QoS 0, 64-byte payloads"] == each_shape_both_servers
    assert len(tables["Asked and measured, fan-out"]) == 4


@pytest.mark.e2e
@need_mosquitto
def test_idle_holds_idle_half_open_silent_and_stuck_connections_at_both_servers(
    tmp_path: Path,
) -> None:
    require("compiler")
    tables = run("idle", tmp_path)
    assert tables["300 idle connections"] == ["mosquitto", "sluicegate, 4 partitions"]
    assert len(tables["PUBACK latency of one good device"]) == 4
    assert len(tables["Asked and measured, idle and slow connections"]) == 2


@pytest.mark.e2e
@need_mosquitto
def test_sessions_that_were_away_have_every_message_once_and_in_order(tmp_path: Path) -> None:
    require("compiler")
    tables = run("sessions", tmp_path)
    assert (
        "all together have all, s"
        in tables["20 sessions away for 40,000 messages on 200 topics, 100 for each"]
    )
    assert len(tables["A subscriber of # away for 5,000 messages"]) == 3


@pytest.mark.e2e
@need_java
def test_bridge_drains_the_same_backlog_with_both_clients(tmp_path: Path) -> None:
    tables = run("bridge", tmp_path)
    assert tables["20,000 stored messages to Apache Kafka"] == [
        "sluicegate, from its log",
        "confluent-kafka, from memory",
    ]


@pytest.mark.e2e
@need_java
@need_mosquitto
def test_footprint_measures_disk_uplink_memory_and_start(tmp_path: Path) -> None:
    tables = run("footprint", tmp_path)
    assert len(tables["Bytes a message on disk"]) == 1
    assert len(tables["Bytes a message on the uplink"]) == 6
    assert tables["Memory, MiB resident"] == ["mosquitto", "sluicegate, 3 partitions"]
    assert tables["Seconds from process start to the first PUBACK"] == [
        "mosquitto",
        *["sluicegate"] * 4,
    ]


@pytest.mark.e2e
def test_micro_measures_every_step(tmp_path: Path) -> None:
    (steps,) = run("micro", tmp_path).values()
    assert "append, runs of 1" in steps
    assert "recover from the journal" in steps
