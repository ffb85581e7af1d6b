"""Figures of an iterative recipe: what every iteration sampled, kept and came to, and how good its reward model is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from datakit.blend import Mix
from datakit.label import Longer
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.report.figures import Figure, FigureTable, Value, gone, metrics
from pipelines.report.held_out import before_and_after
from pipelines.stages.iteration import EvalSetup, Evaluation, IterationResult, TaskSetup
from schemas import Dataset
from schemas.rows.samples import CUT
from schemas.stats import merge_moments, moments

_COLUMNS = (
    Figure("iteration"),
    Figure("samples", ",", meaning="answers that the policy gave"),
    Figure("kept", ",", meaning="rows, or pairs, that each improve step learns from"),
    Figure("share", ".0%", meaning="of the samples, those that were kept; rows of other origin do not count"),
    Figure("reward", "+.2f", meaning="mean reward of all samples"),
    Figure(
        "kept reward", "+.2f", meaning="of this iteration's samples among those kept; of pairs, of the chosen answers"
    ),
    *before_and_after("this iteration"),
    Figure("seconds", ".0f", " / ", "of sampling / scoring / training / all else, once their processes have started"),
)

_RIGHT_ORDER = "pairs whose chosen answer is rated higher: of equal rewards none, of equally long answers half"
_REWARDS = ("reward", "chosen_reward")
_BATCH_ROWS = 65536


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
    if not eval_setup.rewards:
        lines.append(f'held-out reward is "-": no model scores the answers; {reward} MODEL has one do so')
    return lines


def cut_answers(steps: Sequence[IterationResult], most: int, flag: str) -> list[str]:
    """A line with the shares of the answers that were cut at `most` tokens, where any were; `flag` (empty: there is
    none) has them longer.
    """
    shares = {step.number: _cut_share(step.samples) for step in steps}
    some = ", ".join(f"{share:.1%} in iteration {number}" for number, share in shares.items() if share)
    cure = f"; a greater {flag} lets them end" if flag else ""
    return [f"answers cut at {most} tokens: {some}{cure}"] if some else []


def _cut_share(samples: Node) -> float:
    """Of the answers in `samples` those that were cut; 0 where they are gone or there are none."""
    if not _rows(samples):
        return 0.0
    reasons = Dataset.open(samples.url).read(columns=["finish_reason"])["finish_reason"]
    return float(pc.sum(pc.equal(reasons, CUT)).as_py() or 0) / len(reasons)


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
    columns = (Figure("judge"), Figure("right order", ".1%", meaning=_RIGHT_ORDER))
    return FigureTable("held-out pairs in the right order", columns, tuple(accuracies.items()))


def _row(
    step: IterationResult, before: Mapping[str, float], after: Mapping[str, float]
) -> tuple[Value | tuple[Value, ...], ...]:
    sampled, own = _rows(step.samples), [_own(step, rows) for rows in step.kept]
    gold, reward, length = (
        (before.get(name), after.get(name)) for name in ("correct.mean", "reward.mean", "response_ids.length.mean")
    )
    return (
        step.number,
        sampled,
        tuple(map(_rows, step.kept)),
        tuple(None if count is None or not sampled else count / sampled for count, _ in own),
        None if step.rewards is None else _mean(step.rewards),
        tuple(mean for _, mean in own),
        *gold,
        reward,
        length,
        _seconds(step),
    )


def _own(step: IterationResult, kept: Node) -> tuple[int | None, float | None]:
    """How many of the rows in `kept` come of this iteration's samples, and their mean reward; original data and samples
    of earlier iterations may be mixed into them.
    """
    mixed: Any = kept
    while isinstance(mixed, Table) and not isinstance(mixed.op, Mix) and mixed is not step.samples:
        mixed = mixed.inputs[0] if len(mixed.inputs) == 1 else None
    marked = isinstance(mixed, Table) and isinstance(mixed.op, Mix) and "source" in rows_of(kept)
    if kept.manifest() is None or not marked:
        return _rows(kept), _mean(kept)
    marks = zip(mixed.op.sources, mixed.inputs, strict=True)
    own = pa.array([name for name, rows in marks if step.samples in rows.ancestors()], pa.string())
    dataset, measured = Dataset.open(kept.url), moments(pa.array([], pa.float64()))
    reward = [name for name in _REWARDS if name in dataset.schema][:1]
    for shard in range(len(dataset.shards)):
        for batch in dataset.batches(shard, _BATCH_ROWS, columns=["source", *reward]):
            rows = batch.filter(pc.is_in(batch["source"], own))
            values = rows[reward[0]] if reward else pa.nulls(rows.num_rows, pa.float64())
            measured = merge_moments(measured, moments(values))
    return int(sum(measured[name] for name in ("count", "nulls", "nonfinite"))), measured.get("mean")


def _measured(step: IterationResult) -> tuple[Node, ...]:
    """The datasets whose rows are counted or whose rewards are averaged."""
    return tuple(node for node in (step.samples, step.rewards, *step.kept) if node is not None)


def _rows(node: Node) -> int | None:
    manifest = node.manifest()
    return None if manifest is None else manifest.num_rows


def _mean(node: Node) -> float | None:
    manifest = node.manifest()
    columns = {} if manifest is None else manifest.stats["columns"]
    measured: Mapping[str, float] = next((columns[name] for name in _REWARDS if name in columns), {})
    return measured.get("mean")


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
