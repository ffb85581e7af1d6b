"""`python -m tests.matrix.page PAGE README`: docs/matrix.md, and the table of it in README.md, made of what `make
test-matrix` left in build/matrix.json.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.matrix.families import TITLES
from tests.matrix.methods import methods

RESULTS = Path(__file__).resolve().parents[2] / "build" / "matrix.json"
_TABLE = re.compile(r"(?<=<!-- matrix -->\n\n)(?:\|.*\n)+")
_ALL, _STEPS, _FAILS, _NOT_RUN = "●", "○", "fails", "not run"

_HEAD = f"""# Methods and families

What `make test-matrix` ran when it made this page: every method on a tiny network of every family.

- {_STEPS} three optimizer steps over the same rows, from a checkpoint, fp32 on CPU: losses are finite, change, and end
  lower, and every tensor below the head changed.
- {_ALL} that, and the same losses when it is cut by tensor over two processes (1e-5; a mixture with its sequences), and
  to the last bit when it is killed in its third step and started again. Every method does so on Llama 3, every family
  with `sft`, `dpo` and `rm`.

Methods are the algorithms, their presets (`quiver algorithms`), and recipes with a training step of their own. These
count by that step, on rows that the recipe's own operations made of a few samples; what they would ask a model for, a
stand-in answered. GPT-2B is the shape of NeMo's, which is no Hugging Face family. How algorithms are cut in other ways
(pipeline, data, sequence, distributed optimizer, packs, LoRA) stands under [What combines with what](../README.md).
"""


def faults(cell: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the results of a cell, as `tests.matrix.cells` has them."""
    curve = cell["losses"]
    if cell["code"] or len(curve) != 3:
        yield f"exit code {cell['code']} with {len(curve)} losses"
    elif not all(map(math.isfinite, curve)) or len({*curve}) < len(curve) or not curve[-1] < curve[0]:
        yield f"losses {curve}"
    if cell["changed"] != cell["tensors"]:
        yield f"{cell['changed']} of {cell['tensors']} tensors changed"
    for name, codes, tolerance in (("tensor", [0, 0], 1e-5), ("resumed", [-9, 0], 0.0)):
        other = cell.get(name)
        if other is None:
            continue
        near = len(other["losses"]) == len(curve) and all(
            math.isclose(one, two, rel_tol=tolerance) for one, two in zip(other["losses"], curve, strict=True)
        )
        if other["codes"] != codes or not near:
            yield f"{name}: codes {other['codes']}, losses {other['losses']} instead of {curve}"


def shown(cell: Mapping[str, Any] | None) -> str:
    """A cell as the page has it."""
    if cell is None:
        return _NOT_RUN
    return _FAILS if any(faults(cell)) else _ALL if "tensor" in cell else _STEPS


def page(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of these results."""
    lines = [f"| method | {' | '.join(TITLES.values())} |", f"|---{'|---' * len(TITLES)}|"]
    for name, method in methods().items():
        row = [shown(cells.get(name, {}).get(family)) for family in TITLES]
        lines.append(f"| {method.title} | {' | '.join(row)} |")
    return "\n".join([_HEAD, *lines, ""])


def summary(whole: str) -> str:
    """The table of the page `whole` with one line for all methods that did the same on every family."""
    header, rule, *rows = [line for line in whole.splitlines() if line.startswith("|")]
    alike: dict[str, list[str]] = {}
    for row in rows:
        method, cells = row.removeprefix("| ").split(" | ", 1)
        alike.setdefault(cells, []).append(method)
    return "\n".join([header, rule, *(f"| {', '.join(names)} | {cells}" for cells, names in alike.items()), ""])


def with_summary(readme: str, whole: str) -> str:
    """`readme` with that table behind its mark."""
    made, count = _TABLE.subn(lambda _: summary(whole), readme)
    assert count == 1, "README.md has no table behind <!-- matrix -->"
    return made


if __name__ == "__main__":
    made = page(json.loads(RESULTS.read_text(encoding="utf-8")))
    Path(sys.argv[1]).write_text(made, encoding="utf-8")
    readme = Path(sys.argv[2])
    readme.write_text(with_summary(readme.read_text(encoding="utf-8"), made), encoding="utf-8")
