"""A third backend, made from a test: `parrot:WORD` answers with WORD and scores an answer by how often it says it.

Nothing else in the project knows of it. It reads messages and answers as they are, has no tokenizer and no tokens.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from datakit.clients import ANSWERS, Determinism, Sampling
from datakit.op import Capability, Op
from datakit.template import Rendering, RewardPrompt
from datakit.tokenize import Encode
from pipelines.graph.backend import Backend, Placement, Role, Step, register
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import Node
from pipelines.graph.placement import IDENTITY
from schemas import IDS, SAMPLES, Column, Schema
from schemas.errors import ServiceError
from schemas.tokenizer import folder_identity

if TYPE_CHECKING:
    from pipelines.graph.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Server(Placement):
    """A placement with a setting of its own, which changes what is answered."""

    loud: bool = field(default=False, metadata=IDENTITY)


class Client:
    """Answers and scores with one word; `close` leaves a trace in the working folder."""

    def __init__(self, word: str, takes: Schema, concurrency: int) -> None:
        self.word, self.takes, self.concurrency = word, takes, concurrency

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        asked = [turns[-1]["content"] for turns in rows["messages"].to_pylist()]
        made = [(r, n, [], f"{self.word} {q}", [], "stop", None)
                for r, q in enumerate(asked) for n in range(sampling.samples_per_prompt)]  # fmt: skip
        columns = zip(*made, strict=True)
        return pa.Table.from_arrays(
            [pa.array(values, column.type) for values, column in zip(columns, ANSWERS.columns, strict=True)],
            schema=ANSWERS.arrow,
        )

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        return {"reward": pa.array([float(text.count(self.word)) for text in rows["response"].to_pylist()])}

    def close(self) -> None:
        with Path("closed.txt").open("a") as file:
            file.write(f"{os.getpid()} {self.word}\n")


@register
class Parrot(Backend):
    """`parrot:WORD`."""

    kind: ClassVar[str] = "parrot"
    form: ClassVar[str] = "a parrot"
    example: ClassVar[str] = "parrot:hello"
    schemes: ClassVar[tuple[str, ...]] = ("parrot",)
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {"generator": frozenset(), "scorer": frozenset({"scores"})}
    placement: ClassVar[Placement] = Server(inside=False, concurrency=4)
    settings: ClassVar[tuple[str, ...]] = ("concurrency", "timeout", "loud")

    def node(self, plan: Plan, reference: str) -> Node:
        identity = {"name": "parrot", "version": 1, "params": {"word": reference.partition(":")[2]}}
        return ExternalModel(label=reference, root=plan.root, reference=reference, backend=self.kind, identity=identity)

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return rows.selecting("messages") if role == "generator" else SAMPLES.selecting("response")

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        assert isinstance(placement, Server), placement
        word = url.partition(":")[2]
        return Client(word.upper() if placement.loud else word, takes, placement.concurrency)

    def determinism(self, node: Node) -> Determinism:
        return "none"

    def health(self, node: Node) -> None:
        if node.url.endswith(":dead"):
            raise ServiceError("model-down", f"{node.url} does not answer", kept="nothing was started")


class Counter:
    """Scores a row of ids by how many there are."""

    takes = Schema("tokens", 1, (Column("input_ids", IDS, "what is counted"),))

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        return {"tokens": pa.array([float(len(ids)) for ids in rows["input_ids"].to_pylist()])}


@register
class TokenCounter(Backend):
    """`counter:FOLDER`: a scorer that reads ids of the tokenizer in FOLDER, which no stage makes."""

    kind: ClassVar[str] = "counter"
    form: ClassVar[str] = "a counter of tokens"
    example: ClassVar[str] = "counter:./tokenizer"
    schemes: ClassVar[tuple[str, ...]] = ("counter",)
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {"scorer": frozenset({"scores"})}

    def node(self, plan: Plan, reference: str) -> Node:
        tokenizer = folder_identity(reference.partition(":")[2])
        identity = {"name": "counter", "version": 1, "params": {"tokenizer": tokenizer}}
        return ExternalModel(
            label="counter", root=plan.root, reference=reference, backend=self.kind, identity=identity,
            tokenizer=tokenizer, chat_template=False, positions=64, outputs=("tokens",),
        )  # fmt: skip

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return Counter.takes

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        encode = Encode(columns=(("reward_pieces", "input_ids"),), max_length=max_length)
        return Step(name="texts", op=RewardPrompt(**rendering.settings)), Step(name="tokens", op=encode)

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        return Counter()

    def tokenizer(self, url: str) -> object:
        from datakit.tokenizers.tokenizer import Tokenizer

        return Tokenizer.of_folder(url.partition(":")[2])
