"""Calling those who wait for durability, so that the bug of one is not the loss of another."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


def call_guarded(callback: Callable[..., object], *arguments: object) -> object:
    """What `callback` gives; None, and it is logged, if it raises.

    One participant's bug must not leave the others without what they are owed, nor a frame that has
    its place without being written: the frames behind it would be lost with it.
    """
    try:
        return callback(*arguments)
    except Exception:
        logger.exception("log.participant_failed")
        return None
