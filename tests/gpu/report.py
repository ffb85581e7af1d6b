"""What a machine with a GPU has to show, written as it is measured: agreement with the CPU, then speed and memory.

    python -m tests.gpu.report [--parts parity,speed] [--seconds 570] [--out build/gpu-report]

`report.jsonl` gains a line with every measurement, `report.md` is written anew after each, so that a run that is cut
off leaves what it had. Parts have a time of their own (`tests.gpu.parts`), what fails is kept as an `error` in its
place, and a later run of other parts on the same folder adds to it. `--dry-run` is the same code without a GPU, at toy
sizes. Exit code 1 where two sides that must agree do not, or where nothing at all could be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.gpu.parts import PARTS, Line, Part, Where


def run(parts: Sequence[str], where: Where, seconds: float, out: Path) -> list[Line]:
    """Measure `parts`, in their order, for at most `seconds` together; all lines in `out`, older runs' too."""
    log = out / "report.jsonl"
    lines = read(log)
    end = time.monotonic() + seconds
    for name in parts:
        began = time.monotonic()
        for line in _within(PARTS[name], where, min(end, began + PARTS[name].seconds)):
            lines.append({"part": name, "at": round(time.monotonic() - began, 1), **line})
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            (out / "report.md").write_text("\n".join(page(lines)) + "\n", encoding="utf-8")
            print("  ".join(f"{key} {_cell(key, value)}" for key, value in lines[-1].items()), flush=True)
    return lines


def _within(part: Part, where: Where, deadline: float) -> Iterator[Line]:
    if deadline - time.monotonic() < 1:
        yield {"name": "all", "error": "not run: out of time"}
        return
    try:
        yield from part.run(where, deadline)
    except Exception as error:
        yield {"name": "all", "error": f"{type(error).__name__}: {error}"[:400]}


def read(log: Path) -> list[Line]:
    """The lines that earlier runs left; a last one that was cut off is left out."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def page(lines: Sequence[Line]) -> Iterator[str]:
    """The Markdown: one table per part that has lines; of several lines of one name the last counts."""
    for part, about in PARTS.items():
        newest = {line["name"]: line for line in lines if line["part"] == part}
        if newest:
            yield from ("", f"### {about.title}", "")
            yield from _facts(newest["machine"]) if part == "machine" and "machine" in newest else _table(about, newest)


def _facts(line: Mapping[str, Any]) -> Iterator[str]:
    yield ", ".join(f"{key} {_cell(key, value)}" for key, value in line.items() if key not in ("part", "name", "at"))


def _table(about: Part, newest: Mapping[str, Line]) -> Iterator[str]:
    columns = [name for name in about.columns if any(line.get(name) is not None for line in newest.values())]
    failed = any("error" in line for line in newest.values())
    heads = ["", *(name.removesuffix("_b").replace("_", " ") for name in columns), *(["error"] if failed else [])]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for name, line in newest.items():
        cells = [name, *(_cell(key, line.get(key)) for key in columns)]
        cells += [str(line.get("error", "")).replace("|", "/")[:200]] if failed else []
        yield "| " + " | ".join(cells) + " |"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if key.endswith("_b"):
        return f"{value / 2**30:.1f} GiB" if value else "-"
    if key in ("mfu", "gold_before", "gold_after"):
        return f"{value:.1%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.1e}"
    return str(value)


def main() -> int:
    """Run what the command line asks; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=570, help="for all parts together; default: 570")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-report"))
    parser.add_argument("--work", type=Path, default=Path("build/gpu-work"), help="data of the iteration")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes, no GPU")
    parser.add_argument("--iteration", nargs=argparse.REMAINDER, default=[], help="flags of RestIteration; last")
    chosen = parser.parse_args()
    parts = chosen.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    where = Where(chosen.work.resolve(), not chosen.dry_run, chosen.dry_run, tuple(chosen.iteration))
    before = len(read(chosen.out / "report.jsonl"))
    lines = run(parts, where, chosen.seconds, chosen.out)[before:]
    print(f"\nthe table lies in {chosen.out / 'report.md'}")
    return int(any(line.get("agrees") is False for line in lines) or all("error" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
