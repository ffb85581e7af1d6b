"""What an online run is given: prompts in the order in which it asks them, and what rewards their answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datakit.blend import Shuffle
from datakit.generate import Complete
from datakit.label import Reward
from datakit.op import Op
from datakit.run.chain import PaidChain
from pipelines.graph.backend import backend_of
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.stages.ask import readable
from pipelines.stages.iteration import TaskSetup


def shuffled_prompts(plan: Plan, label: str, complete: Complete, task_setup: TaskSetup, seed: int) -> Node:
    """The setup's prompts as its policy reads them, in random order."""
    asking = task_setup.eval_setup.asking
    tokens = readable(plan, f"{label}/prompts", complete, task_setup.prompts, task_setup.policy, asking)
    return plan.table(f"{label}/prompts.shuffled", Shuffle(), tokens, seed=seed)


def rewarded(
    complete: Complete, prompts: Node, task_setup: TaskSetup, rewarding: str
) -> tuple[tuple[Op, ...], dict[str, Node]]:
    """Operations that put a `reward` on what `complete` answers to `prompts`, and the models that they ask: the
    `rewarding` one is the setup's verifier (1 where an answer is right, 0 elsewhere), its reward model (model), or the
    environment of conversations, which has rewarded them by then.
    """
    eval_setup = task_setup.eval_setup
    if rewarding == "environment":
        return (), {}
    if rewarding == "verifier":
        verifier: Any = eval_setup.verifier
        return (replace(verifier, output="reward"),), {}
    model = task_setup.reward_model
    assert model is not None, "asked for by a recipe that has one"
    op, reading = Reward(), eval_setup.scoring
    rendering = reading.rendering.for_model(model.trained_template)
    answers = PaidChain(ops=(complete,)).gives(rows_of(prompts))
    before = [step.op for step in backend_of(model).steps(op, "scorer", answers, rendering, reading.max_length)]
    models = {"scorer": model}
    if any("tokenizer" in one.needs for one in before):
        models["tokenizer"] = eval_setup.tokenizer
    return (*before, op), models
