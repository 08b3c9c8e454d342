"""The sender's half of QoS 1 and 2, in bounded memory."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outbox import Message, Outbox, SlotState, WhenFull


def message(seq: int, *, qos: int = 1, size_bytes: int = 10) -> Message:
    return Message(seq=seq, topic="t", payload=b"x" * size_bytes, qos=qos, taken_ms=seq)


def outbox(**changes: Any) -> Outbox:
    values: dict[str, Any] = {
        "count_max": 4,
        "bytes_max": 1000,
        "in_flight_max": 2,
        "when_full": WhenFull.REFUSE_NEW,
    }
    return Outbox(**(values | changes))


def filled(box: Outbox, count: int, *, qos: int = 1) -> Outbox:
    for seq in range(1, count + 1):
        assert box.offer(message(seq, qos=qos)) == []
    return box


def test_messages_are_sent_in_the_order_they_were_offered() -> None:
    box = filled(outbox(in_flight_max=3), 3)
    sent = [box.next_to_send(0) for _ in range(3)]
    assert [slot.message.seq for slot in sent if slot] == [1, 2, 3]


def test_no_more_than_the_window_is_in_flight() -> None:
    box = filled(outbox(), 4)
    first = box.next_to_send(0)
    assert first is not None
    assert box.next_to_send(0) is not None
    assert box.next_to_send(0) is None
    box.on_puback(first.packet_id)
    assert box.next_to_send(0) is not None


def test_a_full_outbox_refuses_the_new_reading() -> None:
    box = filled(outbox(), 4)
    new = message(5)
    assert box.offer(new) == [new]
    assert [m.seq for m in box.messages()] == [1, 2, 3, 4]


def test_a_full_outbox_may_give_up_its_oldest_reading_but_not_one_in_flight() -> None:
    box = filled(outbox(when_full=WhenFull.DROP_OLDEST), 4)
    assert box.next_to_send(0) is not None
    assert [m.seq for m in box.offer(message(5))] == [2]
    assert [m.seq for m in box.messages()] == [1, 3, 4, 5]


def test_bytes_are_bounded_too() -> None:
    box = outbox(count_max=100, bytes_max=25)
    assert box.offer(message(1)) == []
    assert box.offer(message(2)) == []
    assert [m.seq for m in box.offer(message(3))] == [3]
    assert box.size_bytes == 20


def test_qos_1_is_acknowledged_once() -> None:
    box = filled(outbox(), 1)
    slot = box.next_to_send(0)
    assert slot is not None
    assert box.on_puback(slot.packet_id) is slot.message
    assert box.on_puback(slot.packet_id) is None
    assert len(box) == 0


def test_qos_2_is_acknowledged_at_pubrec_and_keeps_its_packet_id_until_pubcomp() -> None:
    """MQTT 5.0, 4.3.3: the sender MUST NOT reuse the packet id before PUBCOMP [MQTT-2.2.1-3]."""
    box = filled(outbox(), 1, qos=2)
    slot = box.next_to_send(0)
    assert slot is not None
    assert box.on_pubrec(slot.packet_id) is slot.message
    assert box.on_pubrec(slot.packet_id) is None
    assert box.in_flight_count == 1
    assert list(box.messages()) == []
    assert box.on_pubcomp(slot.packet_id)
    assert len(box) == 0


def test_unfinished_messages_keep_packet_id_order_and_state_over_a_reconnect() -> None:
    """[MQTT-4.4.0-1] and [MQTT-4.6.0-1]: resent under the original packet ids, in order."""
    box = filled(outbox(in_flight_max=3), 3, qos=2)
    slots = [box.next_to_send(0) for _ in range(3)]
    assert slots[0] is not None
    box.on_pubrec(slots[0].packet_id)
    assert [slot.packet_id for slot in box.unfinished()] == [s.packet_id for s in slots if s]
    assert [slot.state for slot in box.unfinished()] == [
        SlotState.RECEIVED,
        SlotState.SENT,
        SlotState.SENT,
    ]


def test_a_refused_message_goes_back_to_its_place() -> None:
    box = filled(outbox(in_flight_max=3), 4)
    slots = [box.next_to_send(0) for _ in range(3)]
    for slot in slots:
        assert slot is not None
        box.on_refused(slot.packet_id)
    again = [box.next_to_send(0) for _ in range(3)]
    assert [slot.message.seq for slot in again if slot] == [1, 2, 3]


def test_packet_ids_wrap_and_skip_what_is_in_flight() -> None:
    """[MQTT-2.2.1-2]: non-zero and currently unused."""
    box = outbox()
    box.offer(message(1))
    held = box.next_to_send(0)
    assert held is not None
    seen = set()
    for seq in range(2, 0xFFFF + 3):
        box.offer(message(seq))
        slot = box.next_to_send(0)
        assert slot is not None
        assert slot.packet_id not in (0, held.packet_id)
        seen.add(slot.packet_id)
        box.on_puback(slot.packet_id)
    assert len(seen) == 0xFFFE


def test_lost_memory_names_what_was_never_acknowledged() -> None:
    box = filled(outbox(), 3, qos=2)
    first, second = box.next_to_send(0), box.next_to_send(0)
    assert first is not None
    assert second is not None
    box.on_pubrec(first.packet_id)
    assert [m.seq for m in box.lose()] == [2, 3]
    assert len(box) == 0
    assert box.size_bytes == 0


def test_the_window_must_fit_into_the_memory() -> None:
    with pytest.raises(ValueError, match="in_flight_max"):
        outbox(count_max=1, in_flight_max=2)


@given(
    st.lists(st.sampled_from(["offer1", "offer2", "send", "ack", "refuse", "lose"]), max_size=80)
)
def test_every_message_ends_acknowledged_given_up_or_still_held(steps: list[str]) -> None:
    box = outbox(when_full=WhenFull.DROP_OLDEST)
    offered, ended = 0, 0
    for step in steps:
        slots = box.unfinished()
        match step:
            case "offer1" | "offer2":
                offered += 1
                ended += len(box.offer(message(offered, qos=int(step[-1]))))
            case "send":
                box.next_to_send(0)
            case "ack" if slots:
                slot = slots[0]
                if slot.message.qos == 1:
                    ended += box.on_puback(slot.packet_id) is not None
                elif not box.on_pubcomp(slot.packet_id):
                    ended += box.on_pubrec(slot.packet_id) is not None
            case "refuse" if slots:
                box.on_refused(slots[-1].packet_id)
            case "lose":
                ended += len(box.lose())
        held = list(box.messages())
        assert ended + len(held) == offered
        assert [m.seq for m in held] == sorted(m.seq for m in held)
        assert len(box) <= 4
        assert box.size_bytes == sum(len(m.payload) for m in held)
