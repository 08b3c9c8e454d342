"""`firmware-sim fleet`: run a fleet for a while, drain it, say how it went.

Owns signals and the progress lines. SIGINT or SIGTERM ends the readings early and drains; a
second one ends at once (the ledger then lacks its end, and the auditor says so).
"""

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from errors import LedgerError
from fleet import CountingLedger, Fleet, FleetSpec
from link import wall_ms

PROGRESS_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRun:
    """What to run and how long."""

    spec: FleetSpec
    ledger: Path
    seconds: float
    drain_seconds: float
    as_json: bool = False


async def run_fleet(run: FleetRun) -> bool:
    """Whether every outbox was empty in the end."""
    try:
        ledger = CountingLedger(run.ledger, seed=run.spec.seed, at_ms=wall_ms())
    except OSError as error:
        raise LedgerError(f"{run.ledger}: {error.strerror}") from error
    fleet = Fleet(run.spec, ledger)
    enough = _stop_on_signal()
    fleet.start()
    progress = asyncio.create_task(_report(fleet, "running", run.as_json))
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), run.seconds)
        drained = await fleet.drain(run.drain_seconds)
    finally:
        progress.cancel()
        await fleet.stop()
        ledger.close()
    failure = fleet.failed()
    if failure is not None:
        raise failure
    _print(fleet, "drained" if drained else "not drained", run.as_json)
    return drained


def _stop_on_signal() -> asyncio.Event:
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if enough.is_set():
            raise KeyboardInterrupt
        enough.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return enough


async def _report(fleet: Fleet, phase: str, as_json: bool) -> None:
    while True:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        _print(fleet, phase, as_json)


def _print(fleet: Fleet, phase: str, as_json: bool) -> None:
    counts = asdict(fleet.counts())
    if as_json:
        line = json.dumps({"phase": phase, **counts})
    else:
        line = f"{phase}: " + " ".join(f"{name}={value}" for name, value in counts.items())
    print(line)
    sys.stdout.flush()
