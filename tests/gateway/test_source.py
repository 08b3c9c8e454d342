"""gateway/sources: acknowledgements wait for fdatasync, and what the log cannot take waits too.

In one process with a log whose disk can be held up, beside a real Mosquitto.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import pytest

from bridge.config import Address
from gateway.ingest import Ingest
from gateway.limits import SourceLimits
from gateway.routing import Router
from gateway.sources.config import SourceConfig
from gateway.sources.source import Source
from log import LogLimits
from tests.log.helpers import values
from tests.log.shells import LIMITS, Rig, eventually
from tests.rigs import TcpProxy
from tests.rigs.mosquitto import Mosquitto
from tests.rigs.needs import find_program, need_mosquitto

pytestmark = need_mosquitto

ONE_AT_A_TIME = "max_inflight_messages 1\n"
"""So the broker sends the next message only when it has the acknowledgement of the one before."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker", settings=ONE_AT_A_TIME)
    broker.start()
    yield broker
    broker.stop()


def publish(broker: Mosquitto, *payloads: str, qos: int = 1, extra: tuple[str, ...] = ()) -> None:
    """In order; returns when the broker has them."""
    program = find_program("mosquitto_pub")
    assert program is not None
    command = [program, "-p", str(broker.port), "-q", str(qos), "-t", "t", "-l", *extra]
    subprocess.run(command, input="\n".join(payloads).encode(), check=True, timeout=10)


class Running:
    """A source beside a broker, into a log of one partition."""

    def __init__(
        self,
        directory: Path,
        broker: Mosquitto,
        *,
        qos: int = 1,
        limits: SourceLimits | None = None,
        log_limits: LogLimits = LIMITS,
        port: int | None = None,
        **options: object,
    ) -> None:
        self.rig = Rig(directory, log_limits)
        self.config = SourceConfig(
            name="plant",
            address=Address(host="127.0.0.1", port=port or broker.port),
            qos=qos,
            limits=limits or SourceLimits(backoff_min_ms=20, backoff_max_ms=100),
            **options,  # type: ignore[arg-type]
        )
        self.source = Source(
            self.config,
            log=self.rig.log,
            ingest=Ingest(self.rig.log, Router({"mqtt": 1})),
            committer=self.rig.committer,
            publish=lambda *_: None,
            rng=Random(1),
        )

    async def __aenter__(self) -> Self:
        self.rig.housekeeper.start()
        self.source.start()
        await self.until_subscribed()
        return self

    async def until_subscribed(self) -> None:
        key = b"source/plant/subscribed"
        await eventually(lambda: self.rig.log.state.get_durable(key) is not None)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.rig.files.go.set()
        await self.source.stop()
        await self.rig.stop()

    @property
    def stored(self) -> list[bytes]:
        return [value or b"" for value in values(self.rig.partition)]


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("protocol", ["3.1.1", "5.0"])
async def test_nothing_is_acknowledged_before_it_is_durable(
    tmp_path: Path, broker: Mosquitto, qos: int, protocol: str
) -> None:
    limits = SourceLimits(in_flight_max=1)  # the same for a 5.0 broker, as Receive Maximum
    async with Running(
        tmp_path / "data", broker, qos=qos, protocol=protocol, limits=limits
    ) as running:
        intake = running.source.intake
        running.rig.files.go.clear()
        for each in ("a", "b", "c"):  # the limit of one holds for who publishes, too
            await asyncio.to_thread(publish, broker, each, qos=qos)
        await eventually(lambda: intake.stored_count == 1)
        await asyncio.sleep(0.5)
        # PUBREL counts as an arrival, too: not even that may come.
        assert (intake.arrived_count, running.stored) == (1, [])
        running.rig.files.go.set()
        await eventually(lambda: running.stored == [b"a", b"b", b"c"])


async def test_a_log_that_takes_nothing_leaves_the_messages_with_the_broker(
    tmp_path: Path, broker: Mosquitto
) -> None:
    limits = SourceLimits(backoff_min_ms=20, backoff_max_ms=100, in_flight_max=1)
    async with Running(tmp_path / "data", broker, limits=limits) as running:
        log, intake = running.rig.log, running.source.intake
        log.stalled = "the disk is full"
        before, log._reserve_bytes = log._reserve_bytes, log.journal.capacity_bytes
        await asyncio.to_thread(publish, broker, "a", "b")
        await eventually(lambda: intake.is_refused)
        await asyncio.sleep(0.3)
        assert (intake.arrived_count, running.stored) == (1, [])
        log.stalled, log._reserve_bytes = "", before
        await eventually(lambda: running.stored == [b"a", b"b"])
        assert not intake.is_refused


