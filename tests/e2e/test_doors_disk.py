"""Bad input at the disk's door of a whole gateway: damaged files, a full disk, a failing disk.

Each ends in a named event or reason code; and nothing acknowledged is lost, except where the test
itself has destroyed the only copy: then the gateway says which records.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from log import Log, StreamSpec
from tests.e2e.raw_mqtt import PUBACK, V5, V311, RawClient, publish_packet
from tests.rigs import GatewayFailed, GatewayProcess, need_strace, wait_for

CONFIG = """\
[stream.mqtt]
partitions = 1
[log]
seal_age_ms = 300
checkpoint_age_ms = 300
"""
NO_SEALING = """\
[stream.mqtt]
partitions = 1
"""


def gateway_in(
    tmp_path: Path, config: str = CONFIG, *, prefix: tuple[str, ...] = ()
) -> GatewayProcess:
    file = tmp_path / "gateway.toml"
    file.write_text(config)
    return GatewayProcess(tmp_path / "data", config=file, prefix=prefix)


def acknowledge(gateway: GatewayProcess, first: int, count: int) -> None:
    with RawClient(gateway.port) as client:
        client.connect("device", V5)
        for number in range(first, first + count):
            client.publish("a/b", b"%d" % number, V5, packet_id=number + 1)


def stored(gateway: GatewayProcess) -> list[int]:
    """Of an ended gateway, in order."""
    log = Log.open(gateway.data_dir, [StreamSpec(name="mqtt", partition_count=1)])
    partition = log.partition("mqtt", 0)
    values = [int(record.value or b"") for record in partition.records(0, count_max=100_000)]
    log.close()
    return values


def segment(gateway: GatewayProcess) -> Path:
    return gateway.data_dir / "streams" / "mqtt-0" / f"{0:020d}.log"


def wait_until_sealed(gateway: GatewayProcess, *, beyond_bytes: int = 0) -> None:
    wait_for(
        lambda: segment(gateway).stat().st_size > beyond_bytes, timeout=10, what="a sealed batch"
    )
    # The checkpoint follows the seal.
    time.sleep(1.5)


def flip(file: Path, position: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(position)
        byte = opened.read(1)[0]
        opened.seek(position)
        opened.write(bytes((byte ^ 0xFF,)))


def position_of(file: Path, text: bytes) -> int:
    position = file.read_bytes().rfind(text)
    assert position > 0, f"{text!r} is not in {file.name}"
    return position


def test_corrupt_journal_frame_is_reported_and_all_others_are_kept(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, NO_SEALING)
    gateway.start()
    acknowledge(gateway, 1000, 20)
    gateway.kill()
    flip(gateway.data_dir / "journal", position_of(gateway.data_dir / "journal", b"1010"))
    gateway.start()
    said = gateway.output_since_start()
    assert "clean=False" in said
    assert "log.recovery_found what=journal damaged" in said
    acknowledge(gateway, 2000, 5)
    assert gateway.terminate() == 0
    expected = [n for n in range(1000, 1020) if n != 1010] + list(range(2000, 2005))
    assert stored(gateway) == expected


def test_torn_last_frame_is_cut_and_what_was_acknowledged_is_kept(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path, NO_SEALING)
    gateway.start()
    acknowledge(gateway, 1000, 20)
    gateway.kill()
    # As if power had failed in the write of a frame: the last one's payload never arrived.
    flip(gateway.data_dir / "journal", position_of(gateway.data_dir / "journal", b"1019"))
    gateway.start()
    said = gateway.output_since_start()
    assert "torn_frame=True" in said or "journal damaged" in said
    assert gateway.terminate() == 0
    assert stored(gateway) == list(range(1000, 1019))


@pytest.mark.parametrize("cut_bytes", [1, 7, 60, 100_000])
def test_truncated_segment_is_cut_to_whole_batches_and_refilled_from_the_journal(
    tmp_path: Path, cut_bytes: int
) -> None:
    gateway = gateway_in(tmp_path)
    gateway.start()
    acknowledge(gateway, 0, 50)
    wait_until_sealed(gateway)
    acknowledge(gateway, 50, 50)
    gateway.kill()
    size = segment(gateway).stat().st_size
    with segment(gateway).open("r+b") as file:
        file.truncate(max(0, size - cut_bytes))
    gateway.start()
    said = gateway.output_since_start()
    assert "log.recovered" in said
    # A cut that leaves no torn batch is made good from the journal without a trace of damage.
    assert "log.recovery_found" in said or cut_bytes > size
    acknowledge(gateway, 100, 5)
    assert gateway.terminate() == 0
    assert stored(gateway) == list(range(105))


def test_garbage_behind_a_segment_is_cut_and_reported(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    gateway.start()
    acknowledge(gateway, 0, 50)
    wait_until_sealed(gateway)
    gateway.kill()
    with segment(gateway).open("ab") as file:
        file.write(b"\xee" * 100)
    gateway.start()
    assert gateway.terminate() == 0
    assert stored(gateway) == list(range(50))


def test_lost_checkpoint_is_rebuilt_from_the_files(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    gateway.start()
    acknowledge(gateway, 0, 50)
    wait_until_sealed(gateway)
    acknowledge(gateway, 50, 10)
    gateway.kill()
    flip(gateway.data_dir / "checkpoint", 30)
    gateway.start()
    assert "log.recovery_found what=checkpoint damaged" in gateway.output_since_start()
    assert gateway.terminate() == 0
    assert stored(gateway) == list(range(60))


def test_directory_of_something_else_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "journal").write_bytes(b"this is no journal" * 100)
    gateway = gateway_in(tmp_path)
    with pytest.raises(GatewayFailed) as caught:
        gateway.start()
    assert "exit status 1" in str(caught.value)
    assert "error: " in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert (tmp_path / "data" / "journal").read_bytes().startswith(b"this is no journal")


def injected(call: str, error: str, file: Path, *, when: str = "1+") -> tuple[str, ...]:
    """strace that makes the call on that file fail; the gateway stays our direct child (-D)."""
    return (
        *("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-P", str(file)),
        *("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={when}"),
    )


FULL_DISK = """\
[stream.mqtt]
partitions = 1
[log]
journal_bytes = "4 MiB"
journal_reserve_bytes = "2 MiB"
tail_bytes_max = "1 MiB"
seal_bytes = "64 KiB"
seal_age_ms = 200
"""


@need_strace
def test_full_disk_refuses_with_0x97_keeps_what_was_acknowledged_and_recovers(
    tmp_path: Path,
) -> None:
    file = tmp_path / "data" / "streams" / "mqtt-0" / f"{0:020d}.log"
    prefix = injected("pwritev2,pwritev,pwrite64", "ENOSPC", file)
    gateway = gateway_in(tmp_path, FULL_DISK, prefix=prefix)
    gateway.start()
    acknowledged, refused = publish_until_refused(gateway)
    assert refused == 0x97
    assert "disk.full" in gateway.output_since_start()
    with RawClient(gateway.port) as client:
        client.connect("old", V311)
        client.send(publish_packet("a/b", b"no", V311))
        assert client.answer() is None, "a 3.1.1 client gets no PUBACK, but the end"
    gateway.kill()
    # Room again.
    gateway = gateway_in(tmp_path, FULL_DISK)
    gateway.start()
    acknowledge(gateway, 0, 5)
    assert gateway.terminate() == 0
    found = stored(gateway)
    assert found[: len(acknowledged)] == acknowledged
    assert found[len(acknowledged) :] == list(range(5))


def publish_until_refused(gateway: GatewayProcess) -> tuple[list[int], int]:
    """Numbers acknowledged, and the reason code that ended it."""
    acknowledged: list[int] = []
    with RawClient(gateway.port, timeout=20) as client:
        client.connect("filler", V5)
        for number in range(1, 2000):
            payload = b"%d" % (10**4000 + number)
            client.send(publish_packet("a/b", payload, V5, packet_id=number))
            answer = client.answer()
            assert answer is not None, f"closed after {len(acknowledged)} messages"
            reason = answer[1][2] if len(answer[1]) > 2 else 0
            if answer[0] != PUBACK or reason >= 0x80:
                return acknowledged, answer[1][0] if answer[0] != PUBACK else reason
            assert answer[1][:2] == struct.pack(">H", number)
            acknowledged.append(10**4000 + number)
    raise AssertionError("never refused")


@need_strace
def test_failed_fdatasync_of_the_journal_acknowledges_nothing_more_and_ends_the_gateway(
    tmp_path: Path,
) -> None:
    """A failed fsync is never retried as if it had succeeded."""
    journal = tmp_path / "data" / "journal"
    gateway = gateway_in(tmp_path, prefix=injected("fdatasync", "EIO", journal, when="12+"))
    gateway.start()
    acknowledged = 0
    with RawClient(gateway.port) as client:
        client.connect("device", V5)
        for number in range(100):
            client.send(publish_packet("a/b", b"%d" % number, V5, packet_id=number + 1))
            answer = client.answer()
            if answer is None or answer[0] != PUBACK:
                assert answer is None or answer[1][0] >= 0x80
                break
            acknowledged += 1
    assert 0 < acknowledged < 100
    assert gateway.wait() == 1
    said = gateway.output_since_start()
    assert "gateway.journal_failed" in said
    assert "Input/output error" in said
    assert "Traceback" not in said
    again = gateway_in(tmp_path)
    again.start()
    assert again.terminate() == 0
    # What was not acknowledged may be there or not.
    assert stored(again)[:acknowledged] == list(range(acknowledged))
