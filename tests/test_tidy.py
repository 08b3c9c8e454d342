"""The style rules that a program can check. Each says why it is a rule.

A list in this file is the place where an exception is made, so that making one is a decision.
"""

from __future__ import annotations

import ast
import builtins
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("log", "bridge", "devices", "gateway")

# Where asyncio may be: the shells. Everything else can be tested without a loop.
SHELLS = {
    "bridge/bridge.py",
    "bridge/channel.py",
    "bridge/cluster.py",
    "bridge/connection.py",
    "bridge/control.py",
    "devices/recorder.py",
    "gateway/app.py",
    "gateway/mqtt/retained_service.py",
    "gateway/mqtt/client.py",
    "gateway/mqtt/server.py",
    "gateway/sources/source.py",
    "log/committer.py",
    "log/housekeeper.py",
}

# Where the clock, randomness or the environment may be read; everything else is given them.
READS_THE_WORLD = SHELLS | {
    "gateway/cli.py",
    "gateway/dead_letters.py",
    "log/files.py",
    "log/opening.py",
    "log/store.py",
}

LINES_MAX = 400
TEST_LINES_MAX = 600

# The words of a file call: of builtins, of os, of pathlib.
_FILE_MODULES = {"shutil", "tempfile", "mmap", "fcntl", "io"}
_FILE_METHODS = {
    *("mkdir", "rmdir", "unlink", "rename", "replace_file", "touch", "symlink_to", "chmod"),
    *("read_bytes", "read_text", "write_bytes", "write_text", "iterdir", "glob", "rglob"),
    *("exists", "is_file", "is_dir", "stat"),
}


@cache
def modules(*folders: str) -> tuple[Path, ...]:
    return tuple(file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_imports(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(file)}


def test_asyncio_is_only_in_the_shells() -> None:
    found = {name_of(file) for file in modules(*PACKAGES) if "asyncio" in top_imports(file)}
    assert found - SHELLS == set()


def test_every_listed_shell_exists_and_uses_asyncio() -> None:
    found = {name_of(file) for file in modules(*PACKAGES) if "asyncio" in top_imports(file)}
    assert SHELLS - found == set()


def test_clocks_randomness_and_environment_are_arguments() -> None:
    offenders = []
    for file in modules(*PACKAGES):
        if name_of(file) in READS_THE_WORLD:
            continue
        for node in ast.walk(tree(file)):
            if not isinstance(node, ast.Call | ast.Attribute):
                continue
            text = ast.unparse(node.func if isinstance(node, ast.Call) else node)
            if re.fullmatch(
                r"time\.(time|monotonic|time_ns|monotonic_ns|perf_counter|sleep)"
                r"|random\.(random|choice|randint|uniform|shuffle|Random)"
                r"|os\.(environ|getenv|urandom)|secrets\.\w+|uuid\.uuid\d"
                r"|(datetime\.)?datetime\.(now|utcnow|today)",
                text,
            ):
                offenders.append(f"{name_of(file)}: {text}")
    assert offenders == []


def test_every_file_call_of_the_log_is_in_one_module() -> None:
    """A test swaps that module for a disk that loses, tears and reorders what was not synced."""
    offenders = []
    for file in modules("log"):
        if name_of(file) == "log/files.py":
            continue
        offenders += [
            f"{name_of(file)}: import {each}" for each in top_imports(file) & _FILE_MODULES
        ]
        for node in ast.walk(tree(file)):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == builtins.open.__name__:
                offenders.append(f"{name_of(file)}: open()")
            if re.match(r"os\.(?!urandom)", ast.unparse(node.func)):
                offenders.append(f"{name_of(file)}: {ast.unparse(node.func)}()")
            if isinstance(node.func, ast.Attribute) and node.func.attr in _FILE_METHODS:
                receiver = ast.unparse(node.func.value)
                if not re.search(r"files$", receiver):
                    offenders.append(f"{name_of(file)}: {receiver}.{node.func.attr}()")
    assert offenders == []


def test_no_source_file_is_longer_than_a_reader_holds_in_mind() -> None:
    long = {}
    for file in modules(*PACKAGES, "firmware-sim", "bench", "tests"):
        most = TEST_LINES_MAX if name_of(file).startswith("tests/") else LINES_MAX
        count = len(file.read_text().splitlines())
        if count > most:
            long[name_of(file)] = count
    assert long == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        name_of(file)
        for file in modules(*PACKAGES, "firmware-sim", "bench", "tests")
        if file.read_text().strip() and not ast.get_docstring(tree(file))
    ]
    assert silent == []


