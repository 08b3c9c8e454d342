"""What a test needs that pip cannot install, and the command that installs it.

A test is marked with `need_java`, `need_mosquitto` or `need_strace`. Where the tool is missing, a
person sees the test skipped with the reason and the command; in CI (CI=true) it fails instead,
for there nothing may be skipped. `require("compiler")` in a test does the same.
"""

from __future__ import annotations

import os
import shutil

import pytest

need_java = pytest.mark.kafka
need_mosquitto = pytest.mark.mosquitto
need_node = pytest.mark.node
need_strace = pytest.mark.strace

# marker -> (programs, what they are to a person, Debian's packages)
_NEEDS = {
    "kafka": (("java", "mvn"), "Apache Kafka needs a JDK and Maven", "default-jdk-headless maven"),
    "mosquitto": (
        ("mosquitto", "mosquitto_pub"),
        "the mosquitto broker and its clients are not here",
        "mosquitto mosquitto-clients",
    ),
    "node": (("node", "npm"), "MQTT.js needs Node.js and npm", "nodejs npm"),
    "strace": (("strace",), "strace is not here", "strace"),
    "compiler": (("gcc",), "no C compiler for the load", "gcc libc6-dev"),
}


def find_program(name: str) -> str | None:
    """Like `which`, but also where Debian puts daemons."""
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin"
    return shutil.which(name, path=path)


def missing_for(marker: str) -> str | None:
    """None if all is there; else one sentence with the command that installs what is not."""
    programs, what, packages = _NEEDS[marker]
    if all(find_program(program) for program in programs):
        return None
    return f"{what}; to enable this test: sudo apt-get install {packages}"


def require(marker: str) -> None:
    """Skips the running test if the tools of the marker are missing; in CI it fails."""
    reason = missing_for(marker)
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_marked(item: pytest.Item) -> None:
    """Applies `require` to every marker of a test that names tools."""
    for marker in _NEEDS:
        if item.get_closest_marker(marker) is not None:
            require(marker)
