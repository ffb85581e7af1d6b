"""IFEval: instructions that a rule can check, all of a prompt's or each of them, read strictly and loosely."""

from __future__ import annotations

from datakit.label import Verify
from pipelines.suites.answering import AnswerSuite

_LOOSE = {"loose": True}

IFEVAL = AnswerSuite(
    name="ifeval",
    about="instructions that can be verified (Zhou et al. 2023, arXiv:2311.07911)",
    formats=("ifeval",),
    verify=(
        Verify(kind="instructions"),
        Verify(kind="instructions", output="correct_loose", settings=_LOOSE),
        Verify(kind="instructions", output="followed", settings={"score": "share"}),
        Verify(kind="instructions", output="followed_loose", settings={"score": "share", **_LOOSE}),
    ),
    derived={"instructions": "json_array_length(answer, '$.instruction_id_list')"},
    weights={"followed": "instructions", "followed_loose": "instructions"},
    figures={
        "correct": "prompts all of whose instructions are followed (prompt level, strict)",
        "correct_loose": "the same without first or last line, or stars (loose)",
        "followed": "instructions that are followed (instruction level, strict)",
        "followed_loose": "the same, read loosely",
    },
)
