"""A broker without sockets or a thread: the log is real, commits are made by hand.

`World.client()` gives a client core, made of the codec alone, that stands back to back with the
server's: what one writes the other reads.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from gateway.ingest import Ingest
from gateway.limits import MqttLimits
from gateway.mqtt.authentication import Authenticator
from gateway.mqtt.broker import Broker
from gateway.mqtt.connection import Connection
from gateway.mqtt.dead_letters import DEAD_LETTERS_SPEC
from gateway.mqtt.decode import Frame, decode_packet, next_frame
from gateway.mqtt.encode import encode_packet
from gateway.mqtt.packets import LEVEL_5_0, ConnAck, Connect, Packet, Will
from gateway.mqtt.properties import NO_PROPERTIES, Properties
from gateway.mqtt.retained import RetainedTable
from gateway.mqtt.sys_publisher import SysPublisher
from gateway.mqtt.wire import Reader
from gateway.routing import Router
from log import DiskFiles, Log, LogFailed, LogLimits, Participant, Record, StreamSpec

T = TypeVar("T")

WALL_MS = 1_700_000_000_000
"""The wall clock when the broker's clock is 0."""


class QuickFiles(DiskFiles):
    """Syncs nothing: what these tests call a crash loses the process, not the disk."""

    def datasync(self, handle: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


class HandCommitter:
    """`commit` does what the committer does in a turn: cut, write, durable."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._relief: list[Callable[[], None]] = []
        self._preparers: list[Callable[[], None]] = []
        self.participants: list[Participant] = []
        self.congested = False
        self.requested = False

    def request(self) -> None:
        self.requested = True

    request_later = request

    def add_preparer(self, callback: Callable[[], None]) -> None:
        self._preparers.append(callback)

    def on_relief(self, callback: Callable[[], None]) -> None:
        self._relief.append(callback)

    def relieve(self) -> None:
        self.congested = False
        callbacks, self._relief = self._relief, []
        for callback in callbacks:
            callback()

    async def flush(self) -> None:
        self.commit()

    def commit(self) -> None:
        while self.requested:
            self.requested = False
            frame, token = self.cut()
            self.make_durable(frame, token)

    def cut(self) -> tuple[Any, Any]:
        for prepare in self._preparers:
            prepare()
        frame = self._log.cut()
        return frame, [each.cut() for each in self.participants]

    def make_durable(self, frame: Any, token: Any) -> None:
        if frame is not None:
            self._log.write([frame])
            self._log.durable([frame])
        for participant, each in zip(self.participants, token, strict=True):
            if each is not None:
                participant.durable(each)

    def fail(self) -> None:
        error = self._log.fail(OSError(5, "Input/output error"))
        assert isinstance(error, LogFailed)
        for participant in self.participants:
            participant.failed(error)


class HandWorker:
    """Jobs are done at once, or kept while `is_slow` until `work`."""

    def __init__(self) -> None:
        self.is_slow = False
        self._jobs: list[Callable[[], None]] = []

    def submit(
        self, job: Callable[[], T], done: Callable[[T], None], failed: Callable[[Exception], None]
    ) -> None:
        def run() -> None:
            try:
                result = job()
            except Exception as error:
                failed(error)
            else:
                done(result)

        if self.is_slow:
            self._jobs.append(run)
        else:
            run()

    def work(self) -> None:
        """All that was given till now, and what comes of it."""
        while self._jobs:
            self._jobs.pop(0)()


class Events:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def client_connected(self, client_id: str, *, level: int, peer: str, keep_alive_s: int) -> None:
        self.seen.append(("connected", client_id, level, keep_alive_s))

    def client_disconnected(self, client_id: str, *, clean: bool) -> None:
        self.seen.append(("disconnected", client_id, clean))

    def message_seen(self, client_id: str, topic: str, payload: bytes) -> None:
        self.seen.append(("message", client_id, topic, payload))


OPEN_WORLDS: "list[World]" = []
"""For conftest.py, which closes them after each test."""


class World:
    """A log, a broker and a clock. `restart` is kill -9: what was not committed is gone."""

    def __init__(self, directory: Path, *, partition_count: int = 3, **limits: int) -> None:
        self.directory = directory
        self.partition_count = partition_count
        self.limits = MqttLimits(**limits)
        self.now_ms = 1_000_000
        self.events = Events()
        self.authenticator: Authenticator | None = None
        self._open()

    def _open(self) -> None:
        OPEN_WORLDS.append(self)
        spec = StreamSpec(name="mqtt", partition_count=self.partition_count)
        self.log = Log.open(
            self.directory,
            [spec, DEAD_LETTERS_SPEC],
            limits=LogLimits(journal_bytes=8 << 20, journal_reserve_bytes=1 << 20),
            files=QuickFiles(),
            now_ms=lambda: WALL_MS + self.now_ms,
        )
        self.turns: list[Callable[[], None]] = []
        self.committer = HandCommitter(self.log)
        self.worker = HandWorker()
        self.retained = RetainedTable(self.log, self.limits, self.worker, self.directory)
        self.retained.request = self.committer.request
        self.retained.open()
        self.broker = Broker(
            log=self.log,
            ingest=Ingest(self.log, Router({"mqtt": self.partition_count})),
            committer=self.committer,
            retained=self.retained,
            limits=self.limits,
            now_ms=lambda: self.now_ms,
            rng=Random(4),
            listener=self.events,
        )
        self.broker.sys = SysPublisher(self.broker, self.log, "1.2", 10_000)
        self.committer.participants = [self.broker, self.retained]
        self.broker.catchup.pace.call_later = lambda _, turn: self.turns.append(turn)

    def restart(self) -> None:
        self.close()
        self._open()

    def close(self) -> None:
        """Its descriptors: a thousand tests would leave none for the next."""
        if self in OPEN_WORLDS:
            OPEN_WORLDS.remove(self)
            self.retained.abandon()
            self.log.close()

    def commit(self) -> None:
        """All that the loop would do without anything more from outside."""
        self.committer.commit()
        while self.turns:
            turns, self.turns = self.turns, []
            self.broker.catchup.pace.call_later = lambda _, turn: self.turns.append(turn)
            for turn in turns:
                turn()
            self.committer.commit()

    def pass_seconds(self, seconds: float) -> None:
        """Lets time go by, with a sweep each second."""
        left = seconds
        while left > 0:
            step = min(1.0, left)
            left -= step
            self.now_ms += int(step * 1000)
            self.broker.sweep(self.now_ms)
            self.retained.sweep()

    def client(self, level: int = LEVEL_5_0) -> "Client":
        return Client(self, level)

    def connected(self, client_id: str = "device", level: int = LEVEL_5_0, **how: Any) -> "Client":
        client = self.client(level)
        answer = client.connect(client_id, **how)
        assert answer.code == 0, answer
        return client

    def records(self) -> list[Record]:
        """All that is durable, partition by partition."""
        return [
            record
            for partition in self.log.streams["mqtt"].partitions
            for record in partition.records(0, count_max=100_000)
        ]

    def values(self) -> list[bytes]:
        return [record.value or b"" for record in self.records()]


class Client:
    """A client core, and the wire of the connection it talks to."""

    def __init__(self, world: World, level: int) -> None:
        self.world = world
        self.level = level
        self.peer = "test"
        self.output = b""
        self.is_closed = False
        self.is_paused = False
        self.connection = Connection(self, world.broker, world.authenticator)
        self.connection.opened()

    # the wire, as the server's core sees it

    def write(self, data: bytes) -> None:
        assert not self.is_closed, "written after close"
        self.output += data

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False

    # the client

    def send(self, *packets: Packet) -> None:
        self.send_bytes(b"".join(encode_packet(packet, self.level) for packet in packets))

    def send_bytes(self, data: bytes) -> None:
        self.connection.receive(data)

    def lose(self) -> None:
        """The network is cut."""
        self.connection.lost()

    def got(self) -> list[Packet]:
        """What the server has sent since the last call."""
        data, self.output = self.output, b""
        packets: list[Packet] = []
        position = 0
        while position < len(data):
            frame = next_frame(data, position, len(data), 1 << 28)
            assert isinstance(frame, Frame), "the server sent half a packet"
            reader = Reader(data, frame.start, frame.stop)
            packets.append(decode_packet(frame.first_byte, reader, self.level))
            position = frame.stop
        return packets

    def committed(self) -> list[Packet]:
        """What it sends once all is durable."""
        self.world.commit()
        return self.got()

    def connect(
        self,
        client_id: str = "device",
        *,
        clean: bool = True,
        keep_alive_s: int = 0,
        will: Will | None = None,
        properties: Properties = NO_PROPERTIES,
    ) -> ConnAck:
        self.send(
            Connect(
                level=self.level,
                client_id=client_id,
                clean_start=clean,
                keep_alive_s=keep_alive_s,
                will=will,
                properties=properties,
            )
        )
        self.world.commit()
        data = self.output
        answer, *rest = self.got()
        assert isinstance(answer, ConnAck), answer
        self.output = data[len(data) - _size(rest, self.level) :] if rest else b""
        return answer


def _size(packets: list[Packet], level: int) -> int:
    return sum(len(encode_packet(packet, level)) for packet in packets)
