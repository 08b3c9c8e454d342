"""Every limit of devices/, with its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceLimits:
    """Bounds of the device table; all of it is metadata that the next message rebuilds."""

    # Seconds of presence may be lost with the power; a shorter interval only wears the flash.
    flush_interval_ms: int = 5_000
    # Changes that wait for the next flush: with the two bounds below, at most about 6 MiB.
    pending_max: int = 4_096
    # Room for any CBOR or JSON reading of a small device; a longer payload is shown by its start.
    payload_bytes_max: int = 1_024
    topic_chars_max: int = 256
    # MQTT allows 65,535 bytes; such names would make the table itself the attack.
    client_id_chars_max: int = 256
    # Clients with random names must not fill the disk: above this the longest-absent rows go.
    devices_max: int = 100_000
    # Rows of one answer of the store.
    page_max: int = 1_000
    # A writer that waits longer than this for SQLite's lock has met a foreign process.
    busy_timeout_ms: int = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewLimits:
    """Bounds of decoding for display."""

    # Deeper nesting than this is no reading; it also bounds the recursion of the printers.
    depth_max: int = 16
    # Items of one container that are printed before an ellipsis.
    items_max: int = 64
    # Characters of the whole text, and of one string in it.
    text_chars_max: int = 2_048
    string_chars_max: int = 512
    # Bytes that are decoded at all; more is shown as hexadecimal digits.
    payload_bytes_max: int = 65_536
    # Bytes shown as hexadecimal digits.
    hex_bytes_max: int = 64
