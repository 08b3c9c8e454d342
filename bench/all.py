"""All benches one after the other, into one report: `bench/all --report FILE`.

Each runs in a process of its own, so that none inherits another's memory. The report is what they
printed, as Markdown; beside it FILE.json with everything that was measured. `--into` also puts it
between the markers of a document (docs/performance.md). Run it on a machine that does nothing else:
the report says what the load average was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_CHECKOUT = Path(__file__).parents[1]
_BENCHES = ("ingest", "fanout", "idle", "sessions", "bridge", "footprint", "micro")
_BEGIN, _END = "<!-- report -->", "<!-- /report -->"


def run_one(name: str, json_path: Path, more: Sequence[str]) -> str:
    """Gives what it printed, which is shown as it comes, too. Raises CalledProcessError."""
    command = [sys.executable, "-m", f"bench.{name}", "--json", str(json_path), *more]
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_CHECKOUT) as process:
        assert process.stdout is not None, "it was asked for"
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return "".join(lines)


def put_into(document: Path, text: str) -> None:
    """Replaces what is between the markers. Raises ValueError where they are not."""
    before, begin, rest = document.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{document} has no {_BEGIN} and {_END}")
    document.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--report", type=Path, default=_CHECKOUT / ".cache" / "bench-report.md")
    made.add_argument("--into", type=Path, help="a document with markers, too")
    made.add_argument("--repetitions", type=int, help="of each measurement")
    made.add_argument("--quick", action="store_true", help="only show that they work")
    made.add_argument("--only", nargs="+", choices=_BENCHES, default=list(_BENCHES))
    arguments = made.parse_args(argv)
    report: Path = arguments.report.absolute()
    report.parent.mkdir(parents=True, exist_ok=True)
    more = ["--quick"] if arguments.quick else []
    if arguments.repetitions:
        more += ["--repetitions", str(arguments.repetitions)]
    texts: list[str] = []
    results: dict[str, object] = {}
    failed: list[str] = []
    for name in arguments.only:
        json_path = report.with_suffix(f".{name}.json")
        try:
            texts.append(run_one(name, json_path, more))
            results[name] = json.loads(json_path.read_text())
        except subprocess.CalledProcessError as error:
            failed.append(name)
            texts.append(f"## bench/{name}\n\nended with {error.returncode}\n")
        finally:
            json_path.unlink(missing_ok=True)
        # After each, so that a long run that is cut short leaves what it has.
        report.write_text("# What the benches measured\n\n" + "\n".join(texts))
        report.with_suffix(".json").write_text(json.dumps(results, indent=1, ensure_ascii=False))
    if arguments.into is not None:
        put_into(arguments.into, "\n".join(texts))
    print(f"report: {report}\n        {report.with_suffix('.json')}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
