"""A policy learns from pairs, and is held against what it thought of them before: the graph of every recipe that does.

The policy says once what it thinks of both answers of every pair (`label.logprobs`, per row); those are the reference
columns of the algorithm, so the trainer has one network. For an algorithm without such columns only the held-out pairs
are asked about: these are read before and after.
"""

from __future__ import annotations

from datakit.sql import Query
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.stages.ask import Reading, ask, asked
from pipelines.stages.measure import Measure
from pipelines.stages.preferred import SIDES, is_of_pairs, learnt_rows, of_pairs, rows_for
from trainers.algorithm import ImplicitReward
from trainers.config import Training
from trainers.registry import configured

MEASURED = ("before", "after", "accuracy", "reward_margin", "reward_chosen", "reward_rejected")
"""What is measured of every held-out pair: whether the chosen answer is the likelier one, before and after; whether its
reward is the greater one, the difference, and both rewards.
"""


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
    """`policy` after `training` on the first of `pairs` (PREFERENCES), judged on the second, where there is one: an
    algorithm over pairs on those that it can read.
    """
    learning = training.learning
    algorithm, settings = configured(learning.algorithm, learning.settings, where=label)
    kind, part = ("pairs" if is_of_pairs(algorithm) else "feedback"), f"{label}/pairs-held-out"
    learnt = {
        part: learnt_rows(plan, f"{label}/{kind}-{part}", algorithm, rows, policy, reading, seed)
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
    assert algorithm.implicit_reward is not None, "rows were made for it"
    compared = rows_for(plan, part, algorithm, pairs[1]) if is_of_pairs(algorithm) else pairs[1]
    held_out = ask(plan, part, of_pairs("ref"), compared, policy, reading=reading)
    read = asked(plan, f"{label}/held-out-read", of_pairs("policy"), held_out, trained)
    query = Query(query=rewards_query(algorithm.implicit_reward(settings)), tables=("pairs",), key=("pair_id",))
    order = plan.table(f"{label}/held-out-order", query, read)
    evaluation = plan.table(f"{label}/evaluation", Measure(stage=label, columns=MEASURED), order)
    return Results(
        targets=(trained, evaluation),
        datasets={kind: train, "held_out": held_out, "read": read, "order": order},
        checkpoints=checkpoints,
        figures={"evaluation": evaluation},
    )


def rewards_query(reward: ImplicitReward) -> str:
    """The query for `MEASURED`, with the rewards that the algorithm gives answers."""
    rewards = []
    for side in SIDES:
        gain = f"policy_logprob_{side}" + (f" - ref_logprob_{side}" if reward.referred else "")
        tokens = f" / greatest(list_sum({side}_mask[2:]), 1)" if reward.averaged else ""
        rewards.append(f"CAST({float(reward.scale)!r} AS DOUBLE) * ({gain}){tokens} AS reward_{side}")
    return f"""
WITH rewarded AS (SELECT *, {", ".join(rewards)} FROM pairs)
SELECT pair_id,
  (1 + sign(ref_logprob_chosen - ref_logprob_rejected)) / 2 AS before,
  (1 + sign(policy_logprob_chosen - policy_logprob_rejected)) / 2 AS after,
  (1 + sign(reward_chosen - reward_rejected)) / 2 AS accuracy,
  reward_chosen - reward_rejected AS reward_margin, reward_chosen, reward_rejected
FROM rewarded ORDER BY pair_id
"""
