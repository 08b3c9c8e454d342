"""README.md is kept true where a program can tell."""

from __future__ import annotations

import re
from pathlib import Path

from gateway.config import read_file

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_configuration_in_the_readme_is_sound(tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "readme.toml"
    file.write_text(example)
    config = read_file(file, default_data=tmp_path)
    assert [stream.name for stream in config.streams] == ["telemetry", "mqtt"]
    assert config.routes[0].stream == "telemetry"
    assert config.upstreams[0].name == "central"


def test_every_file_the_documents_link_to_is_there() -> None:
    missing = [
        f"{document.name}: {target}"
        for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert missing == []


def test_flags_in_the_readme_are_flags_of_the_command_line() -> None:
    source = (ROOT / "gateway" / "cli.py").read_text()
    run = re.search(r"sluicegate run (.*?)```", README, re.DOTALL)
    assert run is not None
    for flag in set(re.findall(r"--([a-z-]+)", run[1])):
        assert f"    {flag}: Annotated[" in source, flag
