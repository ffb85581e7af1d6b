"""A graph walked from its far end: every node behind what it is made of, in bounded stack."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar


class HasParents(Protocol):
    """A node, as far as its place in a graph goes."""

    @property
    def parents(self) -> Mapping[str, Any]:
        """What it is made of, by role."""


N = TypeVar("N", bound=HasParents)


class graph_property(functools.cached_property):
    """A cached property of a node that asks for the same of its parents: worked out from the far end of the chain, so
    that a graph a thousand stages deep needs no deeper stack than one.
    """

    def __get__(self, node: Any, owner: type | None = None) -> Any:
        """The value; first that of every ancestor that has none yet."""
        name = self.attrname
        if node is None or name is None or name in node.__dict__:
            return super().__get__(node, owner)
        for one in ordered([node], ends=lambda one: name in one.__dict__):
            if one is not node:
                getattr(one, name)
        return super().__get__(node, owner)


def ordered(targets: Sequence[N], ends: Callable[[N], bool] = lambda node: False) -> list[N]:
    """The wanted nodes and all they are made of, each once and behind what it is made of, in bounded stack.

    What a node for which `ends` holds is made of is not looked at.
    """
    done: dict[int, N] = {}
    stack = [(node, False) for node in reversed(targets)]
    while stack:
        node, expanded = stack.pop()
        if id(node) in done:
            continue
        if expanded or ends(node):
            done[id(node)] = node
            continue
        stack.append((node, True))
        stack += [(parent, False) for parent in reversed(list(node.parents.values()))]
    return list(done.values())
