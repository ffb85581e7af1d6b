"""What the same work costs here and with TRL: the section of docs/results.md that benchmarks leave their figures for.

`python -m tests.benchmarks.NAME --keep tests/results/costs.json` puts in what it measured.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks._sides import middle, ratios

KEPT = Path(__file__).parent / "costs.json"
_ABOUT = """\
As `make bench` prints it. Sides take turns, each in a process of its own with one thread, in every second round in
the other order; seconds are those of the processor, from rows and loaded libraries to trained and saved weights (DPO
here with its reference log-probabilities, KD with the teacher's columns) or to packs on disk. A ratio is TRL's over
Quiver's of one round: the machine was shared and loaded, so that ratios say more than seconds. Medians, and in
brackets every round's. Memory is the greatest resident set. Fill is the share of all packs but the emptiest that
holds tokens. The networks have 8 layers of width 256, 16 rows make a step; TRL is that of tests/fidelity/trl.txt. KD
is TRL's GKD off policy, over all ids of 2,048, where Quiver's teacher says 100."""
_SIDES = {
    "quiver": "Quiver",
    "trl": "TRL",
    "trl-precomputed": "TRL, `precompute_ref_log_probs`",
}


def section(kept: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of the section; none where nothing was measured."""
    if not kept:
        return []
    commits = ", ".join(sorted({one["commit"] for one in kept}))
    lines = ["", "## Costs", "", *textwrap.wrap(_ABOUT.replace("\n", " "), 120), "", f"Measured at: {commits}.", ""]
    lines += ["| what | side | seconds | over Quiver's | peak MiB | fill |", "|---|---|---|---|---|---|"]
    for one in kept:
        for side, figures in one["taken"].items():
            over = "" if side == "quiver" else middle(ratios(one["taken"], side))
            fill = f"{figures[-1]['fill']:.4f} of {figures[-1]['packs']:,.0f} packs" if "fill" in figures[-1] else ""
            memory = statistics.median(each["MiB"] for each in figures)
            seconds = middle([each["seconds"] for each in figures], ".1f")
            lines.append(f"| {one['case']} | {_SIDES[side]} | {seconds} | {over} | {memory:,.0f} | {fill} |")
    asked = dict.fromkeys(f"{one['module']} {one['flags']}".strip() for one in kept)
    return [
        *lines,
        "",
        "```text",
        *(f'make bench ARGS="{words} --keep tests/results/costs.json"' for words in asked),
        "```",
    ]
