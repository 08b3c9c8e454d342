"""gateway/app.py as a process: readiness, signals, reload, restart."""

from __future__ import annotations

import resource
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from log import Log, StreamSpec
from tests.e2e.raw_mqtt import V311, RawClient, connect_packet
from tests.rigs import GatewayProcess, free_port, wait_for


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path / "data") as process:
        yield process


def connect(gateway: GatewayProcess, name: str = "device") -> paho.Client:
    client = paho.Client(CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv311)
    client.connect("127.0.0.1", gateway.port)
    client.loop_start()
    return client


def publish(client: paho.Client, topic: str, count: int, *, qos: int = 1) -> None:
    """Returns when all are acknowledged."""
    sent = [client.publish(topic, f"{number}".encode(), qos=qos) for number in range(count)]
    for each in sent:
        each.wait_for_publish(10)


def stored(data: Path, stream: str = "mqtt", partition_count: int = 3) -> dict[bytes, list[bytes]]:
    """Values by key, in order, of a gateway that has ended."""
    log = Log.open(data, [StreamSpec(name=stream, partition_count=partition_count)])
    found: dict[bytes, list[bytes]] = {}
    for partition in log.streams[stream].partitions:
        for record in partition.records(partition.start_offset, count_max=1_000_000):
            found.setdefault(record.key or b"", []).append(record.value or b"")
    log.close()
    return found


def test_readiness_line_has_the_bound_address_the_data_and_the_upstream(
    gateway: GatewayProcess,
) -> None:
    assert (
        f"ready mqtt://127.0.0.1:{gateway.port} data={gateway.data_dir} upstream=none"
        in gateway.output_since_start().splitlines()
    )


def test_sigterm_ends_with_0_within_10_s_and_keeps_what_was_acknowledged(
    gateway: GatewayProcess,
) -> None:
    client = connect(gateway)
    publish(client, "a/b", 1000)
    started = time.monotonic()
    assert gateway.terminate() == 0
    assert time.monotonic() - started < 10
    client.loop_stop()
    assert stored(gateway.data_dir) == {b"device": [b"%d" % number for number in range(1000)]}


def test_sigterm_seals_so_that_the_next_start_replays_nothing(gateway: GatewayProcess) -> None:
    client = connect(gateway)
    publish(client, "a/b", 100)
    assert gateway.terminate() == 0
    client.loop_stop()
    gateway.start()
    assert "log.recovered frames=0 records=0 torn_frame=False clean=True" in (
        gateway.output_since_start()
    )


def test_sigint_ends_like_sigterm(gateway: GatewayProcess) -> None:
    gateway.send(signal.SIGINT)
    assert gateway.wait() == 0


def test_sigkill_loses_nothing_that_was_acknowledged(gateway: GatewayProcess) -> None:
    client = connect(gateway)
    publish(client, "a/b", 500)
    publish(client, "a/b", 500, qos=2)
    gateway.kill()
    client.loop_stop()
    gateway.start()
    assert gateway.terminate() == 0
    assert stored(gateway.data_dir) == {b"device": [b"%d" % number for number in range(500)] * 2}


def test_upstream_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path / "data", upstream=f"kafka://127.0.0.1:{free_port()}")
    with gateway:
        client = connect(gateway)
        publish(client, "a/b", 10)
        client.loop_stop()
        started = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - started < 10


def reload(gateway: GatewayProcess, config: Path, text: str, answer: str) -> str:
    config.write_text(text)
    before = gateway.output_since_start().count("gateway.reload")
    gateway.send(signal.SIGHUP)
    wait_for(
        lambda: gateway.output_since_start().count("gateway.reload") > before,
        timeout=10,
        what="an answer to SIGHUP",
    )
    time.sleep(0.1)
    output = gateway.output_since_start()
    assert answer in output
    return output


STREAMS = "[stream.mqtt]\npartitions = 1\n[stream.second]\npartitions = 1\n"


