"""REINFORCE, and what all policy losses share: KL, entropy and how tokens are added up, against plain Python."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from datakit.label import Gae, Kl, Logprobs, TokenRewards, Values
from schemas import SAMPLES, TOKENS, Column
from schemas.errors import ConfigError
from schemas.schema import same_type
from tests.trainers.algorithms.rollouts import (
    MASKS,
    NAMES,
    Rows,
    assert_is_the_formula,
    drawn,
    loss_of,
    mean_of,
    reported,
)
from trainers import registry
from trainers.algorithm import Needs, Per
from trainers.algorithms.policy_gradient import POLICY_GRADIENT, Settings
from trainers.policy import divergence

POLICIES = [name for name, algorithm in registry.algorithms().items() if "advantages" in algorithm.lists]


def formula(settings: Any, kl: str = "") -> Any:
    """-A log pi + kl_coefficient KL - entropy_bonus H of a row's tokens."""

    def of_row(row: int, rows: Rows) -> list[float]:
        made = []
        for at in range(len(MASKS[row])):
            gain = rows["logprobs"][row][at] - rows["ref_logprobs"][row][at]
            spent = {"k1": gain, "k2": gain**2 / 2, "k3": math.exp(-gain) - 1 + gain, "": 0.0}[kl]
            made.append(
                -rows["advantages"][row][at] * rows["logprobs"][row][at]
                + settings.kl_coefficient * spent
                - settings.entropy_bonus * rows["entropy"][row][at]
            )
        return made

    return of_row


@pytest.mark.parametrize("aggregate", ["token", "sequence", "constant"])
@pytest.mark.parametrize("kl", ["", "k2", "k1", "k3"])
def test_value_and_gradient_are_those_of_the_formula(aggregate: Any, kl: Any) -> None:
    settings = Settings(
        aggregate=aggregate,
        max_tokens=7,
        kl_coefficient=0.3 if kl else 0.0,
        kl_estimator=kl or "k2",
        reproduce=True,
        entropy_bonus=0.2,
    )
    assert_is_the_formula(POLICY_GRADIENT, settings, formula(settings, kl), drawn())
    assert_is_the_formula(POLICY_GRADIENT, settings, formula(settings, kl), drawn(1), of="entropy")


def test_k3_plus_has_the_value_of_k3_and_the_gradient_of_k2() -> None:
    made = {}
    for name in ("k2", "k3", "k3+"):
        settings = Settings(kl_coefficient=1.0, kl_estimator=name, reproduce=True)  # type: ignore[arg-type]
        loss, outputs = loss_of(POLICY_GRADIENT, settings, drawn())
        made[name] = mean_of(loss).item(), torch.autograd.grad(mean_of(loss), outputs.logprobs_T)[0]
        assert reported(loss, "kl") > 0
    assert made["k3+"][0] == pytest.approx(made["k3"][0], rel=1e-12) != made["k2"][0]
    torch.testing.assert_close(made["k3+"][1], made["k2"][1])
    assert not torch.allclose(made["k3"][1], made["k2"][1])


def test_published_estimates() -> None:
    """log pi -1 and a reference of 0, -15, -30; the exponent is cut at 20 nats."""
    gain = torch.tensor([-1.0, 14.0, 29.0])
    torch.testing.assert_close(divergence("k1", gain), gain)
    torch.testing.assert_close(divergence("k2", gain), torch.tensor([0.5, 98.0, 420.5]))
    torch.testing.assert_close(divergence("k3", gain), torch.tensor([math.e - 2, 13.0, 28.0]), rtol=1e-6, atol=1e-6)
    assert divergence("k3", torch.tensor([-900.0, 900.0])).isfinite().all()


