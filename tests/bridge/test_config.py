"""An upstream's settings: what is right is parsed; what is wrong is named, and what would do."""

from __future__ import annotations

import ssl

import pytest

from bridge import Address, ConfigError, Security, UpstreamConfig, parse_upstream_url

_HERE = (Address(host="localhost", port=9092),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("kafka://a:1", (Address(host="a", port=1),)),
        ("kafka://a", (Address(host="a", port=9092),)),
        ("kafka://a:1,b:2/", (Address(host="a", port=1), Address(host="b", port=2))),
        ("kafka://[::1]:9093", (Address(host="::1", port=9093),)),
    ],
)
def test_url_names_the_brokers(url: str, expected: tuple[Address, ...]) -> None:
    assert parse_upstream_url(url) == expected


@pytest.mark.parametrize(
    "url", ["", "a:1", "http://a:1", "kafka://", "kafka://a:x", "kafka://u@a:1", "kafka://a:1,"]
)
def test_what_is_no_url_of_brokers_is_refused_with_its_text(url: str) -> None:
    with pytest.raises(ConfigError, match="upstream"):
        parse_upstream_url(url)


def test_topic_is_the_stream_unless_a_template_says_otherwise() -> None:
    plain = UpstreamConfig(name="u", bootstrap=_HERE)
    assert plain.topic_for("mqtt") == "mqtt"
    named = UpstreamConfig(
        name="u", bootstrap=_HERE, topic_template="{site}.{gateway}.{stream}", site="s", gateway="g"
    )
    assert named.topic_for("mqtt") == "s.g.mqtt"


@pytest.mark.parametrize("template", ["{plant}", "{", "a b", "{stream}/x", "", "x" * 250, ".."])
def test_a_template_that_gives_no_topic_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match="topic"):
        UpstreamConfig(name="u", bootstrap=_HERE, topic_template=template)


@pytest.mark.parametrize(
    ("security", "missing"),
    [
        (Security(protocol="SSL"), "TLS context"),
        (Security(protocol="SASL_PLAINTEXT", username="u"), "password"),
        (Security(protocol="SASL_SSL", ssl_context=ssl.create_default_context()), "user name"),
    ],
)
def test_security_without_what_it_needs_is_refused(security: Security, missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        UpstreamConfig(name="u", bootstrap=_HERE, security=security)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Security(username="u", password="secret"))
