"""A data directory whose checkpoints are gone: what is sent again says that it may be twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from bridge.channel import Channel
from log import Committer
from tests.bridge.site import Site, config


async def test_a_channel_knows_that_its_cursor_may_be_lost(tmp_path: Path) -> None:
    async with Site(tmp_path / "data", "s") as site:
        await site.publish(300)
        site.seal()
    for path in (tmp_path / "data").glob("*"):
        if path.name.startswith("checkpoint") or path.name == "journal":
            path.unlink()
    for _ in range(2):  # a start later it is still known
        async with Site(tmp_path / "data", "s") as site:
            channel = Channel(
                site.partition(),
                log=site.log,
                committer=Committer(site.log, asyncio.get_running_loop()),
                config=config("127.0.0.1:9"),
                rng=Random(1),
                executor=None,  # type: ignore[arg-type]
                changed=lambda: None,
            )
            attempt = channel.core.known.attempt
            assert attempt is not None
            assert attempt.until == channel.core.known.maybe_sent_end == 300