def test_sighup_changes_routes_live(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(STREAMS)
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        client = connect(gateway)
        publish(client, "a/b", 3)
        text = STREAMS + '[[route]]\nfilter = "a/#"\nstream = "second"\n'
        reload(gateway, config, text, "gateway.reloaded changed=[[route]]")
        # The same connection, which had resolved this topic before.
        publish(client, "a/b", 2)
        client.loop_stop()
        assert gateway.terminate() == 0
    assert stored(gateway.data_dir, "mqtt", 1) == {b"device": [b"0", b"1", b"2"]}
    assert stored(gateway.data_dir, "second", 1) == {b"device": [b"0", b"1"]}


def test_sighup_changes_limits_live(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        publish(connect(gateway, "first"), "a/b", 1)
        reload(gateway, config, "[limits]\nconnections_max = 1\n", "changed=[limits]")
        with RawClient(gateway.port) as second:
            second.send(connect_packet("second", V311))
            assert second.answer() is None
        reload(gateway, config, "[limits]\nconnections_max = 2\n", "changed=[limits]")
        with RawClient(gateway.port) as second:
            second.connect("second", V311)


def test_sighup_starts_and_ends_upstreams(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        text = f'[upstream.one]\nurl = "kafka://127.0.0.1:{free_port()}"\n'
        reload(gateway, config, text, "gateway.reloaded changed=[upstream]")
        wait_for(
            lambda: "bridge.unreachable upstream=one" in gateway.output_since_start(),
            timeout=10,
            what="the bridge's attempt",
        )
        reload(gateway, config, "", "gateway.reloaded changed=[upstream]")
        assert "bridge.stopped upstream=one" in gateway.output_since_start()
        publish(connect(gateway), "a/b", 1)


def test_many_sighups_at_once_are_done_one_after_the_other(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    upstream = f'[upstream.one]\nurl = "kafka://127.0.0.1:{free_port()}"\n'
    config.write_text(upstream)
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        for number in range(20):
            config.write_text("" if number % 2 else upstream)
            gateway.send(signal.SIGHUP)
        publish(connect(gateway), "a/b", 1)
        assert gateway.terminate() == 0
        assert "Traceback" not in gateway.output_since_start()


def test_sighup_says_what_needs_a_restart(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        text = "[stream.mqtt]\npartitions = 9\n"
        reload(gateway, config, text, "gateway.reload_incomplete needs_restart=[stream]")
        publish(connect(gateway), "a/b", 1)


def test_sighup_with_a_broken_file_leaves_the_old_configuration_in_force(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        text = "[stream.mqtt]\npartition = 9\n"
        output = reload(gateway, config, text, "gateway.reload_refused in_force=old")
        assert "Did you mean 'partitions'?" in output
        publish(connect(gateway), "a/b", 1)
        # And when there is no file at all.
        config.unlink()
        gateway.send(signal.SIGHUP)
        wait_for(
            lambda: gateway.output_since_start().count("reload_refused") == 2,
            timeout=10,
            what="a second refusal",
        )
        publish(connect(gateway, "other"), "a/b", 1)


def test_sighup_without_a_file_descriptor_left_changes_nothing(tmp_path: Path) -> None:
    """CVE-2017-7652: a broker that could not read its file again fell back to its defaults."""
    config = tmp_path / "gateway.toml"
    config.write_text("[limits]\nconnections_max = 1\n")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        publish(connect(gateway, "first"), "a/b", 1)
        used = max(int(each.name) for each in Path(f"/proc/{gateway.pid}/fd").iterdir()) + 1
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (used, hard))
        output = reload(gateway, config, "", "gateway.reload_refused in_force=old")
        assert "Too many open files" in output
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
        with RawClient(gateway.port) as second:
            second.send(connect_packet("second", V311))
            assert second.answer() is None, "the limit of one connection is no longer in force"


def under_limit(*ulimit: str) -> tuple[str, ...]:
    """A prefix that runs the gateway as a shell with this limit of descriptors would."""
    return ("sh", "-c", f'ulimit {" ".join(ulimit)}; exec "$@"', "sh")


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "data", prefix=under_limit("-Sn", "128")) as gateway:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_connections_beyond_the_descriptors_are_capped_and_it_is_said(tmp_path: Path) -> None:
    with GatewayProcess(tmp_path / "data", prefix=under_limit("-n", "258")) as gateway:
        output = gateway.output_since_start()
        assert "gateway.connections_capped connections_max=2 wanted=10000" in output
        assert "LimitNOFILE=10256" in output
        with RawClient(gateway.port) as first, RawClient(gateway.port) as second:
            first.connect("first", V311)
            second.connect("second", V311)
            with RawClient(gateway.port) as third:
                third.send(connect_packet("third", V311))
                assert third.answer() is None


def test_flags_stay_in_force_after_sighup(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("")
    with GatewayProcess(tmp_path / "data", config=config) as gateway:
        text = 'listen = "mqtt://127.0.0.1:1"\nlog_level = "debug"\n'
        output = reload(gateway, config, text, "gateway.reloaded changed=log_level")
        assert "needs_restart" not in output


def test_devices_seen_are_in_the_table(gateway: GatewayProcess) -> None:
    client = connect(gateway, "sensor-1")
    publish(client, "a/b", 2)
    assert gateway.terminate() == 0
    client.loop_stop()
    with sqlite3.connect(gateway.data_dir / "devices.db") as database:
        rows = database.execute("SELECT client_id, protocol, last_topic FROM device").fetchall()
    assert rows == [("sensor-1", "MQTT 3.1.1", "a/b")]
