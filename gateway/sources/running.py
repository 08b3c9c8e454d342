"""The sources of a gateway: started, changed by a reload, and stopped, all together.

A shell by what it awaits only. One source's trouble is not the others'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gateway.sources.config import SourceConfig
from gateway.sources.source import Source

_log = logging.getLogger(__name__)


class Sources:
    """`make` gives a source that is not started."""

    def __init__(self, make: Callable[[SourceConfig], Source]) -> None:
        self._make = make
        self._running: dict[SourceConfig, Source] = {}

    async def change(self, wanted: Sequence[SourceConfig]) -> None:
        """Stops what is not wanted any more, and starts what is new; the rest goes on."""
        for config in [config for config in self._running if config not in wanted]:
            await self._running.pop(config).stop()
        for config in wanted:
            if config not in self._running:
                source = self._make(config)
                source.start()
                self._running[config] = source

    async def stop(self) -> None:
        await self.change(())

    def routes_changed(self) -> None:
        for source in self._running.values():
            source.intake.forget_routes()
