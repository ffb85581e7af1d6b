"""label.verify of kind number over answers that would like to be run: nothing of them is, and none is right."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.datakit.verifiers.rows import verdicts

PROGRAMS = (
    "__import__('os').system('touch {canary}')", "open('{canary}', 'w')", "exec(\"open('{canary}','w')\")",
    "eval(compile('open(\\'{canary}\\',\\'w\\')','','exec'))", "$(touch {canary})", "`touch {canary}`",
    "; touch {canary} #", "{{{{ cycler.__init__.__globals__.os.popen('touch {canary}') }}}}",
    "\\input{{{canary}}}", "\\write18{{touch {canary}}}", "'; DROP TABLE samples; --", "%s%s%s%n", "{{0.__class__}}",
    "=cmd|'/c touch {canary}'!A1", "<script>fetch('file://{canary}')</script>", "\x1b]0;touch {canary}\x07",
    "lambda: open('{canary}', 'w')", "sympy.sympify(\"open('{canary}','w')\")", "$\\immediate\\write18{{{canary}}}$",
    "[].__class__.__base__.__subclasses__()",
)  # fmt: skip
MONSTERS = (
    "9**9**9**9", "10^10^10^10", "factorial(10**9)", "1e" + "9" * 200, "\\frac{1}{" * 400 + "0" + "}" * 400,
    "(" * 5000, "\\boxed{" * 3000, "{" * 4000 + "}" * 4000, "0" * 100_000, "-" * 50_000, "1/" * 20_000, "," * 90_000,
    "\u202e" + "7" * 3, "\ufeff\u200b" * 500, "\U0001d7d7" * 200, "\u0661\u0662" * 300, "nan", "inf", "-infinity",
    "NaN" * 1000,
)  # fmt: skip


def hostile(canary: Path) -> list[tuple[str, str]]:
    """Two hundred responses and the gold answers that they do not give."""
    rng, texts = random.Random(4), [one.format(canary=canary) for one in PROGRAMS] + [*MONSTERS]
    frames = ("{}", "The answer is {}", "\\boxed{{{}}}", "#### {}", "$${}$$")
    made = [frame.format(text) for text in texts for frame in frames]
    assert len(made) == 200
    return [(text, str(rng.randint(10**6, 10**7))) for text in made]


def test_two_hundred_hostile_answers_do_nothing_and_are_wrong(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    started = time.process_time()
    for settings in ({}, {"after": "####"}):
        judged = verdicts("number", hostile(canary), **settings)
        assert [right for right, _ in judged] == [0.0] * 200
    assert not canary.exists() and [*tmp_path.iterdir()] == []
    assert time.process_time() - started < 20, "CPU seconds"
