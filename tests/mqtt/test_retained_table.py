"""Retained messages from the log to the table on disk, through kill -9 and damage (3.3.1.3)."""

import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.mqtt.packets import Disconnect, Publish, Will
from gateway.mqtt.properties import Properties
from gateway.mqtt.retained_store import Lookup, Retained, Slice
from tests.mqtt.world import Client, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def retain(topic: str, payload: bytes = b"x", qos: int = 1, **properties: Any) -> Publish:
    return Publish(
        topic=topic,
        payload=payload,
        qos=qos,
        packet_id=1 if qos else 0,
        retain=True,
        properties=Properties(**properties),
    )


def found(world: World, topic_filter: str = "#") -> dict[str, bytes]:
    slices: list[Slice] = []
    world.broker.store()
    world.retained.lookup(Lookup(topic_filter, b"", 1000, 1 << 20, slices.append))
    world.commit()
    world.worker.work()
    (only,) = slices
    return {each.topic.decode(): each.payload for each in only.found}


def publisher(world: World, level: int = 5) -> Client:
    return world.connected("device", level)


@pytest.mark.parametrize("level", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_retained_message_of_any_qos_is_kept_and_removed(
    world: World, level: int, qos: int
) -> None:
    """5.0 [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]; one without RETAIN changes nothing
    [MQTT-3.3.1-8]. 3.1.1 [MQTT-3.3.1-5], [MQTT-3.3.1-7], [MQTT-3.3.1-12]"""
    client = publisher(world, level)
    client.send(retain("a", b"1", qos), Publish(topic="a", payload=b"2"))
    assert found(world) == {"a": b"1"}
    client.send(retain("a", b"", 0))
    assert found(world) == {}


def test_a_lookup_waits_until_what_is_in_the_log_is_durable(world: World) -> None:
    client = publisher(world)
    client.send(retain("a", b"1"))
    world.broker.store()
    slices: list[Slice] = []
    world.retained.lookup(Lookup("a", b"", 9, 999, slices.append))
    assert slices == []
    world.commit()
    assert [each.payload for each in slices[0].found] == [b"1"]


def test_what_was_acknowledged_is_there_after_kill_9(world: World) -> None:
    client = publisher(world)
    client.send(retain("a", b"1"), retain("b", b"1"), retain("gone"))
    world.commit()
    world.pass_seconds(2)
    client.send(retain("a", b"2"), retain("gone", b""), retain("c", b"1"))
    world.commit()
    world.restart()
    assert found(world) == {"a": b"2", "b": b"1", "c": b"1"}
    assert world.retained.counters.message_count == 3


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_a_table_that_is_lost_is_made_from_the_log_again(
    world: World, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two", "three", "four"):  # in several partitions
        client = world.connected(name)
        client.send(retain(f"{name}/a"), retain(f"{name}/b"), retain(f"{name}/a", b""))
        client.send(retain("all", name.encode()))
        world.commit()
    expected = {f"{name}/b": b"x" for name in ("one", "two", "three", "four")}
    expected["all"] = b"four"
    assert found(world) == expected
    world.retained.close()
    path = world.directory / "retained.db"
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"garbage" * 1000)
    world.restart()
    assert {**found(world), "all": b"four"} == expected
    if damage == "garbage":
        assert "retained.set_aside" in caplog.text


def test_of_two_clients_the_later_one_counts_when_read_from_the_log(world: World) -> None:
    """They are in different partitions, which are read one after the other."""
    clock = [5_000_000]
    world.log.now_ms = lambda: clock[0]
    for number in range(12):
        clock[0] += 10
        world.connected(f"client-{number}").send(retain("a", b"%d" % number))
        world.commit()
    (world.directory / "retained.db").unlink()
    world.restart()
    assert found(world) == {"a": b"11"}


def test_a_file_that_is_damaged_while_in_use_is_made_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = publisher(world)
    client.send(*(retain(f"t/{number}", bytes(500)) for number in range(300)))
    world.commit()
    world.pass_seconds(2)
    store = world.retained._store
    assert store is not None
    store.sync()
    path = world.directory / "retained.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    path.with_name("retained.db-wal").write_bytes(b"")
    store._database.execute("PRAGMA cache_size = 0")
    client.send(retain("t/0", b"new"))
    world.commit()
    world.pass_seconds(5)
    assert len(found(world)) == 300
    assert found(world, "t/0") == {"t/0": b"new"}
    assert (world.directory / "retained.db.unusable").exists()
    assert "retained.behind" in caplog.text


def test_when_the_file_takes_nothing_it_is_read_from_the_log_later(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = world.retained._store
    assert store is not None
    client = publisher(world)

    def full(change: Retained, catching_up: bool) -> bool:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_change", full)
        for number in range(5):
            client.send(retain(f"t/{number}"))
            world.commit()
            world.pass_seconds(1)
        assert found(world) == {}, "answered all the same"
    assert caplog.text.count("retained.behind") == 1
    world.pass_seconds(2)
    assert len(found(world)) == 5
    assert store.positions() == {
        key: each.durable_end for key, each in world.log.partitions.items() if each.durable_end
    }


def test_a_flood_that_the_disk_does_not_take_is_not_held_in_memory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.mqtt.retained._PENDING_BYTES_MAX", 50_000)
    client = publisher(world)
    world.worker.is_slow = True
    for number in range(200):
        client.send(retain(f"t/{number}", bytes(1000)))
        world.commit()
        assert sum(len(each.payload) for each in world.retained._pending.values()) <= 50_000
    world.worker.work()
    world.pass_seconds(1)
    world.worker.work()
    assert len(found(world)) == 200


def test_positions_move_though_nothing_is_retained(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a start would read all of the log."""
    monkeypatch.setattr("gateway.mqtt.retained._POSITION_RECORDS", 10)
    client = publisher(world)
    client.send(*(Publish(topic="a", payload=b"x") for _ in range(10)))
    world.commit()
    world.pass_seconds(1)
    store = world.retained._store
    assert store is not None
    assert sum(store.positions().values()) == 10


def test_a_message_expires(world: World) -> None:
    """[MQTT-3.3.2-5], from the log too."""
    clock = [5_000_000]
    world.log.now_ms = lambda: clock[0]
    publisher(world).send(retain("a", message_expiry_s=10), retain("b"))
    assert set(found(world)) == {"a", "b"}
    clock[0] += 10_000
    assert set(found(world)) == {"b"}
    clock[0] += 60_000
    world.pass_seconds(3)
    assert world.retained.counters.message_count == 1
    (world.directory / "retained.db").unlink()
    world.restart()
    assert set(found(world)) == {"b"}


def test_a_will_with_retain_is_kept(world: World) -> None:
    """3.1.1 [MQTT-3.1.2-17]; 5.0 [MQTT-3.1.2-15]"""
    dying = world.connected("dying", will=Will(topic="w", payload=b"gone", retain=True))
    world.connected("leaving", will=Will(topic="v", payload=b"gone", retain=True)).send(
        Disconnect()
    )
    dying.lose()
    assert found(world) == {"w": b"gone"}


def test_what_is_over_a_limit_is_acknowledged_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    world = World(tmp_path, retained_max=3)
    client = publisher(world)
    client.send(*(retain(f"t/{number}") for number in range(5)))
    assert len(client.committed()) == 5
    world.pass_seconds(1)
    assert (world.retained.counters.message_count, world.retained.counters.refused) == (3, 2)
    assert "retained.not_kept count=2 reason=over_a_limit" in caplog.text


def test_user_properties_cannot_make_a_message_retained(world: World) -> None:
    properties = Properties(user_properties=(("mqtt.retain", "1"),))
    publisher(world).send(Publish(topic="a", payload=b"x", properties=properties))
    world.commit()
    (world.directory / "retained.db").unlink()
    world.restart()
    assert found(world) == {}
