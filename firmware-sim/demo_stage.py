"""The processes of the demo: an upstream, the uplink to it, a gateway.

Owns their start, their accidents and their end. Everything is on loopback, in one temporary
directory.
"""

import asyncio
import sys
from pathlib import Path

from errors import StartError
from processes import Child, free_port
from relay import Relay
from upstreams import ApacheKafka, Tansu, Upstream

STREAM = "mqtt"
GATEWAY_START_S = 30.0
GATEWAY_STOP_S = 15.0
ROOT = Path(__file__).resolve().parent.parent


class Stage:
    """`start`, then accidents as wanted, then `stop`, whatever happened."""

    def __init__(self, directory: Path, upstream: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.mqtt_port = free_port()
        self.upstream: Upstream = (
            ApacheKafka(directory) if upstream == "kafka" else Tansu(directory)
        )
        self._uplink: Relay | None = None
        self._gateway: Child | None = None
        self._should_run = False

    @property
    def bootstrap(self) -> str:
        """The upstream itself, not by way of the uplink."""
        return f"127.0.0.1:{self.upstream.port}"

    @property
    def uplink_is_up(self) -> bool:
        """Whether the gateway can reach the upstream."""
        return self._uplink is not None and not self._uplink.is_cut

    @property
    def gateway_is_up(self) -> bool:
        """Whether its process lives."""
        return self._gateway is not None and self._gateway.is_running()

    @property
    def gateway_pid(self) -> int:
        """For the hint how to look at it."""
        assert self._gateway is not None
        return self._gateway.pid

    def check(self) -> None:
        """Raise StartError if the gateway ended although nobody asked it to."""
        if self._gateway is not None and self._should_run and not self._gateway.is_running():
            raise StartError(f"the gateway ended by itself:\n{self._gateway.output_tail()}")

    @property
    def gateway_log(self) -> Path:
        """What the gateway wrote."""
        return self.directory / "gateway.log"

    async def start(self) -> None:
        """Upstream, uplink, gateway. Raises StartError."""
        await asyncio.to_thread(self.upstream.start)
        self._uplink = Relay("127.0.0.1", self.upstream.port, readdress_port=self.upstream.port)
        await self._uplink.start()
        self._gateway = Child("gateway", self._gateway_command(), log=self.gateway_log)
        await self.start_gateway()

    async def start_gateway(self) -> None:
        """Start, or start again after a kill."""
        assert self._gateway is not None
        self._gateway.start()
        self._should_run = True
        await asyncio.to_thread(self._gateway.wait_for_output, "ready mqtt://", GATEWAY_START_S)

    def kill_gateway(self) -> None:
        """SIGKILL."""
        self._should_run = False
        assert self._gateway is not None
        self._gateway.kill()

    async def terminate_gateway(self) -> int | None:
        """SIGTERM; the exit status."""
        self._should_run = False
        assert self._gateway is not None
        return await asyncio.to_thread(self._gateway.terminate, GATEWAY_STOP_S)

    def cut_uplink(self) -> None:
        """No way upstream."""
        assert self._uplink is not None
        self._uplink.cut()

    def restore_uplink(self) -> None:
        """The way is back."""
        assert self._uplink is not None
        self._uplink.restore()

    async def stop(self) -> None:
        """End everything that runs, in order."""
        if self._gateway is not None:
            await asyncio.to_thread(self._gateway.terminate, GATEWAY_STOP_S)
        if self._uplink is not None:
            await self._uplink.stop()
        await asyncio.to_thread(self.upstream.stop)

    def kill(self) -> None:
        """End everything at once, from where nothing can be awaited."""
        if self._gateway is not None:
            self._gateway.kill()
        self.upstream.stop()

    def _gateway_command(self) -> list[str]:
        assert self._uplink is not None
        program = Path(sys.executable).with_name("sluicegate")
        if not program.exists():
            raise StartError(f"{program} is missing: run ./demo, which installs it")
        return [
            str(program),
            "run",
            f"--listen=mqtt://127.0.0.1:{self.mqtt_port}",
            f"--data={self.data}",
            f"--upstream=kafka://127.0.0.1:{self._uplink.port}",
        ]
