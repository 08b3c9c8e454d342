"""What a person sees of the demo: a live panel on a terminal, plain lines elsewhere; the result.

Owns words and layout. Is told everything.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audit import AuditReport
from disk_usage import DiskUsage
from fleet import FleetCounts
from report import latency_text
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The state to show."""

    counts: FleetCounts
    upstream_count: int
    gateway_is_up: bool
    uplink_is_up: bool
    device_count: int


class View:
    """`announce` what happens, `show` the state often."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._started_s = time.monotonic()
        self._said: list[str] = []
        self._live: Live | None = None
        self._last_plain_s = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While the fleet runs."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=8, transient=True) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None
        for line in self._said:
            self.console.print(line)

    def announce(self, text: str) -> None:
        """Something happened."""
        line = f"[dim]{self.elapsed_s():5.1f} s[/dim]  {text}"
        if self._live is None:
            self.console.print(line, soft_wrap=True)
        else:
            self._said.append(line)

    def show(self, moment: Moment) -> None:
        """The state now."""
        if self._live is not None:
            self._live.update(Group(*self._said[-8:], self._panel(moment)))
        elif time.monotonic() - self._last_plain_s >= PLAIN_INTERVAL_S:
            self._last_plain_s = time.monotonic()
            counts = moment.counts
            self.announce(
                f"published {counts.published}, acknowledged {counts.acknowledged}, "
                f"upstream {moment.upstream_count}, on devices {counts.waiting}"
            )

    def _panel(self, moment: Moment) -> Panel:
        counts = moment.counts
        table = Table.grid(padding=(0, 3))
        table.add_row(
            f"devices connected  [bold]{counts.connected}/{moment.device_count}[/bold]",
            f"gateway  {_light(moment.gateway_is_up, 'up', 'killed')}",
            f"uplink  {_light(moment.uplink_is_up, 'up', 'cut')}",
        )
        table.add_row(
            f"published  [bold]{counts.published}[/bold]",
            f"acknowledged  [bold]{counts.acknowledged}[/bold]",
            f"upstream  [bold]{moment.upstream_count}[/bold]",
        )
        table.add_row(
            f"sent again (DUP)  {counts.sent_again}",
            f"still on devices  {counts.waiting}",
            f"on the gateway only  {max(0, counts.acknowledged - moment.upstream_count)}",
        )
        return Panel(table, title=f"sluicegate demo, {self.elapsed_s():.0f} s", expand=False)

    def elapsed_s(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._started_s


def print_result(
    console: Console,
    report: AuditReport,
    disk: DiskUsage,
    *,
    upstream_title: str,
    outages: Sequence[tuple[int, int]],
) -> None:
    """The table at the end. `outages`: when something was cut or killed, to the drain after it."""
    table = Table(title="every message accounted for", caption=f"upstream: {upstream_title}")
    table.add_column("what")
    table.add_column("messages", justify="right")
    table.add_column("")
    given_up = f"{report.given_up} never left a device: outbox full or power lost"
    resent = f"{report.sent_again} transmissions with DUP"
    rows = (
        ("published by devices", report.published, given_up if report.given_up else ""),
        ("acknowledged to devices", report.acknowledged, resent),
        ("stored on the gateway", disk.record_count, "in Kafka's format, zstd"),
        ("upstream", report.upstream, f"{report.upstream_records} records"),
        ("lost", report.lost.count, "acknowledged, but not upstream"),
        ("duplicated", report.duplicated, _duplicates_text(report)),
        ("out of order", report.out_of_order.count, "within a device"),
    )
    for what, count, remark in rows:
        bad = what in ("lost", "out of order") and count
        table.add_row(what, f"[red]{count}[/red]" if bad else str(count), remark)
    table.add_section()
    raw = report.payload_bytes / max(1, report.upstream)
    on_disk = disk.size_bytes / max(1, disk.record_count)
    table.add_row(
        "bytes per message on disk",
        f"{on_disk:.1f}",
        f"with topic and key; payload alone: {raw:.1f}",
    )
    calm = latency_text(report, outages)
    table.add_row("device to upstream, p50 / p99", calm, "while all was up")
    table.add_row("", latency_text(report), "all messages, cut and kills included")
    console.print(table)
    for finding in (report.lost, report.duplicated_unexplained, report.out_of_order):
        for example in finding.examples[:3]:
            console.print(f"  [red]{escape(example)}[/red]")


def _duplicates_text(report: AuditReport) -> str:
    if not report.duplicated:
        return ""
    parts = []
    if report.duplicated_explained.count:
        parts.append(
            f"{report.duplicated_explained.count} sent twice by devices (QoS 1, marked dup)"
        )
    if report.duplicated_marked.count:
        parts.append(f"{report.duplicated_marked.count} marked by the bridge")
    if report.duplicated_unexplained.count:
        parts.append(f"{report.duplicated_unexplained.count} unexplained")
    return ", ".join(parts)


def _light(is_up: bool, up: str, down: str) -> str:
    return f"[green]{up}[/green]" if is_up else f"[bold red]{down}[/bold red]"
