"""Both clients against a scripted gateway: what they send again, and under which packet id."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from amqtt_link import AmqttLink
from errors import LinkError
from ledger import Ledger, LedgerWriter, read_ledger
from link import Identity, Link, Recorder
from outbox import Message, Outbox, WhenFull
from paho_link import PahoLink

CONNECT, PUBLISH, PUBREL, DISCONNECT = 1, 3, 6, 14
Answer = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """A packet that arrived: packet id 0 where there is none."""

    kind: int
    flags: int
    packet_id: int
    body: bytes

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


@dataclass(slots=True)
class ScriptedGateway:
    """Answers CONNECT; for PUBLISH and PUBREL asks `answer`, where b"" is silence."""

    is_v5: bool
    answer: Answer
    seen: list[Seen] = field(default_factory=list)
    connack_code: int = 0
    port: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while True:
                packet = await self._read(reader)
                self.seen.append(packet)
                if packet.kind == CONNECT:
                    tail = b"\x00" if self.is_v5 else b""
                    body = bytes([0, self.connack_code]) + tail
                    writer.write(bytes([0x20, len(body)]) + body)
                elif packet.kind in (PUBLISH, PUBREL):
                    writer.write(self.answer(packet.kind, packet.packet_id))
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Seen:
        first = (await reader.readexactly(1))[0]
        length, shift = 0, 0
        while True:
            byte = (await reader.readexactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        body = await reader.readexactly(length)
        kind = first >> 4
        packet_id = 0
        if kind == PUBLISH:
            topic_bytes = struct.unpack_from(">H", body)[0]
            packet_id = struct.unpack_from(">H", body, 2 + topic_bytes)[0]
        elif kind == PUBREL:
            packet_id = struct.unpack_from(">H", body)[0]
        return Seen(kind, first & 15, packet_id, body)

    def drop_all(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    def of(self, kind: int) -> list[Seen]:
        return [packet for packet in self.seen if packet.kind == kind]


def ack(kind: int, packet_id: int, code: int | None = None) -> bytes:
    """PUBACK 4, PUBREC 5, PUBCOMP 7, by first byte."""
    body = struct.pack(">H", packet_id) + (b"" if code is None else bytes([code]))
    return bytes([kind << 4, len(body)]) + body


def silence(_kind: int, _packet_id: int) -> bytes:
    return b""


def answer_all(kind: int, packet_id: int) -> bytes:
    """PUBACK to everything published is wrong for QoS 2: tests with QoS 2 have their own."""
    return ack(4, packet_id) if kind == PUBLISH else ack(7, packet_id)


@dataclass(slots=True)
class Bench:
    """A device's link and outbox against a scripted gateway."""

    gateway: ScriptedGateway
    outbox: Outbox
    link: Link
    ledger: LedgerWriter
    ledger_path: Path

    async def open(self, *, forget: bool = False) -> None:
        await self.link.open("127.0.0.1", self.gateway.port, forget=forget)

    async def send(self, *qos: int) -> None:
        for seq, each in enumerate(qos, 1):
            message = Message(seq=seq, topic="a/b", payload=b"%d" % seq, qos=each, taken_ms=0)
            self.ledger.published("d", message)
            assert self.outbox.offer(message) == []
        self.link.pump()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)

    def is_empty_after_pump(self) -> bool:
        self.link.pump()
        return len(self.outbox) == 0

    def book(self) -> Ledger:
        self.ledger.flush()
        return read_ledger(self.ledger_path)


