"""What an online run is given: prompts in the order in which it asks them, and what rewards their answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datakit.blend import Shuffle
from datakit.generate import Complete
from datakit.label import Reward, Weighted
from datakit.op import Op
from datakit.run.chain import PaidChain
from pipelines.graph.backend import backend_of
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import readable
from pipelines.stages.iteration import TaskSetup
from schemas.errors import ConfigError, printable

_WEIGHED = ("verifier", "model")


def shuffled_prompts(plan: Plan, label: str, complete: Complete, task_setup: TaskSetup, seed: int) -> Node:
    """The setup's prompts as its policy reads them, in random order."""
    asking = task_setup.eval_setup.asking
    tokens = readable(plan, f"{label}/prompts", complete, task_setup.prompts, task_setup.policy, asking)
    return plan.table(f"{label}/prompts.shuffled", Shuffle(), tokens, seed=seed)


def check_learns(policy: Node, next: str) -> None:
    """`ConfigError` where `policy` is a model whose weights are not here: answers are drawn by the network in training
    itself, and no server or engine is given its weights as they change.
    """
    if policy.opened_by == "checkpoint":
        return
    raise ConfigError(
        "wrong-kind",
        f"{printable(policy.url, 200)} ({backend_of(policy).form}) has no weights here, and a policy that learns "
        "online draws its answers with the weights that it trains",
        expected="a checkpoint, or a Hugging Face folder",
        found=policy.opened_by,
        kept="nothing was started",
        next=next,
    )


def rewarded(
    complete: Complete, prompts: Node, task_setup: TaskSetup, rewarding: str, column: str = "reward"
) -> tuple[tuple[Op, ...], dict[str, Node]]:
    """Operations that put a reward, `column`, on what `complete` answers to `prompts`, and the models that they ask:
    the `rewarding` one is the setup's verifier (1 where an answer is right, 0 elsewhere), its reward model (model), or
    the environment of conversations, which has rewarded them by then.
    """
    eval_setup = task_setup.eval_setup
    if rewarding == "environment":
        return (), {}
    if rewarding == "verifier":
        verifier: Any = eval_setup.verifier
        return (replace(verifier, output=column),), {}
    model = task_setup.reward_model
    assert model is not None, "asked for by a recipe that has one"
    op, reading = Reward(column=column), eval_setup.scoring
    rendering = reading.rendering.for_model(model.trained_template)
    answers = PaidChain(ops=(complete,)).gives(rows_of(prompts))
    before = [step.op for step in backend_of(model).steps(op, "scorer", answers, rendering, reading.max_length)]
    models = {"scorer": model}
    if any("tokenizer" in one.needs for one in before):
        models["tokenizer"] = eval_setup.tokenizer
    return (*before, op), models


def rewarded_by_several(
    complete: Complete, prompts: Node, task_setup: TaskSetup, weights: Mapping[str, float]
) -> tuple[tuple[Op, ...], dict[str, Node]]:
    """The same by all that `weights` names, each as `reward_<name>`, and their weighted sum as `reward`."""
    ops, models = list[Op](), dict[str, Node]()
    for one in weights:
        own, asked = rewarded(complete, prompts, task_setup, one, f"reward_{one}")
        ops += own
        models |= asked
    return (*ops, Weighted(weights=tuple((f"reward_{one}", weight) for one, weight in weights.items()))), models


def weights_of(given: Mapping[str, Any]) -> dict[str, float]:
    """What `--rewards` says: weights by what rewards an answer; `ConfigError` for anything else."""
    numbers = {name: weight for name, weight in given.items() if isinstance(weight, int | float)}
    right = all(name in _WEIGHED and type(weight) is not bool for name, weight in numbers.items())
    if not right or len(numbers) < len(given) or not all(map(math.isfinite, numbers.values())):
        raise ConfigError(
            "bad-setting",
            "--rewards weighs something else than what rewards answers, or by no number",
            expected=f"weights of {' and '.join(_WEIGHED)}",
            found=printable(json.dumps(dict(given), default=str), 200),
            where="--rewards",
            kept="nothing was started",
            next="""--rewards '{"verifier": 1, "model": 0.5}'""",
        )
    return {name: float(weight) for name, weight in numbers.items()}
