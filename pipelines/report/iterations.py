"""Figures of an iterative recipe: what every iteration sampled, kept and came to, and how good its reward model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.label import Longer
from pipelines.graph.nodes import Node, Table, TrainedCheckpoint
from pipelines.report.figures import Figure, FigureTable, Value, gone, metrics
from pipelines.stages.iteration import EvalSetup, Evaluation, IterationResult, TaskSetup
from schemas import Dataset

_COLUMNS = (
    Figure("iteration"),
    Figure("samples", ",", meaning="answers that the policy gave"),
    Figure("kept", ",", meaning="rows, or pairs, that each improve step learns from"),
    Figure("share", ".0%", meaning="those of the samples"),
    Figure("reward", "+.2f", meaning="mean reward of all samples"),
    Figure("kept reward", "+.2f", meaning="of those kept; of pairs, that of the chosen answers"),
    Figure("gold before", ".1%", meaning="held-out prompts answered as their gold (known right) answer says"),
    Figure("gold after", ".1%", meaning="the same after this iteration; by rule, no model judges it"),
    Figure("held-out reward", "+.2f", " -> ", "mean reward of answers to held-out prompts, before and after"),
    Figure("answer tokens", ".1f", " -> ", "mean length of these answers: does reward pay for length?"),
    Figure("seconds", ".0f", " / ", "of sampling / scoring / training / all else, once their processes have started"),
)


def iteration_table(title: str, before: Evaluation, steps: Sequence[IterationResult]) -> FigureTable:
    """A row for every iteration; `before` is the evaluation of the policy that the first one starts from."""
    evaluations = [metrics(evaluation.figures) for evaluation in (before, *(step.evaluation for step in steps))]
    rows = [_row(step, *pair) for step, pair in zip(steps, zip(evaluations, evaluations[1:]), strict=True)]  # noqa: B905, RUF007 - one shorter
    return FigureTable(title, _COLUMNS, tuple(rows), gone([node for step in steps for node in _measured(step)]))


def unmeasured(eval_setup: EvalSetup, verifier: str, reward: str) -> list[str]:
    """A line for every kind of figures that is "-" throughout; `verifier` (empty: there is none) and `reward` are the
    flags that would have them measured.
    """
    lines = []
    if eval_setup.verifier is None:
        lines.append(f'gold is "-": {not_verified(eval_setup.held_out, verifier)}')
    if eval_setup.reward_model is None:
        lines.append(f'held-out reward is "-": no model scores the answers; {reward} MODEL has one do so')
    return lines


def not_verified(prompts: Node, flag: str) -> str:
    """Why answers to `prompts` are not verified, and the flag that would have them so, where there is one."""
    rows = Dataset.open(prompts.url) if prompts.manifest() else None
    known = rows is not None and "answer" in rows.schema and rows.read(columns=["answer"])["answer"].drop_null()
    if not known:
        return "the prompts have no known answers (key answer)"
    if not flag:
        return "nothing verifies the answers"
    return f'nothing verifies the answers; {flag} \'{{"kind":"number"}}\' does (more: quiver ops label.verify)'


def pair_table(task_setup: TaskSetup) -> FigureTable:
    """Held-out pairs that the reward model puts in the right order, and a judge who takes the longer answer."""
    manifest = task_setup.reward_model.manifest() if isinstance(task_setup.reward_model, TrainedCheckpoint) else None
    stats: Any = {} if manifest is None else manifest.facts.get("stats", {})
    accuracies: dict[str, float] = {"reward model": stats["val_accuracy"]} if "val_accuracy" in stats else {}
    if task_setup.baselines is not None:
        accuracies["longer answer"] = metrics(task_setup.baselines)[f"{Longer().output}.mean"]
    columns = (Figure("judge"), Figure("right order", ".1%", meaning="pairs whose chosen answer is rated higher"))
    return FigureTable("held-out pairs in the right order", columns, tuple(accuracies.items()))


def _row(
    step: IterationResult, before: Mapping[str, float], after: Mapping[str, float]
) -> tuple[Value | tuple[Value, ...], ...]:
    sampled, kept = _rows(step.samples), tuple(map(_rows, step.kept))
    gold, reward, length = (
        (before.get(name), after.get(name)) for name in ("correct.mean", "reward.mean", "response_ids.length.mean")
    )
    return (
        step.number,
        sampled,
        kept,
        tuple(None if count is None or not sampled else count / sampled for count in kept),
        None if step.rewards is None else _mean(step.rewards),
        tuple(map(_mean, step.kept)),
        *gold,
        reward,
        length,
        _seconds(step),
    )


def _measured(step: IterationResult) -> tuple[Node, ...]:
    """The datasets whose rows are counted or whose rewards are averaged."""
    return tuple(node for node in (step.samples, step.rewards, *step.kept) if node is not None)


def _rows(node: Node) -> int | None:
    manifest = node.manifest()
    return None if manifest is None else manifest.num_rows


def _mean(node: Node) -> float | None:
    manifest = node.manifest()
    columns = {} if manifest is None else manifest.stats["columns"]
    mean = (columns.get("reward") or columns.get("chosen_reward") or {}).get("mean")
    return None if mean is None else float(mean)


def _seconds(step: IterationResult) -> tuple[float, ...]:
    """Seconds of sampling, of scoring, of training and of everything else in this iteration."""
    spent = {"sample": 0.0, "score": 0.0, "train": 0.0, "other": 0.0}
    folder = step.samples.label.rsplit("/", 1)[0]
    for node in step.evaluation.figures.ancestors():
        if node.label.startswith(f"{folder}/"):
            manifest = node.manifest()
            spent[_stage(node)] += 0.0 if manifest is None else float(manifest.runtime_info.get("seconds", 0.0))
    return tuple(spent.values())


def _stage(node: Node) -> str:
    if isinstance(node, TrainedCheckpoint):
        return "train"
    roles = node.resources if isinstance(node, Table) else {}
    return "sample" if "generator" in roles else "score" if "scorer" in roles else "other"
