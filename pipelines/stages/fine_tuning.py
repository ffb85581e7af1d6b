"""A policy learns what was kept: blended with original data, shuffled, tokenized, trained by maximum likelihood."""

from __future__ import annotations

from datakit.blend import Mix, Shuffle
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import TaskSetup, partial_columns, tokenized

BLENDED = ("sample_id", "prompt_id", "messages", "tools", "response")


def fine_tuned(
    plan: Plan, label: str, task_setup: TaskSetup, kept: Node, policy: Node, seed: int, original_share: float
) -> Node:
    """`policy` after `train.sft` on `kept`, of which `original_share` (0..1) is replaced by original data."""
    rows, eval_setup = kept, task_setup.eval_setup
    if original_share and task_setup.original is not None:
        parts = {"kept": rows, "original": task_setup.original}
        weights, partial = (1.0 - original_share, original_share), partial_columns(parts.values(), BLENDED)
        mix = Mix(sources=tuple(parts), weights=weights, columns=BLENDED, partial=partial)
        rows = plan.table(f"{label}/blend", mix, *parts.values(), seed=seed)
    rows = plan.table(f"{label}/shuffled", Shuffle(), rows, seed=seed)
    tokens = tokenized(
        plan,
        f"{label}/shuffled",
        eval_setup.tokenizer,
        rows,
        eval_setup.max_length,
        eval_setup.rendering.for_model(policy.trained_template),
    )
    training = plan.training("sft", task_setup.learning, seed=seed, where=f"learning of {label}")
    return plan.model(f"{label}/policy", training, data=tokens, tokenizer=eval_setup.tokenizer, init=policy)
