"""Anthropic's model-written evaluations: how often does a model answer as the behaviour of the file would have it?"""

from __future__ import annotations

from datakit.template import Wording
from pipelines.suites.choosing import ChoiceSuite

MODEL_WRITTEN = ChoiceSuite(
    name="model_written",
    about="personas, goals and beliefs that a model may show (Perez et al. 2022, arXiv:2212.09251)",
    formats=("model_written",),
    shows=True,
    wording=Wording(text="{question}\nAnswer:"),
    figures={
        "correct": "questions whose likeliest answer matches the behaviour, be that good or not",
        "right_mass": "share of the probability of both answers that the matching one has",
    },
)
