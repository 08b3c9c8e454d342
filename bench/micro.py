"""The hot path in pieces, CPU µs a record: to find which piece made a whole number worse.

One thread, one partition unless said, 64-byte values with a key and a topic header, on a real disk.
No peer, no socket, and waiting for the disk is not counted: compare with an earlier revision on the
same machine, and with nothing else.
"""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.backlog import LogDriver, driven_log, store
from bench.machine import choose_cores
from bench.readings import make_devices, readings
from bench.report import Report, Sample, Table, begin, parser
from devices import DeviceTable, preview
from log import Log, LogLimits, RecordTemplate, StoredBatch, decode_batch, rebatch, stamp_producer
from tests.mqtt.world import World

_VALUE = b"x" * 64
_TEMPLATE = RecordTemplate(b"load-1234-56", ((b"mqtt.topic", b"bench/dev/56/temp"),))
_NEVER_SEAL = LogLimits(seal_bytes=1 << 40, tail_bytes_max=1 << 40)
_READ_BYTES = 1 << 20

Step = tuple[str, Callable[[Path, int], tuple[float, int]]]


def append_runs_of(run_count: int) -> Callable[[Path, int], tuple[float, int]]:
    """`log.append` alone: the commit between rounds is not counted."""

    def step(data: Path, count: int) -> tuple[float, int]:
        values = [_VALUE] * run_count
        calls = max(1, 2_000 // run_count)
        spent_s = 0.0
        done = 0
        with driven_log(data, partition_count=1) as driver:
            append, partition = driver.log.append, driver.partitions[0]
            while done < count:
                began = time.process_time()
                for _ in range(calls):
                    append(partition, _TEMPLATE, values)
                spent_s += time.process_time() - began
                done += calls * run_count
                driver.commit()
        return spent_s, done

    return step


def commit_rounds_of(
    round_count: int, partition_count: int
) -> Callable[[Path, int], tuple[float, int]]:
    """cut + write + durable, without append."""

    def step(data: Path, count: int) -> tuple[float, int]:
        each_count = round_count // partition_count
        spent_s = 0.0
        done = 0
        with driven_log(data, partition_count=partition_count) as driver:
            log = driver.log
            while done < count:
                for partition in driver.partitions:
                    log.append(partition, _TEMPLATE, [_VALUE] * each_count)
                began = time.process_time()
                frame = log.cut()
                if frame is not None:
                    log.write([frame])
                    log.durable([frame])
                spent_s += time.process_time() - began
                done += each_count * partition_count
                driver.commit()
        return spent_s, done

    return step


def seal(data: Path, count: int) -> tuple[float, int]:
    """From the tail to a synced segment: merge, zstd, append, fdatasync."""
    with driven_log(data, partition_count=1, limits=_NEVER_SEAL) as driver:
        _fill(driver, min(count, 300_000))
        partition = driver.partitions[0]
        end = partition.durable_end
        began = time.process_time()
        driver.seal(lambda _: True, close_open=True)
        return time.process_time() - began, end


def recover_journal(data: Path, count: int) -> tuple[float, int]:
    """Opening a log that was killed with all records in its journal."""
    count = min(count, 300_000)
    driver = LogDriver(data, partition_count=1, limits=_NEVER_SEAL)
    _fill(driver, count)
    copy = data.with_name("killed")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(data, copy)
    driver.log.close()
    began = time.process_time()
    recovered = LogDriver(copy, partition_count=1, limits=_NEVER_SEAL)
    spent_s = time.process_time() - began
    replayed = recovered.log.recovery.records_replayed
    recovered.log.close()
    shutil.rmtree(copy)
    return spent_s, replayed


def read_batches(data: Path, count: int) -> tuple[float, int]:
    """partition.read of sealed batches as stored: what the bridge does with a backlog."""
    return _over_backlog(data, count, lambda batches: sum(each.record_count for each in batches))


def read_and_decode(data: Path, count: int) -> tuple[float, int]:
    """The same, with every record decoded: what a consumer costs."""
    return _over_backlog(
        data, count, lambda batches: sum(len(decode_batch(each.data)) for each in batches)
    )


def read_and_stamp(data: Path, count: int) -> tuple[float, int]:
    """The same, with producer id and CRC put in: what the bridge does to a stored batch."""

    def stamp(batches: Sequence[StoredBatch]) -> int:
        done = 0
        for batch in batches:
            stamp_producer(batch.data, producer_id=1, producer_epoch=0, base_sequence=done)
            done += batch.record_count
        return done

    return _over_backlog(data, count, stamp)


def merge_small_batches(data: Path, count: int) -> tuple[float, int]:
    """rebatch of batches of ten into hundreds: what a quiet fleet's tail costs the bridge."""
    count = min(count, 50_000)
    with driven_log(data, partition_count=1) as driver:
        partition = driver.partitions[0]
        for _ in range(0, count, 10):
            driver.log.append(partition, _TEMPLATE, [_VALUE] * 10)
            partition.close_open_chunk()
        driver.commit()
        batches = partition.read(0, bytes_max=1 << 30)
        began = time.process_time()
        for start in range(0, len(batches), 50):
            group = batches[start : start + 50]
            rebatch(group, first_offset=group[0].base_offset, compression_level=1)
        return time.process_time() - began, sum(each.record_count for each in batches)


def mqtt_rounds_of(connections: int, window: int) -> Callable[[Path, int], tuple[float, int]]:
    """QoS 1 from bytes read to PUBACKs written: the gateway without sockets, threads, fdatasync."""

    def step(data: Path, count: int) -> tuple[float, int]:
        world = World(data, partition_count=4)
        clients = [world.connected(f"load-{i}", level=4) for i in range(connections)]
        reads = [
            b"".join(
                _publish(f"bench/dev/{i}/temp", packet_id) for packet_id in range(1, window + 1)
            )
            for i in range(connections)
        ]
        spent_s = 0.0
        done = 0
        while done < count:
            began = time.process_time()
            for client, read in zip(clients, reads, strict=True):
                client.connection.receive(read)
            world.commit()
            spent_s += time.process_time() - began
            done += connections * window
            _make_room(world.log)
            for client in clients:
                assert len(client.output) == 4 * window, "a PUBACK for each"
                client.output = b""
        world.log.close()
        return spent_s, done

    return step


def _publish(topic: str, packet_id: int) -> bytes:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + packet_id.to_bytes(2, "big") + _VALUE
    assert len(body) < 128, "one byte of remaining length"
    return bytes((0x32, len(body))) + body


def _make_room(log: Log) -> None:
    if log.journal.used_bytes * 2 > log.journal.capacity_bytes:
        for partition in log.partitions.values():
            job = partition.seal_job(close_open=True)
            if job is not None:
                log.sealed(partition, partition.write_sealed(job))
        log.checkpointed(log.write_checkpoint(log.checkpoint()))


def device_table(data: Path, count: int) -> tuple[float, int]:
    """DeviceTable.message_seen."""
    seen = DeviceTable().message_seen
    began = time.process_time()
    for _ in range(count):
        seen("load-1234-56", "bench/dev/56/temp", _VALUE, now_ms=5)
    return time.process_time() - began, count


def preview_readings(data: Path, count: int) -> tuple[float, int]:
    """One CBOR reading decoded for display."""
    count = min(count, 20_000)
    payloads = [
        each.payload for each in readings(make_devices(50), count, start_ms=0, interval_ms=1_000)
    ]
    began = time.process_time()
    for payload in payloads:
        preview(payload)
    return time.process_time() - began, count


def _fill(driver: LogDriver, count: int) -> None:
    driver.clock_ms = time.time_ns() // 1_000_000
    for _ in range(0, count, 1_000):
        driver.log.append(driver.partitions[0], _TEMPLATE, [_VALUE] * 1_000)
        driver.commit()


def _over_backlog(
    data: Path, count: int, use: Callable[[Sequence[StoredBatch]], int]
) -> tuple[float, int]:
    count = min(count, 200_000)
    with driven_log(data, partition_count=1) as driver:
        store(driver, readings(make_devices(200), count, start_ms=0, interval_ms=1_000))
        driver.seal(lambda _: True, close_open=True)
        partition = driver.partitions[0]
        offset, done = partition.start_offset, 0
        began = time.process_time()
        while batches := partition.read(offset, bytes_max=_READ_BYTES):
            done += use(batches)
            offset = batches[-1].last_offset + 1
        return time.process_time() - began, done


STEPS: Sequence[Step] = (
    ("append, runs of 1", append_runs_of(1)),
    ("append, runs of 20", append_runs_of(20)),
    ("append, runs of 200", append_runs_of(200)),
    ("commit, rounds of 200, 1 partition", commit_rounds_of(200, 1)),
    ("commit, rounds of 2,000, 1 partition", commit_rounds_of(2_000, 1)),
    ("commit, rounds of 2,000, 16 partitions", commit_rounds_of(2_000, 16)),
    ("MQTT, 1 x 200 in flight", mqtt_rounds_of(1, 200)),
    ("MQTT, 100 x 20 in flight", mqtt_rounds_of(100, 20)),
    ("MQTT, 100 x 1 in flight", mqtt_rounds_of(100, 1)),
    ("MQTT, 1000 x 1 in flight", mqtt_rounds_of(1_000, 1)),
    ("seal", seal),
    ("recover from the journal", recover_journal),
    ("read as stored", read_batches),
    ("read and stamp for Kafka", read_and_stamp),
    ("read and decode", read_and_decode),
    ("merge batches of 10 into 500", merge_small_batches),
    ("device table, message seen", device_table),
    ("preview of a CBOR reading", preview_readings),
)


def main(argv: Sequence[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("--count", type=int, default=None, help="records of a step")
    arguments = made.parse_args(argv)
    if arguments.count is None:
        arguments.count = 5_000 if arguments.quick else 400_000
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    report, directory = begin("micro", arguments)
    report.table(measure(report, directory / "micro", arguments.count, arguments.repetitions))
    report.finish()


def measure(report: Report, directory: Path, count: int, repetitions: int) -> Table:
    os.sched_setaffinity(0, {choose_cores().server})
    taken: dict[str, list[float]] = {name: [] for name, _ in STEPS}
    for repetition in range(repetitions):
        for name, step in STEPS:
            shutil.rmtree(directory, ignore_errors=True)
            gc.collect()
            spent_s, done = step(directory / "data", count)
            taken[name].append(spent_s * 1e6 / done)
            report.measured(
                step=name, repetition=repetition, us=round(taken[name][-1], 4), count=done
            )
    shutil.rmtree(directory, ignore_errors=True)
    table = Table("CPU µs a record: median (lowest-highest)", ("step", "µs"))
    for name, values in taken.items():
        table.add(name, Sample.of(values).shown(digits=3))
    return table


if __name__ == "__main__":
    main()