@pytest.fixture(params=["5.0", "3.1.1"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    is_v5 = request.param == "5.0"
    gateway = ScriptedGateway(is_v5=is_v5, answer=silence)
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0)
    gateway.port = server.sockets[0].getsockname()[1]
    outbox = Outbox(count_max=50, bytes_max=5000, in_flight_max=10, when_full=WhenFull.REFUSE_NEW)
    ledger = LedgerWriter(tmp_path / "ledger", seed=1, at_ms=0)
    identity = Identity(client_id="d", keep_alive_s=30)
    recorder = Recorder(name="d", ledger=ledger)
    link: Link = (PahoLink if is_v5 else AmqttLink)(identity, outbox, recorder)
    bench = Bench(gateway, outbox, link, ledger, tmp_path / "ledger")
    yield bench
    link.abort()
    gateway.drop_all()
    server.close()
    ledger.close()


async def test_qos_1_is_sent_again_with_dup_and_the_same_packet_id(bench: Bench) -> None:
    """[MQTT-3.3.1-1], [MQTT-4.4.0-1]"""
    await bench.open()
    await bench.send(1, 1)
    await bench.until(lambda: len(bench.gateway.of(PUBLISH)) == 2)
    bench.gateway.drop_all()
    await bench.until(bench.link.closed.is_set)
    bench.gateway.answer = answer_all
    await bench.open()
    await bench.until(lambda: len(bench.outbox) == 0)
    first, second, third, fourth = bench.gateway.of(PUBLISH)
    assert [p.dup for p in (first, second, third, fourth)] == [False, False, True, True]
    assert [third.packet_id, fourth.packet_id] == [first.packet_id, second.packet_id]
    for seq in (1, 2):
        entry = bench.book().messages["d", seq]
        assert (entry.sent_count, entry.dup_count) == (2, 1)
        assert entry.acknowledged_ms is not None


async def test_after_pubrec_only_pubrel_is_sent_again(bench: Bench) -> None:
    """[MQTT-4.3.3-6] (3.1.1: 4.3.3): no PUBLISH again once PUBREC was received."""
    bench.gateway.answer = lambda kind, mid: ack(5, mid) if kind == PUBLISH else b""
    await bench.open()
    await bench.send(2)
    await bench.until(lambda: len(bench.gateway.of(PUBREL)) == 1)
    assert bench.book().messages["d", 1].acknowledged_ms is not None
    bench.gateway.drop_all()
    await bench.until(bench.link.closed.is_set)
    bench.gateway.answer = lambda kind, mid: ack(7, mid)
    await bench.open()
    await bench.until(lambda: len(bench.outbox) == 0)
    assert len(bench.gateway.of(PUBLISH)) == 1
    first, second = bench.gateway.of(PUBREL)
    assert first.packet_id == second.packet_id == bench.gateway.of(PUBLISH)[0].packet_id


async def test_failed_attempts_to_reconnect_do_not_forget_pubrec(bench: Bench) -> None:
    """As above: paho by itself sends PUBLISH again, without DUP, after a second attempt."""
    bench.gateway.answer = lambda kind, mid: ack(5, mid) if kind == PUBLISH else b""
    await bench.open()
    await bench.send(2)
    await bench.until(lambda: len(bench.gateway.of(PUBREL)) == 1)
    bench.gateway.drop_all()
    await bench.until(bench.link.closed.is_set)
    port, bench.gateway.port = bench.gateway.port, 1
    for _ in range(3):
        with pytest.raises(LinkError):
            await bench.open()
    bench.gateway.port = port
    bench.gateway.answer = lambda kind, mid: ack(7, mid)
    await bench.open()
    await bench.until(lambda: len(bench.outbox) == 0)
    assert len(bench.gateway.of(PUBLISH)) == 1
    assert len(bench.gateway.of(PUBREL)) == 2


async def test_unanswered_qos_2_keeps_its_packet_id(bench: Bench) -> None:
    """What lets a gateway store it once although it comes twice."""
    await bench.open()
    await bench.send(2, 2)
    await bench.until(lambda: len(bench.gateway.of(PUBLISH)) == 2)
    bench.gateway.drop_all()
    await bench.until(bench.link.closed.is_set)
    bench.gateway.answer = lambda kind, mid: ack(5 if kind == PUBLISH else 7, mid)
    await bench.open()
    await bench.until(lambda: len(bench.outbox) == 0)
    packets = bench.gateway.of(PUBLISH)
    assert [p.dup for p in packets] == [False, False, True, True]
    assert [p.packet_id for p in packets[2:]] == [p.packet_id for p in packets[:2]]


async def test_new_messages_follow_those_sent_again(bench: Bench) -> None:
    """[MQTT-4.6.0-1]: or order within the device would be lost at each reconnect."""
    await bench.open()
    await bench.send(1, 1)
    await bench.until(lambda: len(bench.gateway.of(PUBLISH)) == 2)
    bench.gateway.drop_all()
    await bench.until(bench.link.closed.is_set)
    late = Message(seq=3, topic="a/b", payload=b"3", qos=1, taken_ms=0)
    bench.ledger.published("d", late)
    bench.outbox.offer(late)
    bench.gateway.answer = answer_all
    await bench.open()
    bench.link.pump()
    await bench.until(lambda: len(bench.outbox) == 0)
    assert [p.body[-1:] for p in bench.gateway.of(PUBLISH)[2:]] == [b"1", b"2", b"3"]


async def test_a_session_is_kept_unless_memory_was_lost(bench: Bench) -> None:
    await bench.open()
    await bench.link.close()
    await bench.open(forget=True)
    flags = [packet.body[7] & 2 for packet in bench.gateway.of(CONNECT)]
    if bench.gateway.is_v5:
        assert flags == [0, 2]
    else:
        assert flags == [0, 2, 0]


async def test_close_says_disconnect_and_abort_does_not(bench: Bench) -> None:
    await bench.open()
    await bench.link.close()
    await bench.until(lambda: len(bench.gateway.of(DISCONNECT)) == 1)
    await bench.open()
    bench.link.abort()
    assert bench.link.closed.is_set()
    await asyncio.sleep(0.05)
    assert len(bench.gateway.of(DISCONNECT)) == 1


async def test_a_refused_connection_is_a_link_error(bench: Bench) -> None:
    bench.gateway.connack_code = 0x87 if bench.gateway.is_v5 else 5
    with pytest.raises(LinkError):
        await bench.open()
    assert bench.link.closed.is_set()


async def test_nobody_listening_is_a_link_error(bench: Bench) -> None:
    bench.gateway.port = 1
    with pytest.raises(LinkError):
        await bench.open()


@pytest.mark.parametrize("bench", ["5.0"], indirect=True)
@pytest.mark.parametrize("qos", [1, 2])
async def test_a_refused_message_is_not_acknowledged_and_comes_again(
    bench: Bench, qos: int
) -> None:
    """MQTT 5.0, 3.4.2.1 and 3.5.2.1: a reason code of 0x80 or more ends the packet id's use."""
    refusals = 2

    def answer(kind: int, packet_id: int) -> bytes:
        nonlocal refusals
        if kind == PUBREL:
            return ack(7, packet_id)
        if refusals:
            refusals -= 1
            return ack(4 if qos == 1 else 5, packet_id, 0x97)
        return ack(4 if qos == 1 else 5, packet_id)

    bench.gateway.answer = answer
    await bench.open()
    await bench.send(qos)
    await bench.until(lambda: refusals == 1 and len(bench.gateway.of(PUBLISH)) >= 1)
    assert bench.book().messages["d", 1].acknowledged_ms is None
    await bench.until(bench.is_empty_after_pump)
    entry = bench.book().messages["d", 1]
    assert (entry.refused_count, entry.sent_count) == (2, 3)
    assert entry.acknowledged_ms is not None
    assert not any(packet.dup for packet in bench.gateway.of(PUBLISH))


@pytest.mark.parametrize("bench", ["3.1.1"], indirect=True)
async def test_3_1_1_firmware_may_send_again_on_the_same_connection(bench: Bench) -> None:
    await bench.open()
    await bench.send(1)
    await bench.until(lambda: len(bench.gateway.of(PUBLISH)) == 1)
    bench.link.resend(older_than_ms=2**60)
    await bench.until(lambda: len(bench.gateway.of(PUBLISH)) == 2)
    assert bench.gateway.of(PUBLISH)[1].dup
    assert len(bench.gateway.of(CONNECT)) == 1
