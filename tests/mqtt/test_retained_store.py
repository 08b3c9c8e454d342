"""The table of retained messages on disk: search, limits, damage."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import MqttLimits
from gateway.mqtt.retained_keys import first_key, key_of, step
from gateway.mqtt.retained_store import Retained, RetainedStore
from gateway.mqtt.topics import filter_matches

LOG_ID = bytes(16)


def message(
    topic: str, payload: bytes = b"x", *, place: tuple[int, int] = (0, 0), **more: int | None
) -> Retained:
    return Retained(
        topic=topic.encode(),
        payload=payload,
        qos=more.get("qos") or 0,
        client_id="device",
        properties=b"",
        partition_id=place[0],
        offset=place[1],
        stored_ms=more.get("stored_ms") or 1000,
        expires_ms=more.get("expires_ms"),
    )


def opened(directory: Path, log_id: bytes = LOG_ID, **limits: int) -> RetainedStore:
    return RetainedStore(directory / "retained.db", log_id, MqttLimits(**limits))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RetainedStore]:
    store = opened(tmp_path)
    yield store
    store.close()


def put(store: RetainedStore, *messages: Retained, catching_up: bool = False) -> int:
    return store.apply(messages, {}, catching_up=catching_up).refused_count


def found(
    store: RetainedStore, topic_filter: str, *, now_ms: int = 1000, count_max: int = 100
) -> list[str]:
    topics: list[str] = []
    key: bytes | None = b""
    while key is not None:
        piece = store.search(topic_filter, key, now_ms=now_ms, count_max=count_max, bytes_max=1000)
        assert len(piece.found) <= count_max
        topics += [each.topic.decode() for each in piece.found]
        key = piece.next_key
    return topics


LEVELS = st.sampled_from(["", "a", "b", "ab", "$a", "a!", "\x01", "é"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = (
    st.tuples(st.lists(LEVELS | st.just("+"), max_size=4), st.sampled_from([[], ["#"]]))
    .map(lambda parts: "/".join([*parts[0], *parts[1]]))
    .filter(bool)
)


@given(st.sets(TOPICS, max_size=40), st.lists(FILTERS, min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_a_walk_by_steps_finds_exactly_what_matches(topics: set[str], filters: list[str]) -> None:
    """4.7, with [MQTT-4.7.2-1]; the steps never go back and never over a match."""
    keys = sorted(key_of(topic.encode()) for topic in topics)
    for topic_filter in filters:
        wanted = topic_filter.encode().split(b"/")
        low: bytes | None = first_key(wanted)
        matched = []
        while low is not None and (key := next((k for k in keys if k >= low), None)) is not None:
            is_match, following = step(wanted, key)
            assert following is None or following > key
            if is_match:
                matched.append(key)
            low = following
        assert matched == [
            key_of(topic.encode())
            for topic in sorted(topics, key=lambda t: key_of(t.encode()))
            if filter_matches(topic_filter, topic)
        ]


@given(st.sets(TOPICS, min_size=1, max_size=60), FILTERS, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_search_in_slices_finds_what_matches(
    tmp_path_factory: pytest.TempPathFactory, topics: set[str], topic_filter: str, count_max: int
) -> None:
    store = opened(tmp_path_factory.mktemp("store"))
    put(store, *map(message, topics))
    expected = sorted(topic for topic in topics if filter_matches(topic_filter, topic))
    assert sorted(found(store, topic_filter, count_max=count_max)) == expected
    store.close()


def test_a_wildcard_lookup_looks_at_few_keys(store: RetainedStore) -> None:
    """5,000 topics, of which `plant/+/dev-7/temp` can be one in 500."""
    put(
        store,
        *(
            message(f"plant/{line}/dev-{dev}/{name}")
            for line in range(10)
            for dev in range(100)
            for name in ("temp", "hum", "rpm", "cfg", "state")
        ),
    )
    looked = sum(1 for _ in store._matching("plant/+/dev-7/temp", b""))
    assert len(found(store, "plant/+/dev-7/temp")) == 10
    assert looked < 60


def test_a_newer_message_takes_the_place_and_an_empty_one_removes(store: RetainedStore) -> None:
    """[MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-7]"""
    put(store, message("a", b"1", qos=1), message("a", b"2", qos=2), message("b"))
    (kept,) = store.search("a", now_ms=0, count_max=9, bytes_max=9).found
    assert (kept.payload, kept.qos, kept.client_id) == (b"2", 2, "device")
    put(store, message("a", b""), message("never", b""))
    assert found(store, "#") == ["b"]
    assert store.totals().message_count == 1


def test_what_has_expired_is_not_found_and_goes(store: RetainedStore) -> None:
    """[MQTT-3.3.2-5]"""
    put(store, message("a", expires_ms=5000), message("b"))
    assert found(store, "#", now_ms=4999) == ["a", "b"]
    assert found(store, "#", now_ms=5000) == ["b"]
    assert store.totals().message_count == 2
    assert store.expire(5000).message_count == 1


def test_limits_hold_and_what_is_outdated_goes(tmp_path: Path) -> None:
    store = opened(tmp_path, retained_max=2, retained_message_bytes_max=100, retained_bytes_max=500)
    assert put(store, message("a"), message("b"), message("c")) == 1
    assert put(store, message("a", bytes(100))) == 0
    assert put(store, message("a", bytes(101))) == 1
    assert found(store, "#") == ["b"]
    assert put(store, message("a", bytes(100)), message("b", bytes(100))) == 0
    store.limits = MqttLimits(retained_bytes_max=300)
    assert put(store, message("b", bytes(100))) == 1
    assert found(store, "#") == ["a"]
    store.close()


def test_totals_are_the_same_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    put(store, message("a"), message("b", bytes(50)), message("c"), catching_up=True)
    put(store, message("c", b"", place=(0, 1)), catching_up=True)
    before = store.totals()
    store.close()
    store = opened(tmp_path)
    assert store.totals() == before
    assert before.message_count == 2
    store.close()


def test_of_two_partitions_the_later_message_counts_whichever_is_read_first(
    store: RetainedStore,
) -> None:
    late = message("a", b"late", place=(1, 0), stored_ms=2000)
    early = message("a", b"early", place=(0, 0), stored_ms=1000)
    put(store, late, early, catching_up=True)
    assert store.search("a", now_ms=0, count_max=1, bytes_max=9).found == [late]
    removed = message("a", b"", place=(0, 1), stored_ms=3000)
    put(store, removed, late, catching_up=True)
    assert found(store, "#") == []
    put(store, message("a", b"last", place=(0, 2), stored_ms=1), catching_up=True)
    assert found(store, "#") == ["a"], "in one partition offsets decide, whatever the clock did"
    put(store, message("a", b"", place=(0, 3)), catching_up=True)
    store.forget_removed()
    assert store._value("SELECT count(*) FROM retained") == 0


def test_changes_and_positions_are_there_together_or_not_at_all(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply([message("a")], {0: 5}, catching_up=False)
    with pytest.raises(OverflowError):
        store.apply([message("b"), message("c", place=(1 << 70, 0))], {0: 9}, catching_up=False)
    with pytest.raises(sqlite3.OperationalError):  # what failed is read from the log first
        store.apply([message("d")], {0: 12}, catching_up=False)
    assert (found(store, "#"), store.positions()) == (["a"], {0: 5})
    assert store.totals().message_count == 1
    store.apply([message("d")], {0: 12}, catching_up=True)
    store.close()
    store = opened(tmp_path)
    assert (found(store, "#"), store.saved_positions) == (["a", "d"], {0: 12})
    store.close()


@pytest.mark.parametrize("kind", ["garbage", "nulls", "cut", "another log", "newer"])
def test_an_unusable_file_is_set_aside(tmp_path: Path, kind: str) -> None:
    store = opened(tmp_path)
    put(store, *(message(f"t/{number}", bytes(200)) for number in range(2000)))
    if kind == "newer":
        store._database.execute("PRAGMA user_version = 99")
    store.close()
    path = tmp_path / "retained.db"
    data = path.read_bytes()
    if kind == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif kind == "nulls":
        path.write_bytes(bytes(len(data)))
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    log_id = bytes([1] * 16) if kind == "another log" else LOG_ID
    store = opened(tmp_path, log_id)
    assert store.set_aside
    assert (store.totals().message_count, store.saved_positions) == (0, {})
    assert (tmp_path / "retained.db.unusable").exists()
    put(store, message("new"))
    store.close()
    store = opened(tmp_path, log_id)
    assert store.set_aside is None
    assert found(store, "#") == ["new"]
    store.close()
