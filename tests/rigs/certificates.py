"""A certificate authority of a test, and PEM files that it signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme


class Pair(NamedTuple):
    certificate: Path
    key: Path


class Authority:
    """Writes everything into `folder`; `ca` is its own certificate."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *, days: int = 365, file: str | None = None) -> Pair:
        """For the host or user `name`; with negative `days` it has expired."""
        now = datetime.now(UTC)
        leaf = self._authority.issue_cert(
            name if "." in name else f"{name}.test",
            common_name=name,
            not_before=now - timedelta(days=10),
            not_after=now + timedelta(days=days),
        )
        stem = file or name
        pair = Pair(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(pair.key))
        return pair