def test_every_error_is_drawn_at_the_top_of_its_module() -> None:
    missing = []
    for file in modules(*PACKAGES, "firmware-sim"):
        if file.name != "errors.py":
            continue
        drawing = ast.get_docstring(tree(file)) or ""
        missing += [
            f"{name_of(file)}: {node.name}"
            for node in tree(file).body
            if isinstance(node, ast.ClassDef)
            and not any("dataclass" in ast.unparse(each) for each in node.decorator_list)
            and node.name not in drawing
        ]
    assert missing == []


@pytest.mark.parametrize("package", PACKAGES)
def test_errors_of_a_package_are_in_its_errors_module(package: str) -> None:
    elsewhere = [
        f"{name_of(file)}: {node.name}"
        for file in modules(package)
        if file.name != "errors.py"
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ClassDef)
        and any(re.search(r"(Exception|Error)$", ast.unparse(base)) for base in node.bases)
    ]
    assert elsewhere == []


@pytest.mark.parametrize("package", ["log", "bridge", "devices"])
def test_package_says_what_is_public(package: str) -> None:
    init = tree(ROOT / package / "__init__.py")
    names = [
        target.id
        for node in init.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in names


def test_firmware_sim_imports_nothing_of_the_gateway() -> None:
    """It is the other side of the wire: shared code would share its mistakes."""
    ours = {*PACKAGES, "tests", "bench"}
    local = {file.stem for file in modules("firmware-sim")}
    offenders = [
        f"{name_of(file)}: {each}"
        for file in modules("firmware-sim")
        for each in top_imports(file) & ours - local
    ]
    assert offenders == []


def test_packages_import_no_test_code() -> None:
    offenders = [
        name_of(file)
        for file in modules(*PACKAGES)
        if top_imports(file) & {"tests", "bench", "pytest", "confluent_kafka", "amqtt", "paho"}
        # These are a client, by trade.
        and name_of(file)
        not in ("gateway/sources/client.py", "gateway/sources/source.py", "gateway/dead_letters.py")
    ]
    assert offenders == []


def test_nothing_prints_but_the_command_line_and_the_readiness_line() -> None:
    printing = {
        name_of(file)
        for file in modules(*PACKAGES)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == builtins.print.__name__
    }
    assert printing <= {"gateway/app.py", "gateway/cli.py", "gateway/dead_letters.py"}


def test_log_messages_are_stable_event_names() -> None:
    """`part.event_name key=value`: an operator greps for it, a release keeps it."""
    offenders = []
    for file in modules(*PACKAGES):
        for node in ast.walk(tree(file)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical")
                and re.fullmatch(r"_?log(ger)?", ast.unparse(node.func.value))
            ):
                first = node.args[0]
                text = first.value if isinstance(first, ast.Constant) else ""
                if not re.match(r"[a-z]+\.[a-z0-9_-]+( |$)", str(text)):
                    offenders.append(f"{name_of(file)}: {ast.unparse(node)[:80]}")
    assert offenders == []


def tracked() -> list[Path]:
    """Text files that are, or would be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name]


def test_documents_cite_names_and_never_line_numbers() -> None:
    offenders = [
        f"{name_of(file)}: {match[0]}"
        for file in ROOT.glob("*.md")
        for match in re.finditer(r"\w+\.(py|md|c|toml):\d+|\bline \d+ of\b", file.read_text())
    ]
    assert offenders == []


def test_shell_scripts_and_hooks_are_executable() -> None:
    for name in ("check", "demo", ".ci/run"):
        assert (ROOT / name).stat().st_mode & 0o111, name


def test_no_unfinished_business_is_committed() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    offenders = [
        name_of(file)
        for file in tracked()
        if file.suffix in (".py", ".sh", ".toml", ".md")
        and file != Path(__file__)
        and file.exists()
        and words.search(file.read_text())
    ]
    assert offenders == []
