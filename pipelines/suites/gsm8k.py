"""GSM8K: word problems, whose answer is the number behind #### (or, more kindly, the last number there is)."""

from __future__ import annotations

from datakit.label import Verify
from datakit.template import Wording
from pipelines.suites.answering import AnswerSuite

GSM8K = AnswerSuite(
    name="gsm8k",
    about="word problems of grade school (Cobbe et al. 2021, arXiv:2110.14168)",
    formats=("prompts",),
    columns={"prompt": "question"},
    shows=True,
    wording=Wording(text="Question: {question}\nAnswer:"),
    votes=True,
    stop=("Question:", "</s>", "<|im_end|>"),
    verify=(Verify(kind="number", after="####"), Verify(kind="number", output="correct_flexible")),
    figures={
        "correct": "answers with the right number behind ####",
        "correct_flexible": "answers whose last number is right",
    },
)
