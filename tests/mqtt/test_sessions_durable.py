"""Kept sessions: what they cost while away, and that SIGKILL takes nothing of them."""

import contextlib
import random
import socket
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import (
    Connect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    SubscriptionRequest,
)
from gateway.mqtt.positions import InFlight, Window, decode_window, encode_window
from gateway.mqtt.properties import Properties
from gateway.mqtt.wire import Reader
from tests.mqtt.subscriber import Subscriber, is_in_order
from tests.mqtt.world import World
from tests.rigs import GatewayProcess

STAYS = Properties(session_expiry_s=3600)


def test_a_window_is_read_back_as_it_was_written() -> None:
    positions = {0: 0, 7: 2**63, 2**32 - 1: 5}
    in_flight = [InFlight(65_535, 2, True, 255, 3, 2**40, 9), InFlight(1, 1, False, 0, 0, 0, 0)]
    assert decode_window(encode_window(positions, in_flight)) == Window(positions, in_flight)


def test_ten_thousand_sessions_that_are_away_cost_less_than_1_kib_each(tmp_path: Path) -> None:
    world = World(tmp_path)
    publisher = world.connected("publisher")

    def come_and_go(first: int, count: int) -> None:
        for number in range(first, first + count):
            client = world.client(5)
            client.connect(f"device-{number:05}", clean=False, properties=STAYS)
            request = SubscriptionRequest(filter=f"site/{number}/command/#", qos=1)
            client.send(Subscribe(packet_id=1, requests=(request,)))
            client.committed()
            client.lose()
        world.commit()

    come_and_go(0, 200)  # what is made once
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    come_and_go(200, 10_000)
    used = tracemalloc.get_traced_memory()[0] - before
    # What waits for them is in the log, and costs nothing here.
    for number in range(200, 700):
        publisher.send(
            Publish(topic=f"site/{number}/command/x", payload=bytes(2_000), qos=1, packet_id=number)
        )
    world.commit()
    grown = tracemalloc.get_traced_memory()[0] - before - used
    tracemalloc.stop()
    print(f"{used / 10_000:.0f} bytes a session")
    assert used / 10_000 < 1_024
    assert grown < 500 * 3_500, "the log's tail once, and no copy for who is away"


def test_a_kept_session_goes_on_where_it_was_after_a_crash(tmp_path: Path) -> None:
    """[MQTT-3.1.2-5], [MQTT-4.1.0-2]: messages, not only subscriptions, survive."""
    world = World(tmp_path)
    client = world.connected("s", clean=False, properties=STAYS)
    client.send(Subscribe(packet_id=1, requests=(SubscriptionRequest(filter="#", qos=2),)))
    world.commit()
    client.got()
    publisher = world.connected("publisher")
    for number, qos in ((1, 1), (2, 2), (3, 2)):
        publisher.send(Publish(topic="a", payload=b"%d" % number, qos=qos, packet_id=number))
    assert len(client.committed()) == 3
    client.send(PubRec(packet_id=2))
    assert client.committed() == [PubRel(packet_id=2)]
    world.restart()
    world.connected("other").send(Publish(topic="a", payload=b"4", qos=1, packet_id=4))
    world.commit()
    again = world.connected("s", clean=False, properties=STAYS)
    packets = again.committed()
    publishes = [each for each in packets if isinstance(each, Publish)]
    assert PubRel(packet_id=2) in packets
    assert [(each.payload, each.packet_id, each.dup) for each in publishes[:2]] == [
        (b"1", 1, True),
        (b"3", 3, True),
    ]
    assert [each.payload for each in publishes[2:]] == [b"4"]


def test_what_is_sent_again_comes_in_its_order_and_before_anything_new(tmp_path: Path) -> None:
    """[MQTT-4.4.0-1], [MQTT-4.6.0-1]; though QoS 2 waits for the disk and QoS 1 does not."""
    world = World(tmp_path)
    client = world.connected("s", clean=False, properties=STAYS)
    client.send(Subscribe(packet_id=1, requests=(SubscriptionRequest(filter="#", qos=2),)))
    world.commit()
    client.got()
    publisher = world.connected("publisher")
    for number, qos in ((1, 2), (2, 1), (3, 2), (4, 1)):
        publisher.send(Publish(topic="a", payload=b"%d" % number, qos=qos, packet_id=number))
        world.commit()
    client.lose()
    publisher.send(Publish(topic="a", payload=b"5", qos=1, packet_id=5))
    publisher.send(Publish(topic="b", payload=b"6", qos=2, packet_id=6))
    world.commit()
    again = world.client()
    again.send(Connect(level=5, client_id="s", clean_start=False, keep_alive_s=0, properties=STAYS))
    publisher.send(Publish(topic="a", payload=b"7", qos=1, packet_id=7))
    for _ in range(20):  # all that the loop does while the disk is slow
        turns, world.turns = world.turns, []
        for turn in turns:
            turn()
    came = [each for each in again.committed() if isinstance(each, Publish)]
    assert [(each.payload, each.dup) for each in came[:4]] == [
        (b"%d" % number, True) for number in range(1, 5)
    ]
    assert [each.payload for each in came[4:] if each.topic == "a"] == [b"5", b"7"]
    assert [each.payload for each in came[4:] if each.topic == "b"] == [b"6"]


def test_positions_of_a_session_that_gets_nothing_move_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    client = world.connected("s", clean=False, properties=STAYS)
    client.send(Subscribe(packet_id=1, requests=(SubscriptionRequest(filter="never", qos=1),)))
    world.commit()
    world.connected("publisher").send(
        *(Publish(topic="a", payload=b"", qos=1, packet_id=number) for number in range(1, 100))
    )
    world.commit()
    world.pass_seconds(600)
    world.commit()
    ((_, window),) = world.log.scan_state(b"mqtt/window/")
    ends = {key: part.durable_end for key, part in world.log.partitions.items()}
    assert decode_window(window).positions == ends


