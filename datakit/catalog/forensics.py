"""Forensics: views over the views of a workspace that ask whether a reward is learnt in place of the task.

They stand in a schema of their own, `forensics`, over the plain names: what they show is of last runs. The meaning of
each says how it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from datakit.catalog.forensic_sql import KEYS, LOOKED_AT, SHOWN, statements
from datakit.catalog.stacked import LABELS, View

FORENSICS = "forensics"
"""The schema of these views."""

_KEY_MEANINGS = {
    **{key: meaning for key, (_, meaning) in LABELS.items() if key in KEYS},
    "step": "the step of an online run; else the improve step of the iteration",
    "scorer": "which number it is: the name of the column",
}
_ANSWERS = {"answers": "how many answers that is of"}
_MEANS = {"reward": "their mean number", "letters": "their mean length in letters"}
_ROW = {"sample_id": "the sample", "prompt_id": "the question it answers", "value": "its number"}


_PAIR = {
    "other": "the number that it is held against",
    "dataset": "where the one stands",
    "other_dataset": "where the other stands",
}


@dataclass(frozen=True)
class Forensic:
    """A view: how it is read, what its own columns mean, and which keys stand before them."""

    read: str
    columns: Mapping[str, str]
    keys: tuple[str, ...] = KEYS


_FORENSICS = {
    "length": Forensic(
        "reward against length: a correlation far from 0 says that length pays; explained near 1, that answers of "
        "one length are worth much the same",
        {**_ANSWERS, **_MEANS, "correlation": "of number and letters (Pearson)",
         "explained": "share of the spread between answers of different lengths, less what chance gives it "
         "(epsilon squared, Kelley 1935); null: no two answers of one length"},
    ),
    "equal_length": Forensic(
        "reward at equal length, in ten ranges that all runs share: one that rises in all but stands still "
        "here was earned by length",
        {"shortest": "letters, from", "longest": "letters, to", **_ANSWERS, "reward": "their mean number"},
    ),
    "repeated_winners": Forensic(
        "answers of the best tenth that say the same, letter case and blanks aside: a large share says that one "
        "trick wins",
        {"response": "the answer", "answers": "how often it is there", "prompts": "to how many prompts",
         "share": "of the best tenth", "reward": "mean number"},
    ),
    "disagreement": Forensic(
        "two numbers of the same samples: a rank correlation near 0 or below says that one of them measures "
        "something else",
        {**_PAIR, **_ANSWERS, "rank_correlation": "of their ranks (Spearman)"},
    ),
    "disputed": Forensic(
        f"the {SHOWN} samples on which two numbers are furthest apart: read these first, one of the two is wrong",
        {**_PAIR, **_ROW, "other_value": "the other number", "apart": "difference of ranks, as a share of all",
         "response": "the answer"},
    ),
    "drift": Forensic(
        "by iteration or step: answers that grow longer or more alike while rewards rise are learnt for the reward "
        "and not for the task",
        {**_ANSWERS, **_MEANS, "cut": "share that was cut at the limit",
         "different": f"share of different answers among {LOOKED_AT:,} at most, the first by id",
         "distinct_words": "share of different words among all of these (distinct-1, Li et al. 2016)",
         "distinct_pairs": "the same of pairs of words (distinct-2)",
         "kl": "KL to the first policy on held-out answers, in nats, where --divergence measured it"},
    ),
    "flat_prompts": Forensic(
        "prompts with answers of one number alone: they teach nothing where answers are held against each other",
        {"prompt_id": "the prompt", **_ANSWERS, "reward": "what all are worth"},
    ),
    "never_improved": Forensic(
        "prompts that no later policy answered better than the first: too hard, judged wrongly, or as good as can be",
        {"prompt_id": "the prompt", "times": "how often it was asked", "first": "mean number at first",
         "best_later": "the best mean number afterwards"},
        ("recipe", "experiment", "stage", "scorer"),
    ),
    "sources": Forensic(
        "the way of rows by where they came from: a source whose rows are set aside, or not learnt, is paid for in "
        "vain",
        {"kind": "samples of policies, or completions from elsewhere", "source": "where they came from",
         "rows": "how many there are", "set_aside": "of these, how many an operation set aside",
         "learnt": "of these, how many some checkpoint learnt"},
        ("recipe", "experiment", "iteration", "step"),
    ),
    "extremes": Forensic(
        f"the {SHOWN} best and worst samples: the best show what the reward pays for, the worst what it cannot read",
        {"side": "best or worst", **_ROW, "response": "the answer"},
    ),
    "borderline": Forensic(
        f"the {SHOWN} rows that a filter only just set aside: if many are of one value, the threshold decides by noise",
        {"dataset": LABELS["dataset"][1], "sample_id": "the row", "reason": "why it went",
         "value": "what was measured of it", "threshold": "what that was held against",
         "short_of": "how far apart these are"},
        ("recipe", "experiment", "iteration", "step", "stage"),
    ),
    "over_optimised": Forensic(
        "what a model rewards against what a rule or a person says of the same answers (gold): reward up and gold "
        "down says that the reward is learnt and not the task",
        {"gold_scorer": "the rule or person", **_ANSWERS, "reward": "their mean number", "gold": "mean of the gold",
         "reward_change": "since the evaluation before", "gold_change": "since then, too",
         "over_optimised": "whether reward rose and gold fell"},
    ),
}  # fmt: skip


def forensic_views(views: Mapping[str, View]) -> dict[str, View]:
    """Each by its name, over the `views` of the plain names."""
    sql = statements(views)
    return {
        view: View(
            sql[view],
            one.read,
            {**{key: _KEY_MEANINGS[key] for key in one.keys}, **one.columns},
            reads=frozenset[str]().union(*(views[asked].reads for asked in views if of_main(asked).search(sql[view]))),
        )
        for view, one in _FORENSICS.items()
    }


def of_main(view: str) -> re.Pattern[str]:
    """Where SQL of these views asks a view of the plain names."""
    return re.compile(rf"\bmain\.{re.escape(view)}\b")