def test_the_gradient_of_k2_is_the_divergences_and_that_of_k3_is_not() -> None:
    """Expectations over all tokens of a small distribution, which the exact divergence is known of."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([1.2, 0.1, -0.4, 0.3], dtype=torch.float64).log_softmax(0)
    policy = logits.log_softmax(0)
    exact = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits, retain_graph=True)[0]

    def expected(estimator: str) -> torch.Tensor:
        value = (policy.exp().detach() * divergence(estimator, policy - reference)).sum()
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    torch.testing.assert_close(expected("k2"), exact)
    torch.testing.assert_close(expected("k3+"), exact)
    assert expected("k1").abs().max() < 1e-12, "nothing at all"
    assert not torch.allclose(expected("k3"), exact, rtol=0.05)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_a_wrong_gradient_is_refused_unless_it_is_asked_for(estimator: Any) -> None:
    with pytest.raises(ConfigError, match="not the divergence's") as fault:
        registry.configured("ppo", {"kl_coefficient": 0.1, "kl_estimator": estimator})
    assert fault.value.slug == "biased-kl" and "k3+" in fault.value.next
    registry.configured("ppo", {"kl_coefficient": 0.1, "kl_estimator": estimator, "reproduce": True})


@pytest.mark.parametrize("name", POLICIES)
def test_what_is_read_follows_the_settings(name: str) -> None:
    plain, _ = registry.configured(name, {})
    weighed, _ = registry.configured(name, {"kl_coefficient": 0.1, "aggregate": "constant"})
    assert plain == registry.algorithms()[name], "as it is listed"
    assert {*weighed.lists} - {*plain.lists} == {"ref_logprobs"} and weighed.per is Per.ROW
    assert weighed.metrics == (*plain.metrics, "kl") and Needs.ENTROPY in weighed.needs
    if "old_logprobs" in plain.lists:
        once, settings = registry.configured(name, {"on_policy": True})
        assert {*plain.lists} - {*once.lists} == {"old_logprobs"}
        loss, _ = loss_of(registry.algorithms()[name], settings, drawn())
        assert reported(loss, "ratio") == 1.0 and reported(loss, "clip_fraction") == 0.0


@pytest.mark.parametrize("name", [*POLICIES, "value"])
def test_operations_make_what_a_loss_reads(name: str) -> None:
    """From tokens, a question and a reward, by operations under their own settings."""
    logprobs = tuple(("input_ids", "loss_mask", column) for column in ("old_logprobs", "ref_logprobs"))
    rows = TOKENS.adding(SAMPLES["prompt_id"], Column("reward", pa.float64(), "of the answer"))
    for op in (Logprobs(columns=logprobs), Kl(), TokenRewards(), Values(), Gae()):
        assert {*op.takes.names} <= {*rows.names}
        rows = op.gives(rows)
    read, _ = registry.configured(name, {} if name == "value" else {"kl_coefficient": 0.1})
    assert len(read.lists) >= 3
    assert all(same_type(rows[column.name].type, column.type) for column in read.rows.columns)


@pytest.mark.parametrize("name", POLICIES)
def test_no_advantage_is_no_gradient_and_masked_positions_do_not_matter(name: str) -> None:
    algorithm, settings = registry.algorithms()[name], registry.algorithms()[name].settings()
    rows = drawn()
    level = rows | {"advantages": [[0.0] * len(mask) for mask in MASKS]}
    loss, outputs = loss_of(algorithm, settings, level)
    assert not torch.autograd.grad(mean_of(loss), outputs.logprobs_T)[0].any()
    odd = {
        column: [
            [value if one else -1e4 for value, one in zip(*pair, strict=True)]
            for pair in zip(values, MASKS, strict=True)
        ]
        for column, values in rows.items()
    }
    made = []
    for given in (rows, odd):
        loss, outputs = loss_of(algorithm, settings, given)
        made.append((mean_of(loss).item(), torch.autograd.grad(mean_of(loss), outputs.logprobs_T)[0]))
    assert made[0][0] == pytest.approx(made[1][0], rel=1e-12)
    torch.testing.assert_close(made[0][1], made[1][1])


@pytest.mark.parametrize("name", [*POLICIES, "value"])
def test_a_number_that_is_none_at_an_uncounted_token_gets_nowhere(name: str) -> None:
    """In columns alone, as a loss may be called from outside; the engine refuses such rows before."""
    more: Any = {} if name == "value" else {"kl_coefficient": 0.1, "entropy_bonus": 0.1}
    settings = registry.algorithms()[name].settings(**more)
    need = Needs.VALUES if name == "value" else Needs.LOGPROBS
    made = []
    for nothing in (0.0, math.nan, math.inf):
        rows = drawn()
        for column in NAMES:
            rows[column] = [
                [value if one else nothing for value, one in zip(*pair, strict=True)]
                for pair in zip(rows[column], MASKS, strict=True)
            ]
        loss, outputs = loss_of(registry.algorithms()[name], settings, rows)
        gradient = torch.autograd.grad(mean_of(loss), outputs.answers[need])[0]
        made.append([mean_of(loss).item(), gradient.tolist(), {name: reported(loss, name) for name in loss.metrics}])
    assert made[0] == made[1] == made[2] and gradient.any()


@pytest.mark.parametrize("name", [name for name in POLICIES if "old_logprobs" in registry.algorithms()[name].lists])
def test_at_the_policy_that_drew_the_gradient_is_that_of_reinforce(name: str) -> None:
    rows = drawn(near=0.0)
    rows["advantages"] = [[row[0]] * len(row) for row in rows["advantages"]]
    settings = registry.algorithms()[name].settings(aggregate="sequence")
    loss, outputs = loss_of(registry.algorithms()[name], settings, rows)
    assert reported(loss, "ratio") == 1.0 and reported(loss, "clip_fraction") == 0.0
    plain, ours = loss_of(POLICY_GRADIENT, Settings(aggregate="sequence"), rows)
    torch.testing.assert_close(
        torch.autograd.grad(mean_of(loss), outputs.logprobs_T)[0],
        torch.autograd.grad(mean_of(plain), ours.logprobs_T)[0],
    )


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"max_tokens": 0}, {"kl_coefficient": -1.0}, {"entropy_bonus": math.nan}):
        with pytest.raises(ConfigError, match="out of range"):
            Settings(**settings)  # type: ignore[arg-type]
