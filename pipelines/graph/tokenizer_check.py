"""Whether two nodes speak the same tokenizer, as far as that is known before anything has run.

A tokenizer that came from outside is known by its identity from the start, one that has yet to be trained only by its
key; once it is made, both are known. What cannot be known here is refused by the stage itself (`datakit.run.facts`,
`trainers.run`), which always knows identities.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from pipelines.graph.node import Node
from pipelines.graph.remade import remade, tokenizer_at
from schemas import PIECES
from schemas.dataset import Dataset
from schemas.errors import DataError
from schemas.tokenizer import dataset_identity


def check_tokenizer(label: str, one: Node, other: Node, columns: Sequence[str] | None = None) -> None:
    """`DataError` if `other` (rows: in one of `columns`) speaks another tokenizer than `one`."""
    by_column = {name: other.tokenizer_by_column.get(name, ()) for name in columns or ()}
    if columns is None:
        by_column = {"": (other.tokenizer_id,)}
    for column, tokenizer in ((name, each) for name, several in by_column.items() for each in several):
        if differ(one.tokenizer_id, tokenizer, (one, other)):
            text = other.schema is not None and column in other.schema and other.schema[column].type == PIECES
            what = "was written for" if text else "holds ids of"
            raise DataError(
                "wrong-tokenizer",
                f"{label}: {other.name} {what} another tokenizer than {one.name} speaks",
                expected=f"tokenizer {one.tokenizer_id[:12]}",
                found=f"tokenizer {tokenizer[:12]}",
                where=other.url,
                kept="nothing was started",
                next=remade(other, tokenizer_at(one), another=True) or _written(tokenizer_at(one)),
            )


def _written(tokenizer: str) -> str:
    """The command that begins rows of that tokenizer, where nobody knows how those that are there came about."""
    return f"luigi --module pipelines Template --op chat --data ROWS --tokenizer {shlex.quote(tokenizer)}"


def differ(one: str, other: str, nodes: Iterable[Node]) -> bool:
    """Whether these are two tokenizers for certain, as far as `nodes` and what they are made of tell."""
    if not one or not other or one == other:
        return False
    trained: dict[str, Node] = {key: made for node in nodes for key, made in node.trained_tokenizers.items()}
    if one in trained and other in trained:
        return True
    first, second = _settled(one, trained), _settled(other, trained)
    return bool(first and second and first != second)


def _settled(tokenizer_id: str, trained: Mapping[str, Node]) -> str:
    """The identity behind a key; empty while the tokenizer is not made."""
    node = trained.get(tokenizer_id)
    if node is None:
        return tokenizer_id
    return "" if node.manifest() is None else dataset_identity(Dataset.open(node.url))
