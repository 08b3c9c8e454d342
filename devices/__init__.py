"""Which devices were seen, and what their bytes mean to a person.

    MQTT loop -> DeviceTable (memory) -> DeviceRecorder (a task) -> DeviceStore (SQLite)

Everything here is for display and rebuilt by the devices' next messages; nothing here decides
what is stored or acknowledged. Imports `log` at most, never `bridge` or `gateway`.
"""

from devices.errors import DevicesError, StoreClosed, StoreFailed
from devices.limits import DeviceLimits, PreviewLimits
from devices.preview import Preview, PreviewKind, preview
from devices.recorder import DeviceRecorder
from devices.store import Device, DeviceStore, OpenReport
from devices.table import DeviceChange, DeviceTable

__all__ = [
    "Device",
    "DeviceChange",
    "DeviceLimits",
    "DeviceRecorder",
    "DeviceStore",
    "DeviceTable",
    "DevicesError",
    "OpenReport",
    "Preview",
    "PreviewKind",
    "PreviewLimits",
    "StoreClosed",
    "StoreFailed",
    "preview",
]