async def test_a_journal_that_fails_leaves_the_messages_with_the_broker(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with Running(tmp_path / "data", broker, protocol="3.1.1") as running:
        running.rig.files.fail_journal = OSError(5, "Input/output error")
        await asyncio.to_thread(publish, broker, "a", "b")
        await eventually(lambda: running.rig.log.failure is not None)
        await asyncio.sleep(0.3)
        assert running.source.intake.arrived_count == 1
    async with Running(tmp_path / "data", broker, protocol="3.1.1") as running:
        await eventually(lambda: b"b" in running.stored)
        assert set(running.stored) == {b"a", b"b"}


async def test_messages_read_while_the_log_is_congested_are_bounded_and_none_is_lost(
    tmp_path: Path,
) -> None:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    limits = SourceLimits(backoff_min_ms=20, backoff_max_ms=100, in_flight_max=50)
    try:
        async with Running(tmp_path / "data", broker, limits=limits, protocol="3.1.1") as running:
            intake = running.source.intake
            running.rig.files.go.clear()
            payloads = [f"{number:04}" * 250 for number in range(2_000)]
            await asyncio.to_thread(publish, broker, *payloads)
            await eventually(lambda: intake.is_full)
            assert len(intake._held) <= 50 + limits.slice_count_max
            running.rig.files.go.set()
            await eventually(lambda: len(running.stored) == 2_000, timeout_s=20)
            assert running.stored == [each.encode() for each in payloads]
    finally:
        broker.stop()


async def test_a_message_too_large_for_a_record_is_said_and_does_not_stay_in_the_way(
    tmp_path: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    async with Running(tmp_path / "data", broker, protocol="3.1.1") as running:
        size = running.rig.log.limits.record_bytes_max
        await asyncio.to_thread(publish, broker, "x" * (size + 1), "after")
        await eventually(lambda: running.stored == [b"after"])
        assert running.source.intake.unstorable_count == 1
    assert "source.unstorable source=plant topic='t'" in caplog.text


async def test_retained_messages_come_once_and_not_again_with_a_kept_session(
    tmp_path: Path, broker: Mosquitto
) -> None:
    await asyncio.to_thread(publish, broker, "kept", extra=("-r",))
    for _ in range(2):
        async with Running(tmp_path / "data", broker) as running:
            await eventually(lambda: len(running.stored) >= 1)
            await asyncio.sleep(0.3)
            assert running.stored == [b"kept"]


async def test_filters_that_are_not_wanted_any_more_are_unsubscribed(
    tmp_path: Path, broker: Mosquitto
) -> None:
    async with Running(tmp_path / "data", broker, filters=("t", "u")):
        pass
    async with Running(tmp_path / "data", broker, filters=("u",)) as running:
        wanted = running.source._wanted()
        await eventually(lambda: running.source._subscribed() == wanted)
        await asyncio.to_thread(publish, broker, "a")
        await asyncio.to_thread(publish, broker, "b", extra=("-t", "u"))
        await eventually(lambda: b"b" in running.stored)
        assert running.stored == [b"b"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that is its own authority."""
    directory = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        " -subj /CN=broker -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out ca.pem"
    )
    subprocess.run(command.split(), cwd=directory, check=True, capture_output=True)
    return directory


async def test_tls_user_name_and_password(tmp_path: Path, authority: Path) -> None:
    passwords = tmp_path / "passwords"
    program = find_program("mosquitto_passwd")
    assert program is not None
    passwords.touch()
    subprocess.run([program, "-b", str(passwords), "gw", "secret"], check=True)
    (tmp_path / "gw.password").write_text("secret\n")
    broker = Mosquitto(
        tmp_path / "broker",
        settings=f"certfile {authority}/ca.pem\nkeyfile {authority}/key.pem\n"
        f"allow_anonymous false\npassword_file {passwords}\n",
    )
    broker.start()
    try:
        async with Running(
            tmp_path / "data",
            broker,
            is_tls=True,
            tls_ca=authority / "ca.pem",
            user_name="gw",
            password_file=tmp_path / "gw.password",
        ) as running:
            tls = ("--cafile", f"{authority}/ca.pem", "-h", "127.0.0.1", "-u", "gw", "-P", "secret")
            payloads = [f"{number}" for number in range(500)]
            await asyncio.to_thread(publish, broker, *payloads, extra=tls)
            await eventually(lambda: len(running.stored) == 500)
            assert running.stored == [each.encode() for each in payloads]
    finally:
        broker.stop()


async def test_a_certificate_that_is_not_trusted_is_refused_and_tried_again(
    tmp_path: Path, authority: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Mosquitto(
        tmp_path / "broker",
        settings=f"certfile {authority}/ca.pem\nkeyfile {authority}/key.pem\n",
    )
    broker.start()
    running = Running(tmp_path / "data", broker, is_tls=True)
    try:
        running.source.start()
        await eventually(lambda: "certificate verify failed" in caplog.text)
        await eventually(lambda: running.source._retry.failure_count >= 3)
        assert caplog.text.count("source.away") == 1
        await running.source.stop()
        await running.rig.stop()
    finally:
        broker.stop()


async def test_a_link_that_goes_silent_is_given_up_and_what_came_meanwhile_arrives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Mosquitto(tmp_path / "broker")
    broker.start()
    proxy = TcpProxy(broker.port)
    limits = SourceLimits(backoff_min_ms=20, backoff_max_ms=100, keep_alive_s=1)
    try:
        async with Running(tmp_path / "data", broker, limits=limits, port=proxy.port) as running:
            await asyncio.to_thread(publish, broker, "before")
            await eventually(lambda: running.stored == [b"before"])
            proxy.blackhole()
            await asyncio.to_thread(publish, broker, "meanwhile")
            await eventually(lambda: "source.away" in caplog.text)
            proxy.restore()
            await eventually(lambda: running.stored == [b"before", b"meanwhile"])
    finally:
        proxy.close()
        broker.stop()


def test_a_gateway_without_a_source_does_not_load_paho() -> None:
    command = "import sys, gateway.app; sys.exit('paho' in sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)
