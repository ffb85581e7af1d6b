"""Multiple choice as ARC and MMLU have it: the choices stand in the question, and the model picks a letter."""

from __future__ import annotations

from datakit.template import Wording
from pipelines.suites.choosing import ChoiceSuite

MCQA = ChoiceSuite(
    name="mcqa",
    about="questions with lettered choices (MMLU, Hendrycks et al. 2021, arXiv:2009.03300; ARC, arXiv:1803.05457)",
    formats=("multiple_choice",),
    slices=("subject", "category"),
    shows=True,
    alike="subject",
    wording=Wording(text="{question}\n{choices}\nAnswer:", letters=True),
)
