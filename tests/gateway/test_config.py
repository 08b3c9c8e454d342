"""gateway/config.py: what a file may say, and what is said about one that is wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bridge.config import Address, UpstreamConfig
from bridge.limits import BridgeLimits
from gateway.config import Flags, GatewayConfig, default_data_directory, load, read_file
from gateway.errors import ConfigInvalid, Problem, UrlInvalid, UsageInvalid
from gateway.limits import MqttLimits
from gateway.ranges import RANGES, range_of
from gateway.routing import ConstantKey, RouteRule, TopicLevelKey
from log.limits import LogLimits
from log.streams import Retention, StreamSpec

DATA = Path("/somewhere")


def read(tmp_path: Path, text: str) -> GatewayConfig:
    file = tmp_path / "sluicegate.toml"
    file.write_text(text)
    return read_file(file, default_data=DATA)


def problems(tmp_path: Path, text: str) -> list[Problem]:
    with pytest.raises(ConfigInvalid) as caught:
        read(tmp_path, text)
    return list(caught.value.problems)


def the_problem(tmp_path: Path, text: str) -> str:
    (problem,) = problems(tmp_path, text)
    return str(problem)


def test_nothing_given_is_loopback_one_stream_of_three_partitions_and_no_upstream() -> None:
    config = load(Flags(), default_data=DATA)
    assert config.listen == Address(host="127.0.0.1", port=1883)
    assert config.data == DATA
    assert config.streams == (StreamSpec(name="mqtt", partition_count=3),)
    assert config.routes == ()
    assert config.upstreams == ()


def test_empty_file_is_the_same_as_none(tmp_path: Path) -> None:
    assert read(tmp_path, "") == load(Flags(), default_data=DATA)


def test_every_key_is_read(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        listen = "mqtt://[::1]:2883"
        data = "/var/lib/x"
        log_level = "debug"
        [stream.events]
        partitions = 12
        retention_bytes = "2 GiB"
        retention_age = "7 days"
        keep_unreplicated = false
        [[route]]
        filter = "plant/+/event"
        stream = "events"
        key = "topic-level:1"
        [[route]]
        filter = "all/#"
        key = "constant:one"
        [upstream.central]
        url = "kafka://a,b:9093"
        streams = ["events"]
        topic = "{site}.{stream}"
        site = "hall"
        linger_ms = "1 s"
        replication_factor = 2
        [upstream.central.limits]
        backoff_max_ms = "5 s"
        [limits]
        packet_bytes_max = "64 KiB"
        connect_timeout_ms = 500
        [log]
        seal_age_ms = "10 min"
        """,
    )
    assert config.listen == Address(host="::1", port=2883)
    assert config.data == Path("/var/lib/x")
    assert config.log_level == "debug"
    assert config.streams == (
        StreamSpec(
            name="events",
            partition_count=12,
            retention=Retention(
                bytes_max=2 * 1024**3, age_ms_max=7 * 86_400_000, keep_unreplicated=False
            ),
        ),
        StreamSpec(name="mqtt", partition_count=3),
    )
    assert config.routes == (
        RouteRule(topic_filter="plant/+/event", stream="events", key=TopicLevelKey(1)),
        RouteRule(topic_filter="all/#", stream="mqtt", key=ConstantKey("one")),
    )
    (upstream,) = config.upstreams
    assert upstream.bootstrap == (Address(host="a", port=9092), Address(host="b", port=9093))
    assert upstream.streams == frozenset({"events"})
    assert upstream.topic_for("events") == "hall.events"
    assert (upstream.linger_ms, upstream.replication_factor) == (1000, 2)
    assert upstream.limits.backoff_max_ms == 5000
    assert config.limits == MqttLimits(packet_bytes_max=65536, connect_timeout_ms=500)
    assert config.log.seal_age_ms == 600_000


def test_relative_data_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, 'data = "state"').data == tmp_path / "state"


def test_wrong_key_is_named_with_file_line_table_and_the_nearest_key(tmp_path: Path) -> None:
    said = the_problem(tmp_path, "[stream.mqtt]\n\npartition = 4\n")
    assert said == (
        f"{tmp_path}/sluicegate.toml:3, in [stream.mqtt]: "
        "unknown key 'partition'. Did you mean 'partitions'?"
    )


def test_wrong_key_without_a_near_one_gets_the_known_ones(tmp_path: Path) -> None:
    assert "Known here: " in the_problem(tmp_path, "zzz = 1")
    assert "unknown table 'zzz'" in the_problem(tmp_path, "[zzz]\na = 1")


def test_wrong_key_in_the_second_route_has_its_line(tmp_path: Path) -> None:
    said = the_problem(tmp_path, '[[route]]\nfilter = "a"\n[[route]]\nfilter = "b"\nkeey = "x"\n')
    assert ":5, in [route#2]: unknown key 'keey'. Did you mean 'key'?" in said


