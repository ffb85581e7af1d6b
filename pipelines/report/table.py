"""What a run comes to: a table of iterations, seconds per stage, where the data lies, and how to go on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from datakit.label import Longer
from pipelines.graph.nodes import Node, TrainedCheckpoint
from pipelines.stages.iteration import Evaluation, IterationResult, TaskSetup
from schemas.dataset import Dataset
from schemas.errors import IntegrityError
from schemas.manifest import Manifest

_STAGES = {"generate.complete": "sample", "label.reward": "score", "train.sft": "train", "train.rm": "train"}


def show(title: str, task_setup: TaskSetup, before: Evaluation, steps: Sequence[IterationResult]) -> None:
    """Print everything to stdout."""
    last = figures(before)
    rows = [[*_row(step), *_change(last := last, last := figures(step.evaluation))] for step in steps]
    head = ["iteration", "samples", "kept", "share", "reward", "kept reward", "gold before", "gold after"]
    head += ["held-out reward", "answer tokens", "seconds: sample, score, train, other"]
    print(f"\n{title} on {task_setup.eval_setup.name}: {steps[0].samples.label.rpartition('/iter=')[0]}")
    print(_table(head, [[*row, _seconds(step)] for row, step in zip(rows, steps, strict=True)]))
    for judge, accuracy in _pair_accuracies(task_setup).items():
        print(f"{judge}: {accuracy:.1%} of held-out pairs in the right order")
    _where(title, steps)


def figures(evaluation: Evaluation) -> Mapping[str, float]:
    """The metrics of an evaluation by name."""
    return _metrics(evaluation.figures)


def _metrics(node: Node) -> Mapping[str, float]:
    table = Dataset.open(node.url).read(columns=["metric", "value"])
    return dict(zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True))


def _row(step: IterationResult) -> list[str]:
    samples, rewards = _manifest(step.samples), _manifest(step.rewards)
    kept = [_manifest(node) for node in step.kept]
    counts = [manifest.num_rows for manifest in kept]
    return [
        str(step.number),
        f"{samples.num_rows:,}",
        ", ".join(f"{count:,}" for count in counts),
        ", ".join(f"{count / samples.num_rows:.0%}" for count in counts),
        _number(_mean(rewards)),
        ", ".join(_number(_mean(manifest)) for manifest in kept),
    ]


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    gold = [f"{metrics['correct.mean']:.1%}" if "correct.mean" in metrics else "-" for metrics in (before, after)]
    lengths = " -> ".join(f"{metrics['response_ids.length.mean']:.1f}" for metrics in (before, after))
    return [*gold, f"{_number(before['reward.mean'])} -> {_number(after['reward.mean'])}", lengths]


def _mean(manifest: Manifest) -> float | None:
    mean = manifest.stats["columns"].get("reward", {}).get("mean")
    return None if mean is None else float(mean)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _seconds(step: IterationResult) -> str:
    spent: dict[str, float] = {}
    label = step.samples.label.rsplit("/", 1)[0]
    for node in step.evaluation.figures.ancestors():
        if node.label.startswith(label + "/"):
            manifest = node.manifest()
            seconds = 0.0 if manifest is None else float(manifest.runtime_info.get("seconds", 0.0))
            stage = _STAGES.get(str(node.work.get("name")), "other")
            spent[stage] = spent.get(stage, 0.0) + seconds
    return ", ".join(f"{spent.get(stage, 0.0):.0f}" for stage in ("sample", "score", "train", "other"))


def _pair_accuracies(task_setup: TaskSetup) -> dict[str, float]:
    """Held-out pairs that the reward model puts in the right order, and a judge who takes the longer answer."""
    manifest = task_setup.reward_model.manifest() if isinstance(task_setup.reward_model, TrainedCheckpoint) else None
    stats: Any = {} if manifest is None else manifest.facts.get("stats", {})
    accuracies = {"reward model": stats["val_accuracy"]} if "val_accuracy" in stats else {}
    if task_setup.baselines is not None:
        accuracies["longer answer"] = _metrics(task_setup.baselines)[f"{Longer().output}.mean"]
    return accuracies


def _manifest(node: Node) -> Manifest:
    manifest = node.manifest()
    if manifest is None:
        raise IntegrityError(
            "result-gone",
            f"{node.label} is gone: the report cannot tell its figures",
            expected="every dataset of the iterations that are told",
            found="no manifest",
            where=node.url,
            kept="every other result; the policy is complete",
            next=f"remove what was made of {node.label} too, and run the same command again: it is made anew",
        )
    return manifest


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _where(title: str, steps: Sequence[IterationResult]) -> None:
    last = steps[-1]
    root = os.path.relpath(last.policy.root) if "://" not in last.policy.root else last.policy.root
    rewards = os.path.relpath(last.rewards.url) if "://" not in last.rewards.url else last.rewards.url
    print(f"\ndata lies in {root}: policy {last.policy.url.removeprefix(last.policy.root)[1:]}")
    query = f"select prompt, response, reward from '{rewards}/*.parquet' order by reward desc limit 5"
    print("go on with")
    print(f'  python -c "import duckdb; print(duckdb.sql(\\"{query}\\"))"')
    print(f"  luigi --module pipelines {title} --iteration {last.number + 2 if last.number == 1 else last.number + 1}")
    print(f"  luigi --module pipelines Generate --model {os.path.relpath(last.policy.url)} --prompts FILE.jsonl")
