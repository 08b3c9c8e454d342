"""The simulated fleet as a process, and its ledger as the judge reads it.

The ledger is read here anew, not with the fleet's own code: the judge and the judged share nothing.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CHECKOUT = Path(__file__).parents[2]


@dataclass(slots=True, kw_only=True)
class Sent:
    """One message of one device, all ledger lines about it taken together."""

    device: str
    sequence: int
    qos: int
    payload_digest: str
    is_acknowledged: bool = False
    sent_count: int = 0
    dup_count: int = 0


@dataclass(slots=True, kw_only=True)
class FleetLedger:
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    """What each device's records must carry upstream, by client id."""
    messages: dict[tuple[str, int], Sent] = field(default_factory=dict)
    is_complete: bool = False
    """The fleet ended in order."""
    waiting_count: int = 0
    """Messages still in outboxes when it ended."""

    def acknowledged(self) -> list[Sent]:
        return [message for message in self.messages.values() if message.is_acknowledged]


class FleetProcess:
    """`python firmware-sim fleet` against a gateway's port."""

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        device_count: int,
        seconds: float,
        drain_seconds: float = 60,
        rate: float = 1.0,
        seed: int = 1,
        flags: Sequence[str] = (),
    ) -> None:
        self.ledger_file = directory / "ledger.jsonl"
        self.output = directory / "fleet.output"
        self._timeout = seconds + drain_seconds + 60
        self._command = [
            *(sys.executable, "firmware-sim", "fleet", "--ledger", str(self.ledger_file)),
            *("--port", str(port), "--devices", str(device_count), "--seconds", str(seconds)),
            *("--drain-seconds", str(drain_seconds), "--rate", str(rate), "--seed", str(seed)),
            *flags,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=_CHECKOUT,
            )

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """No more readings: outboxes are drained, then it ends. See `wait`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """The exit status: 0 when every outbox was emptied."""
        assert self.process is not None, "the fleet was not started"
        return self.process.wait(self._timeout)

    def stop(self) -> None:
        if self.is_running() and self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def acknowledged_count(self) -> int:
        """So far, as far as the ledger was flushed."""
        return self.ledger_file.read_bytes().count(b'{"k":"a"')

    def ledger(self) -> FleetLedger:
        return read_ledger(self.ledger_file)


def read_ledger(file: Path) -> FleetLedger:
    """A torn last line is skipped."""
    found = FleetLedger()
    for raw in file.read_bytes().split(b"\n")[:-1]:
        line = json.loads(raw)
        match line["k"]:
            case "d":
                found.headers[line["d"]] = line["headers"]
            case "p":
                found.messages[line["d"], line["s"]] = Sent(
                    device=line["d"], sequence=line["s"], qos=line["q"], payload_digest=line["h"]
                )
            case "t":
                message = found.messages[line["d"], line["s"]]
                message.sent_count += 1
                message.dup_count += line["dup"]
            case "a":
                found.messages[line["d"], line["s"]].is_acknowledged = True
            case "z":
                found.is_complete = True
                found.waiting_count = line["waiting"]
    return found
