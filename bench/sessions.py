"""Subscribers that were away: how long until they have everything, and what that costs the others.

Sessions are made over MQTT by clients that subscribe and leave. While they are away messages are
stored through the log's own API, with the records that the gateway would have written. Then the
clients come back over MQTT, to a gateway process on a core of its own; `awayload` counts what each
of them has, and fails where one has too little, something twice, or out of order.

A thousand sessions have a filter each that matches 100 of the messages, spread over all of them.
First one comes back alone, then all at once while `mqttload` publishes. Memory is the gateway's
resident set, sampled, against what it was before the first returned. A subscriber of everything
drains a log of its own: at QoS 0 by a replay, at QoS 1 from its session, beside mosquitto, whose
queue is in memory.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import SIGTERM

from bench.away_store import EACH, PARTITIONS, Size, store_for_everything, store_for_sessions
from bench.load import (
    AwayClients,
    LoadFailed,
    LoadResult,
    Shape,
    build_load,
    raise_descriptor_limit,
    run_away,
    run_load,
)
from bench.machine import Cores, choose_cores
from bench.process_cost import cpu_s, memory, wait_until_idle
from bench.report import NOTHING, Report, Sample, Table, begin, parser
from bench.servers import GatewayServer, MosquittoServer
from tests.rigs.needs import find_program

_LOAD = Shape(qos=1, connections=100, window=20)
_LOAD_S = 2.0
_PATIENCE_S = 300.0

_LONG = Size(messages=10_000_000, sessions=1_000, common_topics=9_000, everything=1_000_000)
_QUICK = Size(messages=40_000, sessions=20, common_topics=180, everything=5_000)


@dataclass(slots=True)
class Beside:
    """What goes on beside the return: publishers, where asked for, and a look at the memory."""

    program: Path
    server: GatewayServer
    cores: Cores
    publishing: bool
    loads: list[tuple[float, float, LoadResult]] = field(default_factory=list)
    peak_kib: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def during(self, work: Callable[[], float]) -> tuple[float, float]:
        """Seconds that `work` says it took, and messages a second published meanwhile."""
        threads = [threading.Thread(target=self._watch)]
        if self.publishing:
            threads.append(threading.Thread(target=self._publish))
        for thread in threads:
            thread.start()
        began = time.monotonic()
        try:
            took_s = work()
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()
        within = [each for each in self.loads if each[0] < began + took_s]
        full = [each for each in within if each[1] <= began + took_s] or within
        rates = [load.count / load.took_s for _, _, load in full]
        return took_s, sum(rates) / len(rates) if rates else 0.0

    def _publish(self) -> None:
        while not self._ended.is_set():
            began = time.monotonic()
            load = run_load(self.program, self.server.port, _LOAD, _LOAD_S, self.cores)
            self.loads.append((began, time.monotonic(), load))

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.peak_kib = max(self.peak_kib, memory(self.server.pid).resident_kib)


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """One run: seconds, messages a second, KiB."""

    start_s: float
    single_s: float
    all_s: float
    first_s: float
    alone_rate: float
    beside_rate: float
    cpu_s: float
    before_kib: float
    growth_kib: float


def measure_sessions(
    report: Report, directory: Path, size: Size, programs: dict[str, Path], cores: Cores
) -> Returned:
    server = GatewayServer(directory, cores, partition_count=PARTITIONS)
    away = programs["awayload"]
    many = AwayClients(
        name="away",
        count=size.sessions,
        qos=1,
        topic_filter="away/%u/+",
        expected_count=EACH,
    )
    one = AwayClients(name="single", count=1, qos=1, topic_filter="away/%u/+", expected_count=EACH)
    server.start()
    for clients in (many, one):
        run_away(away, server.port, "leave", clients, 60.0, cores)
    server.end(SIGTERM)
    began = time.monotonic()
    store_for_sessions(server.data, size)
    report.progress(f"stored {size.messages:,} messages in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    server.start()
    start_s = time.monotonic() - began
    try:
        wait_until_idle(server.pid, timeout_s=10.0)
        before_kib = memory(server.pid).resident_kib
        single = run_away(away, server.port, "return", one, _PATIENCE_S, cores)
        report.progress(f"one session: {single.took_s:.3f} s")
        load = run_load(programs["mqttload"], server.port, _LOAD, 2 * _LOAD_S, cores)
        wait_until_idle(server.pid, timeout_s=10.0)
        loaded_kib = memory(server.pid).resident_kib
        before_s = cpu_s(server.pid)
        beside = Beside(programs["mqttload"], server, cores, publishing=True)
        first_s = 0.0

        def come_back() -> float:
            nonlocal first_s
            result = run_away(away, server.port, "return", many, _PATIENCE_S, cores)
            first_s = result.first_s
            return result.took_s

        all_s, beside_rate = beside.during(come_back)
        used_s = cpu_s(server.pid) - before_s
    finally:
        server.end(SIGTERM)
        server.remove()
    return Returned(
        start_s=start_s,
        single_s=single.took_s,
        all_s=all_s,
        first_s=first_s,
        alone_rate=load.count / load.took_s,
        beside_rate=beside_rate,
        cpu_s=used_s,
        before_kib=before_kib,
        growth_kib=beside.peak_kib - max(before_kib, loaded_kib),
    )


def measure_everything(
    report: Report, directory: Path, size: Size, programs: dict[str, Path], cores: Cores
) -> tuple[float | None, float]:
    """Messages a second to a subscriber of everything: QoS 0 by replay, where there is one, and
    QoS 1 from a session.
    """
    server = GatewayServer(directory, cores, partition_count=PARTITIONS)
    away = programs["awayload"]
    session = AwayClients(
        name="all", count=1, qos=1, topic_filter="#", expected_count=size.everything
    )
    reader = AwayClients(
        name="replay", count=1, qos=0, topic_filter="plant/#", expected_count=size.everything
    )
    server.start()
    run_away(away, server.port, "leave", session, 60.0, cores)
    server.end(SIGTERM)
    store_for_everything(server.data, size)
    server.start()
    replayed: float | None = None
    try:
        result = run_away(away, server.port, "return", session, _PATIENCE_S, cores)
        try:
            replay = run_away(away, server.port, "replay", reader, _PATIENCE_S / 10, cores)
            replayed = replay.count / replay.took_s
        except LoadFailed as error:
            report.progress(f"no replay: {error}")
    finally:
        server.end(SIGTERM)
        server.remove()
    return replayed, result.count / result.took_s


def measure_mosquitto(
    directory: Path, size: Size, programs: dict[str, Path], cores: Cores
) -> float:
    """Messages a second from its queue in memory to a subscriber of everything, QoS 1."""
    server = MosquittoServer(directory, cores)
    server.start()
    try:
        session = AwayClients(name="all", count=1, qos=1, topic_filter="#")
        run_away(programs["awayload"], server.port, "leave", session, 60.0, cores)
        count = 0
        while count < size.everything:
            count += run_load(
                programs["mqttload"], server.port, _LOAD, size.everything / 100_000, cores
            ).count
        session = replace(session, expected_count=count, are_numbered=False)
        result = run_away(programs["awayload"], server.port, "return", session, _PATIENCE_S, cores)
    finally:
        server.stop()
    return result.count / result.took_s


def sessions_table(size: Size, runs: Sequence[Returned]) -> Table:
    table = Table(
        f"{size.sessions:,} sessions away for {size.messages:,} messages on "
        f"{size.sessions + size.common_topics:,} topics, {EACH} for each",
        ("what", "asked", "median (lowest-highest)"),
    )

    def row(what: str, asked: str, name: str, *, digits: int = 2, scale: float = 1.0) -> None:
        sample = Sample.of(getattr(run, name) for run in runs)
        table.add(what, asked, sample.shown(digits=digits, scale=scale))

    row("start of the gateway, s", NOTHING, "start_s")
    row("a single one has all, s", "< 1", "single_s", digits=3)
    row("all together have all, s", "< 60", "all_s")
    row("the first of them has all, s", NOTHING, "first_s")
    row("CPU of the gateway meanwhile, s", NOTHING, "cpu_s")
    row("ingest alone, 1,000 msg/s", NOTHING, "alone_rate", digits=1, scale=1e-3)
    row("ingest meanwhile, 1,000 msg/s", NOTHING, "beside_rate", digits=1, scale=1e-3)
    share = Sample.of(run.beside_rate / run.alone_rate for run in runs)
    table.add("of the rate alone", ">= 0.5", share.shown(digits=2))
    row("resident before, MiB", NOTHING, "before_kib", digits=1, scale=1 / 1024)
    row("growth at the peak, MiB", "< 16", "growth_kib", digits=1, scale=1 / 1024)
    table.notes.append(f"ingest: QoS 1, {_LOAD.connections} x {_LOAD.window}, on other topics")
    table.notes.append("growth: against the resident set before, after the same ingest")
    return table


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(argv)
    report, directory = begin("sessions", arguments)
    directory = directory / "sessions"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    size: Size = arguments.size
    raise_descriptor_limit(2 * size.sessions)
    cores = choose_cores()
    programs = {name: build_load(directory.parent, name) for name in ("awayload", "mqttload")}
    if "sessions" in arguments.parts:
        runs = []
        for repetition in range(arguments.repetitions):
            runs.append(measure_sessions(report, directory, size, programs, cores))
            values = {key: round(getattr(runs[-1], key), 3) for key in Returned.__slots__}
            report.measured(part="sessions", repetition=repetition, **values)
            report.progress(str(values))
        report.table(sessions_table(size, runs))
    if "everything" in arguments.parts:
        measure_drains(report, directory, size, programs, cores, arguments)
    report.finish()
    shutil.rmtree(directory)


def measure_drains(
    report: Report,
    directory: Path,
    size: Size,
    programs: dict[str, Path],
    cores: Cores,
    arguments: argparse.Namespace,
) -> None:
    with_peer = not arguments.no_peer and find_program("mosquitto") is not None
    replays: list[float] = []
    mine: list[float] = []
    peers: list[float] = []
    for repetition in range(arguments.repetitions):
        replayed, rate = measure_everything(report, directory, size, programs, cores)
        replays += [replayed] if replayed is not None else []
        mine.append(rate)
        if with_peer:
            peers.append(measure_mosquitto(directory, size, programs, cores))
        values = {"replay": replayed, "qos_1": rate, "mosquitto": peers[-1] if peers else None}
        report.measured(part="everything", repetition=repetition, **values)
        report.progress(str(values))
    table = Table(
        f"A subscriber of # away for {size.everything:,} messages: 1,000 msg/s",
        ("what", "asked", "median (lowest-highest)"),
    )
    table.add("QoS 0, replay from the earliest", ">= 100", Sample.of(replays).shown(scale=1e-3))
    table.add("QoS 1, from its session", ">= mosquitto", Sample.of(mine).shown(scale=1e-3))
    table.add("mosquitto, QoS 1, from memory", NOTHING, Sample.of(peers).shown(scale=1e-3))
    report.table(table)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--messages", type=int, help="stored while the sessions are away")
    made.add_argument("--parts", nargs="+", choices=("sessions", "everything"), default=None)
    made.add_argument("--no-peer", action="store_true", help="without mosquitto, while tuning")
    arguments = made.parse_args(argv)
    size = _QUICK if arguments.quick else _LONG
    if arguments.messages:
        size = Size(
            messages=arguments.messages,
            sessions=min(size.sessions, arguments.messages // (2 * EACH)),
            common_topics=size.common_topics,
            everything=min(size.everything, arguments.messages),
        )
    arguments.size = size
    arguments.parts = arguments.parts or ["sessions", "everything"]
    if arguments.repetitions is None:
        arguments.repetitions = 1 if arguments.quick else 3
    return arguments


if __name__ == "__main__":
    main()
