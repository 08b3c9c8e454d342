"""A seeded life of a log on a simulated disk, and a model that says what must be there.

`World` drives the log as its shells do, in one thread: rounds are appended, cut, written and made
durable, tails are sealed, checkpoints written, segments removed, the log closed and opened again,
in an order that its seed decides, until the disk ends it. Then the log is opened on what is left,
and compared with the model.

The model knows the rounds that were acknowledged, and those that were cut and not acknowledged.
What recovery finds must be exactly the acknowledged rounds and then the first k of the others, for
some k: so nothing is lost or invented, records and state of a round are there together or not at
all, and order holds. What was found counts as acknowledged from then on, for a reader may have
acted on it: it must be there after every later power cut, too.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from log.errors import LogFailed, LogFull
from log.files import Files
from log.limits import LogLimits
from log.partition import Partition
from log.record_batch import Record, RecordTemplate, decode_batch
from log.scan import Selection
from log.store import Frame, Log
from log.streams import Retention, StreamSpec
from tests.log.model import Content, Model, Round, check
from tests.log.simulated_disk import PowerCut, SimulatedDisk

LIMITS = LogLimits(
    journal_bytes=128 * 1024,
    journal_reserve_bytes=16 * 1024,
    frame_bytes_max=16 * 1024,
    tail_bytes_max=64 * 1024,
    chunk_bytes_max=2 * 1024,
    chunk_records_max=16,
    record_bytes_max=6 * 1024,
    seal_bytes=3 * 1024,
    segment_bytes_max=4 * 1024,
    index_interval_bytes=512,
    topic_index_bytes=6000,
)
STREAMS = (
    StreamSpec(name="a", partition_count=2, retention=Retention(bytes_max=6 * 1024)),
    StreamSpec(
        name="b",
        partition_count=1,
        retention=Retention(bytes_max=5 * 1024, age_ms_max=60_000, keep_unreplicated=False),
    ),
)
TOPICS = [b"a/b", b"", *(b"topic/%d" % number for number in range(20))]
DIRECTORY = Path("/disk/data")
UPLINK = "uplink"


class World:
    """One log, one disk, one model. `run` lives until the disk stops it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.disk = SimulatedDisk(random.Random(seed + 1))
        self.model = Model()
        self.now_ms = 1_700_000_000_000
        self.round = Round()
        self.cut_rounds: list[tuple[Frame | None, Round]] = []
        """Cut, not acknowledged; oldest first."""
        self.log: Log | None = None
        self.did: Counter[str] = Counter()
        self.counter = 0

    def files(self) -> Files:
        return self.disk

    @property
    def opened(self) -> Log:
        assert self.log is not None
        return self.log

    # -- living and dying

    def open(self) -> Log:
        log = Log.open(
            DIRECTORY,
            STREAMS,
            limits=LIMITS,
            files=self.files(),
            now_ms=lambda: self.now_ms,
            required_cursors=frozenset({UPLINK}),
        )
        self.log = log
        return log

    def live(self, steps: int) -> None:
        """Takes that many steps. PowerCut when the disk says so; LogFailed after a failed write."""
        assert self.log is not None
        actions: list[tuple[Callable[[Log], object], int]] = [
            (self.append, 40),
            (self.receive_exactly_once, 10),
            (self.put_state, 8),
            (self.move_cursor, 6),
            (self.commit, 30),
            (self.seal, 8),
            (self.checkpoint, 4),
            (self.retain, 4),
            (self.read, 4),
            (self.index_topics, 4),
            (self.close_chunk, 3),
            (self.restart, 1),
        ]
        for _ in range(steps):
            action = self.rng.choices([a for a, _ in actions], [w for _, w in actions])[0]
            self.now_ms += self.rng.choice((0, 0, 1, 7, 1500, -20, 30_000))
            try:
                action(self.log)
                self.close_big_round(self.log)
                self.did[action.__name__] += 1
            except OSError as error:
                # Of a segment, a checkpoint or a read: the caller tries again later.
                assert error.errno in (errno.EIO, errno.ENOSPC), error
                if self.log is None:
                    raise  # while it was closed, or opened again
                self.log.stalled = str(error) if error.errno == errno.ENOSPC else ""
                self.did["disk error"] += 1

    def recover(self) -> None:
        """Opens what is left, and says whether it is what must be there. AssertionError."""
        before = self.cut_rounds
        log = self.open()
        assert log.recovery.lost == [], log.recovery
        assert log.recovery.journal_damage == [], log.recovery
        assert log.recovery.checkpoint_problems == [], log.recovery
        found = {
            (p.stream, p.index): p.durable_end for p in log.partitions.values() if p.durable_end
        }
        state = dict(log.scan_state(b""))
        for survived in range(len(before) + 1):
            if survived:
                self.model.add(before[survived - 1][1])
            if self.model.ends() == found and self.model.state == state:
                break
        else:
            raise AssertionError(
                f"recovered {found} {state};\nacknowledged and then {len(before)} rounds:"
                f" {self.model.ends()} {self.model.state}"
            )
        self.round = Round()
        self.cut_rounds = []
        self.check_contents(log)

    def check_contents(self, log: Log) -> None:
        """Every record that is still there, by both ways of reading."""
        assert log.tail_bytes == sum(p.tail.bytes for p in log.partitions.values())
        for partition in log.partitions.values():
            expected = self.model.records.get((partition.stream, partition.index), [])
            start = partition.start_offset
            assert partition.end_offset == partition.durable_end == len(expected)
            assert start == 0 or start <= len(expected)
            if partition.spec.retention.keep_unreplicated:
                assert start <= (log.cursor(UPLINK, partition) or 0), "unreplicated data removed"
            self.check_range(partition, start, len(expected))

    def check_range(self, partition: Partition, offset: int, end: int) -> None:
        """By some of the ways of reading."""
        expected = self.model.records.get((partition.stream, partition.index), [])[offset:end]
        ways = self.rng.randint(1, 7)
        if ways & 1:
            check(partition.records(offset, count_max=end - offset), offset, expected)
        if ways & 2:
            check(self.read_batches(partition, offset, end), offset, expected)
        if ways & 4:
            self.check_scan(partition, offset, end, expected)

    def check_scan(
        self, partition: Partition, offset: int, end: int, expected: list[Content]
    ) -> None:
        """What the topic index, or its absence, lets a scan find: all of some topics, in order."""
        wanted = set(self.rng.sample(TOPICS, self.rng.choice((1, 1, 4))))
        selection = Selection(wanted.__contains__)
        bytes_max = self.rng.choice((1, 3000, 1 << 20))
        read: list[Record] = []
        at = offset
        while at < end:
            scan = partition.scan(at, selection, bytes_max=bytes_max)
            assert at < scan.next_offset <= partition.durable_end
            read += [record for record in scan.records if record.offset < end]
            at = scan.next_offset
        assert [(r.offset, r.timestamp_ms, r.key, r.value, r.headers) for r in read] == [
            (offset + number, *content)
            for number, content in enumerate(expected)
            if content[3] and content[3][0][1] in wanted - {b""}
        ]
        self.did["scanned records"] += len(read)

    def read_batches(self, partition: Partition, offset: int, end: int) -> list[Record]:
        read: list[Record] = []
        first = offset
        bytes_max = self.rng.choice((1, 3000, 1 << 20))
        while offset < end:
            batches = partition.read(offset, bytes_max=bytes_max)
            assert batches, f"nothing at {offset} of {partition}"
            assert batches[0].base_offset <= offset <= batches[0].last_offset
            for batch in batches:
                read += decode_batch(batch.data)
                offset = batch.last_offset + 1
        return [record for record in read if first <= record.offset < end]

    # -- what the shells do

    def some_partition(self, log: Log) -> Partition:
        return self.rng.choice(list(log.partitions.values()))

    def append(self, log: Log, *, count: int | None = None) -> int:
        partition = self.some_partition(log)
        count = count or self.rng.choice((1, 1, 2, 5, 40))
        size = self.rng.choice((0, 10, 63, 64, 300, 2500, 5000) if count < 5 else (0, 10, 64, 300))
        values = []
        for _ in range(count):
            self.counter += 1
            values.append(b"%d:" % self.counter + self.rng.randbytes(size))
        key = self.rng.choice((None, b"", b"device-1"))
        topic = self.rng.choice(TOPICS)
        headers = self.rng.choice(((), ((b"mqtt.topic", topic), (b"mqtt.dup", b""))))
        end = partition.end_offset
        template = RecordTemplate(key, headers)
        try:
            if self.rng.random() < 0.5:
                first = log.append(partition, template, values)
            else:  # as the server does, cut into runs anyhow
                first = end
                at = self.rng.randint(0, count)
                runs = [(template, [value]) for value in values[:at]]
                if values[at:]:
                    runs.append((template, values[at:]))
                log.append_runs(partition, runs)
        except LogFull:
            assert log.stalled
            return -1
        assert first == end
        name = (partition.stream, partition.index)
        contents = [(self.now_ms, key, value, headers) for value in values]
        self.round.records.setdefault(name, []).extend(contents)
        self.did["records"] += count
        return first

    def close_big_round(self, log: Log) -> None:
        """As the committer does, so that no frame grows over its bound."""
        if log.round_bytes >= log.frame_bytes_max and not self.cut(log):
            self.make_room(log)

    def receive_exactly_once(self, log: Log) -> None:
        """A QoS 2 PUBLISH: the packet id is there if, and only if, the record is."""
        offset = self.append(log, count=1)
        if offset >= 0:
            self.put(log, b"qos2/%d" % self.rng.randrange(20), b"%d" % offset)

    def put(self, log: Log, key: bytes, value: bytes | None) -> None:
        log.put_state(key, value)
        self.round.changes[key] = value

    def put_state(self, log: Log) -> None:
        value = self.rng.choice((None, b"", b"%d" % self.counter))
        self.put(log, b"key/%d" % self.rng.randrange(12), value)

    def move_cursor(self, log: Log) -> None:
        partition = self.some_partition(log)
        low = log.cursor(UPLINK, partition) or 0
        offset = self.rng.randint(low, partition.durable_end)
        log.set_cursor(UPLINK, partition, offset)
        key = f"cursor/{UPLINK}/{partition.stream}/{partition.index}".encode()
        self.round.changes[key] = offset.to_bytes(8, "big")

    def cut(self, log: Log) -> bool:
        """Whether the round has its place in the journal, or there was none to place."""
        if log.round_empty:
            return True
        frame = log.cut()
        if frame is None:
            return False
        self.cut_rounds.append((frame, self.round))
        self.round = Round()
        return True

    def commit(self, log: Log) -> None:
        if not self.cut(log):
            self.make_room(log)
        if self.rng.random() < 0.3:  # the disk is busy, the next round is closed, too
            self.append(log)
            self.cut(log)
            return
        if self.cut_rounds:
            self.write(log)
            if self.rng.random() < 0.2:  # the loop is busy: durable, and nobody knows yet
                self.append(log)
            self.acknowledge(log)

    def write(self, log: Log) -> None:
        try:
            log.write([frame for frame, _ in self.cut_rounds if frame])
        except OSError as error:
            raise log.fail(error) from error

    def acknowledge(self, log: Log) -> None:
        log.durable([frame for frame, _ in self.cut_rounds if frame])
        for _, done in self.cut_rounds:
            self.model.add(done)
        self.cut_rounds = []
        assert log.tail_bytes == sum(p.tail.bytes for p in log.partitions.values())
        assert log.in_flight_bytes == 0

    def seal(self, log: Log) -> None:
        partition = self.some_partition(log)
        job = partition.seal_job(close_open=self.rng.random() < 0.5)
        if job is None:
            return
        while self.rng.random() < 0.3:  # ingest goes on while the worker seals
            self.append(log)
            if self.cut(log) and self.cut_rounds:
                self.write(log)
                self.acknowledge(log)
        log.sealed(partition, partition.write_sealed(job))
        log.stalled = ""

    def index_topics(self, log: Log) -> None:
        if self.some_partition(log).index_topics():
            self.did["index steps"] += 1

    def checkpoint(self, log: Log) -> None:
        checkpoint = log.checkpoint()
        while self.rng.random() < 0.3:
            self.append(log)
            if self.cut(log) and self.cut_rounds:
                self.write(log)
                self.acknowledge(log)
        log.checkpointed(log.write_checkpoint(checkpoint))

    def make_room(self, log: Log) -> None:
        """The journal is full. What the housekeeper does must make room, whatever is open."""
        for _ in range(2):
            if self.cut_rounds:
                self.write(log)
                self.acknowledge(log)
            for partition in log.partitions.values():
                job = partition.seal_job(close_open=True)
                if job:
                    log.sealed(partition, partition.write_sealed(job))
        log.stalled = ""
        log.checkpointed(log.write_checkpoint(log.checkpoint()))
        assert self.cut(log), "the journal is stuck"
        self.did["made room"] += 1

    def retain(self, log: Log) -> None:
        if log.expire():
            self.did["removed"] += log.delete_expired()

    def read(self, log: Log) -> None:
        partition = self.some_partition(log)
        start, end = partition.start_offset, partition.durable_end
        if start < end:
            offset = self.rng.randrange(start, end)
            self.check_range(partition, offset, self.rng.randint(offset, end))

    def close_chunk(self, log: Log) -> None:
        """The bridge takes what is there as a whole batch."""
        self.some_partition(log).close_open_chunk()

    def restart(self, log: Log) -> None:
        """A clean stop: nothing is left to replay."""
        if self.round != Round() and not self.cut(log):
            self.make_room(log)
        if self.cut_rounds:
            self.write(log)
            self.acknowledge(log)
        self.log = None
        log.close()
        assert self.disk.open_handle_count == 0, "handles are left open"
        self.recover()
        report = self.opened.recovery
        assert report.lines() == [], report  # an unfinished frame may be left of a crash before
        assert report.records_replayed == 0


