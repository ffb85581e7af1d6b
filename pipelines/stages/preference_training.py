"""A policy learns from pairs, and is held against what it thought of them before: the graph of every recipe that does.

The policy says once what it thinks of both answers of every pair (`label.logprobs`, per row); those are the reference
columns of the algorithm, so the trainer has one network. They are computed in the precision of that training, which
thus begins where its policy is its own reference. For an algorithm without such columns only the held-out pairs are
asked about: these are read before and after, both times in fp32, so that no rounding is taken for what was learnt.
"""

from __future__ import annotations

from datakit.label import Logprobs
from datakit.report import Measure
from datakit.sql import Query
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.stages.ask import Reading, ask, asked
from pipelines.stages.preference_rows import SIDES, is_feedback, is_of_pairs, learnt_rows, of_pairs, rows_for
from trainers.algorithm import ImplicitReward
from trainers.config import Training
from trainers.registry import configured

MEASURED = ("before", "after", "accuracy", "reward_margin", "reward_chosen", "reward_rejected")
"""What is measured of every held-out pair: whether the chosen answer is the likelier one, before and after; whether its
reward is the greater one, the difference, and both rewards.
"""
MEASURED_ANSWERS = ("wanted", "reward_wanted", "reward_unwanted")
"""What is measured of every held-out answer that was judged by itself: whether it is wanted, and its reward."""


def trained_on_pairs(
    plan: Plan,
    label: str,
    training: Training,
    pairs: tuple[Node, Node | None],
    policy: Node,
    tokenizer: Node,
    reading: Reading,
    seed: int,
) -> Results:
    """`policy` after `training` on the first of `pairs` (PREFERENCES or FEEDBACK), judged on the second, where there is
    one: an algorithm over pairs on those that it can read.
    """
    learning = training.learning
    algorithm, _ = configured(learning.algorithm, learning.settings, where=label)
    kind, part = ("pairs" if is_of_pairs(algorithm) else "feedback"), f"{label}/pairs-held-out"
    learnt = {
        part: learnt_rows(
            plan, f"{label}/{kind}-{part}", algorithm, rows, policy, reading, seed, precision=learning.precision
        )
        for part, rows in zip(("train", "held-out"), pairs, strict=True)
        if rows is not None
    }
    train, validation = learnt["train"], learnt.get("held-out")
    trained = plan.model(
        f"{label}/policy", training, data=train, tokenizer=tokenizer, init=policy, validation=validation
    )
    checkpoints = {"policy": trained, "first": policy}
    if pairs[1] is None:
        return Results(targets=(trained,), datasets={kind: train}, checkpoints=checkpoints)
    reward = reward_of(training)
    measured: tuple[str, ...] = MEASURED
    if is_feedback(pairs[1]):
        held_out = learnt_rows(plan, f"{label}/{kind}-held-out", algorithm, pairs[1], policy, reading, seed)
        asking, measured = _ANSWER, MEASURED_ANSWERS
        query = Query(query=answers_query(reward), tables=("answers",), key=("sample_id",))
    else:
        compared = rows_for(plan, part, algorithm, pairs[1]) if is_of_pairs(algorithm) else pairs[1]
        held_out = ask(plan, part, of_pairs("ref"), compared, policy, reading=reading)
        asking = of_pairs("policy")
        query = Query(query=rewards_query(reward), tables=("pairs",), key=("pair_id",))
    read = asked(plan, f"{label}/held-out-read", asking, held_out, trained)
    order = plan.table(f"{label}/held-out-order", query, read)
    evaluation = plan.table(f"{label}/evaluation", Measure(stage=label, columns=measured), order)
    return Results(
        targets=(trained, evaluation),
        datasets={kind: train, "held_out": held_out, "read": read, "order": order},
        checkpoints=checkpoints,
        figures={"evaluation": evaluation},
    )


def reward_of(training: Training) -> ImplicitReward:
    """What the algorithm of a training over preferences takes for an answer's reward."""
    algorithm, settings = configured(training.learning.algorithm, training.learning.settings)
    assert algorithm.implicit_reward is not None, f"{algorithm.name} learns preferences"
    return algorithm.implicit_reward(settings)


_ANSWER = Logprobs(columns=(("input_ids", "loss_mask", "policy_logprob"),), per="row")
"""What the policy is asked about an answer that was judged by itself."""


def _of_answer(reward: ImplicitReward, gain: str, mask: str) -> str:
    """The SQL of an answer's reward: `gain` is what it gained, `mask` the column that counts its tokens."""
    tokens = f" / greatest(list_sum({mask}[2:]), 1)" if reward.averaged else ""
    return f"CAST({float(reward.scale)!r} AS DOUBLE) * ({gain}){tokens}"


def answers_query(reward: ImplicitReward) -> str:
    """The query for `MEASURED_ANSWERS`, with the rewards that the algorithm gives answers, each in the column of its
    kind.
    """
    gain = "policy_logprob" + (" - ref_logprob" if reward.referred else "")
    return f"""
WITH rewarded AS (SELECT *, {_of_answer(reward, gain, "loss_mask")} AS reward FROM answers)
SELECT sample_id, CAST(desirable AS DOUBLE) AS wanted,
  CASE WHEN desirable THEN reward END AS reward_wanted, CASE WHEN NOT desirable THEN reward END AS reward_unwanted
FROM rewarded ORDER BY sample_id
"""


def rewards_query(reward: ImplicitReward) -> str:
    """The query for `MEASURED`, with the rewards that the algorithm gives answers. `before`, `after` and `accuracy` are
    1 where the chosen answer has strictly more, as TRL and the trainer's validation count: equal ones and NaN are 0.
    """
    rewards = []
    for side in SIDES:
        gain = f"policy_logprob_{side}" + (f" - ref_logprob_{side}" if reward.referred else "")
        rewards.append(f"{_of_answer(reward, gain, f'{side}_mask')} AS reward_{side}")
    return f"""
WITH rewarded AS (SELECT *, {", ".join(rewards)} FROM pairs)
SELECT pair_id,
  CAST(sign(ref_logprob_chosen - ref_logprob_rejected) = 1 AS DOUBLE) AS before,
  CAST(sign(policy_logprob_chosen - policy_logprob_rejected) = 1 AS DOUBLE) AS after,
  CAST(sign(reward_chosen - reward_rejected) = 1 AS DOUBLE) AS accuracy,
  reward_chosen - reward_rejected AS reward_margin, reward_chosen, reward_rejected
FROM rewarded ORDER BY pair_id
"""
