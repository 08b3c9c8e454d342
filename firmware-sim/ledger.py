"""The ledger: what each device did, as lines that outlive the fleet, for an auditor to read later.

Owns the file format. Never decides what a finding is: that is audit.py. One JSON object a line,
appended in the order things happened; `k` says what the line is:

    h  head       version, seed, at_ms
    d  device     d, protocol, profile, topic, headers      (headers the upstream must carry)
    p  published  d, s, q, h, n, at    a reading entered the outbox: digest and size of the payload
    t  sent       d, s, at, dup        one transmission of its PUBLISH
    a  acked      d, s, at             PUBACK or PUBREC: from here on the gateway answers for it
    n  nacked     d, s, at, code       refused by the gateway; the device sends it again
    x  given up   d, s, at, why        left the device's memory unacknowledged, for ever
    e  event      d, at, what          power-loss, radio-drop, half-open, connected, ...
    z  end        at, waiting          the fleet ended by itself; what its outboxes still held

If the fleet is killed, the last lines are missing or torn. That errs on the safe side: a missing
`a` hides no loss, and a torn last line is skipped. A missing `z` tells the auditor.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from errors import LedgerError
from outbox import Message

LEDGER_VERSION = 1
DIGEST_BYTES = 12


def digest(payload: bytes) -> str:
    """Short, collision-safe enough for one fleet's messages."""
    return hashlib.blake2b(payload, digest_size=DIGEST_BYTES).hexdigest()


class LedgerWriter:
    """Appends lines. `flush` hands them to the operating system, so that they survive our death."""

    def __init__(self, path: Path, *, seed: int, at_ms: int) -> None:
        self._file: BinaryIO = path.open("ab")
        self._encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
        self._line(k="h", version=LEDGER_VERSION, seed=seed, at=at_ms)

    def device(
        self, name: str, *, protocol: str, profile: str, topic: str, headers: Mapping[str, str]
    ) -> None:
        """Introduce a device before its first message."""
        self._line(
            k="d", d=name, protocol=protocol, profile=profile, topic=topic, headers=dict(headers)
        )

    def published(self, name: str, message: Message) -> None:
        """A reading entered the outbox (or was given up at once: `given_up` follows)."""
        payload = message.payload
        self._line(
            k="p",
            d=name,
            s=message.seq,
            q=message.qos,
            h=digest(payload),
            n=len(payload),
            at=message.taken_ms,
        )

    def sent(self, name: str, seq: int, *, dup: bool, at_ms: int) -> None:
        """One transmission."""
        self._line(k="t", d=name, s=seq, at=at_ms, dup=int(dup))

    def acknowledged(self, name: str, seq: int, *, at_ms: int) -> None:
        """The promise begins."""
        self._line(k="a", d=name, s=seq, at=at_ms)

    def refused(self, name: str, seq: int, *, at_ms: int, code: int) -> None:
        """A reason code of 0x80 or more."""
        self._line(k="n", d=name, s=seq, at=at_ms, code=code)

    def given_up(self, name: str, seq: int, *, at_ms: int, why: str) -> None:
        """The device no longer has it and never will."""
        self._line(k="x", d=name, s=seq, at=at_ms, why=why)

    def event(self, name: str, what: str, *, at_ms: int) -> None:
        """Something that happened to a device."""
        self._line(k="e", d=name, at=at_ms, what=what)

    def end(self, *, at_ms: int, waiting_count: int) -> None:
        """The fleet ended in order."""
        self._line(k="z", at=at_ms, waiting=waiting_count)
        self._file.flush()

    def flush(self) -> None:
        """After this the lines survive a SIGKILL of this process (not a power cut)."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    def _line(self, **fields: Any) -> None:
        self._file.write(self._encode(fields).encode() + b"\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEntry:
    """What the ledger says of a device."""

    name: str
    protocol: str
    profile: str
    topic: str
    headers: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class MessageEntry:
    """What the ledger says of one message, all lines taken together."""

    device: str
    seq: int
    qos: int
    digest: str
    size_bytes: int
    published_ms: int
    sent_count: int = 0
    dup_count: int = 0
    first_sent_ms: int | None = None
    acknowledged_ms: int | None = None
    refused_count: int = 0
    given_up: str | None = None


@dataclass(slots=True)
class Ledger:
    """One or more ledger files, read back."""

    devices: dict[str, DeviceEntry] = field(default_factory=dict)
    messages: dict[tuple[str, int], MessageEntry] = field(default_factory=dict)
    events: dict[str, int] = field(default_factory=dict)
    complete: bool = True
    waiting_count: int = 0


def read_ledger(*paths: Path) -> Ledger:
    """Read ledgers into one view. Raises LedgerError; a torn last line is not an error."""
    ledger = Ledger()
    for path in paths:
        ended = False
        for line in _lines(path):
            ended = line["k"] == "z"
            _apply(ledger, line, path)
        ledger.complete = ledger.complete and ended
    return ledger


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}") from error
    lines = raw.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise LedgerError(f"{path}:{number}: not a ledger line") from error
        if not isinstance(fields, dict) or "k" not in fields:
            raise LedgerError(f"{path}:{number}: not a ledger line")
        yield fields


def _apply(ledger: Ledger, line: dict[str, Any], path: Path) -> None:
    kind = line["k"]
    try:
        if kind == "h":
            if line["version"] != LEDGER_VERSION:
                raise LedgerError(f"{path}: ledger version {line['version']} is not known")
        elif kind == "d":
            ledger.devices[line["d"]] = DeviceEntry(
                name=line["d"],
                protocol=line["protocol"],
                profile=line["profile"],
                topic=line["topic"],
                headers=line["headers"],
            )
        elif kind == "p":
            _add_message(ledger, line, path)
        elif kind == "e":
            ledger.events[line["what"]] = ledger.events.get(line["what"], 0) + 1
        elif kind == "z":
            ledger.waiting_count += line["waiting"]
        else:
            _update(ledger.messages[line["d"], line["s"]], line)
    except KeyError as error:
        raise LedgerError(f"{path}: a line of kind {kind!r} lacks or misses {error}") from error


def _add_message(ledger: Ledger, line: dict[str, Any], path: Path) -> None:
    key = line["d"], line["s"]
    if key in ledger.messages:
        raise LedgerError(f"{path}: {key[0]} published sequence {key[1]} twice")
    ledger.messages[key] = MessageEntry(
        device=line["d"],
        seq=line["s"],
        qos=line["q"],
        digest=line["h"],
        size_bytes=line["n"],
        published_ms=line["at"],
    )


def _update(entry: MessageEntry, line: dict[str, Any]) -> None:
    match line["k"]:
        case "t":
            entry.sent_count += 1
            entry.dup_count += line["dup"]
            if entry.first_sent_ms is None:
                entry.first_sent_ms = line["at"]
        case "a":
            if entry.acknowledged_ms is None:
                entry.acknowledged_ms = line["at"]
        case "n":
            entry.refused_count += 1
        case "x":
            entry.given_up = line["why"]
        case other:
            raise LedgerError(f"a line of unknown kind {other!r}")