def lives(world: World, crashes: int, *, errors: bool) -> int:
    """Lets `world` live through that many crashes; gives how many there were.

    With `errors`, calls also fail now and then, or the disk is full for a while.
    """
    rng, disk = world.rng, world.disk
    happened = 0
    while happened < crashes:
        disk.turn_on()
        disk.stop = rng.choice((disk.cut_power, disk.cut_power, disk.kill))
        disk.room_bytes = None
        at_once = rng.random() < 0.35  # else when it is open
        if at_once:
            _expect_trouble(world, errors=errors, calls=200)
        try:
            world.recover()
            if not at_once:
                _expect_trouble(world, errors=errors, calls=rng.choice((20, 200, 1500)))
            world.live(5000)
        except PowerCut:
            happened += 1
        except LogFailed:
            world.did["journal failed"] += 1
            happened += 1
            disk.stop()
        except OSError:
            # From closing or opening: the operator starts again.
            world.did["open failed"] += 1
            disk.stop()
    disk.turn_on()
    disk.room_bytes = None
    world.recover()
    return happened


def _expect_trouble(world: World, *, errors: bool, calls: int) -> None:
    rng, disk = world.rng, world.disk
    disk.cut_in = rng.randint(1, calls)
    if errors and rng.random() < 0.7:
        disk.fail_in = rng.randint(1, calls)
        disk.fail_with = rng.choice((errno.EIO, errno.EIO, errno.ENOSPC))
    if errors and rng.random() < 0.2:
        disk.room_bytes = rng.randint(0, 200_000)
