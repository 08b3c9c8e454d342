"""docs/conformance.md: a row for each statement, and the tests that it names do check it."""

import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.conformance.citations import DOCUMENT, ROOT, VERSIONS, cited, rows, sources_of
from tests.conformance.clauses import CLAUSES

_REASONS = ("binds clients", "does not apply: ", "open: ")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_statement_has_one_row(version: str) -> None:
    clauses = [row.clause for row in rows() if row.version == version]
    assert clauses == list(CLAUSES[version])


def test_every_row_names_tests_or_says_why_not() -> None:
    bare = [row for row in rows() if not row.tests and not row.verdict.startswith(_REASONS)]
    assert bare == []


def test_every_named_test_cites_the_statement() -> None:
    wrong = [
        f"{row.version} [MQTT-{row.clause}] is not cited by {path}::{name}"
        for row in rows()
        for path, name in row.tests
        if row.clause not in cited(sources_of(path).get(name, ""), row.version)
    ]
    assert wrong == []


def test_every_named_test_is_collected() -> None:
    named = {f"{path}::{name}" for row in rows() for path, name in row.tests}
    files = sorted({item.split("::")[0] for item in named})
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts=", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    collected = set(re.findall(r"^(tests/\S+::test_\w+)", run.stdout, re.MULTILINE))
    assert collected, run.stdout + run.stderr
    assert named - collected == set()


def test_every_citation_is_of_a_statement_that_there_is() -> None:
    files = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/conformance/test_*.py")]
    unknown = [
        f"{path}::{name}: {version} [MQTT-{clause}]"
        for path in files
        for name, source in sources_of(path).items()
        for clause in cited(source, "3.1.1") | cited(source, "5.0")
        for version in VERSIONS
        if clause in cited(source, version)
        and clause not in CLAUSES[version]
        # cited for both where only one has it
        and not any(clause in CLAUSES[other] for other in VERSIONS)
    ]
    assert unknown == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_head_counts_what_is_below(version: str) -> None:
    """So that an open row is not overlooked."""
    kinds: Counter[str] = Counter()
    for row in rows():
        if row.version == version:
            kinds["tested" if row.tests else row.verdict.split(":")[0]] += 1
    line = (
        f"| {version} | {sum(kinds.values())} | {kinds['tested']} | {kinds['binds clients']} "
        f"| {kinds['does not apply']} | {kinds['open']} |"
    )
    assert line in DOCUMENT.read_text()
