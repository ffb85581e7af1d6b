"""`python -m tests.results.page PAGE`: docs/results.md, made of what `make results` measured.

What lies in `build/results` goes into `measured.json` beside this file first, the newest of each method and seed in the
place of what was there; the page is made of that file.
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.results import costs
from tests.results.entries import Entry, Figure, Ground, grounds
from tests.results.runner import BUILD

MEASURED = Path(__file__).parent / "measured.json"
MISSING = "not measured yet"

_HEAD = f"""# Results

What the methods do on small ground, as `make results DATA=FOLDER SEEDS=1,2,3` measures it (FOLDER: sample data, with
`instruction-preference`, `hh-rlhf` and `nemo-aligner` in it). Each method runs once for a seed, with the commands
below, in a folder of that seed with `seed` under `[quiver]` in its luigi.cfg, here on two CPU cores that other work
shared. With more than one seed a cell is the mean, the standard deviation behind ±, and the value of each in the order
of the column `seeds`. `seconds` are those of the command alone: what all methods of a section share was there. What was
not run says "{MISSING}".
"""


def collected(known: Iterable[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """`known` records and those in `folder`, the newest of each method and seed."""
    newest = {(one["method"], one["seed"]): dict(one) for one in known}
    for path in sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime):
        record = json.loads(path.read_text(encoding="utf-8"))
        newest[record["method"], record["seed"]] = record
    return [newest[key] for key in sorted(newest)]


def cell(figure: Figure, records: Sequence[Mapping[str, Any]]) -> str:
    """The mean of a figure, its spread, and every seed's."""
    values = [record["figures"][figure.name] for record in records if figure.name in record["figures"]]
    if not values:
        return MISSING
    texts = [format(value, figure.form) for value in values]
    if len(values) == 1:
        return texts[0]
    mean, spread = (format(of(values), figure.form) for of in (statistics.mean, statistics.stdev))
    return f"{mean} ± {spread} ({', '.join(texts)})"


def table(entries: Mapping[str, Entry], records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The methods of a ground whose figures have the same names."""
    names = [figure.name for figure in next(iter(entries.values())).figures]
    lines = [f"| method | {' | '.join(names)} | against | seeds | seconds |", f"|---{'|---' * len(names)}|---|---|---|"]
    for name, entry in entries.items():
        mine = records.get(name, ())
        seeds = ", ".join(str(record["seed"]) for record in mine) or "none"
        took = f"{statistics.mean(one['seconds']['command'] for one in mine):.0f}" if mine else MISSING
        cells = (cell(figure, mine) for figure in entry.figures)
        lines.append(f"| {entry.methods[name]} | {' | '.join(cells)} | {entry.against} | {seeds} | {took} |")
    return lines


def commands(title: str, listed: Sequence[str]) -> list[str]:
    """A block of commands below its title."""
    if not listed:
        return []
    return ["", f"{title}:", "", "```text", *listed, "```"]


def section(ground: Ground, records: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A ground: what it is, its tables, its commands."""
    lines = ["", f"## {ground.title}", "", *textwrap.wrap(ground.about, 120)]
    tables: dict[tuple[str, ...], dict[str, Entry]] = {}
    for name, entry in ground.methods.items():
        tables.setdefault(tuple(figure.name for figure in entry.figures), {})[name] = entry
    for entries in tables.values():
        lines += ["", *table(entries, records)]
    lines += commands(
        f"Shared, in a folder with {ground.config} as luigi.cfg" if ground.config else "Shared", ground.shared
    )
    for entry in ground.entries:
        names = list(entry.methods)
        each = f" (NAME is {', '.join(f'`{name}`' for name in names)})" if len(names) > 1 else ""
        one = entry if each else entry.of(names[0])
        title = entry.methods[names[0]] if not each else " / ".join(entry.methods.values())
        lines += commands(f"{title}{each}", (*one.before, one.command, *one.after))
    return lines


def page(measured: Sequence[Mapping[str, Any]], kept: Sequence[Mapping[str, Any]]) -> str:
    """The page of these records, and of what benchmarks kept."""
    records: dict[str, list[Mapping[str, Any]]] = {}
    for record in measured:
        records.setdefault(record["method"], []).append(record)
    lines = [line for ground in grounds() for line in section(ground, records)]
    commits = sorted({record["commit"] for record in measured})
    return "\n".join(
        [_HEAD.rstrip(), f"\nMeasured at: {', '.join(commits) or 'no commit'}.", *lines, *costs.section(kept), ""]
    )


def kept() -> list[dict[str, Any]]:
    """What benchmarks kept."""
    known: list[dict[str, Any]] = json.loads(costs.KEPT.read_text(encoding="utf-8")) if costs.KEPT.exists() else []
    return known


def main() -> None:
    """Collect, and write the page."""
    known = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else []
    records = collected(known, BUILD)
    MEASURED.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    Path(sys.argv[1]).write_text(page(records, kept()), encoding="utf-8")


if __name__ == "__main__":
    main()
