"""One simulated device: takes readings, keeps them in its outbox, gets them out when it can.

Owns the device's life: sampling, duty cycle, connecting with back-off, giving up on silent
links, faults of radio and power. The outbox decides what is sent, the link speaks MQTT, the
ledger is told of everything. All chance comes from the device's own seeded generator.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from clocks import BackOff, DriftingClock
from errors import LinkError
from ledger import LedgerWriter
from link import Link, wall_ms
from outbox import Message, Outbox
from payload import encode_reading
from profiles import Profile
from recordings import Row
from relay import Relay

TICK_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the gateway is."""

    host: str
    port: int


class Device:
    """Call `run` once; `stop_sampling` begins the end: no more readings, no more faults."""

    def __init__(
        self,
        *,
        name: str,
        topic: str,
        profile: Profile,
        rows: Iterator[Row],
        outbox: Outbox,
        link: Link,
        ledger: LedgerWriter,
        gateway: Address,
        rng: Random,
    ) -> None:
        self.name = name
        self.profile = profile
        self.outbox = outbox
        self.connected = False
        self.published_count = 0
        self._topic = topic
        self._rows = rows
        self._link = link
        self._ledger = ledger
        self._gateway = gateway
        self._rng = rng
        self._clock = DriftingClock(
            drift_ppm_max=profile.clock_drift_ppm_max,
            offset_ms_max=profile.clock_offset_ms_max,
            rng=rng,
            now_ms=wall_ms(),
        )
        self._back_off = BackOff(
            min_ms=profile.back_off_min_ms, max_ms=profile.back_off_max_ms, rng=rng
        )
        self._radio = Relay(gateway.host, gateway.port) if profile.has_faults else None
        self._sampling = True
        self._powered = asyncio.Event()
        self._powered.set()
        self._forget = False
        self._seq = 0

    def stop_sampling(self) -> None:
        """From now on only what is in the outbox matters."""
        self._sampling = False

    async def run(self) -> None:
        """Live until cancelled."""
        if self._radio is not None:
            await self._radio.start()
            self._gateway = Address(host="127.0.0.1", port=self._radio.port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sample())
                group.create_task(self._communicate())
                if self.profile.radio_fault_interval_ms:
                    group.create_task(self._disturb_radio())
                if self.profile.power_loss_interval_ms:
                    group.create_task(self._lose_power())
        finally:
            self._link.abort()
            if self._radio is not None:
                await self._radio.stop()

    async def shut_down(self) -> None:
        """Leave the gateway in order."""
        await self._link.close()

    async def _sample(self) -> None:
        interval_s = self.profile.reading_interval_ms / 1000
        await asyncio.sleep(self._rng.uniform(0, interval_s))
        while self._sampling:
            if self._powered.is_set():
                self._take_reading()
            await asyncio.sleep(interval_s * self._rng.uniform(0.8, 1.2))

    def _take_reading(self) -> None:
        now_ms = wall_ms()
        self._seq += 1
        qos = self.profile.qos[self._seq % len(self.profile.qos)]
        payload = encode_reading(self._seq, self._clock.read_ms(now_ms), next(self._rows))
        message = Message(
            seq=self._seq, topic=self._topic, payload=payload, qos=qos, taken_ms=now_ms
        )
        self._ledger.published(self.name, message)
        self.published_count += 1
        for given_up in self.outbox.offer(message):
            self._ledger.given_up(self.name, given_up.seq, at_ms=now_ms, why="outbox-full")
        self._link.pump()

    async def _communicate(self) -> None:
        while True:
            await self._powered.wait()
            try:
                await self._link.open(self._gateway.host, self._gateway.port, forget=self._forget)
            except LinkError:
                await asyncio.sleep(self._back_off.next_ms() / 1000)
                continue
            self._forget = False
            self._back_off.reset()
            self.connected = True
            self._event("connected")
            await self._serve()
            self.connected = False
            if self.profile.asleep_ms and self._sampling and self._powered.is_set():
                await asyncio.sleep(self.profile.asleep_ms / 1000)
            else:
                await asyncio.sleep(self._back_off.next_ms() / 1000)

    async def _serve(self) -> None:
        """One connection, until it ends or it is time to sleep."""
        sleep_at_ms = wall_ms() + self.profile.awake_ms
        self._link.pump()
        while not self._link.closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._link.closed.wait(), TICK_S)
            now_ms = wall_ms()
            oldest_ms = self.outbox.oldest_sent_ms()
            if oldest_ms is not None and now_ms - oldest_ms > self.profile.ack_timeout_ms:
                self._event("ack-timeout")
                self._link.abort()
                return
            self._link.pump()
            if self.profile.resend_ms:
                self._link.resend(now_ms - self.profile.resend_ms)
            if self.profile.asleep_ms and self._sampling and now_ms > sleep_at_ms:
                await self._link.close()
                return

    async def _disturb_radio(self) -> None:
        assert self._radio is not None
        while True:
            await asyncio.sleep(self._wait_s(self.profile.radio_fault_interval_ms))
            if not self._sampling:
                return
            if not self.connected:
                continue
            if self._rng.random() < self.profile.half_open_share:
                self._event("half-open")
                self._radio.fade()
            else:
                self._event("radio-drop")
                self._radio.drop()

    async def _lose_power(self) -> None:
        assert self._radio is not None
        while True:
            await asyncio.sleep(self._wait_s(self.profile.power_loss_interval_ms))
            if not self._sampling:
                return
            self._event("power-loss")
            self._powered.clear()
            self._radio.fade()
            self._link.abort()
            if not self.profile.outbox_in_flash:
                self._forget = True
                for message in self.outbox.lose():
                    self._ledger.given_up(self.name, message.seq, at_ms=wall_ms(), why="power-loss")
            await asyncio.sleep(self.profile.power_off_ms / 1000)
            self._clock.boot(wall_ms())
            self._powered.set()

    def _wait_s(self, mean_ms: int) -> float:
        return self._rng.expovariate(1000 / mean_ms)

    def _event(self, what: str) -> None:
        self._ledger.event(self.name, what, at_ms=wall_ms())
