"""MQTT.js, the client of browsers and Node.js: a client of the tests that is not ours.

The package comes from npm by the package.json beside this file, once, into the checkout's .cache.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_HERE = Path(__file__).parent
_FOLDER = _HERE.parents[2] / ".cache" / "mqttjs"


def roundtrip(url: str, version: int, ca: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs roundtrip.mjs; `version` is 4 or 5. The answers are in its standard output."""
    install()
    command = ["node", "roundtrip.mjs", url, str(version)]
    command += [] if ca is None else [str(ca)]
    return subprocess.run(command, cwd=_FOLDER, capture_output=True, text=True, timeout=30)


def install() -> None:
    """MQTT.js into the cache, where it is not there yet; needs npm, and a network once."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copy(_HERE / "roundtrip.mjs", _FOLDER)
    wanted = (_HERE / "package.json").read_text()
    installed = _FOLDER / "package.json"
    if installed.exists() and installed.read_text() == wanted:
        return
    installed.write_text(wanted)
    try:
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=_FOLDER,
            check=True,
            capture_output=True,
            timeout=180,
        )
    except BaseException:
        installed.unlink()
        raise
