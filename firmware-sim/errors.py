"""What can go wrong in the simulated fleet.

FirmwareSimError
├── ProfileError        a profile file says something impossible (the user's fault)
├── ReplayError         a recording cannot be read or has no rows (the user's fault)
├── LedgerError         a ledger cannot be read or contradicts itself
├── LinkError           the gateway cannot be reached or refused the device
├── UpstreamError       the upstream cannot be read
└── StartError          a process of the demo did not come up
"""


class FirmwareSimError(Exception):
    """Base of everything this folder raises on purpose."""


class ProfileError(FirmwareSimError):
    """A profile is malformed: which one, which key, what would be right."""


class ReplayError(FirmwareSimError):
    """A recording cannot be replayed."""


class LedgerError(FirmwareSimError):
    """A ledger cannot be read, or says two different things of one message."""


class LinkError(FirmwareSimError):
    """A device has no working connection. It backs off and tries again."""


class UpstreamError(FirmwareSimError):
    """The Kafka side cannot be read, so nothing can be said about loss."""


class StartError(FirmwareSimError):
    """A subprocess of the demo ended or stayed silent while it was starting."""
