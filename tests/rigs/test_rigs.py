"""The rigs are trusted by every other test, so they are tested first."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.rigs import (
    KafkaCluster,
    Mosquitto,
    TcpProxy,
    default_partitions,
    need_java,
    need_mosquitto,
    read_topic,
    wait_for,
    wait_for_port,
)


def _echo_once(listener: socket.socket) -> socket.socket:
    listener.settimeout(5)
    accepted, _ = listener.accept()
    accepted.settimeout(5)
    return accepted


def _is_reset(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b"?"
    except ConnectionError:
        return True


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_proxy_forwards_both_ways_and_counts(listener: socket.socket) -> None:
    with TcpProxy(listener.getsockname()[1]) as proxy:
        near = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        far = _echo_once(listener)
        near.sendall(b"hello")
        assert far.recv(10) == b"hello"
        far.sendall(b"you")
        assert near.recv(10) == b"you"
        wait_for(
            lambda: (proxy.bytes_to_target, proxy.bytes_from_target) == (5, 3),
            timeout=2,
            what="the counts",
        )


def test_cut_proxy_resets_connections_and_refuses_new_ones(listener: socket.socket) -> None:
    with TcpProxy(listener.getsockname()[1]) as proxy:
        near = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        far = _echo_once(listener)
        proxy.cut()
        assert _is_reset(near)
        with pytest.raises(ConnectionError):
            again = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
            again.recv(1)
        proxy.restore()
        after = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        after.sendall(b"x")
        assert _echo_once(listener).recv(1) == b"x"
        far.close()


def test_blackholed_proxy_holds_bytes_until_restored(listener: socket.socket) -> None:
    with TcpProxy(listener.getsockname()[1]) as proxy:
        near = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        far = _echo_once(listener)
        near.sendall(b"1")
        assert far.recv(1) == b"1"
        proxy.blackhole()
        near.sendall(b"late")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(4)
        proxy.restore()
        far.settimeout(5)
        assert far.recv(4) == b"late"


@need_mosquitto
def test_mosquitto_listens(mosquitto: Mosquitto) -> None:
    wait_for_port(mosquitto.port)


@need_java
def test_one_node_stores_what_a_producer_sends_and_dump_log_reads_it(kafka: KafkaCluster) -> None:
    kafka.create_topic("rig-one", 2)
    assert {state.leader for state in kafka.describe("rig-one").values()} == {1}
    producer = Producer({"bootstrap.servers": kafka.uplink_bootstrap})
    producer.produce("rig-one", key=b"k", value=b"v", headers=[("h", b"1")], partition=1)
    assert producer.flush(20) == 0
    (record,) = read_topic(kafka.bootstrap, "rig-one")
    assert (record.partition, record.key, record.value) == (1, b"k", b"v")
    assert record.header("h") == b"1"
    segment = kafka.data_directory() / "rig-one-1" / "00000000000000000000.log"
    assert "payload: v" in kafka.dump_log([segment])


@need_java
def test_default_partitions_are_those_of_murmur2(kafka: KafkaCluster) -> None:
    # Values of Kafka's own Utils.murmur2: "21" -> -973932308, "foobar" -> -790332482.
    placed = default_partitions(kafka.bootstrap, [b"21", b"foobar"], 3)
    assert placed == {
        b"21": (-973932308 & 0x7FFFFFFF) % 3,
        b"foobar": (-790332482 & 0x7FFFFFFF) % 3,
    }


@need_java
def test_killed_node_loses_its_leadership_and_comes_back(kafka3: KafkaCluster) -> None:
    kafka3.create_topic("rig-three", 1)
    leader = kafka3.describe("rig-three")[0].leader
    kafka3.kill(leader)
    started = time.monotonic()
    wait_for(
        lambda: kafka3.describe("rig-three")[0].leader not in (leader, -1),
        timeout=30,
        what="a new leader",
    )
    assert time.monotonic() - started < 30
    kafka3.restart(leader)
    wait_for(
        lambda: leader in kafka3.describe("rig-three")[0].in_sync,
        timeout=60,
        what="the old leader in sync",
    )


def test_rig_folder_has_its_pom() -> None:
    assert (Path(__file__).parent / "pom.xml").is_file()