def test_all_problems_are_found_in_one_run_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = problems(tmp_path, "listne = 1\ndata = 3\n[limits]\nreceive_max = 0\nreceiv_max = 1\n")
    assert [problem.line for problem in found] == [1, 2, 4, 5]


def test_text_that_is_no_toml_is_placed(tmp_path: Path) -> None:
    assert ":2:" in the_problem(tmp_path, "\nlisten = mqtt://x\n")


@pytest.mark.parametrize(
    ("text", "wrong", "right"),
    [
        ("data = 3", "is not text", 'data = "/var/lib/sluicegate"'),
        ('log_level = "loud"', "unknown", "debug, info"),
        ('listen = "http://x"', "no address", "mqtt://127.0.0.1:1883"),
        ('listen = "mqtt://x:99999"', "is no port", "up to 65535"),
        ('listen = "mqtt://::1:1883"', "IPv6", "[::1]:1883"),
        ("stream = 3", "no table", "[stream]"),
        ('[stream."a/b"]', "no name for a stream", "dashes"),
        ("[stream.s]\npartitions = 0", "out of range", "From 1 to 1000"),
        ('[stream.s]\npartitions = "3"', "not a whole number", "partitions = 3"),
        ("[stream.s]\npartitions = true", "not a whole number", "partitions = 3"),
        ('[stream.s]\nretention_age = "7 dayz"', "is no time", "7 days"),
        ('[stream.s]\nretention_bytes = "2 XB"', "is no size", "2 GiB"),
        ("[stream.s]\nretention_bytes = 0", "too small", "At least 1"),
        ("[stream.s]\nkeep_unreplicated = 1", "neither true nor false", "true or false"),
        ('[[route]]\nstream = "mqtt"', "no filter", "filter ="),
        ('[[route]]\nfilter = "a/#/b"', "no MQTT topic filter", "only at the end"),
        ('[[route]]\nfilter = "a+"', "no MQTT topic filter", "whole level"),
        ('[[route]]\nfilter = "a"\nstream = "x"', "'x' is not defined", "[stream.x]"),
        ('[[route]]\nfilter = "a"\nkey = "topic-level:x"', "says no key", "client-id"),
        ('route = "x"', "no list of tables", "[[route]]"),
        ("[upstream.u]", "no url", "kafka://"),
        ('[upstream.u]\nurl = "mqtt://x"', "no address", "kafka://kafka-1:9092"),
        ('[upstream.u]\nurl = "kafka://a:0"', "is no port", "65535"),
        ('[upstream.u]\nurl = "kafka://a"\nstreams = ["x"]', "'x' is not defined", "mqtt"),
        ('[upstream.u]\nurl = "kafka://a"\nstreams = "x"', "no list of text", '["a", "b"]'),
        ('[upstream.u]\nurl = "kafka://a"\ntopic = "a b"', "cannot be in it", "dashes"),
        ('[upstream.u]\nurl = "kafka://a"\ntopic = "{nope}"', "not known", "{stream}"),
        ('[upstream."a/b"]\nurl = "kafka://a"', "must not", "a '/'"),
        ("[limits]\nkeep_alive_s_max = '3'", "not a whole number", "keep_alive_s_max = 3"),
        ("[log]\njournal_bytes = '64 Mob'", "is no size", "64 KiB"),
    ],
)
def test_wrong_value_is_answered_with_what_would_be_right(
    tmp_path: Path, text: str, wrong: str, right: str
) -> None:
    said = the_problem(tmp_path, text)
    assert wrong in said
    assert right in said
    assert str(tmp_path / "sluicegate.toml") in said


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="nope.toml: cannot be read: No such file"):
        read_file(tmp_path / "nope.toml", default_data=DATA)


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b'data = "\xff"')
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        read_file(tmp_path / "x.toml", default_data=DATA)


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('listen = "mqtt://0.0.0.0:1"\n[upstream.u]\nurl = "kafka://a"\nlinger_ms = 7\n')
    flags = Flags(
        config=file, listen="mqtt://localhost", data=Path("/else"), upstream="kafka://b:1"
    )
    config = load(flags, default_data=DATA)
    assert config.listen == Address(host="localhost", port=1883)
    assert config.data == Path("/else")
    (upstream,) = config.upstreams
    assert (upstream.name, upstream.linger_ms) == ("u", 7)
    assert upstream.bootstrap == (Address(host="b", port=1),)


def test_upstream_flag_alone_makes_one(tmp_path: Path) -> None:
    config = load(Flags(upstream="kafka://b:1"), default_data=DATA)
    assert config.upstreams == (
        UpstreamConfig(name="central", bootstrap=(Address(host="b", port=1),)),
    )


