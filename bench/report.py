"""How results look: medians with their spread, tables, JSON. No figure is judged by code."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import Machine, choose_cores, describe, work_directory

NOTHING = "-"


@dataclass(frozen=True, slots=True)
class Sample:
    """Repetitions of one measurement."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Sample:
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def shown(self, *, digits: int = 1, scale: float = 1.0) -> str:
        """`median (lowest-highest)`, or `-` where nothing was measured."""
        if not self.values:
            return NOTHING
        middle, low, high = (
            f"{value * scale:,.{digits}f}"
            for value in (self.median, min(self.values), max(self.values))
        )
        return middle if low == high else f"{middle} ({low}-{high})"


@dataclass(slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        assert len(cells) == len(self.columns), "a row has a cell for each column"
        self.rows.append(list(cells))

    def text(self) -> str:
        """As Markdown, aligned so that it reads well on a terminal, too."""
        widths = [
            max(len(row[index]) for row in [list(self.columns), *self.rows])
            for index in range(len(self.columns))
        ]
        lines = [f"### {self.title}", "", _line(self.columns, widths)]
        lines.append("| " + " | ".join("-" * width for width in widths) + " |")
        lines += [_line(row, widths) for row in self.rows]
        lines += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


class Report:
    """Prints as it goes, keeps everything for the JSON file."""

    def __init__(self, name: str, machine: Machine, json_path: Path | None) -> None:
        self._name = name
        self._machine = machine
        self._json_path = json_path
        self._tables: list[Table] = []
        self._raw: list[dict[str, object]] = []
        print(f"## bench/{name}\n")
        for label, text in machine.rows():
            print(f"- {label}: {text}")
        print(flush=True)

    def progress(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def measured(self, **values: object) -> None:
        """One raw measurement, for the JSON file."""
        self._raw.append(values)

    def table(self, table: Table) -> None:
        self._tables.append(table)
        print(table.text(), flush=True)

    def finish(self) -> None:
        if self._json_path is None:
            return
        document = {
            "bench": self._name,
            "machine": self._machine.as_json(),
            "tables": [
                {"title": t.title, "columns": list(t.columns), "rows": t.rows, "notes": t.notes}
                for t in self._tables
            ],
            "measurements": self._raw,
        }
        self._json_path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The arguments that every bench has."""
    made = argparse.ArgumentParser(
        description=(doc or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="seconds instead of minutes; no figures")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    made.add_argument("--directory", type=Path, help="where data goes; a real disk")
    made.add_argument("--repetitions", type=int, default=None, help="of each measurement")
    return made


def begin(name: str, arguments: argparse.Namespace) -> tuple[Report, Path]:
    """Describes the machine, moves the harness off the server's core, and starts the report."""
    directory = work_directory(arguments.directory)
    machine = describe(directory)
    choose_cores().pin_harness()
    return Report(name, machine, arguments.json), directory
