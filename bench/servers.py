"""The servers under test, alike to a bench: start, pid, port, how many messages came in, stop."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path
from typing import Protocol

from bench.machine import Cores
from bench.mqtt_probe import Probe
from log import Log, Retention, StreamSpec
from tests.rigs import GatewayProcess, Mosquitto

_STREAM = "mqtt"
_SYS_INTERVAL_S = 1
_SYS_PATIENCE_S = 5.0


class Server(Protocol):
    """A broker in a process of its own, pinned, with nothing stored at the start."""

    name: str

    def start(self) -> None: ...

    @property
    def pid(self) -> int: ...

    @property
    def port(self) -> int: ...

    def finish(self, expected_count: int) -> int:
        """Stops it; gives how many messages it had received, as soon as those are all it may be."""
        ...


class MosquittoServer:
    """mosquitto as Debian ships it, without persistence, without limits."""

    name = "mosquitto"

    def __init__(self, directory: Path, cores: Cores) -> None:
        self._directory = directory / "mosquitto"
        self._broker = Mosquitto(self._directory, settings=f"sys_interval {_SYS_INTERVAL_S}\n")
        self._prefix = cores.pin_server()

    def start(self) -> None:
        self._broker.start(prefix=self._prefix)

    @property
    def pid(self) -> int:
        assert self._broker.process is not None, "start() comes first"
        return self._broker.process.pid

    @property
    def port(self) -> int:
        return self._broker.port

    def finish(self, expected_count: int) -> int:
        # Its counters are published once an interval, and late when it is idle.
        deadline = time.monotonic() + _SYS_PATIENCE_S
        while (count := self._received()) < expected_count and time.monotonic() < deadline:
            time.sleep(0.2)
        self.stop()
        return count

    def _received(self) -> int:
        with Probe(self.port, "counter") as probe:
            (count,) = probe.listen("$SYS/broker/publish/messages/received", 1)
        return int(count)

    def stop(self) -> None:
        self._broker.stop()
        shutil.rmtree(self._directory)


class GatewayServer:
    """`sluicegate run`; counts what is in its log after it has ended."""

    def __init__(
        self, directory: Path, cores: Cores, *, partition_count: int, more_config: str = ""
    ) -> None:
        self.name = f"sluicegate, {partition_count} partitions"
        self.partition_count = partition_count
        self._directory = directory / "gateway"
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        config = self._directory / "gateway.toml"
        config.write_text(
            f'log_level = "info"\n[stream.{_STREAM}]\npartitions = {partition_count}\n{more_config}'
        )
        self.data = self._directory / "data"
        self._process = GatewayProcess(self.data, config=config, prefix=cores.pin_server())

    def start(self) -> None:
        self._process.start()

    def spawn(self) -> None:
        """Starts it without waiting for its readiness line."""
        self._process.spawn()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        return self._process.port

    def finish(self, expected_count: int) -> int:
        self.end(signal.SIGTERM)
        count = stored_count(self.data, partition_count=self.partition_count)
        self.remove()
        return count

    def end(self, number: signal.Signals) -> None:
        """Ends it by that signal. Raises RuntimeError when it complained, or died of SIGTERM."""
        self._process.send(number)
        status = self._process.wait(timeout=30)
        output = self._process.output_since_start()
        bad_status = status != 0 and number is not signal.SIGKILL
        if bad_status or re.search(r"\b(ERROR|CRITICAL|Traceback)\b", output):
            raise RuntimeError(f"the gateway ended with {status}:\n{output[-4000:]}")

    def replayed(self) -> str:
        """What the last start said of recovery."""
        output = self._process.output_since_start()
        found = re.search(r"log\.recovered frames=(\d+) records=(\d+)", output)
        return f"{int(found[2]):,} records" if found else "?"

    def remove(self) -> None:
        self._process.kill()
        shutil.rmtree(self._directory)


def stored_count(data: Path, *, partition_count: int, stream: str = _STREAM) -> int:
    """Records in the log of a gateway that has ended."""
    spec = StreamSpec(name=stream, partition_count=partition_count, retention=Retention())
    log = Log.open(data, [spec])
    try:
        partitions = log.streams[stream].partitions
        return sum(each.durable_end - each.start_offset for each in partitions)
    finally:
        log.close()
