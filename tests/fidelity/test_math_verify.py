"""label.verify of kind number against math-verify, on GSM8K's answers written in the ways in which models do."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datakit.verifiers.rows import verdicts

pytestmark = pytest.mark.slow
LIBRARY = Path(__file__).resolve().parents[2] / "build" / "lm-eval"
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


def judged(pairs: list[tuple[str, str]]) -> list[bool]:
    """What math-verify says of responses and gold answers, in a process of its own."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from math_verify import parse, verify\n"
        "pairs = json.load(sys.stdin)\n"
        "right = [bool(verify(parse('$' + gold.replace(',', '') + '$'), parse(text))) for text, gold in pairs]\n"
        "print(json.dumps(right))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(LIBRARY)], input=json.dumps(pairs), capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    verdicts_there: list[bool] = json.loads(done.stdout)
    return verdicts_there


@pytest.mark.timeout(1200)
def test_numbers_are_judged_as_math_verify_judges_them() -> None:
    if not (LIBRARY / "math_verify").is_dir():
        pytest.skip("math-verify is not in build/lm-eval: make test-slow puts it there")
    pairs = answers(1000)
    theirs = judged(pairs)
    ours = [right == 1 for right, _ in verdicts("number", pairs)]
    differ = [pair for pair, one, other in zip(pairs, ours, theirs, strict=True) if one != other]
    assert not differ and 0.4 < sum(ours) / len(ours) < 0.8
