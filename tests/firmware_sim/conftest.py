"""Makes the modules of firmware-sim importable: it is a folder that is run, not a package."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "firmware-sim"
sys.path.insert(0, str(FOLDER))
