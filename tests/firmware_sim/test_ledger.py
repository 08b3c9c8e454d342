"""The ledger must be readable whatever ended the fleet."""

from pathlib import Path

import pytest
from errors import LedgerError
from ledger import LedgerWriter, digest, read_ledger
from outbox import Message


def message(seq: int) -> Message:
    return Message(seq=seq, topic="t", payload=b"payload %d" % seq, qos=1, taken_ms=seq)


def written(path: Path, *, end: bool = True) -> Path:
    writer = LedgerWriter(path, seed=1, at_ms=0)
    writer.device("d", protocol="5.0", profile="meter", topic="t", headers={"mqtt.topic": "t"})
    for seq in (1, 2, 3):
        writer.published("d", message(seq))
    writer.sent("d", 1, dup=False, at_ms=10)
    writer.sent("d", 1, dup=True, at_ms=20)
    writer.acknowledged("d", 1, at_ms=30)
    writer.refused("d", 2, at_ms=31, code=0x97)
    writer.given_up("d", 3, at_ms=32, why="power-loss")
    writer.event("d", "power-loss", at_ms=32)
    if end:
        writer.end(at_ms=40, waiting_count=1)
    writer.close()
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    ledger = read_ledger(written(tmp_path / "l"))
    first, second, third = (ledger.messages["d", seq] for seq in (1, 2, 3))
    assert (first.sent_count, first.dup_count, first.first_sent_ms) == (2, 1, 10)
    assert first.acknowledged_ms == 30
    assert first.digest == digest(b"payload 1")
    assert (second.refused_count, second.acknowledged_ms) == (1, None)
    assert third.given_up == "power-loss"
    assert ledger.devices["d"].headers == {"mqtt.topic": "t"}
    assert ledger.events == {"power-loss": 1}
    assert (ledger.complete, ledger.waiting_count) == (True, 1)


def test_a_torn_last_line_is_skipped_and_the_ledger_called_incomplete(tmp_path: Path) -> None:
    path = written(tmp_path / "l", end=False)
    path.write_bytes(path.read_bytes() + b'{"k":"a","d":"d","s"')
    ledger = read_ledger(path)
    assert not ledger.complete
    assert len(ledger.messages) == 3


def test_damage_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "l")
    path.write_bytes(path.read_bytes().replace(b'{"k":"t"', b'{"k"#"t"', 1))
    with pytest.raises(LedgerError, match="not a ledger line"):
        read_ledger(path)


def test_one_sequence_published_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "l"
    writer = LedgerWriter(path, seed=1, at_ms=0)
    writer.published("d", message(1))
    writer.published("d", message(1))
    writer.close()
    with pytest.raises(LedgerError, match="twice"):
        read_ledger(path)


def test_ledgers_of_several_processes_are_one_book(tmp_path: Path) -> None:
    first = written(tmp_path / "a")
    second = tmp_path / "b"
    writer = LedgerWriter(second, seed=1, at_ms=0)
    writer.published("e", message(1))
    writer.close()
    ledger = read_ledger(first, second)
    assert set(ledger.messages) == {("d", 1), ("d", 2), ("d", 3), ("e", 1)}
    assert not ledger.complete


def test_a_missing_file_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="No such file"):
        read_ledger(tmp_path / "none")
