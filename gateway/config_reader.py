"""Reads TOML tables key by key and collects everything that is wrong, with its place.

Owns no meaning: gateway/config.py says which keys there are. A `Table` hands out one checked
value a call; a value that is wrong is reported and its default used, so that one run finds all
problems. `Table.close` reports the keys that nobody asked for, with the nearest known name.

Sizes and times are whole numbers in the unit that ends the key's name, or text with a unit:
"64 KiB", "2 GiB", "50 ms", "7 days".
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from gateway.errors import ConfigInvalid, Problem

_BYTES: Final = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_SECOND: Final = 1000
_MS: Final = {
    "ms": 1,
    **dict.fromkeys(("s", "second", "seconds"), _SECOND),
    **dict.fromkeys(("min", "minute", "minutes"), 60 * _SECOND),
    **dict.fromkeys(("h", "hour", "hours"), 3600 * _SECOND),
    **dict.fromkeys(("d", "day", "days"), 24 * 3600 * _SECOND),
}
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")

L = TypeVar("L")


class Bounds(Protocol):
    """What a number may be, both ends allowed; `str` says it to a person, with the reason."""

    @property
    def least(self) -> int: ...

    @property
    def most(self) -> int: ...


class Document:
    """One configuration file: its text, what TOML makes of it, and the problems found so far."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._lines = text.splitlines()
        try:
            values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigInvalid([_syntax_problem(path, error)]) from error
        self.root = Table(self, "", values)

    @classmethod
    def read(cls, path: Path) -> Document:
        """Raises ConfigInvalid when there is no such file, or it is no TOML."""
        try:
            return cls(path, path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise ConfigInvalid(
                [Problem(place=str(path), wrong=f"not UTF-8: {error}", right="Save it as UTF-8")]
            ) from error
        except OSError as error:
            raise ConfigInvalid(
                [
                    Problem(
                        place=str(path),
                        wrong=f"cannot be read: {error.strerror or error}",
                        right="Give a file that exists and that this user may read",
                    )
                ]
            ) from error

    def add_problem(self, table: str, key: str, wrong: str, right: str) -> None:
        line = self._line(table, key)
        where = f"{self.path}:{line}" if line else str(self.path)
        place = f"{where}, in [{table}]" if table else where
        self.problems.append(Problem(place=place, line=line, wrong=wrong, right=right))

    def has(self, table: str, key: str) -> bool:
        """Whether the file sets this key."""
        return self._line(table, key) is not None

    def raise_problems(self) -> None:
        """Raises ConfigInvalid with all problems, in the order of the file, if there are any."""
        if self.problems:
            raise ConfigInvalid(sorted(self.problems, key=lambda problem: problem.line or 0))

    def _line(self, table: str, key: str) -> int | None:
        inside = ""
        name, _, number = table.partition("#")
        seen = 0
        for index, line in enumerate(self._lines, start=1):
            if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line):
                inside = header[1]
                seen += inside == name
                if inside == name + "." + key or (inside == key and not table):
                    return index
                continue
            is_here = inside == name and (not number or seen == int(number))
            if is_here and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return index
        return None


def _syntax_problem(path: Path, error: tomllib.TOMLDecodeError) -> Problem:
    where = re.search(r"\s*\(at line (\d+), column (\d+)\)", str(error))
    place = f"{path}:{where[1]}:{where[2]}" if where else str(path)
    wrong = str(error).replace(where[0], "") if where else str(error)
    return Problem(
        place=place,
        wrong=f"not TOML: {wrong[:1].lower()}{wrong[1:]}",
        right='A line is `key = value`, text stands in quotes: listen = "mqtt://0.0.0.0:1883"',
    )


