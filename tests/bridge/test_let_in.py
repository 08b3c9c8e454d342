"""The bridge at a listener of Apache Kafka that wants TLS, and a name and password (SASL)."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from bridge import Security
from tests.bridge.site import Site, assert_exactly_once, config
from tests.rigs import KafkaCluster, need_java

pytestmark = need_java

_STORE_PASSWORD = "changeit"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


def _make_certificate(directory: Path) -> tuple[Path, Path]:
    """A key store for the broker, and its certificate for clients; keytool is part of the JDK."""
    store, certificate = directory / "broker.p12", directory / "broker.pem"
    keytool = [
        "keytool",
        "-keystore",
        str(store),
        "-storepass",
        _STORE_PASSWORD,
        "-alias",
        "broker",
    ]
    pair = ["-genkeypair", "-storetype", "PKCS12", "-keyalg", "EC", "-dname", "CN=127.0.0.1"]
    subprocess.run([*keytool, *pair, "-ext", "SAN=IP:127.0.0.1"], check=True, capture_output=True)
    export = ["-exportcert", "-rfc", "-file", str(certificate)]
    subprocess.run([*keytool, *export], check=True, capture_output=True)
    return store, certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def strict_kafka(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[KafkaCluster]:
    """One node whose uplink listener takes SASL over TLS only."""
    uplink = "listener.name.uplink."
    settings = {
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,UPLINK:SASL_SSL,"
        "CONTROLLER:PLAINTEXT",
        f"{uplink}sasl.enabled.mechanisms": "PLAIN",
        f"{uplink}plain.sasl.jaas.config": f'{_PLAIN} user_gateway="secret";',
        f"{uplink}ssl.keystore.type": "PKCS12",
        f"{uplink}ssl.keystore.location": str(certificate[0]),
        f"{uplink}ssl.keystore.password": _STORE_PASSWORD,
        f"{uplink}ssl.key.password": _STORE_PASSWORD,
    }
    with KafkaCluster(tmp_path_factory.mktemp("strict"), settings=settings) as cluster:
        yield cluster


def _security(
    certificate: Path | None, password: str, protocol: Literal["SASL_SSL"] = "SASL_SSL"
) -> Security:
    context = ssl.create_default_context(cafile=certificate)
    return Security(protocol=protocol, ssl_context=context, username="gateway", password=password)


async def test_tls_and_password_let_the_bridge_in(
    strict_kafka: KafkaCluster, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    async with Site(tmp_path, "let-in") as site:
        await site.publish(5000)
        security = _security(certificate[1], "secret")
        await site.connect(config(strict_kafka.uplink_bootstrap, security=security))
        await site.drained()
    await assert_exactly_once(strict_kafka.bootstrap, "let-in", 5000)


@pytest.mark.parametrize(
    ("password", "knows_certificate", "said"),
    [("wrong", True, "uthentication"), ("secret", False, "certificate verify failed")],
)
async def test_what_keeps_it_out_is_said(
    strict_kafka: KafkaCluster,
    certificate: tuple[Path, Path],
    tmp_path: Path,
    password: str,
    knows_certificate: bool,
    said: str,
) -> None:
    async with Site(tmp_path, "kept-out") as site:
        await site.publish(1)
        security = _security(certificate[1] if knows_certificate else None, password)
        await site.connect(config(strict_kafka.uplink_bootstrap, security=security))
        status = await site.until(lambda status: status.error)
        assert said in str(status.error)
        assert not status.connected
        assert status.lag_count == 1
