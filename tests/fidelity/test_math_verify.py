"""label.verify of kind number against math-verify, on GSM8K's answers written in the ways in which models do."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import pytest

from tests.datakit.verifiers.rows import verdicts

pytestmark = pytest.mark.slow
FORMS = ("The answer is {}.", "\\boxed{{{}}}", "So $\\boxed{{{}}}$", "**{}**", "#### {}", "Therefore, {} dollars",
         "Final answer: ${}$", "x = {}", "It is {} in total", "{}")  # fmt: skip


def answers(count: int) -> list[tuple[str, str]]:
    """Responses, six in ten of them right, and gold answers."""
    file = Path(os.environ.get("QUIVER_SHARED_DATA", "")) / "gsm8k-train" / "train.jsonl.gz"
    if not file.is_file():
        pytest.skip("GSM8K is not there (QUIVER_SHARED_DATA)")
    with gzip.open(file, "rt") as lines:
        golds = [json.loads(line)["answer"].split("####")[1].strip() for line in lines]
    rng, made = random.Random(1), []
    for gold in rng.choices(golds, k=count):
        value = float(gold.replace(",", ""))
        wrong = (value + 1, -value if value else 5.0, value * 10, value / 10, value + 0.5)
        number = value if rng.random() < 0.6 else rng.choice(wrong)
        text = f"{number:.6f}".rstrip("0").rstrip(".")
        whole = number.is_integer()
        spelled = [text, f"{int(number):,}", f"{text}.0", f"\\frac{{{int(2 * number)}}}{{2}}"] if whole else [text]
        made.append((rng.choice(FORMS).format(rng.choice(spelled)), gold))
    return made


def test_numbers_are_judged_as_math_verify_judges_them() -> None:
    library = pytest.importorskip("math_verify")
    pairs = answers(1000)
    theirs = [
        bool(library.verify(library.parse(f"${gold.replace(',', '')}$"), library.parse(response)))
        for response, gold in pairs
    ]
    ours = [right == 1 for right, _ in verdicts("number", pairs)]
    differ = [pair for pair, one, other in zip(pairs, ours, theirs, strict=True) if one != other]
    assert not differ and 0.4 < sum(ours) / len(ours) < 0.8
