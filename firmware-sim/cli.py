"""The command line: `python firmware-sim fleet | audit | demo | list`.

Owns arguments, exit statuses and printing. Exit statuses, for scripts:

    0   all is well
    1   the audit found a loss or another fault; the demo failed
    2   wrong arguments, profile or recording
    3   the fleet ended with messages still unacknowledged
    4   something could not be reached or started, so nothing can be said
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import recordings
from audit import Auditor, AuditReport
from cyclopts import App, Parameter
from device import Address
from errors import FirmwareSimError, ProfileError, ReplayError
from fleet import FleetSpec
from fleet_run import FleetRun, run_fleet
from kafka_tail import partition_count_of, read_stream
from ledger import read_ledger
from profiles import BUILT_IN, Profile, load_profiles, with_qos
from report import print_audit, print_profiles

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_UNDRAINED = 3
EXIT_UNREACHABLE = 4
EXIT_INTERRUPTED = 130

app = App(
    name="firmware-sim", help="A simulated fleet of constrained MQTT devices, and its auditor."
)


@app.command
def fleet(
    *,
    ledger: Path,
    host: str = "127.0.0.1",
    port: int = 1883,
    devices: int = 50,
    seconds: float = 30,
    drain_seconds: float = 30,
    rate: float = 1.0,
    qos: Literal["mix", "1", "2"] = "mix",
    seed: int = 1,
    profile: Annotated[list[str] | None, Parameter(negative="")] = None,
    profiles: Path | None = None,
    replay: Annotated[list[str] | None, Parameter(negative="")] = None,
    prefix: str = "dev",
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Run devices against a gateway, and write the ledger of what happened to each message.

    Parameters
    ----------
    ledger
        File to append to (JSON lines). Give each run its own.
    seconds
        How long readings are taken.
    drain_seconds
        How long to wait afterwards until every outbox is empty.
    rate
        Multiplies how often each device takes a reading.
    profile
        Use only these profiles (repeatable); see `list`.
    profiles
        A TOML file with more profiles.
    replay
        A recording or a CSV file (repeatable); see `list`.
    prefix
        Begin of the client ids; give each of several processes its own.
    """
    available = dict(BUILT_IN) | (load_profiles(profiles) if profiles else {})
    spec = FleetSpec(
        gateway=Address(host=host, port=port),
        device_count=devices,
        profiles=[with_qos(p, qos) for p in _chosen(available, profile)],
        recordings=[recordings.load(name) for name in replay or recordings.BUILT_IN],
        seed=seed,
        rate=rate,
        name_prefix=prefix,
    )
    run = FleetRun(
        spec=spec, ledger=ledger, seconds=seconds, drain_seconds=drain_seconds, as_json=as_json
    )
    return 0 if asyncio.run(run_fleet(run)) else EXIT_UNDRAINED


@app.command
def audit(
    *,
    ledger: Annotated[list[Path], Parameter(negative="")],
    bootstrap: str,
    stream: str = "mqtt",
    settle_seconds: float = 3,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Compare ledgers with what is in Kafka. Exit status 0 only if there is nothing to complain of.

    Parameters
    ----------
    ledger
        A ledger file (repeatable).
    bootstrap
        HOST:PORT of the Kafka cluster.
    stream
        The topic.
    settle_seconds
        Read until so long nothing new has come.
    """
    book = read_ledger(*ledger)
    count = partition_count_of(bootstrap, stream)
    auditor = Auditor(partition_count=count or 1)
    read_stream(bootstrap, stream, settle_s=settle_seconds, feed=auditor.feed)
    report = auditor.report(book)
    _print_report(report, as_json=as_json)
    return 0 if report.passed else EXIT_FAULT


@app.command(name="list")
def list_() -> int:
    """The built-in profiles and recordings."""
    print_profiles(list(BUILT_IN.values()), recordings.BUILT_IN)
    return 0


@app.command
def demo(
    *,
    upstream: Literal["tansu", "kafka"] = "tansu",
    keep: bool = False,
    devices: int = 50,
    seed: int = 4,
) -> int:
    """The whole path on this machine in under 90 seconds, with a cut uplink and a killed gateway.

    Parameters
    ----------
    upstream
        `tansu`: an embedded Kafka-compatible demo upstream. `kafka`: Apache Kafka (needs Java).
    keep
        Leave everything running afterwards, until Ctrl-C.
    """
    from demo import DemoOptions, run_demo

    options = DemoOptions(upstream=upstream, keep=keep, device_count=devices, seed=seed)
    passed = run_demo(options)
    if passed is None:
        return EXIT_INTERRUPTED
    return 0 if passed else EXIT_FAULT


def main() -> None:
    """Run the command line and exit."""
    try:
        status = app(result_action="return_value")
    except (ProfileError, ReplayError) as error:
        print(f"firmware-sim: {error}", file=sys.stderr)
        status = EXIT_USAGE
    except FirmwareSimError as error:
        print(f"firmware-sim: {error}", file=sys.stderr)
        status = EXIT_UNREACHABLE
    except KeyboardInterrupt:
        status = EXIT_INTERRUPTED
    sys.exit(status if isinstance(status, int) else 0)


def _chosen(available: dict[str, Profile], names: Sequence[str] | None) -> list[Profile]:
    for name in names or ():
        if name not in available:
            raise ProfileError(f"profile {name!r} is unknown; known: {', '.join(available)}")
    return [available[name] for name in names or available]


def _print_report(report: AuditReport, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.as_dict()))
    else:
        print_audit(report)
