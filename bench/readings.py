"""The fleet's messages without the fleet: what simulated devices would publish, as fast as asked.

Payloads come from firmware-sim/ itself (recordings and encoding), so that bytes measured here are
bytes of the fleet. The same arguments give the same messages.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIRMWARE = Path(__file__).parents[1] / "firmware-sim"
RECORDINGS = ("seattle-weather", "seattle-temps", "sf-temps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One simulated device: its MQTT client id is the key of its records."""

    client_id: str
    topic: str
    rows: Sequence[Any]
    first_row: int

    @property
    def key(self) -> bytes:
        return self.client_id.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    device: Device
    taken_ms: int
    payload: bytes


def make_devices(count: int, recordings: Sequence[str] = RECORDINGS) -> list[Device]:
    """Devices as firmware-sim names them, spread over the recordings."""
    module = _firmware("recordings")
    loaded = [module.load(name) for name in recordings]
    devices = []
    for index in range(count):
        recording = loaded[index % len(loaded)]
        name = f"dev-{index:04d}"
        devices.append(
            Device(
                client_id=name,
                topic=f"site/{recording.name}/{name}/reading",
                rows=recording.rows,
                first_row=index * 7919,
            )
        )
    return devices


def readings(
    devices: Sequence[Device], count: int, *, start_ms: int, interval_ms: int
) -> Iterator[Reading]:
    """Each device in turn takes a reading every `interval_ms`; `count` readings in all."""
    encode = _firmware("payload").encode_reading
    for index in range(count):
        sequence, place = divmod(index, len(devices))
        device = devices[place]
        taken_ms = start_ms + sequence * interval_ms + place * interval_ms // len(devices)
        row = device.rows[(device.first_row + sequence) % len(device.rows)]
        yield Reading(device=device, taken_ms=taken_ms, payload=encode(sequence, taken_ms, row))


def _firmware(module: str) -> Any:
    # A folder of modules, not a package: its modules find one another by this path.
    if str(_FIRMWARE) not in sys.path:
        sys.path.insert(0, str(_FIRMWARE))
    return importlib.import_module(module)
