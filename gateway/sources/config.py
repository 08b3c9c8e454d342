"""What a configuration file says of a source.

[source.plant]
url = "mqtts://broker-1:8883"     # or mqtt://
filters = ["plant/#"]             # default: everything
qos = 1                           # of its subscriptions: 0, 1 or 2
protocol = "5.0"                  # or "3.1.1"
client_id = "sluicegate-hall-1"   # default: made from the log's own random id
user_name = "gateway"
password_file = "plant.password"  # its first line; beside this file where it is relative
tls_ca = "plant-ca.pem"           # default: what the system trusts

[source.plant.limits]             # the names of SourceLimits in gateway/limits.py
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bridge.config import Address
from gateway.config_reader import Table
from gateway.errors import UrlInvalid
from gateway.limits import SourceLimits
from gateway.mqtt.errors import TopicFilterInvalid
from gateway.mqtt.topics import check_topic_filter
from gateway.ranges import range_of
from gateway.urls import parse_source
from log.streams import name_problem

PROTOCOLS: Final = ("5.0", "3.1.1")
_EXAMPLE: Final = "mqtt://broker-1:1883"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """One broker to subscribe to. Files are read when a connection is made, not before."""

    name: str
    address: Address
    is_tls: bool = False
    filters: tuple[str, ...] = ("#",)
    qos: int = 1
    protocol: str = "5.0"
    client_id: str | None = None
    user_name: str | None = None
    password_file: Path | None = None
    tls_ca: Path | None = None
    limits: SourceLimits = field(default_factory=SourceLimits)


def read_sources(parent: Table) -> tuple[SourceConfig, ...]:
    """The tables below [source]; what is wrong is reported to their document."""
    found = (_read_source(parent, name, table) for name, table in parent.tables())
    return tuple(source for source in found if source is not None)


def _read_source(parent: Table, name: str, table: Table) -> SourceConfig | None:
    if name_problem(name):
        parent.problem(
            name,
            f"{name!r} is no name for a source",
            "Letters, digits, dots, dashes and underscores",
        )
    if not table.has("url"):
        table.problem("url", "this source has no url", f'Write url = "{_EXAMPLE}"')
    url = table.string("url", _EXAMPLE, example=_EXAMPLE)
    filters = table.strings("filters", ("#",))
    for each in filters:
        try:
            check_topic_filter(each)
        except TopicFilterInvalid as error:
            table.problem(
                "filters",
                f"{each!r} is no MQTT topic filter: {error}",
                "+ stands for one whole level, # for the rest and only at the end",
            )
    if not filters:
        table.problem("filters", "filters is empty", 'Write filters = ["#"] for everything')
    protocol = table.string("protocol", PROTOCOLS[0], example=PROTOCOLS[0])
    if protocol not in PROTOCOLS:
        table.problem(
            "protocol", f"protocol = {protocol!r} is unknown", f"One of: {', '.join(PROTOCOLS)}"
        )
    options = {
        "qos": table.integer("qos", 1, most=2),
        "client_id": table.string("client_id", "", example="sluicegate-hall-1") or None,
        "user_name": table.string("user_name", "", example="gateway") or None,
        "password_file": _file(table, "password_file", "plant.password"),
        "tls_ca": _file(table, "tls_ca", "plant-ca.pem"),
        "limits": table.limits_table("limits", SourceLimits, SourceLimits(), range_of),
    }
    table.close()
    try:
        address, is_tls = parse_source(url)
    except UrlInvalid as error:
        table.problem("url", f"url = {url!r} is no address", str(error))
        return None
    if options["tls_ca"] is not None and not is_tls:
        table.problem("tls_ca", "tls_ca without TLS means nothing", "Write url = mqtts://..., too")
    if options["password_file"] is not None and options["user_name"] is None:
        # [MQTT-3.1.2-22] of 3.1.1: no password without a user name.
        table.problem("password_file", "a password without a user name", "Write user_name, too")
    return SourceConfig(
        name=name,
        address=address,
        is_tls=is_tls,
        filters=filters,
        protocol=protocol,
        **options,  # type: ignore[arg-type]
    )


def _file(table: Table, key: str, example: str) -> Path | None:
    text = table.string(key, "", example=example)
    return table.document.path.parent / text if text else None
