"""The asyncio shell of the retained messages: their worker thread, their sweep, start and stop."""

import asyncio
import logging
from pathlib import Path

from gateway.limits import MqttLimits
from gateway.mqtt.retained import RetainedTable
from gateway.worker import WorkerThread
from log import Log

_log = logging.getLogger(__name__)

_SWEEP_S = 1.0

_START_S_MAX = 1.0
"""How long a start waits for the table. Reading a log of many GB takes longer, where the file was
lost: then clients come in meanwhile, and subscribers are sent what is there by then."""


class RetainedService:
    """`start()` in the loop, before clients come in; `stop()` when no more is stored."""

    def __init__(self, log: Log, limits: MqttLimits, directory: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = WorkerThread("retained", self._loop.call_soon_threadsafe)
        self.table = RetainedTable(log, limits, self._worker, directory)
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        ready = asyncio.Event()
        self.table.when_caught_up(ready.set)
        self.table.open()
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        try:
            await asyncio.wait_for(ready.wait(), _START_S_MAX)
        except TimeoutError:
            _log.warning("retained.not_ready waited_s=%.0f", _START_S_MAX)

    async def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.table.close()
        await self._loop.run_in_executor(None, self._worker.close)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        self.table.sweep()
