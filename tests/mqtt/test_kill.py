"""SIGKILL while devices publish: what was acknowledged is there, and QoS 2 is there once."""

import contextlib
import random
import socket
import time
from pathlib import Path

import pytest

from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import ConnAck, Connect, Packet, PubAck, PubComp, Publish, PubRec, PubRel
from gateway.mqtt.wire import Reader
from log import Log, StreamSpec
from tests.rigs import GatewayProcess

MESSAGE_COUNT = 4_000
WINDOW_COUNT = 20
LIVES_COUNT = 4


class Device:
    """Sends numbered messages of one QoS, a window at a time, until all are done; it remembers what
    it has sent and not finished over connections, as the standard wants (4.4)."""

    def __init__(self, client_id: str, qos: int) -> None:
        self.client_id = client_id
        self.qos = qos
        self.next_number = 0
        self.unfinished: dict[int, int] = {}
        """Packet identifier -> number, in the order they were sent."""
        self.released: set[int] = set()
        self.acknowledged: set[int] = set()

    @property
    def is_done(self) -> bool:
        return self.next_number == MESSAGE_COUNT and not self.unfinished

    def talk(self, port: int, seconds: float) -> None:
        """One connection, for so long or until it breaks."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.settimeout(0.2)
            connect = Connect(level=4, client_id=self.client_id, clean_start=False, keep_alive_s=60)
            sock.sendall(encode_packet(connect, 4))
            data = b""
            while time.monotonic() < deadline and not self.is_done:
                try:
                    more = sock.recv(65_536)
                except TimeoutError:
                    continue
                if not more:
                    return
                data += more
                while data and isinstance(frame := next_frame(data, 0, len(data), 1 << 20), Frame):
                    reader = Reader(data, frame.start, frame.stop)
                    packet = decode_packet(frame.first_byte, reader, 4)
                    data = data[frame.stop :]
                    sock.sendall(b"".join(encode_packet(answer, 4) for answer in self.hear(packet)))

    def hear(self, packet: Packet) -> list[Packet]:
        match packet:
            case ConnAck():
                again = [
                    PubRel(packet_id=packet_id)
                    if packet_id in self.released
                    else self._publish(packet_id, dup=True)
                    for packet_id in self.unfinished
                ]
                return [*again, *self._fill()]
            case PubAck(packet_id=packet_id) | PubComp(packet_id=packet_id):
                self.acknowledged.add(self.unfinished.pop(packet_id))
                self.released.discard(packet_id)
                return self._fill()
            case PubRec(packet_id=packet_id):
                self.released.add(packet_id)
                return [PubRel(packet_id=packet_id)]
        raise AssertionError(packet)

    def _fill(self) -> list[Packet]:
        packets: list[Packet] = []
        while len(self.unfinished) < WINDOW_COUNT and self.next_number < MESSAGE_COUNT:
            # Identifiers are used again soon, so that one that came back would be noticed.
            packet_id = next(i for i in range(1, WINDOW_COUNT + 1) if i not in self.unfinished)
            self.unfinished[packet_id] = self.next_number
            self.next_number += 1
            packets.append(self._publish(packet_id, dup=False))
        return packets

    def _publish(self, packet_id: int, *, dup: bool) -> Publish:
        return Publish(
            topic=f"kill/{self.qos}",
            payload=b"%d" % self.unfinished[packet_id],
            qos=self.qos,
            packet_id=packet_id,
            dup=dup,
        )


@pytest.mark.e2e
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("qos", [1, 2])
def test_what_was_acknowledged_survives_sigkill_and_qos_2_is_stored_once(
    tmp_path: Path, qos: int, seed: int
) -> None:
    rng = random.Random(seed)
    device = Device("device", qos)
    gateway = GatewayProcess(tmp_path)
    cut_short_count = 0
    for _ in range(LIVES_COUNT):
        gateway.start()
        device.talk(gateway.port, rng.uniform(0.005, 0.05))
        gateway.kill()
        cut_short_count += bool(device.unfinished)
    assert cut_short_count > 0, "too fast to be killed in the middle"
    gateway.start()
    device.talk(gateway.port, 60)
    assert gateway.terminate() == 0
    assert device.acknowledged == set(range(MESSAGE_COUNT))
    log = Log.open(tmp_path, [StreamSpec(name="mqtt", partition_count=3)])
    stored = [
        int(record.value or b"")
        for partition in log.streams["mqtt"].partitions
        for record in partition.records(0, count_max=100_000)
    ]
    log.close()
    assert set(stored) == set(range(MESSAGE_COUNT))
    if qos == 2:
        assert len(stored) == MESSAGE_COUNT
