"""The fleet: many devices in one process and one event loop, their ledger, their end.

Owns composition and counting. `start`, let time pass, `drain`, `stop`.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from amqtt_link import AmqttLink
from device import Address, Device
from ledger import LedgerWriter
from link import Identity, Link, Recorder, wall_ms
from outbox import Outbox
from paho_link import PahoLink
from profiles import Profile, assign
from recordings import Recording

FLUSH_INTERVAL_S = 0.1
CONTENT_TYPE = "application/cbor"
FIRMWARE_VERSION = "2.4.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSpec:
    """What fleet to build. `rate` multiplies how often every device takes a reading."""

    gateway: Address
    device_count: int
    profiles: Sequence[Profile]
    recordings: Sequence[Recording]
    seed: int
    rate: float = 1.0
    name_prefix: str = "dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCounts:
    """A moment's view."""

    published: int
    sent: int
    sent_again: int
    acknowledged: int
    given_up: int
    waiting: int
    connected: int


class CountingLedger(LedgerWriter):
    """A ledger that also counts, for the progress display."""

    published_count = 0
    sent_count = 0
    dup_count = 0
    acknowledged_count = 0
    given_up_count = 0

    def _line(self, **fields: object) -> None:
        super()._line(**fields)
        match fields["k"]:
            case "p":
                self.published_count += 1
            case "t":
                self.sent_count += 1
                self.dup_count += bool(fields["dup"])
            case "a":
                self.acknowledged_count += 1
            case "x":
                self.given_up_count += 1


class Fleet:
    """Devices that share a ledger and nothing else."""

    def __init__(self, spec: FleetSpec, ledger: CountingLedger) -> None:
        self._ledger = ledger
        rng = Random(spec.seed)
        profiles = assign(spec.profiles, spec.device_count, rng)
        self.devices = [
            self._build(spec, index, profile, Random(rng.getrandbits(64)))
            for index, profile in enumerate(profiles)
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._is_stopped = False

    def start(self) -> None:
        """Switch all devices on."""
        self._tasks = [asyncio.create_task(device.run()) for device in self.devices]
        self._tasks.append(asyncio.create_task(self._flush()))

    async def drain(self, timeout_s: float) -> bool:
        """No more readings or faults; wait until every outbox is empty. Whether that came."""
        for device in self.devices:
            device.stop_sampling()
        deadline_ms = wall_ms() + timeout_s * 1000
        while any(len(device.outbox) for device in self.devices):
            if wall_ms() > deadline_ms or self.failed() is not None:
                return False
            await asyncio.sleep(0.05)
        return True

    async def stop(self) -> None:
        """Disconnect, end the ledger. Once; after that it does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(
                asyncio.gather(
                    *(device.shut_down() for device in self.devices), return_exceptions=True
                ),
                5,
            )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ledger.end(
            at_ms=wall_ms(), waiting_count=sum(len(device.outbox) for device in self.devices)
        )

    def failed(self) -> BaseException | None:
        """A device task that died of a bug of ours, if any."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                return task.exception()
        return None

    def counts(self) -> FleetCounts:
        """Totals so far."""
        return FleetCounts(
            published=self._ledger.published_count,
            sent=self._ledger.sent_count,
            sent_again=self._ledger.dup_count,
            acknowledged=self._ledger.acknowledged_count,
            given_up=self._ledger.given_up_count,
            waiting=sum(len(device.outbox) for device in self.devices),
            connected=sum(device.connected for device in self.devices),
        )

    def _build(self, spec: FleetSpec, index: int, profile: Profile, rng: Random) -> Device:
        name = f"{spec.name_prefix}-{index:04d}"
        interval_ms = max(1, round(profile.reading_interval_ms / spec.rate))
        profile = replace(profile, reading_interval_ms=interval_ms)
        recording = spec.recordings[index % len(spec.recordings)]
        topic = f"site/{recording.name}/{name}/reading"
        is_v5 = profile.protocol == "5.0"
        identity = Identity(
            client_id=name,
            keep_alive_s=profile.keep_alive_s,
            content_type=CONTENT_TYPE if is_v5 else None,
            user_properties={"fw": FIRMWARE_VERSION} if is_v5 else {},
        )
        headers = {"mqtt.topic": topic, **identity.user_properties}
        if identity.content_type:
            headers["mqtt.content-type"] = identity.content_type
        self._ledger.device(
            name, protocol=profile.protocol, profile=profile.name, topic=topic, headers=headers
        )
        outbox = Outbox(
            count_max=profile.outbox_count_max,
            bytes_max=profile.outbox_bytes_max,
            in_flight_max=profile.in_flight_max,
            when_full=profile.when_full,
        )
        recorder = Recorder(name=name, ledger=self._ledger)
        link: Link = (PahoLink if is_v5 else AmqttLink)(identity, outbox, recorder)
        return Device(
            name=name,
            topic=topic,
            profile=profile,
            rows=recording.from_row(rng.randrange(len(recording.rows))),
            outbox=outbox,
            link=link,
            ledger=self._ledger,
            gateway=spec.gateway,
            rng=rng,
        )

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_INTERVAL_S)
            self._ledger.flush()
