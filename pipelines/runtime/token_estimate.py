"""About how many tokens the stages of a plan make and read: counted where rows are there, or else by the estimate of
their bytes (`disk_estimate`); answers that have yet to be drawn count with all the tokens that they may have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.op import BYTES_PER_TOKEN, Size
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.runtime.disk_estimate import size_of
from schemas.manifest import Manifest
from schemas.tokenizer_lineage import id_columns


class TokenEstimate:
    """Tokens by node, for all nodes of one plan."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._sizes: dict[int, Size] = {}
        self._tokens: dict[int, float | None] = {}
        for node in ordered(nodes, ends=lambda one: one.manifest() is not None):
            self._tokens[id(node)] = self._of(node)

    def of(self, node: Node) -> int | None:
        """Tokens in the columns of ids of a dataset, or that a training reads in all its steps; None where there are
        none, or where that is not known.
        """
        tokens = self._tokens.get(id(node))
        return None if tokens is None else round(tokens)

    def drawn(self, node: Node) -> int:
        """Tokens of the answers that the stage draws, at most."""
        rows = size_of(node, self._sizes).rows
        return round(rows * node.op.answer_tokens) if isinstance(node, Table) else 0

    def _of(self, node: Node) -> float | None:
        manifest = node.manifest()
        if manifest is not None:
            return _counted(manifest)
        if isinstance(node, TrainedCheckpoint):
            return self._learnt(node)
        if not isinstance(node, Table) or not id_columns(node.schema):
            return None
        rows, given = size_of(node, self._sizes).rows, list(node.inputs)
        before = sum(self._tokens.get(id(one)) or 0.0 for one in given)
        came = sum(size_of(one, self._sizes).rows for one in given)
        kept = before * rows / came if came else 0.0
        if node.op.answer_tokens:
            return kept + self.drawn(node)
        new = {*id_columns(node.schema)} - {name for one in given for name in id_columns(rows_of(one))}
        if not new:
            return kept
        count = before or sum(size_of(one, self._sizes).bytes for one in given) / BYTES_PER_TOKEN
        limit = getattr(node.op, "max_length", None)
        return kept + (min(count, rows * limit * len(new)) if limit else count)

    def _learnt(self, node: TrainedCheckpoint) -> float | None:
        tokens, rows = self._tokens.get(id(node.data)), size_of(node.data, self._sizes).rows
        learning = node.training.learning
        steps = learning.num_steps(round(rows))
        if tokens is None or not rows or steps is None:
            return None
        return tokens / rows * learning.global_batch_size * steps


def _counted(manifest: Manifest) -> float | None:
    """Tokens of rows that are there."""
    names = () if manifest.schema is None else id_columns(manifest.schema)
    columns: Mapping[str, Any] = manifest.stats.get("columns", {})
    lengths = [columns.get(f"{name}.length", {}) for name in names]
    return sum(length.get("mean", 0.0) * length.get("count", 0) for length in lengths) if names else None
