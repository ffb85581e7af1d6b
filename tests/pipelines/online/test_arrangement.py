"""What a recipe declares of a step: operations over its answers, and those that its algorithm adds."""

from __future__ import annotations

from typing import Any

import pytest

from datakit.filter import BestOf
from datakit.label import Rloo, Whiten
from datakit.online import StepAgreement, StepLogprobs
from datakit.op import Op
from datakit.tokenize import Drawn
from pipelines.online.arrangement import Arrangement
from schemas.errors import ConfigError
from trainers.registry import configured

LAST: tuple[Op, ...] = (Drawn(), Rloo())
BOTH = StepLogprobs(columns=("old_logprobs", "ref_logprobs"))


@pytest.mark.parametrize(
    ("rows", "algorithm", "settings", "expected"),
    [
        (LAST, "policy_gradient", {}, LAST),
        (LAST, "ppo", {}, (*LAST, StepLogprobs(columns=("old_logprobs",)))),
        ((Drawn(), StepLogprobs(columns=()), Rloo()), "policy_gradient", {}, LAST),
        ((Drawn(), StepLogprobs(columns=()), Rloo()), "ppo", {"kl_coefficient": 0.1}, (Drawn(), BOTH, Rloo())),
        ((Drawn(), BOTH, Rloo()), "ppo", {}, (Drawn(), BOTH, Rloo())),
        ((Drawn(),), "sft", {}, (Drawn(),)),
    ],
)
def test_what_an_algorithm_reads_of_policies_is_added(
    rows: tuple[Op, ...], algorithm: str, settings: dict[str, Any], expected: tuple[Op, ...]
) -> None:
    assert Arrangement(rows=rows).made_for(configured(algorithm, settings)[0]) == expected


def test_what_algorithms_over_pairs_hold_their_answers_against_is_added() -> None:
    [asked] = Arrangement(rows=(Drawn(),)).made_for(configured("dpo", {})[0])[1:]
    assert (asked.name, asked.params()["per"]) == ("label.logprobs", "row")
    assert [column for _, _, column in asked.params()["columns"]] == ["ref_logprob_chosen", "ref_logprob_rejected"]
    assert Arrangement(rows=(Drawn(),)).made_for(configured("simpo", {})[0]) == (Drawn(),), "it is held against nothing"


def test_what_goes_behind_an_operation_that_there_is_not_is_refused() -> None:
    agreement = StepAgreement(most=0.01)
    behind = Arrangement(rows=LAST).behind(Drawn, agreement, "--logprob-bound")
    assert behind.rows == (Drawn(), agreement, Rloo())
    with pytest.raises(ConfigError, match=r"adds online\.agreement behind tokenize\.drawn") as caught:
        Arrangement(rows=(Rloo(),)).behind(Drawn, agreement, "--logprob-bound")
    fields = dict(caught.value.fields)
    assert fields["found"] == "label.rloo" and fields["next"] == "leave out --logprob-bound"
    assert [*fields] == ["expected", "found", "where", "kept", "next"]


def test_an_arrangement_says_how_much_it_learns_of_a_prompt() -> None:
    every, best = Arrangement(rows=(Drawn(), Whiten())), Arrangement(rows=(Drawn(), BestOf()), per_prompt=1)
    assert (every.rows_of_step(64, 8), best.rows_of_step(64, 8)) == (512, 64)
    assert (every.compares, best.compares) == ("", "filter.best_of")
