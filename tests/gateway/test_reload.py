"""gateway/reload.py: what of a new configuration takes effect without a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bridge.config import Address, UpstreamConfig
from gateway.config import GatewayConfig
from gateway.limits import MqttLimits
from gateway.reload import plan_reload
from gateway.routing import RouteRule
from log.limits import LogLimits
from log.streams import Retention, StreamSpec

OLD = GatewayConfig(data=Path("/data"))
UPSTREAM = UpstreamConfig(name="central", bootstrap=(Address(host="a", port=1),))


def test_nothing_changed_is_nothing_to_do() -> None:
    plan = plan_reload(OLD, replace(OLD))
    assert (plan.live, plan.at_restart, plan.config) == ((), (), OLD)


def test_routes_limits_upstreams_retention_and_log_level_change_live() -> None:
    new = replace(
        OLD,
        routes=(RouteRule(topic_filter="a", stream="mqtt"),),
        limits=MqttLimits(receive_max=7),
        upstreams=(UPSTREAM,),
        streams=(StreamSpec(name="mqtt", retention=Retention(bytes_max=1)),),
        log_level="debug",
    )
    plan = plan_reload(OLD, new)
    assert set(plan.live) == {"[[route]]", "[limits]", "[upstream]", "retention", "log_level"}
    assert plan.at_restart == ()
    assert plan.config == new


def test_address_data_and_log_limits_wait_for_a_restart_and_stay_as_they_were() -> None:
    new = replace(
        OLD,
        listen=Address(host="0.0.0.0", port=1),
        data=Path("/else"),
        log=LogLimits(seal_age_ms=1),
    )
    plan = plan_reload(OLD, new)
    assert set(plan.at_restart) == {"listen", "data", "[log]"}
    assert plan.config == OLD


def test_new_partitions_wait_but_the_stream_s_new_retention_does_not() -> None:
    retention = Retention(age_ms_max=5)
    new = replace(OLD, streams=(StreamSpec(name="mqtt", partition_count=9, retention=retention),))
    plan = plan_reload(OLD, new)
    assert plan.at_restart == ("[stream]",)
    (stream,) = plan.config.streams
    assert (stream.partition_count, stream.retention) == (3, retention)


def test_route_to_a_stream_that_is_new_waits_with_it() -> None:
    new = replace(
        OLD,
        streams=(*OLD.streams, StreamSpec(name="new")),
        routes=(RouteRule(topic_filter="a", stream="new"),),
    )
    plan = plan_reload(OLD, new)
    assert set(plan.at_restart) == {"[stream]", "[[route]]"}
    assert plan.config.routes == OLD.routes