class Table:
    """One table of the file. `name` is as a person writes it between the brackets."""

    def __init__(self, document: Document, name: str, values: Mapping[str, Any]) -> None:
        self.document = document
        self.name = name
        self._values = values
        self._known: list[str] = []
        self._known_tables: set[str] = set()

    def problem(self, key: str, wrong: str, right: str) -> None:
        self.document.add_problem(self.name, key, wrong, right)

    def has(self, key: str) -> bool:
        return key in self._values

    def value(self, key: str) -> Any:
        """The raw value; the key counts as known from now on."""
        self._known.append(key)
        return self._values.get(key)

    def string(self, key: str, default: str, *, example: str = "") -> str:
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, str) or not value:
            self.problem(key, f"{key} = {value!r} is not text", f'Write {key} = "{example}"')
            return default
        return value

    def boolean(self, key: str, default: bool) -> bool:
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.problem(key, f"{key} = {value!r} is neither true nor false", "Write true or false")
            return default
        return value

    def integer(
        self, key: str, default: int, *, least: int = 0, most: int = 2**63 - 1, right: str = ""
    ) -> int:
        """A whole number; for keys that end in _bytes or _ms also text with a unit."""
        value = self.value(key)
        if value is None:
            return default
        number = self._whole(key, value)
        if number is None:
            return default
        if not least <= number <= most:
            self.problem(
                key, f"{key} = {value!r} is out of range", right or f"From {least} to {most}"
            )
            return default
        return number

    def quantity(self, key: str, default: int | None, units: str, *, least: int = 1) -> int | None:
        """A size or time that may be left out; units is "bytes" or "ms"."""
        value = self.value(key)
        if value is None:
            return default
        number = self._parse(key, value, _BYTES if units == "bytes" else _MS, units)
        if number is not None and number < least:
            self.problem(key, f"{key} = {value!r} is too small", f"At least {least} {units}")
            return default
        return default if number is None else number

    def strings(self, key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        value = self.value(key)
        if value is None:
            return default
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            self.problem(key, f"{key} = {value!r} is no list of text", f'Write {key} = ["a", "b"]')
            return default
        return tuple(value)

    def table(self, key: str) -> Table:
        """A sub-table; an empty one where there is none."""
        self._known_tables.add(key)
        value = self.value(key)
        name = f"{self.name}.{key}" if self.name else key
        if value is None:
            value = {}
        elif not isinstance(value, dict):
            self.problem(key, f"{key} is no table", f"Write [{name}] and its keys below it")
            value = {}
        return Table(self.document, name, value)

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Every key of this table as a sub-table."""
        for key in self._values:
            yield key, self.table(key)

    def list_of_tables(self, key: str) -> list[Table]:
        """The tables written as [[key]]."""
        self._known_tables.add(key)
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
            self.problem(key, f"{key} is no list of tables", f"Write [[{key}]] before each")
            return []
        return [Table(self.document, f"{key}#{i}", each) for i, each in enumerate(value, start=1)]

    def limits_table(
        self, key: str, kind: type[L], default: L, range_of: Callable[[type, str], Bounds]
    ) -> L:
        """A sub-table whose keys are the fields of a dataclass of whole numbers."""
        table = self.table(key)
        changes = {}
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            bounds = range_of(kind, field.name)
            changes[field.name] = table.integer(
                field.name,
                getattr(default, field.name),
                least=bounds.least,
                most=bounds.most,
                right=str(bounds),
            )
        table.close()
        return dataclasses.replace(default, **changes)  # type: ignore[type-var]

    def close(self) -> None:
        """Reports every key that was not asked for."""
        for key in self._values:
            if key in self._known:
                continue
            is_table = isinstance(self._values[key], dict)
            kind = "table" if isinstance(self._values[key], dict | list) else "key"
            # A key is more likely meant to be a key: `listne` is listen, [listne] is [listener].
            near = difflib.get_close_matches(key, self._known, n=3, cutoff=0.6)
            near.sort(key=lambda each: (each in self._known_tables) != is_table)
            if near:
                right = f"Did you mean {near[0]!r}?"
            else:
                right = f"Known here: {', '.join(sorted(set(self._known)))}"
            self.problem(key, f"unknown {kind} {key!r}", right)

    def _whole(self, key: str, value: object) -> int | None:
        if key.endswith("_bytes") or "_bytes_" in key:
            return self._parse(key, value, _BYTES, "bytes")
        if key.endswith("_ms") or "_ms_" in key:
            return self._parse(key, value, _MS, "ms")
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(key, f"{key} = {value!r} is not a whole number", f"Write {key} = 3")
            return None
        return value

    def _parse(self, key: str, value: object, units: Mapping[str, int], unit: str) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
        if match is not None and match[2].lower() in units:
            return round(float(match[1]) * units[match[2].lower()])
        example = '"64 KiB" or "2 GiB"' if unit == "bytes" else '"50 ms", "10 s" or "7 days"'
        self.problem(
            key,
            f"{key} = {value!r} is no {'size' if unit == 'bytes' else 'time'}",
            f"Write a whole number of {unit}, or text as {example}",
        )
        return None
