"""What a model cannot read, found before anything runs: texts that no template writes, rows beyond its positions.

What a setting allows is checked as the graph is made; what rows hold, by their manifests, as soon as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datakit.op import Op
from datakit.templating.named import TEMPLATES
from pipelines.graph.backend import backend_of, roles_of
from pipelines.graph.node import Node, rows_of
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.remade import remade, tokenizer_at
from schemas.errors import ConfigError, DataError, printable
from schemas.store.storage import shown
from schemas.tokenizer_lineage import id_columns
from trainers.registry import algorithm_of

_LONGEST = 2048
"""Tokens of a row, at most, where models read more and nobody asks for it."""


def check_template(node: Table) -> None:
    """`ConfigError` where `node` writes with its tokenizer's chat template and that has none."""
    tokenizer, rendering = node.resources.get("tokenizer"), node.op.rendering
    if tokenizer is None or rendering is None or rendering.template is not None:
        return
    if tokenizer.has_chat_template is False:
        raise ConfigError(
            "no-template",
            f"{node.label}: {printable(tokenizer.name)} has no chat template, and none was given",
            expected=", ".join(TEMPLATES),
            where=shown(tokenizer_at(tokenizer)),
            kept="nothing was started",
            next="--template text",
        )


def check_length(max_length: int | None, models: Sequence[Node | None], flag: str) -> None:
    """`ConfigError` where `max_length`, as `flag` gives it, is beyond the positions of one of `models`."""
    for model in models:
        most = None if model is None else model.max_sequence_length
        if model is not None and most is not None and max_length is not None and max_length > most:
            raise beyond(f"{flag} {max_length}", model, max_length, most, f"{flag} {most}")


def longest_row(max_length: int | None, models: Sequence[Node], flag: str) -> int:
    """`max_length`, as `flag` gives it; or else as many tokens as all `models` read, 2048 at most, which bounds memory.
    `ConfigError` where one does not reach.
    """
    check_length(max_length, models, flag)
    return max_length or min([_LONGEST, *(most for model in models if (most := model.max_sequence_length) is not None)])


def longest_answer(max_new_tokens: int | None, usual: int, max_length: int | None, flag: str) -> int:
    """`max_new_tokens`, as `flag` gives them; or else `usual`, half of `max_length` at most. `ConfigError` where an
    answer of so many leaves no room for a question.
    """
    if max_new_tokens is None:
        max_new_tokens = usual if max_length is None else max(1, min(usual, max_length // 2))
    if max_length is not None and max_new_tokens >= max_length:
        raise ConfigError(
            "no-room",
            f"answers of {max_new_tokens} tokens leave no room for a question: both together are {max_length} at most",
            expected=f"{flag} below {max_length}",
            found=str(max_new_tokens),
            kept="nothing was started",
            next=f"{flag} {max(1, max_length // 2)}",
        )
    return max_new_tokens


def check_settings(node: Table | TrainedCheckpoint) -> None:
    """`ConfigError` where rows that `node` reads may be longer than its model's positions by their own setting."""
    for rows, model, _, reads, most in _read(node):
        limit = getattr(rows.op, "max_length", None) if isinstance(rows, Table) else None
        if isinstance(limit, int) and limit > most:
            raise beyond(f"{rows.label}: max_length {limit}", model, limit, reads, f"set max_length to {reads}")


def beyond(what: str, model: Node, given: int, most: int, command: str) -> ConfigError:
    """The error of a length that a model does not reach."""
    return ConfigError(
        "beyond-model",
        f"{what} is more than the {most} tokens that {printable(model.name)} reads",
        expected=f"at most {most}",
        found=str(given),
        where=shown(tokenizer_at(model)),
        kept="nothing was started",
        next=command,
    )


def check_rows(node: Node) -> None:
    """`DataError` where `node` reads rows that are there and hold one that its model cannot read. A generator sets such
    rows aside itself.
    """
    if not isinstance(node, Table | TrainedCheckpoint) or (isinstance(node, Table) and "generator" in node.resources):
        return
    for rows, model, column, reads, most in _read(node):
        manifest = rows.manifest()
        longest = 0 if manifest is None else manifest.stats.get("columns", {}).get(f"{column}.length", {}).get("max", 0)
        if manifest is not None and longest > most:
            raise DataError(
                "too-long",
                f"{rows.label} holds a row of {longest:.0f} tokens, and {printable(model.name)} reads {reads}",
                expected=f"{column} of at most {reads} tokens",
                found=f"{longest:.0f}",
                where=shown(rows.url),
                kept="nothing was started" if not rows.made else "every finished stage",
                next=_shorter(rows, model, reads),
            )


def _read(node: Table | TrainedCheckpoint) -> Iterator[tuple[Node, Node, str, int, int]]:
    """Rows of which `node` reads a column of ids, the model that reads them, the column, how many tokens the model
    reads, and how many a row may have: one more where the last is predicted and never read.
    """
    if isinstance(node, TrainedCheckpoint):
        algorithm = algorithm_of(node.training.learning.algorithm)
        given = [rows for rows in (node.data, node.validation) if rows is not None]
        reads: dict[str, Sequence[str]] = {"": [sequence.ids for sequence in algorithm.sequences]}
        models: Mapping[str, Node] = {"": node.init or node}
        given = [rows for rows in given if not algorithm.packed(rows_of(rows))]
    else:
        models = {role: node.resources[role] for role in roles_of(node.op)}
        given = list(node.inputs)
        reads = {role: _columns(node.op, role, model, given) for role, model in models.items()}
    for role, model in models.items():
        positions = model.max_sequence_length
        if positions is not None:
            most = positions if role else algorithm.longest(positions)
            yield from ((rows, model, column, positions, most) for rows in given for column in reads[role])


def _columns(op: Op, role: str, model: Node, given: Sequence[Node]) -> list[str]:
    """The columns of ids that `model` reads for `op`."""
    takes: Any = role
    names = [*id_columns(op.takes)]
    for rows in given:
        names += id_columns(backend_of(model).takes(model, takes, rows_of(rows)))
    return list(dict.fromkeys(names))


def _shorter(rows: Node, model: Node, most: int) -> str:
    """The command that makes rows which the model can read: the one that made these, with a limit."""
    if rows.made:
        return f"--max-length {most}"
    return remade(rows, tokenizer_at(model), {"max_length": most}) or f"tokenize the rows with max_length {most}"
