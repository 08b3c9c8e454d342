"""How figures are shown, and what is read from others' output."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.all import put_into
from bench.mqtt_probe import _packet, _split
from bench.report import Sample, Table


def test_a_sample_shows_its_median_and_its_spread() -> None:
    assert Sample.of([3.0, 1.0, 2.0]).shown() == "2.0 (1.0-3.0)"
    assert Sample.of([1500.0]).shown(scale=1e-3, digits=2) == "1.50"
    assert Sample.of([]).shown() == "-"


def test_a_table_is_aligned_markdown() -> None:
    table = Table("Title", ("what", "µs"))
    table.add("append", "0.5")
    assert table.text() == ("### Title\n\n| what   | µs  |\n| ------ | --- |\n| append | 0.5 |\n")


def test_the_probe_reads_packets_as_they_were_made() -> None:
    body = b"x" * 300
    data = _packet(0x30, body) + _packet(0x40, b"\x00\x01")
    found = _split(data)
    assert found is not None
    kind, first, rest = found
    assert (kind, first, rest) == (0x30, body, b"\x40\x02\x00\x01")
    assert _split(data[:200]) is None


def test_a_report_is_put_between_the_markers_of_a_document(tmp_path: Path) -> None:
    document = tmp_path / "doc.md"
    document.write_text("# Title\n<!-- report -->\nold\n<!-- /report -->\nrest\n")
    put_into(document, "new\n")
    assert document.read_text() == ("# Title\n<!-- report -->\n\nnew\n\n<!-- /report -->\nrest\n")
    document.write_text("none")
    with pytest.raises(ValueError, match="has no"):
        put_into(document, "new")
