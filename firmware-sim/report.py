"""Tables for people, with rich (which prints plain lines when stdout is no terminal).

Owns wording and layout only.
"""

from collections.abc import Sequence

from audit import AuditReport, Finding
from profiles import Profile
from rich.console import Console
from rich.table import Table

_NOUNS = {
    "lost": "acknowledged but not upstream",
    "duplicated_explained": "copies the device's own retransmission explains (QoS 1, DUP)",
    "duplicated_marked": "copies the gateway marked as possible",
    "duplicated_unexplained": "copies nothing explains",
    "out_of_order": "out of order within a device",
    "wrong_key": "wrong key",
    "wrong_topic": "wrong topic header",
    "wrong_partition": "on another partition than Kafka's partitioner gives",
    "wrong_value": "payload altered",
    "wrong_headers": "header missing or altered",
    "foreign": "not from these devices",
}


def print_audit(report: AuditReport, console: Console | None = None) -> None:
    """The whole report, with the first examples of each fault."""
    console = console or Console()
    table = Table(title="audit", show_header=False)
    for label, value in (
        ("published", report.published),
        ("given up by devices", report.given_up),
        ("transmissions", f"{report.sent} ({report.sent_again} with DUP)"),
        ("acknowledged", report.acknowledged),
        ("upstream", f"{report.upstream} in {report.upstream_records} records"),
        ("upstream, acknowledgement not seen", report.unacknowledged_upstream),
    ):
        table.add_row(label, str(value))
    for name, noun in _NOUNS.items():
        table.add_row(noun, str(_finding(report, name).count))
    console.print(table)
    for name, noun in _NOUNS.items():
        finding = _finding(report, name)
        if finding.count and name != "duplicated_explained":
            console.print(f"{noun}:")
            for example in finding.examples:
                console.print(f"  {example}", markup=False)
    if not report.ledger_complete:
        console.print("A ledger has no end: its fleet was killed, or still runs.")
    console.print("passed" if report.passed else "FAILED")


def print_profiles(profiles: Sequence[Profile], recordings: Sequence[str]) -> None:
    """What is built in."""
    console = Console()
    table = Table(title="profiles")
    for column in ("name", "MQTT", "QoS", "every", "outbox", "in flight", "troubles"):
        table.add_column(column)
    for profile in profiles:
        table.add_row(
            profile.name,
            profile.protocol,
            ", ".join(map(str, profile.qos)),
            f"{profile.reading_interval_ms} ms",
            f"{profile.outbox_count_max} / {profile.outbox_bytes_max} B, {profile.when_full.value}",
            str(profile.in_flight_max),
            _troubles(profile),
        )
    console.print(table)
    console.print("recordings: " + ", ".join(recordings) + ", or a CSV file")


def latency_text(report: AuditReport, outside: Sequence[tuple[int, int]] = ()) -> str:
    """p50 / p99, without the messages first sent in those spans of time."""
    p50, p99 = (report.latency_ms(share, outside=outside) for share in (0.50, 0.99))
    return "-" if p50 is None else f"{p50} ms / {p99} ms"


def _finding(report: AuditReport, name: str) -> Finding:
    finding = getattr(report, name)
    assert isinstance(finding, Finding)
    return finding


def _troubles(profile: Profile) -> str:
    troubles = []
    if profile.asleep_ms:
        troubles.append(f"awake {profile.awake_ms} ms, asleep {profile.asleep_ms} ms")
    if profile.radio_fault_interval_ms:
        troubles.append(f"radio fails every {profile.radio_fault_interval_ms / 1000:.0f} s")
    if profile.power_loss_interval_ms:
        memory = "flash" if profile.outbox_in_flash else "RAM only"
        troubles.append(
            f"power fails every {profile.power_loss_interval_ms / 1000:.0f} s, {memory}"
        )
    return "; ".join(troubles) or "none"
