"""What a command makes, by the names under which people ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.graph.node import Node


@dataclass(frozen=True, kw_only=True)
class Results:
    """`targets` are what has to be there for the command to be done. Names in `figures` stand for REPORTS datasets."""

    targets: tuple[Node, ...]
    datasets: Mapping[str, Node] = field(default_factory=dict)
    checkpoints: Mapping[str, Node] = field(default_factory=dict)
    figures: Mapping[str, Node] = field(default_factory=dict)

    @staticmethod
    def of(targets: Sequence[Node]) -> Results:
        """Of a command that names nothing: every target by the last part of its label."""
        datasets = {node.name: node for node in targets if node.kind == "dataset"}
        checkpoints = {node.name: node for node in targets if node.kind == "checkpoint"}
        return Results(targets=tuple(targets), datasets=datasets, checkpoints=checkpoints)
