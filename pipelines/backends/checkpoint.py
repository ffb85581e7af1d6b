"""Our own checkpoints: a policy to sample from, a reward model, a network that is asked about given tokens.

Every worker has the network in its own process, on one thread of the CPU or on the GPU that is its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import ClassVar

from datakit.clients import TOKENIZED_PROMPTS
from datakit.op import NOTHING, Capability, Label, Op
from datakit.template import Rendering
from pipelines.graph.backend import Backend, Placement, Role, Step, register
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.steps import answer_steps, beside_steps, pair_steps, prompt_steps, scored_steps
from schemas import IDS, Column, Schema
from schemas.errors import ConfigError
from schemas.rows.tokens import sequence_columns
from schemas.store.commit import read_manifest
from trainers.images import FACT

_SCORED = Schema("scored", 1, (Column("input_ids", IDS, "tokens that are read"),))

_TAKES: Mapping[str, Schema] = {"generator": TOKENIZED_PROMPTS, "scorer": _SCORED}


@register
class Checkpoint(Backend):
    """A checkpoint folder, made here or there already."""

    kind: ClassVar[str] = "checkpoint"
    form: ClassVar[str] = "a checkpoint folder"
    example: ClassVar[str] = "quiver-data/digits/policy-3f2a91c0"
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        "generator": frozenset({"token_ids", "logprobs", "seeds", "top_k"}),
        "scorer": frozenset({"scores"}),
        "model": frozenset({"token_ids", "logprobs", "top_k", "values"}),
    }
    placement: ClassVar[Placement] = Placement(gpus=1, threads=1)
    settings: ClassVar[tuple[str, ...]] = ("precision", "workers")
    preload: ClassVar[tuple[str, ...]] = (
        "trainers.engine.inference.generator",
        "trainers.engine.inference.frozen",
    )

    def recognises(self, reference: str) -> bool:
        try:
            manifest = read_manifest(os.path.expanduser(reference))
        except ConfigError:
            return False  # no place that Quiver opens
        return manifest is not None and manifest.kind == "checkpoint" and FACT not in manifest.facts

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        return plan.existing(os.path.expanduser(reference), "checkpoint")

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return _TAKES.get(role, NOTHING)

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        """Templated and tokenized: a prompt with an open answer, a whole conversation, or the pairs that `op` names."""
        if role == "generator":
            return prompt_steps(rendering, max_length)
        if role == "scorer":
            return scored_steps(rendering, max_length)
        pairs = pair_steps(rendering, max_length, masks=True)
        return pairs if _give(pairs, op.takes) else _answers(op.takes, rows, rendering, max_length)

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        if role == "generator":
            from trainers.engine.inference.generator import open_generator

            return open_generator(url, threads=placement.threads, precision=placement.precision)
        if role == "scorer":
            from trainers.engine.inference.frozen import open_scorer

            return open_scorer(url, columns=takes.names, threads=placement.threads, precision=placement.precision)
        from trainers.engine.inference.frozen import open_frozen

        return open_frozen(url, threads=placement.threads, precision=placement.precision)

    def tokenizer(self, url: str) -> object:
        from datakit.tokenizers.tokenizer import Tokenizer

        return Tokenizer.of_folder(url)


def _answers(takes: Schema, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
    """Whole conversations with the answer that rows have, as `input_ids`; with any other text of theirs for an answer,
    which stands in a column `<name>`, as `<name>_ids`. Nothing where that is not all that is read.
    """
    steps = [*answer_steps(rendering, max_length, rows)]
    for name in (sequence_columns(column.name).text for column in takes.columns if column.type == IDS):
        if name in rows:
            steps += beside_steps(rendering, max_length, name)
    return steps if _give(steps, takes) else ()


def _give(steps: Sequence[Step], columns: Schema) -> bool:
    """Whether `steps` add all of `columns`."""
    return {*columns.names} <= {column.name for step in steps if isinstance(step.op, Label) for column in step.op.adds}
