"""The table in memory: bounded, and what happened last wins."""

from devices import DeviceLimits, DeviceTable


def test_messages_of_one_device_become_one_change() -> None:
    table = DeviceTable()
    table.client_connected("a", protocol="5.0", address="10.0.0.1:5", now_ms=10)
    table.message_seen("a", "t/1", b"one", now_ms=20, count=3)
    table.message_seen("a", "t/2", b"two!", now_ms=30)
    (change,) = table.drain()
    assert (change.client_id, change.connected, change.first_seen_ms) == ("a", True, 10)
    assert (change.message_count, change.last_message_ms) == (4, 30)
    assert (change.last_topic, change.last_payload, change.last_size_bytes) == ("t/2", b"two!", 4)
    assert table.drain() == []


def test_devices_beyond_the_bound_are_counted_not_kept() -> None:
    table = DeviceTable(DeviceLimits(pending_max=2))
    for name in "abcd":
        table.message_seen(name, "t", b"", now_ms=1)
    table.message_seen("a", "t", b"", now_ms=2)
    assert table.pending_count == 2
    assert table.unrecorded_count == 2


def test_one_change_holds_no_more_than_its_limits() -> None:
    table = DeviceTable(DeviceLimits(payload_bytes_max=4, topic_chars_max=3, client_id_chars_max=2))
    table.message_seen("a", "abcdef", b"123456", now_ms=1)
    table.message_seen("abc", "t", b"", now_ms=1)
    (change,) = table.drain()
    assert (change.last_topic, change.last_payload, change.last_size_bytes) == ("abc", b"1234", 6)
    assert table.unrecorded_count == 1


def test_changes_put_back_are_older_than_what_came_since() -> None:
    table = DeviceTable()
    table.client_connected("a", protocol="3.1.1", address="x", now_ms=1)
    table.message_seen("a", "old", b"old", now_ms=2, count=5)
    table.message_seen("b", "only", b"b", now_ms=2)
    taken = table.drain()
    table.message_seen("a", "new", b"new", now_ms=9)
    table.client_disconnected("a", now_ms=10)
    table.put_back(taken)
    by_name = {change.client_id: change for change in table.drain()}
    assert by_name["a"].message_count == 6
    assert by_name["a"].last_topic == "new"
    assert by_name["a"].first_seen_ms == 1
    assert by_name["a"].protocol == "3.1.1"
    assert by_name["a"].connected is False
    assert by_name["b"].last_topic == "only"
