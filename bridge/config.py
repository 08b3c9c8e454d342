"""What an upstream is: parsed once by the composition root, frozen, passed down."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from bridge.errors import ConfigError
from bridge.limits import BridgeLimits

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]

_DEFAULT_PORT: Final = 9092
_TOPIC_LENGTH_MAX: Final = 249
_TOPIC_CHARACTERS: Final = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """How to be let in. `ssl_context` is needed by the protocols with SSL in their name."""

    protocol: SecurityProtocol = "PLAINTEXT"
    ssl_context: ssl.SSLContext | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamConfig:
    """One Kafka cluster that the log's partitions are replicated to.

    `topic_template` may hold {stream}, {site} and {gateway}. `compression_level` is zstd's for
    batches that are not yet sealed (None: they go as they are); sealed ones always go as stored.
    `request_timeout_ms`: a connection on which no byte moved for so long, with requests in flight,
    is given up. `linger_ms`: how long a live record may wait for company.
    """

    name: str
    bootstrap: tuple[Address, ...]
    topic_template: str = "{stream}"
    site: str = ""
    gateway: str = ""
    streams: frozenset[str] | None = None
    replication_factor: int | None = None
    linger_ms: int = 50
    compression_level: int | None = 1
    request_timeout_ms: int = 10_000
    client_id: str = "sluicegate"
    security: Security = field(default_factory=Security)
    limits: BridgeLimits = field(default_factory=BridgeLimits)

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ConfigError(f"upstream name {self.name!r}: must not be empty or hold a '/'")
        if not self.bootstrap:
            raise ConfigError("bootstrap: at least one HOST:PORT is needed")
        if self.security.protocol.endswith("SSL") and self.security.ssl_context is None:
            raise ConfigError(f"security {self.security.protocol}: a TLS context is needed")
        needs_password = self.security.protocol.startswith("SASL")
        if needs_password and (self.security.username is None or self.security.password is None):
            raise ConfigError(
                f"security {self.security.protocol}: user name and password are needed"
            )
        self.topic_for("stream")

    def topic_for(self, stream: str) -> str:
        """The upstream topic of a stream. ConfigError if it cannot be a topic of Kafka."""
        try:
            topic = self.topic_template.format(stream=stream, site=self.site, gateway=self.gateway)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"topic template {self.topic_template!r}: {error!s} is not known;"
                " use {stream}, {site} and {gateway}"
            ) from error
        if not topic or topic in (".", "..") or len(topic) > _TOPIC_LENGTH_MAX:
            raise ConfigError(f"topic {topic!r}: 1 to {_TOPIC_LENGTH_MAX} characters are needed")
        if bad := set(topic) - _TOPIC_CHARACTERS:
            raise ConfigError(
                f"topic {topic!r}: {''.join(sorted(bad))!r} cannot be in it; a-z A-Z 0-9 . _ - can"
            )
        return topic


def parse_upstream_url(url: str) -> tuple[Address, ...]:
    """The brokers of `kafka://HOST:PORT[,HOST:PORT]`; the port may be left out (9092)."""
    scheme, separator, rest = url.partition("://")
    if scheme != "kafka" or not separator or not rest:
        raise ConfigError(f"upstream {url!r}: must be kafka://HOST:PORT[,HOST:PORT]")
    return tuple(_parse_address(part, url) for part in rest.rstrip("/").split(","))


def _parse_address(text: str, url: str) -> Address:
    try:
        parts = urlsplit(f"//{text.strip()}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"upstream {url!r}: {text!r}: {error}") from error
    if not host or parts.path or parts.query or "@" in text:
        raise ConfigError(f"upstream {url!r}: {text!r} is not HOST:PORT")
    return Address(host=host, port=_DEFAULT_PORT if port is None else port)