# -- real processes, real kills


class Link:
    """One connection of the subscriber: hears and answers until it breaks or is told to stop."""

    def __init__(self, port: int, keeper: Subscriber, rng: random.Random) -> None:
        self._port = port
        self._keeper = keeper
        self._rng = rng

    def run(self, stop: threading.Event) -> None:
        with contextlib.suppress(OSError), self._connect() as sock:
            data = b""
            while not stop.is_set():
                try:
                    more = sock.recv(65_536)
                except TimeoutError:
                    continue
                if not more:
                    return
                data += more
                answers: list[Packet] = []
                while data and isinstance(frame := next_frame(data, 0, len(data), 1 << 20), Frame):
                    packet = decode_packet(
                        frame.first_byte, Reader(data, frame.start, frame.stop), 4
                    )
                    data = data[frame.stop :]
                    answers += self._keeper.hear(packet)
                sock.sendall(b"".join(encode_packet(answer, 4) for answer in answers))

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port), 5)
        sock.settimeout(0.05)
        connect = Connect(level=4, client_id="keeper", clean_start=False, keep_alive_s=60)
        subscribe = Subscribe(packet_id=1, requests=(SubscriptionRequest(filter="kill/#", qos=2),))
        sock.sendall(encode_packet(connect, 4) + encode_packet(subscribe, 4))
        return sock


def publish_until_killed(port: int, first: int, stop: threading.Event) -> list[tuple[int, int]]:
    """(number, QoS) of what was acknowledged; numbers from `first` on, QoS 1 and 2 by turns."""
    done: list[tuple[int, int]] = []
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.settimeout(0.05)
        connect = Connect(
            level=4, client_id=f"publisher-{first}", clean_start=True, keep_alive_s=60
        )
        sock.sendall(encode_packet(connect, 4))
        number = first
        unfinished: dict[int, tuple[int, int]] = {}
        data = b""
        while not stop.is_set():
            packets: list[Packet] = []
            while len(unfinished) < 20:
                packet_id = next(i for i in range(1, 100) if i not in unfinished)
                qos = 1 + number % 2
                unfinished[packet_id] = (number, qos)
                packets.append(
                    Publish(
                        topic=f"kill/{qos}", payload=b"%d" % number, qos=qos, packet_id=packet_id
                    )
                )
                number += 1
            sock.sendall(b"".join(encode_packet(packet, 4) for packet in packets))
            try:
                more = sock.recv(65_536)
            except TimeoutError:
                continue
            if not more:
                break
            data += more
            answers: list[Packet] = []
            while data and isinstance(frame := next_frame(data, 0, len(data), 1 << 20), Frame):
                packet = decode_packet(frame.first_byte, Reader(data, frame.start, frame.stop), 4)
                data = data[frame.stop :]
                if isinstance(packet, PubAck):
                    done.append(unfinished.pop(packet.packet_id))
                elif isinstance(packet, PubRec):
                    done.append(unfinished[packet.packet_id])
                    answers.append(PubRel(packet_id=packet.packet_id))
                elif isinstance(packet, PubComp):
                    del unfinished[packet.packet_id]
            sock.sendall(b"".join(encode_packet(answer, 4) for answer in answers))
    return done


@pytest.mark.e2e
@pytest.mark.parametrize("seed", [1, 2])
def test_a_persistent_subscriber_gets_qos_2_exactly_once_through_sigkill(
    tmp_path: Path, seed: int
) -> None:
    """[MQTT-4.3.3-1] and 4.4 with the server killed at many moments; QoS 1 at least once."""
    rng = random.Random(seed)
    keeper = Subscriber()
    acknowledged: list[tuple[int, int]] = []
    gateway = GatewayProcess(tmp_path)
    first = 0
    for life in range(10):
        gateway.start()
        stop = threading.Event()
        link = threading.Thread(target=Link(gateway.port, keeper, rng).run, args=(stop,))
        done: list[tuple[int, int]] = []
        publisher = threading.Thread(
            target=lambda port, at, stop, done: done.extend(publish_until_killed(port, at, stop)),
            args=(gateway.port, first, stop, done),
        )
        if life % 3 != 1:  # in some lives it is away
            link.start()
            assert keeper.subscribed.wait(10), "what was published before is not for it"
        publisher.start()
        time.sleep(rng.uniform(0.05, 0.4))
        gateway.kill()
        stop.set()
        publisher.join()
        if link.ident is not None:
            link.join()
        acknowledged += done
        first += 1_000_000
    gateway.start()
    stop = threading.Event()
    last = threading.Thread(target=Link(gateway.port, keeper, rng).run, args=(stop,))
    last.start()
    wanted = {number for number, _ in acknowledged}
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if wanted <= {int(packet.payload) for packet in list(keeper.handed)}:
            break
        time.sleep(0.1)
    stop.set()
    last.join()
    assert gateway.terminate() == 0
    twice = [packet for packet in keeper.handed if packet.topic == "kill/2"]
    got = [int(packet.payload) for packet in twice]
    print(f"{len(acknowledged)} acknowledged, {len(keeper.handed)} handed on")
    assert len(acknowledged) > 500, "it must have been busy"
    assert wanted <= {int(packet.payload) for packet in keeper.handed}
    assert len(got) == len(set(got)), "QoS 2 twice"
    for topic in ("kill/1", "kill/2"):
        for life in range(10):
            of_one = [
                packet
                for packet in keeper.handed
                if packet.topic == topic and int(packet.payload) // 1_000_000 == life
            ]
            assert is_in_order(of_one, lambda packet: int(packet.payload))
