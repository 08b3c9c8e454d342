"""What kinds of devices there are: their memory, their radio, their power, their habits.

Owns the frozen Profile and the built-in ones; reads more from TOML. Never acts on them.

    [profile.cellar-sensor]         # in a TOML file, one table a profile
    protocol = "3.1.1"
    qos = [1, 2]
    reading_interval_ms = 500
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from errors import ProfileError
from outbox import WhenFull

PROTOCOLS = ("3.1.1", "5.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One kind of device. A zero for an interval means: this never happens to it."""

    name: str
    protocol: str = "5.0"
    qos: tuple[int, ...] = (1,)
    """The QoS of its messages, in turn."""
    reading_interval_ms: int = 1000
    outbox_count_max: int = 64
    outbox_bytes_max: int = 8192
    in_flight_max: int = 4
    when_full: WhenFull = WhenFull.REFUSE_NEW
    keep_alive_s: int = 15
    ack_timeout_ms: int = 5000
    """No answer for so long: the link is dead, drop it and send again on a new one."""
    resend_ms: int = 0
    """3.1.1 firmware that sends again (DUP) on the same connection after so long."""
    back_off_min_ms: int = 200
    back_off_max_ms: int = 2000
    awake_ms: int = 0
    asleep_ms: int = 0
    """Duty cycle of the radio; readings are taken all the time."""
    clock_drift_ppm_max: int = 50
    clock_offset_ms_max: int = 500
    radio_fault_interval_ms: int = 0
    """Mean time between faults of the radio."""
    half_open_share: float = 0.3
    """Of those faults, how many go silent instead of closing."""
    power_loss_interval_ms: int = 0
    power_off_ms: int = 1000
    outbox_in_flash: bool = True
    """Whether the outbox outlives a power loss."""
    share: int = 1
    """How many of these to one of another profile in a mixed fleet."""

    @property
    def has_faults(self) -> bool:
        """Needs a radio that can be disturbed."""
        return bool(self.radio_fault_interval_ms or self.power_loss_interval_ms)


BUILT_IN: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            name="meter", share=3, in_flight_max=8, outbox_count_max=256, outbox_bytes_max=32768
        ),
        Profile(
            name="valve",
            qos=(2,),
            share=2,
            outbox_count_max=128,
            radio_fault_interval_ms=20_000,
        ),
        Profile(
            name="coin-cell",
            protocol="3.1.1",
            share=2,
            awake_ms=1500,
            asleep_ms=2500,
            in_flight_max=8,
            resend_ms=2000,
            clock_drift_ppm_max=200,
        ),
        Profile(
            name="tracker",
            protocol="3.1.1",
            qos=(1, 2),
            share=2,
            outbox_count_max=128,
            outbox_bytes_max=16384,
            radio_fault_interval_ms=10_000,
            half_open_share=0.5,
            power_loss_interval_ms=40_000,
        ),
        Profile(
            name="cheap-node",
            protocol="5.0",
            qos=(1, 2),
            outbox_count_max=24,
            outbox_bytes_max=2048,
            in_flight_max=2,
            when_full=WhenFull.DROP_OLDEST,
            power_loss_interval_ms=25_000,
            outbox_in_flash=False,
            clock_offset_ms_max=5000,
        ),
    )
}


def load_profiles(path: Path) -> dict[str, Profile]:
    """Profiles of a TOML file. Raises ProfileError that says where and what would be right."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{path}: {error}") from error
    tables = document.get("profile")
    if not isinstance(tables, dict) or not tables or set(document) != {"profile"}:
        raise ProfileError(f"{path}: needs tables named [profile.NAME] and nothing else")
    return {name: parse_profile(name, table, f"{path}: ") for name, table in tables.items()}


def parse_profile(name: str, table: object, where: str = "") -> Profile:
    """One table. Raises ProfileError."""
    if not isinstance(table, dict):
        raise ProfileError(f"{where}profile.{name}: not a table")
    known = {item.name: item.type for item in fields(Profile) if item.name != "name"}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ProfileError(f"{where}profile.{name}.{key}: unknown; known: {', '.join(known)}")
        values[key] = _converted(key, value, f"{where}profile.{name}.{key}")
    profile = Profile(name=name, **values)
    _check(profile, f"{where}profile.{name}")
    return profile


def _converted(key: str, value: object, where: str) -> object:
    default = getattr(_DEFAULTS, key)
    if isinstance(default, WhenFull):
        try:
            return WhenFull(value)
        except ValueError:
            choices = ", ".join(choice.value for choice in WhenFull)
            raise ProfileError(f"{where}: {value!r} is none of {choices}") from None
    if isinstance(default, tuple):
        items = value if isinstance(value, list) else [value]
        if not items or not all(item in (1, 2) for item in items):
            raise ProfileError(f"{where}: must be 1, 2 or a list of those")
        return tuple(items)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise ProfileError(f"{where}: must be of type {type(default).__name__}")
    if isinstance(value, int) and value < 0:
        raise ProfileError(f"{where}: must not be negative")
    return value


_DEFAULTS = Profile(name="")


def _check(profile: Profile, where: str) -> None:
    if profile.protocol not in PROTOCOLS:
        raise ProfileError(f"{where}.protocol: must be one of {', '.join(PROTOCOLS)}")
    if not 1 <= profile.in_flight_max <= profile.outbox_count_max:
        raise ProfileError(f"{where}.in_flight_max: must be between 1 and outbox_count_max")
    if profile.reading_interval_ms < 1 or profile.share < 1:
        raise ProfileError(f"{where}: reading_interval_ms and share must be at least 1")
    if not 0 <= profile.half_open_share <= 1:
        raise ProfileError(f"{where}.half_open_share: must be between 0 and 1")
    if bool(profile.awake_ms) != bool(profile.asleep_ms):
        raise ProfileError(f"{where}: awake_ms and asleep_ms go together")


def assign(profiles: Sequence[Profile], device_count: int, rng: Random) -> list[Profile]:
    """A profile for each device, by share, shuffled by the seed."""
    cards = [profile for profile in profiles for _ in range(profile.share)]
    hand = [cards[index % len(cards)] for index in range(device_count)]
    rng.shuffle(hand)
    return hand


def with_qos(profile: Profile, qos: str) -> Profile:
    """`mix` keeps the profile's own; `1` or `2` make every message so."""
    if qos == "mix":
        return profile
    if qos not in ("1", "2"):
        raise ProfileError(f"qos: {qos!r} is none of mix, 1, 2")
    return replace(profile, qos=(int(qos),))
