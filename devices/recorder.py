"""The asyncio shell of devices/: moves the table's changes to the store every few seconds.

Owns one task. Never raises into the gateway and never holds a message up: a store that cannot be
written costs the display its freshness, so it is logged, counted, and tried again.
"""

import asyncio
import contextlib
import logging

from devices.limits import DeviceLimits
from devices.store import DeviceStore
from devices.table import DeviceTable

_log = logging.getLogger(__name__)


class DeviceRecorder:
    """`start()` inside the loop; `await stop()` writes what is pending and closes the store."""

    def __init__(
        self, table: DeviceTable, store: DeviceStore, *, limits: DeviceLimits | None = None
    ) -> None:
        self.table = table
        self.store = store
        self._interval_s = (limits or DeviceLimits()).flush_interval_ms / 1_000
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._reported_unrecorded_count = 0
        self.failed_flush_count = 0

    def start(self) -> None:
        """Begin to flush; logs what opening the store found."""
        self._log_set_aside()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="device-recorder")

    async def stop(self) -> None:
        """Flush once more and close the store."""
        # Told, not cancelled: a transaction half given to SQLite's thread must come to its end
        # before the file is closed.
        self._stopping.set()
        if self._task is not None:
            await self._task
        await self.flush()
        await self.store.close()

    async def flush(self) -> None:
        """Write what changed since the last flush, in one transaction."""
        changes = self.table.drain()
        if not changes:
            return
        before = self.store.report
        try:
            await self.store.reopen()
            await self.store.write(changes)
        except Exception as error:
            # Whatever it was: the task goes on, and the next flush tries again.
            self.failed_flush_count += 1
            self.table.put_back(changes)
            _log.warning("devices.flush_failed count=%d cause=%s", len(changes), error)
        if self.store.report is not before:
            self._log_set_aside()
        self._log_unrecorded()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._interval_s)
            await self.flush()

    def _log_set_aside(self) -> None:
        report = self.store.report
        if report.set_aside is not None:
            _log.warning(
                "devices.store_set_aside path=%s reason=%s", report.set_aside, report.reason
            )

    def _log_unrecorded(self) -> None:
        count = self.table.unrecorded_count
        if count != self._reported_unrecorded_count:
            _log.warning("devices.unrecorded count=%d", count - self._reported_unrecorded_count)
            self._reported_unrecorded_count = count
