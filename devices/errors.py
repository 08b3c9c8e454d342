"""Everything that devices/ raises.

    DevicesError
    ├── StoreFailed        the disk's fault: the device table could not be opened, read or written
    └── StoreClosed        our bug: used before open() or after close()

A payload that cannot be decoded is not an error here: decoding for display always answers with
a `Preview` that says what was wrong, for what a device sends is its own affair.
"""


class DevicesError(Exception):
    """Any failure of the device table."""


class StoreFailed(DevicesError):
    """SQLite or the disk refused; `args[0]` says what was tried and what it answered."""


class StoreClosed(DevicesError):
    """The store was used while it was not open."""
