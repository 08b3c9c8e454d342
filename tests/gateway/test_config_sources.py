"""gateway/sources/config.py: what a file may say of a source, and what we say of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import Address
from gateway.config import read_file
from gateway.errors import ConfigInvalid
from gateway.limits import SourceLimits
from gateway.sources.config import SourceConfig


def read(tmp_path: Path, text: str) -> tuple[SourceConfig, ...]:
    file = tmp_path / "sluicegate.toml"
    file.write_text(text)
    return read_file(file, default_data=tmp_path / "data").sources


def test_a_source_needs_nothing_but_its_url(tmp_path: Path) -> None:
    (source,) = read(tmp_path, '[source.plant]\nurl = "mqtt://broker"')
    assert source == SourceConfig(name="plant", address=Address(host="broker", port=1883))
    assert (source.qos, source.filters, source.protocol) == (1, ("#",), "5.0")


def test_every_key_of_a_source_is_read(tmp_path: Path) -> None:
    (source,) = read(
        tmp_path,
        """
        [source.plant]
        url = "mqtts://[::1]"
        filters = ["a/#", "+/b"]
        qos = 2
        protocol = "3.1.1"
        client_id = "me"
        user_name = "u"
        password_file = "secret"
        tls_ca = "/etc/ca.pem"
        [source.plant.limits]
        in_flight_max = 20
        backoff_max_ms = "5 s"
        """,
    )
    assert source == SourceConfig(
        name="plant",
        address=Address(host="::1", port=8883),
        is_tls=True,
        filters=("a/#", "+/b"),
        qos=2,
        protocol="3.1.1",
        client_id="me",
        user_name="u",
        password_file=tmp_path / "secret",
        tls_ca=Path("/etc/ca.pem"),
        limits=SourceLimits(in_flight_max=20, backoff_max_ms=5_000),
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('filters = ["a"]', "this source has no url"),
        ('url = "kafka://b"', "no address"),
        ('url = "mqtt://b:0"', "no port"),
        ('url = "mqtt://b"\nqos = 3', "qos = 3 is out of range"),
        ('url = "mqtt://b"\nfilters = ["a/#/b"]', "no MQTT topic filter"),
        ('url = "mqtt://b"\nfilters = []', "filters is empty"),
        ('url = "mqtt://b"\nprotocol = "3.1"', "One of: 5.0, 3.1.1"),
        ('url = "mqtt://b"\ntls_ca = "x.pem"', "tls_ca without TLS"),
        ('url = "mqtt://b"\npassword_file = "x"', "a password without a user name"),
        ('url = "mqtt://b"\nfilter = "a"', "Did you mean 'filters'?"),
        ('url = "mqtt://b"\n[source.plant.limits]\nin_flight_max = 0', "From 1 to 65535"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, f"[source.plant]\n{line}\n")
    assert said in str(caught.value)


def test_a_source_whose_name_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no name for a source"):
        read(tmp_path, '[source."a b"]\nurl = "mqtt://b"')
