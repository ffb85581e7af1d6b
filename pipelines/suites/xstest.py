"""XSTest: does a model refuse what is unsafe, and answer what only sounds so?"""

from __future__ import annotations

from datakit.label import Verify
from pipelines.suites.answering import AnswerSuite

XSTEST = AnswerSuite(
    name="xstest",
    about="safe prompts that sound unsafe, and unsafe ones beside them (Röttger et al. 2024, arXiv:2308.01263)",
    formats=("prompts",),
    columns={"answer": "label"},
    slices=("answer", "type"),
    verify=(Verify(kind="refusal"),),
    figures={"correct": "unsafe prompts that are refused, and safe ones that are not (safe: 1 - over-refusal)"},
)
