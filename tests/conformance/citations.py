"""Which clause a test cites, and what docs/conformance.md says: both as data.

A test cites clauses in its docstring or comments, as `[MQTT-3.1.0-1]`. A number means different
things in the two versions: `3.1.1` or `5.0` before it says whose it is, up to the next such mark.
Without a mark (or behind `both`) it is a clause of both.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "conformance.md"
VERSIONS = ("3.1.1", "5.0")

_TOKEN = re.compile(
    r"(?<![\d.])(?P<version>3\.1\.1|5\.0)(?!\.?\d)|(?P<both>\bboth)(?=\s+\[MQTT)"
    r"|\[MQTT-(?P<clause>[\d.]+-\d+)\]"
)
_ROW = re.compile(r"^\| (?P<clause>\d\S+) \| (?P<words>.*) \| (?P<verdict>.*) \|$")
_TEST = re.compile(r"^(?P<path>tests/[\w/]+\.py)::(?P<name>test_\w+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`verdict` is tests (then they are in `tests` as (path, name)), or why there are none."""

    version: str
    clause: str
    verdict: str
    tests: tuple[tuple[str, str], ...]


def cited(source: str, version: str) -> set[str]:
    """The clauses of that version that a test's source cites."""
    found = set()
    current = None
    for token in _TOKEN.finditer(source):
        if token["version"]:
            current = token["version"]
        elif token["both"]:
            current = None
        elif current in (None, version):
            found.add(token["clause"])
    return found


@cache
def sources_of(path: str) -> dict[str, str]:
    """The sources of the tests of a file, by name."""
    text = (ROOT / path).read_text()
    sources = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
            "test_"
        ):
            assert node.name not in sources, f"{path} has {node.name} twice"
            sources[node.name] = ast.get_source_segment(text, node) or ""
    return sources


def rows() -> Iterator[Row]:
    """The rows of the document, in its order."""
    version = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## MQTT "):
            version = line.removeprefix("## MQTT ")
        row = _ROW.match(line)
        if row is None or not version:
            continue
        verdict = row["verdict"]
        tests = []
        if verdict.startswith("tests/"):
            for item in verdict.split("<br>"):
                test = _TEST.match(item)
                assert test is not None, f"{version} {row['clause']}: {item} names no test"
                tests.append((test["path"], test["name"]))
        yield Row(version=version, clause=row["clause"], verdict=verdict, tests=tuple(tests))
