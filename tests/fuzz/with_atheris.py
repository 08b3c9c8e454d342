"""The codec under coverage guidance. atheris is not among our dependencies: the registry has no
wheel of it for aarch64 (3.0.0 has one for x86_64).

.venv/bin/pip install atheris
.venv/bin/python -m tests.fuzz.with_atheris -max_total_time=60
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from tests.fuzz.mutation import LEVELS, corpus, decode_all

if __name__ == "__main__":
    atheris: Any = importlib.import_module("atheris")
    atheris.instrument_func(decode_all)
    atheris.instrument_all()
    for level in LEVELS:
        for seed in corpus(level):
            decode_all(seed, level)

    def one_input(data: bytes) -> None:
        for each in LEVELS:
            decode_all(data, each)

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
