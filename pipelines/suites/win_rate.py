"""Win rate against the answers of a baseline: AlpacaEval's file, or any with prompts and answers."""

from __future__ import annotations

from pipelines.suites.comparing import ComparisonSuite

WIN_RATE = ComparisonSuite(
    name="win_rate",
    about="answers held against a baseline's, length-controlled beside it (AlpacaEval 2, arXiv:2404.04475)",
    formats=("prompts",),
    columns={"prompt": "instruction", "answer": "output"},
    slices=("dataset",),
)
