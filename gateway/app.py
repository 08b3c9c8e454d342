"""The composition root: puts the parts together, and takes them apart in the right order.

Owns the process: the event loop, signals, the order of start and stop, and what a reload does.

    start    address bound -> log (recovery) -> committer, housekeeper -> devices -> bridges
             -> MQTT -> sources
    stop     the other way round: sources, no new clients, what was read is durable and
             acknowledged, clients are told -> bridges -> devices -> log sealed and checkpointed

Nothing waits for an upstream: one that is not there yet is no error. When the journal fails nothing
more is acknowledged, and the process ends with status 1: what is on disk decides what was
acknowledged, and only a start reads it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING

from bridge.config import UpstreamConfig
from devices import DeviceRecorder, DevicesError, DeviceStore, DeviceTable
from gateway.config import DEFAULT_STREAM, GatewayConfig
from gateway.descriptors import raise_descriptor_limit, within_descriptors
from gateway.doors import Doors
from gateway.errors import GatewayError, StartFailed
from gateway.ingest import Ingest
from gateway.mqtt.broker import Broker
from gateway.mqtt.retained_service import RetainedService
from gateway.mqtt.server import Server
from gateway.mqtt.sys_publisher import SysPublisher
from gateway.password_worker import PasswordWorker
from gateway.places import open_log, stream_specs
from gateway.presence import DevicePresence
from gateway.reload import plan_reload
from gateway.routing import Router
from gateway.sources.config import SourceConfig
from gateway.sources.running import Sources
from gateway.sources.source import Source
from log import Committer, Housekeeper

if TYPE_CHECKING:
    from bridge import Bridge

_log = logging.getLogger(__name__)

STOP_S_MAX = 9.0
"""All of a stop: supervisors kill after 10 s by habit."""


def run_gateway(config: GatewayConfig, *, reload: Callable[[], GatewayConfig]) -> None:
    """Runs until a signal. `reload` reads the configuration again. Raises GatewayError's tree."""
    raise_descriptor_limit()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(Gateway(config, reload=reload).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # pragma: no cover - where uvloop has no build
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _spare_the_collector() -> None:
    """What was made by the start stays for good: the garbage collector need not look at it again,
    nor at every few hundred tuples of the hot path, which hold no cycles."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def now_ms() -> int:
    """Milliseconds since 1970 by the system's clock."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Milliseconds of a clock that is never set: for time-outs."""
    return time.monotonic_ns() // 1_000_000


class Gateway:
    """One gateway: `await run()` is its whole life."""

    def __init__(self, config: GatewayConfig, *, reload: Callable[[], GatewayConfig]) -> None:
        self.config = config
        self._read_config = reload
        self._bridges: dict[str, Bridge] = {}
        self._ended = asyncio.Event()
        self._stop_deadline = float("inf")
        self._failure: StartFailed | None = None
        self._started = self._reload_wanted = False
        self._reload_lock = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Starts, says that it is ready, and stops on SIGTERM or SIGINT. Raises StartFailed."""
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._end, number)
        # From the first moment: recovery may take long, and the default is to die of it.
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_soon)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        async with AsyncExitStack() as parts:
            await self._start(parts)
            self._started = True
            if self._reload_wanted:
                self._reload_soon()
            _spare_the_collector()
            if not self._ended.is_set():
                print(self._ready_line(), flush=True)
            await self._ended.wait()
        _log.info("gateway.stopped")
        if self._failure is not None:
            raise self._failure

    async def _start(self, parts: AsyncExitStack) -> None:
        """Starts each part and pushes how it stops; a failure here unwinds what was started."""
        config = self.config
        self._passwords = PasswordWorker(
            config.limits.authentications_waiting_max, self._loop.call_soon_threadsafe
        )
        self._doors = Doors(config.all_listeners(), self._passwords)
        parts.callback(self._doors.close)
        self._doors.bind()
        self._log = open_log(config)
        parts.callback(self._close_log)
        self._committer = Committer(self._log, self._loop)
        parts.push_async_callback(self._within, "committer", self._committer.close)
        self._committer.add_participant(self)
        housekeeper = Housekeeper(self._log, self._committer, self._loop)
        housekeeper.start()
        parts.push_async_callback(self._within, "housekeeper", housekeeper.stop)
        recorder = await _open_devices(config)
        if recorder is not None:
            parts.push_async_callback(self._within, "devices", recorder.stop)
        parts.push_async_callback(self._stop_bridges)
        for upstream in config.upstreams:
            await self._start_bridge(upstream)
        self._ingest = Ingest(self._log, _router(config))
        limits = within_descriptors(config.limits)
        retained = RetainedService(self._log, limits, config.data)
        parts.push_async_callback(self._within, "retained", retained.stop)
        await retained.start()
        self._retained = retained.table
        self._broker = Broker(
            log=self._log,
            ingest=self._ingest,
            committer=self._committer,
            retained=retained.table,
            limits=limits,
            now_ms=monotonic_ms,
            rng=random.SystemRandom(),
            listener=None if recorder is None else DevicePresence(recorder.table, now_ms),
        )
        self._broker.catchup.pace.clock_s = time.thread_time
        self._broker.sys = self._sys = SysPublisher(
            self._broker, self._log, version("sluicegate"), config.sys_interval_s * 1000
        )
        retained.table.request = self._committer.request
        self._committer.add_participant(self._broker)
        self._committer.add_participant(retained.table)
        server = Server(self._broker)
        parts.push_async_callback(self._within, "mqtt", server.stop)
        await self._doors.open(server, time.time())
        self._sources = Sources(self._make_source)
        parts.push_async_callback(self._within, "sources", self._sources.stop)
        await self._sources.change(config.sources)

    def _make_source(self, config: SourceConfig) -> Source:
        return Source(
            config,
            log=self._log,
            ingest=self._ingest,
            committer=self._committer,
            publish=self._broker.appended,
            rng=random.SystemRandom(),
        )

    async def _within(self, part: str, stop: Callable[[], Awaitable[None]]) -> None:
        """Stops one part, but not beyond the deadline of the whole stop."""
        left_s = max(0.1, min(STOP_S_MAX, self._stop_deadline - self._loop.time()))
        try:
            await asyncio.wait_for(stop(), left_s)
        except TimeoutError:
            # What is durable stays so; the next start reads more of the journal, that is all.
            _log.warning("gateway.stop_timed_out part=%s waited_s=%.1f", part, left_s)
        except Exception:
            # The parts after this one must stop all the same.
            _log.exception("gateway.stop_failed part=%s", part)

    def _close_log(self) -> None:
        try:
            self._log.close()
        except OSError as error:
            # Full or failing: what was acknowledged is in the journal, for the next start.
            _log.error("gateway.close_failed cause=%s", error)

    # -- signals

    def _end(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            _log.info("gateway.stopping signal=%s", number.name)
            self._stop_deadline = self._loop.time() + STOP_S_MAX
            self._ended.set()

    def _reload_soon(self) -> None:
        if not self._started:
            self._reload_wanted = True
            return
        task = self._loop.create_task(self._reload_in_turn(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload_in_turn(self) -> None:
        async with self._reload_lock:
            if not self._ended.is_set():
                await self._reload()

    async def _reload(self) -> None:
        try:
            plan = plan_reload(self.config, self._read_config())
            router = _router(plan.config)
            doors = self._doors.prepare(plan.config.all_listeners())
        except (GatewayError, ValueError) as error:
            _log.error("gateway.reload_refused in_force=old cause=%s", error)
            return
        old, self.config = self.config, plan.config
        logging.getLogger().setLevel(plan.config.log_level.upper())
        if old.routes != plan.config.routes:
            self._ingest.replace_router(router)
            self._broker.routes_changed()
            self._sources.routes_changed()
        self._doors.replace(doors, time.time())
        limits = within_descriptors(plan.config.limits)
        self._passwords.waiting_max = limits.authentications_waiting_max
        self._broker.limits = self._broker.sessions.limits = limits
        self._retained.set_limits(limits)
        self._sys.topics.interval_ms = plan.config.sys_interval_s * 1000
        specs = {spec.name: spec for spec in stream_specs(plan.config)}
        for partition in self._log.partitions.values():
            partition.spec = specs.get(partition.stream, partition.spec)
        await self._change_bridges(old.upstreams, plan.config.upstreams)
        await self._sources.change(plan.config.sources)
        _log.info("gateway.reloaded changed=%s", ",".join(plan.live) or "nothing")
        if plan.at_restart:
            _log.warning("gateway.reload_incomplete needs_restart=%s", ",".join(plan.at_restart))

    # -- bridges

    async def _start_bridge(self, upstream: UpstreamConfig) -> None:
        # Not without an upstream: aiokafka alone takes 4 MiB and 0.1 s.
        from bridge import Bridge

        bridge = Bridge(self._log, self._committer, upstream)
        await bridge.start()
        self._bridges[upstream.name] = bridge

    async def _stop_bridges(self) -> None:
        # A reload that is under way would start others behind our back.
        async with self._reload_lock:
            running = self._bridges.items()
            await asyncio.gather(
                *(self._within(f"bridge {name}", each.stop) for name, each in running)
            )
            self._bridges.clear()

    async def _change_bridges(
        self, old: tuple[UpstreamConfig, ...], new: tuple[UpstreamConfig, ...]
    ) -> None:
        kept = {each for each in set(old) & set(new) if each.name in self._bridges}
        for upstream in old:
            bridge = None if upstream in kept else self._bridges.pop(upstream.name, None)
            if bridge is not None:
                await self._within(f"bridge {upstream.name}", bridge.stop)
        for upstream in new:
            if upstream not in kept:
                try:
                    await self._start_bridge(upstream)
                except Exception:
                    # One upstream's trouble is not the others'; the next reload tries it again.
                    _log.exception("gateway.upstream_not_started upstream=%s", upstream.name)

    # -- participant of the committer

    def cut(self) -> None:
        """The gateway has nothing of its own in a round."""

    def durable(self, token: object) -> None:
        """Never called: `cut` gives no token."""

    def failed(self, error: BaseException) -> None:
        """The journal failed: end with a status that makes a supervisor start us again."""
        if self._failure is None:
            _log.critical("gateway.journal_failed cause=%s", error)
            self._failure = StartFailed(
                f"{self.config.data}: the journal could not be written ({error}). What was "
                "acknowledged is on disk and will be read by the next start; check the disk"
            )
            self._stop_deadline = self._loop.time() + STOP_S_MAX
            self._ended.set()

    def _ready_line(self) -> str:
        upstreams = ",".join(
            f"{each.name}=kafka://{','.join(map(str, each.bootstrap))}"
            for each in self.config.upstreams
        )
        return f"ready {self._doors.urls()} data={self.config.data} upstream={upstreams or 'none'}"


async def _open_devices(config: GatewayConfig) -> DeviceRecorder | None:
    """The device table is for display: without it the gateway does its work all the same."""
    try:
        store = await DeviceStore.open(config.data / "devices.db")
    except DevicesError as error:
        _log.warning("devices.unavailable cause=%s", error)
        return None
    recorder = DeviceRecorder(DeviceTable(), store)
    recorder.start()
    return recorder


def _router(config: GatewayConfig) -> Router:
    counts = {stream.name: stream.partition_count for stream in config.streams}
    return Router(counts, config.routes, default_stream=DEFAULT_STREAM)