def test_upstream_flag_with_two_upstreams_in_the_file_is_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('[upstream.u]\nurl = "kafka://a"\n[upstream.v]\nurl = "kafka://b"\n')
    with pytest.raises(UsageInvalid, match="which of the file's upstreams"):
        load(Flags(config=file, upstream="kafka://c"), default_data=DATA)


@pytest.mark.parametrize(
    "url", ["", "kafka://", "kafka://a/b", "kafka://a,,b", "kafka:a", "a:9092"]
)
def test_bad_upstream_flag_is_an_error_of_usage(url: str) -> None:
    with pytest.raises(UrlInvalid):
        load(Flags(upstream=url), default_data=DATA)


@pytest.mark.parametrize(
    ("environment", "is_root", "expected"),
    [
        ({"STATE_DIRECTORY": "/s/a:/s/b", "HOME": "/h"}, True, "/s/a"),
        ({"HOME": "/root"}, True, "/var/lib/sluicegate"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, False, "/x/sluicegate"),
        ({"HOME": "/h"}, False, "/h/.local/state/sluicegate"),
    ],
)
def test_default_data_directory(environment: dict[str, str], is_root: bool, expected: str) -> None:
    assert default_data_directory(environment, is_root=is_root) == Path(expected)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("[limits]\nreceive_max = 65_536", "From 1 to 65535"),
        ("[limits]\nreceive_max = -1", "From 1 to 65535"),
        ("[limits]\ntopic_alias_max = 65_536", "From 1 to 65535"),
        ("[limits]\nkeep_alive_s_max = 65_536", "From 1 to 65535"),
        ("[limits]\nclient_id_bytes_max = '64 KiB'", "From 1 to 65535"),
        ("[limits]\nsession_expiry_s_max = 4_294_967_296", "32 bits"),
        ("[limits]\nconnections_max = 0", "From 1 to"),
        ("[limits]\nconnect_timeout_ms = '400 days'", "up to a year"),
        ("[log]\nzstd_level = 23", "From 1 to 22"),
        ("[log]\njournal_bytes = '1 MiB'", "From 4194304"),
        ("[log]\nsegment_bytes_max = '2 GiB'", "31 bits"),
        ("[upstream.a]\nurl = 'kafka://a'\n[upstream.a.limits]\nin_flight_max = 6", "1 to 5"),
        ("[limits]\npacket_bytes_max = 1_000_000", "A packet becomes one record"),
        ("[log]\nrecord_bytes_max = '64 KiB'", "lower packet_bytes_max"),
        ("[log]\njournal_bytes = '15 MiB'", "At least 16777216 for journal_bytes"),
        ("[log]\nframe_bytes_max = '9 MiB'", "From 65536 to 8388608"),
        ("[log]\nchunk_records_max = 10_000", "From 1 to 8192"),
        (
            "[log]\nframe_bytes_max = '5 MiB'\njournal_bytes = '16 MiB'",
            "at most 4194304 for frame_bytes_max",
        ),
        (
            "[log]\njournal_reserve_bytes = '9 MiB'\njournal_bytes = '16 MiB'",
            "At least 18874368 for journal_bytes",
        ),
        (
            "[stream.more]\n[upstream.a]\nurl = 'kafka://a'\ntopic = 'all'",
            "Put {stream} into it",
        ),
    ],
)
def test_limit_that_cannot_be_is_refused_with_what_can_and_why(
    tmp_path: Path, text: str, right: str
) -> None:
    said = the_problem(tmp_path, text)
    assert right in said
    assert f":{len(text.splitlines())}, in [" in said


@pytest.mark.parametrize("kind", [MqttLimits, LogLimits, BridgeLimits])
def test_defaults_are_within_their_ranges(
    kind: type[MqttLimits | LogLimits | BridgeLimits],
) -> None:
    names = {field.name for field in dataclasses.fields(kind)}
    assert set(RANGES[kind]) <= names
    for name in names:
        bounds = range_of(kind, name)
        assert bounds.least <= getattr(kind(), name) <= bounds.most, name


@pytest.mark.parametrize("name", ["loaded_bytes_max", "memory_bytes_max"])
def test_an_upstream_that_would_never_read_is_refused(tmp_path: Path, name: str) -> None:
    text = f'[upstream.central]\nurl = "kafka://b"\n[upstream.central.limits]\n{name} = "100 KiB"\n'
    said = the_problem(tmp_path, text)
    assert f"{name} = 102400 is less than read_bytes = 524288" in said
    assert ":4, in [upstream.central.limits]" in said
    (upstream,) = read(tmp_path, text + 'read_bytes = "100 KiB"\n').upstreams
    assert upstream.limits.read_bytes == 102_400
