"""A graph a thousand stages deep is walked, keyed, typed and sorted without a deep stack."""

from __future__ import annotations

import sys

from datakit.filter.where import Where
from pipelines.commands.command import outstanding
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.order import ordered
from tests.pipelines.toy import Count, Draw


def chain(depth: int, root: str) -> list[Node]:
    """Numbers, then `depth` filters, each over the one before."""
    nodes: list[Node] = [Table(label="numbers", root=root, op=Count(rows=3))]
    for number in range(depth):
        nodes.append(Table(label=f"stage-{number}", root=root, op=Where(predicate="n >= 0"), inputs=(nodes[-1],)))
    return nodes


def test_a_thousand_stages(tmp_path):
    nodes = chain(1000, str(tmp_path))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(__import__("inspect").stack()) + 120)
    try:
        last = nodes[-1]
        assert last.schema is not None and last.schema.names == ("n", "prompt_id")
        assert last.tokenizer_id == "" and last.tokenizer_by_column == {}
        assert len({node.task_key for node in nodes}) == 1001
        assert last.ancestors() == nodes
        todo, reused = outstanding([last])
        assert todo == nodes and reused == []
    finally:
        sys.setrecursionlimit(limit)


def test_the_order_is_that_of_a_walk_in_depth(tmp_path):
    root = str(tmp_path)
    first = Table(label="a", root=root, op=Count(rows=1))
    left = Table(label="b", root=root, op=Draw(), inputs=(first,))
    right = Table(label="c", root=root, op=Draw(column="other"), inputs=(first,))
    top = Table(label="d", root=root, op=Draw(column="x"), inputs=(left,), resources={"more": right})
    assert [node.label for node in ordered([top, right])] == ["a", "b", "c", "d"]
    assert [node.label for node in ordered([top], ends=lambda node: node is left)] == ["b", "a", "c", "d"]
