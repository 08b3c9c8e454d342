"""File descriptors: the gateway takes all that it may have, and accepts no more clients than that.

A login shell allows 1,024, and a client beyond them would be neither served nor told: accepting it
fails, and so does opening the next segment.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import replace
from typing import Final

from gateway.limits import MqttLimits

_log = logging.getLogger(__name__)

RESERVE_COUNT: Final = 256
"""Descriptors that are not for clients: segments and their indexes, journal, upstreams, devices."""


def raise_descriptor_limit() -> None:
    """The soft limit becomes the hard one, which any process may do for itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        _log.warning("gateway.descriptor_limit_not_raised limit=%d cause=%s", soft, error)


def within_descriptors(limits: MqttLimits) -> MqttLimits:
    """The same limits, with no more connections than there are descriptors; says so if less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or limits.connections_max + RESERVE_COUNT <= soft:
        return limits
    connections_max = max(1, soft - RESERVE_COUNT)
    _log.warning(
        "gateway.connections_capped connections_max=%d wanted=%d descriptor_limit=%d "
        "right=set LimitNOFILE=%d in the unit, or ulimit -n %d in the shell",
        connections_max,
        limits.connections_max,
        soft,
        limits.connections_max + RESERVE_COUNT,
        limits.connections_max + RESERVE_COUNT,
    )
    return replace(limits, connections_max=connections_max)
