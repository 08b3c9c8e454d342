"""Recorded data that the devices replay: rows of a data set or of a CSV file.

Owns the reading of them. The built-in sets are real weather records shipped inside the
vega_datasets package (nothing is downloaded):

    seattle-weather   daily 2012-2015: precipitation, temp_max, temp_min, wind, weather
    seattle-temps     hourly temperature of 2010
    sf-temps          hourly temperature of 2010
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from errors import ReplayError

BUILT_IN = ("seattle-weather", "seattle-temps", "sf-temps")
ROW_COUNT_MAX = 1_000_000

Value = int | float | str
Row = Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A name fit for a topic level, and the rows."""

    name: str
    rows: Sequence[Row]

    def from_row(self, index: int) -> Iterator[Row]:
        """Rows for ever, beginning somewhere in the middle."""
        count = len(self.rows)
        while True:
            yield self.rows[index % count]
            index += 1


def load(source: str) -> Recording:
    """A built-in name or the path of a CSV file with a header line. Raises ReplayError."""
    if source in BUILT_IN:
        text = (
            resources.files("vega_datasets").joinpath("_data", f"{source}.csv").read_text("utf-8")
        )
        return _parse(source, text)
    path = Path(source)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(BUILT_IN)
        raise ReplayError(f"{source}: {error}; give a CSV file or one of {names}") from error
    return _parse(_topic_level(path.stem), text)


def _parse(name: str, text: str) -> Recording:
    reader = csv.DictReader(io.StringIO(text))
    rows: list[Row] = []
    for line in reader:
        if len(rows) >= ROW_COUNT_MAX:
            raise ReplayError(f"{name}: more than {ROW_COUNT_MAX} rows")
        if None in line or None in line.values():
            raise ReplayError(f"{name}: line {reader.line_num} does not match the header")
        rows.append({column: _value(cell) for column, cell in line.items()})
    if not rows:
        raise ReplayError(f"{name}: no rows")
    return Recording(name=name, rows=rows)


def _value(cell: str) -> Value:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _topic_level(stem: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem) or "csv"
