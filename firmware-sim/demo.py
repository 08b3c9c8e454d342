"""`firmware-sim demo`: the whole path, with accidents, and every message accounted for.

Owns the script: what happens when. The stage has the processes, the fleet the devices, the view
the words, the auditor the verdict.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import recordings
from audit import Auditor, AuditReport
from demo_stage import STREAM, Stage
from demo_view import Moment, View, print_result
from device import Address
from disk_usage import DiskUsage, measure
from errors import FirmwareSimError, StartError, UpstreamError
from fleet import CountingLedger, Fleet, FleetSpec
from kafka_tail import KafkaTail, partition_count_of
from ledger import read_ledger
from link import wall_ms
from profiles import BUILT_IN
from rich.console import Console

RATE = 8.0
KEPT_RATE = 1.0
PLAIN_WIDTH = 116
REFRESH_S = 0.2
TOPIC_TIMEOUT_S = 30.0
DRAIN_S = 15.0
ARRIVAL_S = 25.0
QUIET_S = 1.0
SLOW_START_S = 15.0
HURRIED_PACE = 0.6
"""Where starting took long already, the story is told faster, to end in time."""
SETTLE_S = 3.0
"""How long after an accident messages still count as touched by it."""
IN_FLIGHT_MS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """What the command line says."""

    upstream: str
    keep: bool
    device_count: int
    seed: int


def run_demo(options: DemoOptions) -> bool | None:
    """Whether nothing acknowledged was lost (nor doubled or reordered without a reason).

    None: stopped by a person before that was known.
    """
    # What is no terminal has no width: then tables need not be squeezed into 80 columns.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    directory = Path(tempfile.mkdtemp(prefix="sluicegate-demo-"))
    stage = None
    is_of_use = False
    try:
        stage = Stage(directory, options.upstream)
        passed = asyncio.run(_perform(options, stage, console))
        is_of_use = not passed
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("\nstopped; every process of the demo has ended")
        return None
    except FirmwareSimError:
        is_of_use = True
        raise
    finally:
        if stage is not None:
            stage.kill()
        if is_of_use:
            console.print(f"what the processes wrote is in {directory}", soft_wrap=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return passed


async def _perform(options: DemoOptions, stage: Stage, console: Console) -> bool:
    return await Demo(options, stage, console).run()


class Demo:
    """One run, made inside the loop that runs it."""

    def __init__(self, options: DemoOptions, stage: Stage, console: Console) -> None:
        self._options = options
        self._stage = stage
        self._view = View(console)
        self._console = console
        self._ledger_path = stage.directory / "ledger.jsonl"
        self._ledger = CountingLedger(self._ledger_path, seed=options.seed, at_ms=wall_ms())
        self._watcher: UpstreamWatcher | None = None
        self._outages: list[tuple[int, int]] = []
        self._fleet = self._new_fleet(self._ledger, rate=RATE, prefix="dev")

    async def run(self) -> bool:
        """All of it. Raises StartError, UpstreamError."""
        self._cancel_on(signal.SIGTERM)
        say = self._view.announce
        say(f"starting: {self._stage.upstream.title}, and a gateway")
        try:
            await self._stage.start()
            with self._view.running():
                refresh = asyncio.create_task(self._refresh())
                try:
                    await self._story()
                finally:
                    refresh.cancel()
            report, disk = await self._account()
            if self._options.keep:
                await self._keep_running()
            return report.passed and disk.record_count >= report.upstream
        finally:
            await self._fleet.stop()
            if self._watcher is not None:
                self._watcher.stop()
            await self._stage.stop()
            self._ledger.close()

    async def _story(self) -> None:
        """Accidents, in a fixed order; devices publish all the while."""
        say, stage = self._view.announce, self._stage
        pace = 1.0 if self._view.elapsed_s() < SLOW_START_S else HURRIED_PACE
        self._fleet.start()
        say(f"{self._options.device_count} devices replay recorded weather, QoS 1 and 2")
        self._watcher = await self._watch()
        await self._pass(8 * pace)
        self._outage_begins()
        stage.cut_uplink()
        say("[yellow]the uplink is cut[/yellow]: the gateway goes on acknowledging, from its disk")
        await self._pass(6 * pace)
        await self._kill_and_restart("with the backlog on its disk")
        await self._pass(5 * pace)
        stage.restore_uplink()
        say("[green]the uplink is back[/green]: the backlog drains beside the live messages")
        await self._pass(SETTLE_S)
        self._outage_ends()
        await self._pass(7 * pace - SETTLE_S)
        self._outage_begins()
        await self._kill_and_restart("in full flow")
        await self._pass(SETTLE_S)
        self._outage_ends()
        await self._pass(8 * pace - SETTLE_S)
        say("readings end; devices empty their outboxes")
        if not await self._fleet.drain(DRAIN_S):
            say("[red]some devices still hold messages[/red]")
        await self._fleet.stop()
        failure = self._fleet.failed()
        if failure is not None:
            raise failure
        await self._wait_for_arrival()

    def _outage_begins(self) -> None:
        # Some are on their way at that moment: they count to the outage, too.
        self._outages.append((wall_ms() - IN_FLIGHT_MS, 2**62))

    def _outage_ends(self) -> None:
        begin_ms, _ = self._outages.pop()
        self._outages.append((begin_ms, wall_ms()))

    async def _kill_and_restart(self, remark: str) -> None:
        self._stage.kill_gateway()
        self._view.announce(f"[yellow]the gateway is killed (SIGKILL)[/yellow] {remark}")
        await self._pass(1.5)
        began_ms = wall_ms()
        await self._stage.start_gateway()
        self._view.announce(f"the gateway is back; it recovered in {wall_ms() - began_ms} ms")

    async def _account(self) -> tuple[AuditReport, DiskUsage]:
        """Stop the gateway in order, so that its log is closed; then compare the books."""
        assert self._watcher is not None
        status = await self._stage.terminate_gateway()
        if status != 0:
            self._view.announce(f"[red]the gateway ended with status {status}[/red]")
        disk = await asyncio.to_thread(measure, self._stage.data)
        self._ledger.flush()
        ledger = await asyncio.to_thread(read_ledger, self._ledger_path)
        report = await asyncio.to_thread(self._watcher.auditor.report, ledger)
        print_result(
            self._console,
            report,
            disk,
            upstream_title=self._stage.upstream.title,
            outages=self._outages,
        )
        verdict = "[bold green]nothing acknowledged was lost[/bold green]"
        self._console.print(verdict if report.passed else "[bold red]FAILED[/bold red]")
        if not self._options.keep:
            self._console.print(
                "next: ./demo --keep              leaves it all running, to be looked at\n"
                "      ./demo --upstream kafka    the same with real Apache Kafka\n"
                "      .venv/bin/sluicegate run   a gateway of your own (--help for its flags)",
                soft_wrap=True,
            )
        return report, disk

    async def _keep_running(self) -> None:
        """Gateway and fleet again, until Ctrl-C."""
        assert self._watcher is not None
        self._watcher.stop()
        stage, port = self._stage, self._stage.mqtt_port
        await stage.start_gateway()
        ledger = CountingLedger(Path(os.devnull), seed=self._options.seed, at_ms=wall_ms())
        fleet = self._new_fleet(ledger, rate=KEPT_RATE, prefix="kept")
        fleet.start()
        self._console.print(
            f"\nstill running, with {self._options.device_count} devices:\n"
            f"  gateway   mqtt://127.0.0.1:{port}   (pid {stage.gateway_pid})\n"
            f"            mosquitto_sub -p {port} -t 'site/#' -F '%t %l bytes'\n"
            f"            mosquitto_pub -p {port} -q 1 -i me -t hello -m world\n"
            f"  upstream  kafka://{stage.bootstrap}   topic {STREAM}\n"
            f"            kcat -b {stage.bootstrap} -t {STREAM} -C -o end\n"
            f"  data      {stage.data}\n"
            f"  log       {stage.gateway_log}\n"
            "stop it all with Ctrl-C",
            soft_wrap=True,
        )
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self._console.print("stopping")
        await fleet.stop()
        ledger.close()

    async def _watch(self) -> "UpstreamWatcher":
        """The tail consumer, once the bridge has made the topic."""
        bootstrap = self._stage.bootstrap
        for _ in range(int(TOPIC_TIMEOUT_S / REFRESH_S)):
            with contextlib.suppress(UpstreamError):
                count = await asyncio.to_thread(partition_count_of, bootstrap, STREAM)
                if count is not None:
                    return UpstreamWatcher(bootstrap, count)
            await self._pass(REFRESH_S)
        raise StartError(
            f"no topic {STREAM!r} upstream after {TOPIC_TIMEOUT_S:.0f} s; the gateway says:\n"
            + self._stage.gateway_log.read_text()[-2000:]
        )

    async def _wait_for_arrival(self) -> None:
        """Until what was acknowledged is upstream, or nothing has come for a while."""
        assert self._watcher is not None
        deadline_ms = wall_ms() + ARRIVAL_S * 1000
        while wall_ms() < deadline_ms:
            last = self._watcher.auditor.record_count
            await self._pass(QUIET_S)
            now = self._watcher.auditor.record_count
            if now == last and now >= self._fleet.counts().acknowledged:
                return

    async def _pass(self, seconds: float) -> None:
        """Let time pass, unless something died meanwhile."""
        await asyncio.sleep(seconds)
        self._stage.check()
        failure = self._fleet.failed()
        if failure is not None:
            raise failure

    async def _refresh(self) -> None:
        while True:
            self._view.show(
                Moment(
                    counts=self._fleet.counts(),
                    upstream_count=self._watcher.auditor.record_count if self._watcher else 0,
                    gateway_is_up=self._stage.gateway_is_up,
                    uplink_is_up=self._stage.uplink_is_up,
                    device_count=self._options.device_count,
                )
            )
            await asyncio.sleep(REFRESH_S)

    def _new_fleet(self, ledger: CountingLedger, *, rate: float, prefix: str) -> Fleet:
        spec = FleetSpec(
            gateway=Address(host="127.0.0.1", port=self._stage.mqtt_port),
            device_count=self._options.device_count,
            profiles=list(BUILT_IN.values()),
            recordings=[recordings.load(name) for name in recordings.BUILT_IN],
            seed=self._options.seed,
            rate=rate,
            name_prefix=prefix,
        )
        return Fleet(spec, ledger)

    def _cancel_on(self, number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        cancel: Callable[[], object] = task.cancel
        asyncio.get_running_loop().add_signal_handler(number, cancel)


class UpstreamWatcher:
    """A thread that reads the upstream as records come, and notes when."""

    def __init__(self, bootstrap: str, partition_count: int) -> None:
        self.auditor = Auditor(partition_count=partition_count)
        self._tail = KafkaTail(bootstrap, STREAM, partition_count)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upstream", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Join the thread."""
        self._ended.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._ended.is_set():
            for record in self._tail.poll(0.05):
                self.auditor.feed(record)
        self._tail.close()
