"""How a training run is placed: its paths, the ranks that it is launched on, the size of its vocabulary."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.graph.node import Node
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.runtime import settings
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.tokenizer import read_dataset, read_folder
from schemas.tokenizer import vocabulary_size as size_of
from trainers.config import Paths, Run, check_trackers
from trainers.launch import start
from trainers.launch.settings import Launch


def check(node: Any) -> tuple[Launch, int]:
    """How `node` is launched, and on how many ranks: its own number, or that of `[launch]`, or the fewest that its cut
    fills. Raises `ConfigError` for what cannot be placed, and for a tracker that is not installed.
    """
    check_trackers(node.training.execution)
    launch, parallel = settings.launching(), node.training.execution.parallel
    ranks = node.ranks or launch.ranks or parallel.min_world_size
    start.check(parallel, ranks, launch, node.label)
    return launch, ranks


def placed(node: TrainedCheckpoint) -> Run:
    """The node's training with its paths and the size of its vocabulary."""
    model = node.training.learning.model
    model = None if model is None else replace(model, vocab_size=vocabulary_size(node.tokenizer))
    paths = Paths(
        data=node.data.url,
        validation=None if node.validation is None else node.validation.url,
        init=None if node.init is None else node.init.url,
        out=node.url,
        task_key=node.task_key,
        records=f"{node.url}.records",
        tokenizer=None if node.init is not None else node.tokenizer.url,
        facts={"tokenizer_key": node.tokenizer_id},
    )
    return node.training.placed(paths, model=model)


def vocabulary_size(tokenizer: Node) -> int:
    """One more than the greatest id of a tokenizer."""
    row = read_dataset(Dataset.open(tokenizer.url)) if tokenizer.kind == "dataset" else read_folder(tokenizer.url)
    if row is None:
        raise ConfigError("no-tokenizer", f"{tokenizer.label} has no tokenizer", where=tokenizer.url)
    return size_of(str(row["tokenizer_json"]))
